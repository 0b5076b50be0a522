"""The evidence trace: one question, everything the model looked at and said; text, page or JSON.

A trace is plain data and knows nothing of models; whoever ran the model fills it.
"""

import dataclasses
import html
import json
import os
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.files import check_outputs, make_folder, write_text
from medscope_jax.metrics.grounding import localization
from medscope_jax.report.timeline import timeline
from medscope_jax.report.trace_page import DISCLAIMER, elements, environment, frames_view
from medscope_jax.visible import visible


class Window(NamedTuple):
    """A part of the video that the model looked at.

    Attributes:
      tool: crop_video, or get_frame for one moment.
      start, end: seconds that it asked for; equal for one moment.
      times: seconds of the T frames that it was shown; none where the conversation had no room.
      frames: those frames, uint8 RGB [H, W, 3] each.
    """

    tool: str
    start: float
    end: float
    times: Sequence[float]
    frames: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class TurnView:
    """One assistant turn and what came back.

    Attributes:
      text: the turn as generated, tags included.
      tool: name of the tool called; "" if the turn holds no call or the name was unknown.
      start, end: seconds asked for (get_frame: both the timestamp); None without a valid call.
      status: "" without a call, "OK", or what was wrong with it.
      observation: the text that came back where no frames did, such as an error.
      frame_times: seconds of the frames that came back.
      frame_images: those frames, uint8 RGB [H, W, 3] each; () to show times only.
    """

    text: str
    tool: str = ""
    start: float | None = None
    end: float | None = None
    status: str = ""
    observation: str = ""
    frame_times: Sequence[float] = ()
    frame_images: Sequence[np.ndarray] = dataclasses.field(default=(), repr=False)

    @property
    def window(self) -> Window | None:
        """What the turn looked at; None without a valid call."""
        if self.status.upper() != "OK" or self.start is None or self.end is None:
            return None
        return Window(self.tool, self.start, self.end, self.frame_times, self.frame_images)


