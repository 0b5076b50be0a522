"""What source readers give, and the record of ClinVideoSuite that a builder makes of it.

A reader turns one source's files into Annotations and BadRows, in the files' order, and touches no
video. A builder joins an Annotation with its video: only there is it known how long the recording
is and which bank frames the evidence covers.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One row of a source; all times are seconds of the source's own video file.

    Attributes:
      place: where it stands, for messages: "file.jsonl:17" (lines count from 1), never a content.
      video: the video's path relative to the source's video folder, as the source names it.
      part: of suite.PARTS.
      task: grounding, vqa, perception, order, description or caption.
      question, answer: texts; a grounding answer is "[start, end]" in seconds.
      split: train, validation or test; "" where the source does not say.
      options: choices of a multiple-choice question.
      spans: evidence, (start, end) with start <= end; several may be there.
      frame_time: evidence that is a single moment; then there are no spans.
      turns: the assistant's turns in the protocol's form (see dialogue.protocol), if it has any.
      window: the clip that a cap or qa record shows; None for the whole video.
    """

    place: str
    video: str
    part: str
    task: str
    question: str
    answer: str
    split: str = ""
    options: tuple[str, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    frame_time: float | None = None
    turns: tuple[str, ...] = ()
    window: tuple[float, float] | None = None


class Unusable(ValueError):
    """Why a row, or a field of it, can't be used: a sentence that quotes none of its content."""


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that can't be used: where it stands and why, in words that quote no content.

    place: "file.jsonl:17"; in a JSON list "file.json:17, element 5", where the file is of frames
    "file.json:frame 17".
    """

    place: str
    reason: str


def record_fields() -> dict[str, Any]:
    """The TFDS features of a record, by field; make_record says what they hold."""
    text = tfds.features.Text()
    names = ("id", "video", "part", "source", "split", "task", "question", "answer")
    return {
        **dict.fromkeys(names, text),
        "options": tfds.features.Sequence(text),
        "turns": tfds.features.Sequence(text),
        "evidence": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
        "evidence_time": np.float32,
        "evidence_frame_range": tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
        "evidence_mask": tfds.features.Tensor(shape=(None,), dtype=np.uint8),
        "visible": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
        "duration": np.float32,
        "window": tfds.features.Tensor(shape=(2,), dtype=np.float32),
    }


def make_record(
    annotation: Annotation,
    name: str,
    source: str,
    split: str,
    video: str,
    times: np.ndarray,
    duration: float,
) -> dict[str, Any]:
    """The record of an annotation about a decoded video; fields as phantom_suite has them.

    Evidence in frames is the bank frames within each span, or the nearest one where none is. A cap
    or qa record without a window shows the whole video as its clip.

    Args:
      annotation: from a reader, its times within the video (cut.cut_to).
      name: the record's id.
      source, split: where it comes from, and the split that it is in.
      video: the video's id in the frames dataset.
      times: float64 [T] seconds of the bank frames.
      duration: seconds of the video.
    """
    spans, frame_time, window = annotation.spans, annotation.frame_time, annotation.window
    if window is None and annotation.part in ("cap", "qa"):
        window = (0.0, duration)
    frames = [_frames(span, times) for span in spans]
    mask = np.zeros(len(times), np.uint8)
    for first, last in frames if frame_time is None else [_frames((frame_time,) * 2, times)]:
        mask[first : last + 1] = 1
    moment = [] if frame_time is None else [(frame_time, frame_time)]
    return {
        "id": name,
        "video": video,
        "part": annotation.part,
        "source": source,
        "split": split,
        "task": annotation.task,
        "question": annotation.question,
        "answer": annotation.answer,
        "options": list(annotation.options),
        "turns": list(annotation.turns),
        "evidence": np.asarray(spans, np.float32).reshape(-1, 2),
        "evidence_time": np.float32(-1 if frame_time is None else frame_time),
        "evidence_frame_range": np.asarray(frames, np.int32).reshape(-1, 2),
        "evidence_mask": mask,
        "visible": np.asarray(spans or moment, np.float32).reshape(-1, 2),
        "duration": np.float32(duration),
        "window": np.asarray(window or (-1.0, -1.0), np.float32),
    }


def _frames(span: tuple[float, float], times: np.ndarray) -> tuple[int, int]:
    """First and last bank frame within the span; twice the nearest one where none is."""
    inside = np.flatnonzero((times >= span[0]) & (times <= span[1]))
    if len(inside):
        return int(inside[0]), int(inside[-1])
    nearest = int(np.argmin(np.abs(times - (span[0] + span[1]) / 2)))
    return nearest, nearest
