"""The cold-start teacher: tool trajectories with imperfect windows, for every hard question.

It opens the phase that the event belongs to, sees the event there, looks closer (too wide, to be
safe), and answers from what it saw. Every window holds the event, so every statement is true.
"""

import numpy as np

from medscope_jax.dialogue.protocol import crop_call, frame_call
from medscope_jax.phantom.procedure import Event, Procedure
from medscope_jax.phantom.questions import Question, description_of, span_text
from medscope_jax.phantom.suite_config import TeacherConfig
from medscope_jax.tools.grammar import Tool
from medscope_jax.tools.windows import select_frames_host


def trajectory(
    procedure: Procedure,
    question: Question,
    teacher: TeacherConfig,
    window_frames: int,
    rng: np.random.Generator,
) -> list[str]:
    """The assistant's three turns: two calls and an answer.

    Args:
      procedure: what the question is about.
      question: one with an event.
      teacher: how windows err.
      window_frames: most frames that a window shows.
      rng: draws this trajectory's errors.
    """
    event = question.event
    assert event is not None  # as of every hard question
    first = _phase_window(procedure, event, teacher, rng)
    seen = seen_at(procedure, event, *first, window_frames)
    phase = procedure.phase_of(event)
    # The preview's own times come first: what it shows is exact, only the window is a guess.
    place = f"{phase.kind} from {phase.first_seen:.1f} to {phase.last_seen:.1f}"
    turns = [f"<think>The {event.kind} belongs to {place}.</think>" + crop_call(*first)]
    thought = f"<think>The {event.kind} is near {seen:.1f}.</think>"
    if procedure.source == "endoscopic" and rng.random() < teacher.get_frame_share:
        offsets = np.arange(-teacher.frame_jitter_max, teacher.frame_jitter_max + 1)
        time = event.centre + _draw(rng, offsets)
        turns.append(thought + frame_call(np.clip(time, 0, procedure.duration - 1)))
        last = (event.start, event.end)
    else:
        margins = np.arange(teacher.margin_max + 1)
        start = max(0, event.start - _draw(rng, margins))
        end = min(procedure.duration - 1, event.end + _draw(rng, margins))
        turns.append(thought + crop_call(start, end))
        last = (start, end)
    if question.task == "grounding":
        # It answers with the window that it looked at: a too wide look is a too wide answer.
        thought = f"The {event.kind} is from {last[0]:.1f} to {last[1]:.1f}."
        return [*turns, answer_turn(thought, span_text(*last))]
    return [*turns, answer_turn(description_of(event), question.answer)]


def answer_turn(thought: str, answer: str) -> str:
    """A turn that answers."""
    return f"<think>{thought}</think><answer>{answer}</answer>"


def seen_at(
    procedure: Procedure, event: Event, start: float, end: float, window_frames: int
) -> int:
    """The middle one, in seconds, of the frames of a window that show an event."""
    ticks = np.arange(procedure.duration)
    indices, count = select_frames_host(
        Tool.CROP_VIDEO, start, end, ticks, len(ticks), window_frames
    )
    shows = [int(t) for t in indices[:count] if event.start <= t <= event.end]
    # An event that a sparse window misses (sizes other than the default's) is named by its centre.
    return shows[(len(shows) - 1) // 2] if shows else event.centre


def _phase_window(
    procedure: Procedure, event: Event, teacher: TeacherConfig, rng: np.random.Generator
) -> tuple[int, int]:
    """All that the preview allows the event's phase to be, a few seconds off, with the event.

    The phase's ends lie somewhere between two preview instants; who wants to miss nothing opens the
    window at the last instant before and closes it at the first one after.
    """
    first, last = procedure.bracket(procedure.phase_of(event))
    off = rng.integers(-teacher.phase_jitter, teacher.phase_jitter + 1, 2)
    start = min(max(0, first + int(off[0])), event.start)
    end = max(min(procedure.duration - 1, last + int(off[1])), event.end)
    return start, end


def _draw(rng: np.random.Generator, values: np.ndarray) -> int:
    """One of the values, each with a chance proportional to its size plus one."""
    weights = np.abs(values) + 1.0
    return int(rng.choice(values, p=weights / weights.sum()))
