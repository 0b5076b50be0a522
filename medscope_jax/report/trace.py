"""The evidence trace: one question, everything the model looked at and said, as plain data or JSON.

A trace is plain data and knows nothing of models; whoever ran the model fills it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DISCLAIMER = "Research software, not a medical device."


@dataclasses.dataclass(frozen=True)
class TurnView:
    """One assistant turn and what came back.

    Fields:
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
    frame_images: Sequence[np.ndarray] = ()


@dataclasses.dataclass(frozen=True)
class Trace:
    """One question with its video's timeline, the model's turns and its answer.

    Fields:
      question, answer, reference: texts; reference is "" where the truth is unknown.
      duration: seconds of the video.
      evidence: true spans (start, end) in seconds.
      evidence_time: true frame time in seconds, or None.
      predicted: spans that the answer (or, for a model that cannot look, its thinking) states.
      turns: the model's turns in order.
      preview_times, preview_images: frames shown with the question, as in TurnView.
      reward: named reward parts, such as {"accuracy": 1.0, "format": 1.0}.
      notes: what a reader must know about the recording's decoding, as in Video.notes.
      model, split, task, video: labels to show; "" hides them.
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
    preview_images: Sequence[np.ndarray] = ()
    reward: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    model: str = ""
    split: str = ""
    task: str = ""
    video: str = ""


def trace_json(trace: Trace) -> dict[str, Any]:
    """The trace as plain JSON values, without pixels."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {
                field.name: plain(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if not field.name.endswith("_images")
            }
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if hasattr(value, "tolist"):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(trace) | {"notice": DISCLAIMER}
