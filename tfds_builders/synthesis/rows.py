"""Rows: what a run writes, in the form that the reader `plain` reads."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from medscope_jax.phantom.teacher import answer_turn
from tfds_builders.synthesis.footage import local_window
from tfds_builders.synthesis.items import Clip, Span, WrittenQuestion, WrittenTrajectory
from tfds_builders.synthesis.settings import SynthesisConfig

_CAPTION_QUESTION = "Describe what the clip shows."
# What a recording's split takes of the suite's parts. Where the builders choose the split ("") they
# make eval records of the rl questions about videos that they keep for evaluation.
_PARTS = {
    "": ("cap", "qa", "cot", "vcot", "rl"),
    "train": ("cap", "qa", "cot", "vcot", "rl"),
    "validation": ("cap", "qa", "cot", "vcot", "eval"),
    "test": ("eval",),
}


@dataclasses.dataclass(frozen=True)
class Made:
    """What the stages made of one recording.

    Attributes:
      captions, events: captioned clips, and those put together.
      questions: verified ones.
      taught: trajectories with calls; thought: those of easy questions, without.
    """

    captions: Sequence[Clip]
    events: Sequence[Clip]
    questions: Sequence[WrittenQuestion]
    taught: Sequence[WrittenTrajectory]
    thought: Sequence[WrittenTrajectory]


def rows_of(split: str, made: Made, config: SynthesisConfig) -> list[dict[str, Any]]:
    """The rows of a recording of a split, part by part: record.Annotation's fields but place."""
    # An event of one clip says of it what its caption says already.
    windows = {(clip.start, clip.end) for clip in made.captions}
    wide = [event for event in made.events if (event.start, event.end) not in windows]
    parts = {
        "cap": [_caption_row(clip) for clip in (*made.captions, *wide)],
        "qa": [_local_row(question, config) for question in made.questions],
        "cot": [_row(t.question, "cot", t.turns) for t in made.thought],
        "vcot": [_row(t.question, "vcot", t.turns) for t in made.taught],
        "rl": [_row(question, "rl") for question in made.questions],
        "eval": [_row(question, "eval") for question in made.questions],
    }
    return [row for part in _PARTS[split] for row in parts[part]]


def row_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON Lines; what is empty is left out."""
    said = {key: value for key, value in row.items() if value not in ("", [])}
    return json.dumps(said, ensure_ascii=False) + "\n"


def _caption_row(clip: Clip) -> dict[str, Any]:
    thought = f"The clip is from {clip.start:.1f} to {clip.end:.1f}."
    return {
        "video": clip.footage.video,
        "part": "cap",
        "task": "caption",
        "question": _CAPTION_QUESTION,
        "answer": clip.caption,
        "split": clip.footage.split,
        "turns": [answer_turn(thought, clip.caption)],
        "window": _seconds((clip.start, clip.end)),
    }


def _local_row(question: WrittenQuestion, config: SynthesisConfig) -> dict[str, Any]:
    window = local_window(question.footage, question.spans, config.context_s)
    turn = answer_turn(question.reason, question.answer)
    return _row(question, "qa", (turn,), window)


def _row(
    question: WrittenQuestion, part: str, turns: Sequence[str] = (), window: Span | None = None
) -> dict[str, Any]:
    row = {
        "video": question.footage.video,
        "part": part,
        "task": question.task,
        "question": question.text,
        "answer": question.answer,
        "split": question.footage.split,
        "options": list(question.options),
        "spans": [_seconds(span) for span in question.spans],
        "turns": list(turns),
    }
    return row if window is None else {**row, "window": _seconds(window)}


def _seconds(span: Span) -> list[float]:
    """A span to the millisecond."""
    return [round(float(time), 3) for time in span]