@dataclasses.dataclass(frozen=True)
class Trace:
    """One question with its video's timeline, the model's turns and its answer.

    Attributes:
      question, answer, reference: texts; the answer is "" where the model gave none, reference
        where the truth is unknown.
      duration: seconds of the video.
      evidence: true spans (start, end) in seconds.
      evidence_time: true frame time in seconds, or None.
      predicted: spans that the answer (or, for a model that cannot look, its thinking) states.
      turns: the model's turns in order.
      preview_times, preview_images: frames shown with the question, as in TurnView.
      reward: named reward parts, such as {"accuracy": 1.0, "format": 1.0}.
      notes: what a reader must know about the recording's decoding, as in Video.notes.
      model, split, task, video: labels to show; "" hides them.
      inputs: files and folders that it was made of, by what a message calls them. They are neither
        shown nor saved, since a file's name may name a patient; `save` replaces none of them.
    """

    question: str
    answer: str
    reference: str
    duration: float
    evidence: Sequence[Sequence[float]] = ()
    evidence_time: float | None = None
    predicted: Sequence[Sequence[float]] = ()
    turns: Sequence[TurnView] = ()
    preview_times: Sequence[float] = ()
    preview_images: Sequence[np.ndarray] = dataclasses.field(default=(), repr=False)
    reward: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    model: str = ""
    split: str = ""
    task: str = ""
    video: str = ""
    inputs: Mapping[str, Path] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def windows(self) -> list[Window]:
        """What the model looked at, in order; calls that were errors are not among it."""
        return [turn.window for turn in self.turns if turn.window is not None]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the trace as a web page (.html) or, without pixels, as JSON (.json).

        A new file, which shows a patient's pictures or answers, is its owner's alone; an old one is
        replaced and keeps its mode. Folders on the way are made.

        Raises:
          UserError: another ending, a file that the trace was made of, or one that can't be
            written.
        """
        write = {".html": render_trace, ".json": trace_text}.get(Path(path).suffix.lower())
        if write is None:
            raise UserError(f"a trace is saved as .html or .json, not as {path}")
        check_outputs({"the trace": path}, self.inputs)
        write_trace(path, write(self))

    def __str__(self) -> str:
        """What the model was shown, where it looked and what it answered, one line each."""
        heading = [("model", self.model), *(("note", note) for note in self.notes)]
        lines = [*heading, ("question", self.question), *describe(self)]
        return "\n".join([*(labelled(*line) for line in lines if line[1]), DISCLAIMER])

    def _repr_html_(self) -> str:
        """The page, as a notebook shows it."""
        page = html.escape(render_trace(self))
        style = "width: 100%; height: 900px; border: 0"
        return f'<div><iframe srcdoc="{page}" style="{style}"></iframe></div>'


def describe(trace: Trace) -> list[tuple[str, str]]:
    """(label, text) lines of what the model was shown, where it looked and what it answered."""
    lines = []
    if len(trace.preview_times):
        first, last = trace.preview_times[0], trace.preview_times[-1]
        lines = [("preview", f"{count_frames(trace.preview_times)}, {first:.1f} to {last:.1f} s")]
    looks = [turn for turn in trace.turns if turn.status]
    for number, turn in enumerate(looks, 1):
        if turn.start is None:
            text = f"{turn.tool or 'unknown tool'}: {turn.observation}"
        else:
            at = f"at {turn.start:.1f} s"
            window = at if turn.start == turn.end else f"{turn.start:.1f} to {turn.end:.1f} s"
            times = ", ".join(f"{time:.1f}" for time in turn.frame_times)
            seen = (
                f"{count_frames(turn.frame_times)} at {times} s" if times else "no room to show it"
            )
            text = f"{turn.tool} {window}: {seen}"
        lines.append((f"look {number}", text))
    if not looks:
        lines.append(("looks", "none"))
    lines.append(("answer", trace.answer or "none: the model stopped without answering"))
    return lines


def count_frames(times: Sized) -> str:
    """How many frames there are, in words: 1 frame, 2 frames."""
    return f"{len(times)} frame" + "s" * (len(times) != 1)


def labelled(label: str, text: str) -> str:
    """A line of text of others behind its label; no further line of it passes for one of ours."""
    return f"{label:<9} " + visible(text, keep="\n").replace("\n", "\n" + " " * 10)


def write_trace(path: str | os.PathLike, text: str) -> None:
    """Writes a trace's page or JSON; what is new, folders included, is its owner's alone.

    Raises:
      UserError: the path can't be written.
    """
    make_folder(Path(path).parent, private=True)
    write_text(path, text, private=True)


def trace_json(trace: Trace) -> dict[str, Any]:
    """The trace as plain JSON values, without pixels and without its inputs' paths."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {
                field.name: plain(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if field.repr
            }
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if hasattr(value, "tolist"):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(trace) | {"notice": DISCLAIMER}


def trace_text(trace: Trace) -> str:
    """trace_json as the text of a file."""
    return json.dumps(trace_json(trace), indent=2) + "\n"


def turn_view(turn: TurnView, trace: Trace) -> dict[str, Any]:
    """One turn for a template, with the fit of its look to the true evidence."""
    window = turn.window
    evidence = trace.evidence if trace.evidence_time is None else trace.evidence_time
    known = trace.evidence_time is not None or len(trace.evidence) > 0
    fit = None
    if window is not None and known and turn.tool != "get_frame":
        fit = localization([(window.start, window.end)], evidence)
    return {
        "elements": elements(turn.text),
        "call": turn,
        "ok": window is not None,
        "fit": fit,
        "single": trace.evidence_time is not None,
        "frames": frames_view(turn.frame_times, turn.frame_images),
    }


def trace_view(trace: Trace) -> dict[str, Any]:
    """Everything a template needs to show a trace."""
    return {
        "trace": trace,
        "timeline": timeline(
            trace.duration,
            trace.preview_times,
            [window[:3] for window in trace.windows],
            trace.predicted,
            trace.evidence,
            trace.evidence_time,
        ),
        "turns": [turn_view(turn, trace) for turn in trace.turns],
        "preview": frames_view(trace.preview_times, trace.preview_images),
    }


def render_trace(trace: Trace) -> str:
    """The trace as one HTML page without scripts or outside resources."""
    return environment().get_template("trace.html.j2").render(view=trace_view(trace))
