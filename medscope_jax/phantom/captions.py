"""Timestamped captions of clips: dense words for what each moment shows."""

import dataclasses

import numpy as np

from medscope_jax.phantom.procedure import Event, Procedure
from medscope_jax.phantom.questions import details_text
from medscope_jax.phantom.suite_config import SuiteConfig
from medscope_jax.phantom.teacher import seen_at
from medscope_jax.tools.grammar import Tool
from medscope_jax.tools.windows import select_frames_host

_SHORT, _LONG, _WIDE, _LOG = (6, 15), (20, 45), (60, 240), (4, 8)  # seconds
# Wide clips show a frame every several seconds, as the preview of a whole recording does.
_SHARES = (0.45, 0.2, 0.35)  # of short, long and wide clips
_DESCRIBE = "Describe the clip."
_NAME = "Name each frame."


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption of a clip.

    Attributes:
      question: what is asked for.
      text: the caption.
      window: the clip's first and last second.
      event: what it shows beside phases, or None.
    """

    question: str
    text: str
    window: tuple[float, float]
    event: Event | None


def captions(procedure: Procedure, config: SuiteConfig, rng: np.random.Generator) -> list[Caption]:
    """Draws config.captions_per_video clips, about half of them around an event."""
    made = []
    for _ in range(config.captions_per_video):
        log = bool(rng.random() < config.caption_log_share)
        kinds = (_SHORT, _LONG, _WIDE)
        lengths = _LOG if log else kinds[rng.choice(len(kinds), p=_SHARES)]
        length = min(int(rng.integers(lengths[0], lengths[1] + 1)), procedure.duration - 1)
        first, last = 0, procedure.duration - 1 - length
        if rng.random() < 0.5:
            around = procedure.events[rng.integers(len(procedure.events))]
            near, far = sorted((around.end - length, around.start))
            first, last = np.clip((near, far), first, last)
        start = int(rng.integers(first, last + 1))
        window = (start, start + length)
        shown = _shown(procedure, window, config.window_frames)
        event = next((e for e in procedure.events if _when(e, shown)), None)
        if log:
            text = ", ".join(f"{t:.1f} {_label(procedure, t)}" for t in shown)
        else:
            text = _describe(procedure, window, shown, config.window_frames)
        question = _NAME if log else _DESCRIBE
        made.append(Caption(question, text, (float(start), float(start + length)), event))
    return made


def _shown(procedure: Procedure, window: tuple[int, int], window_frames: int) -> list[int]:
    """The seconds of the frames that a window shows."""
    ticks = np.arange(procedure.duration)
    indices, count = select_frames_host(Tool.CROP_VIDEO, *window, ticks, len(ticks), window_frames)
    return indices[:count].tolist()


def _when(event: Event, shown: list[int]) -> list[int]:
    """Those of the shown seconds at which an event can be seen."""
    return [t for t in shown if event.start <= t <= event.end]


def _label(procedure: Procedure, time: int) -> str:
    """The event at a time with its details, else the phase."""
    for event in procedure.events:
        if event.start <= time <= event.end:
            return f"{event.kind} {details_text(event)}"
    return procedure.phase_at(time).kind


def _describe(
    procedure: Procedure, window: tuple[int, int], shown: list[int], window_frames: int
) -> str:
    """Phases and events in time order, each with the times at which the clip shows it."""
    dense = len(shown) == window[1] - window[0] + 1
    said = []
    for phase in procedure.phases:
        times = [t for t in shown if phase.start <= t < phase.end]
        if times:
            said.append(f"{phase.kind} from {times[0]:.1f} to {times[-1]:.1f}")
        for event in procedure.events:
            seen = _when(event, shown)
            if not seen or procedure.phase_of(event) != phase:
                continue
            if dense:
                when = f"from {seen[0]:.1f} to {seen[-1]:.1f}"
            else:  # a thinned clip does not show where an event begins and ends
                when = f"near {seen_at(procedure, event, *window, window_frames):.1f}"
            said.append(f"{event.kind} {when}, {details_text(event)}")
    return "; ".join(said) + "."
