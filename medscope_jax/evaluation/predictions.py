"""Predictions on the disk: what a model said of each question, and what became of it.

    OUT/predictions.jsonl          or predictions-I-of-N.jsonl of a shard; sealed_lines.py's form
        first line                 what the answers depend on beside weights, PredictionHeader's
        each other line            one rollout: the question with its truth, the trajectory, its
                                   calls, the windows that it saw, the answer, what the judge said

A line holds all that scoring needs: no model and no videos are needed to score it again.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.metrics import Scored, score
from medscope_jax.rl import Verdict, as_evidence, extract_answer
from medscope_jax.rollout import Trajectory
from medscope_jax.stored import Either, at_least
from medscope_jax.tools import CallStatus, Tool

T = TypeVar("T")

FORMAT = 2
# What a model is given: tools to look with, the preview alone, or the evidence's frames beside it.
MODES = ("tools", "passive", "oracle")
_NAME = re.compile(r"predictions(-\d+-of-\d+)?\.jsonl")
_SPAN = (float, float)
_TOOLS = {str(tool): tool for tool in Tool}
_STATUSES = {status.name.lower(): status for status in CallStatus}

HEADER: dict[str, Any] = {
    "format": int,
    "split": str,
    "suite": str,
    "seed": int,
    "frame_window": at_least(0, float),
    "expected": {...: at_least(0)},
    "settings": {...: object},
}
PREDICTION: dict[str, Any] = {
    **{"model": str, "weights": int, "mode": set(MODES), "decoding": str},
    **{"number": at_least(0), "sample": at_least(0)},
    **{"id": str, "video": str, "source": str, "task": str, "question": str, "options": [str]},
    **{"reference": str, "evidence": [_SPAN], "evidence_time": float, "duration": float},
    **{"text": str, "answer": str, "turns": [str]},
    "calls": [
        {
            **{"tool": set(_TOOLS), "status": set(_STATUSES)},
            **{"start": Either(float, None), "end": Either(float, None)},
        }
    ],
    "windows": [{"tool": set(_TOOLS), "start": float, "end": float, "times": [float]}],
    "judge": Either(str, {...: object}),
    **{"score": Either(float, None), "reply": Either(str, None)},
}


@dataclasses.dataclass(frozen=True)
class PredictionHeader:
    """What predictions depend on beside weights; files of one evaluation have the same.

    Attributes:
      split: of the suite; suite: its fingerprint.
      seed: of the run; frame_window: seconds, see metrics.localization.
      expected: how many rollouts a whole evaluation of a model has, by decoding.
      settings: how conversations are laid out and sampled.
    """

    split: str
    suite: str
    seed: int
    frame_window: float
    expected: dict[str, int]
    settings: dict[str, Any]

    def line(self) -> dict[str, Any]:
        """The first line of a file."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def check(self, found: Mapping[str, Any], path: Path) -> None:
        """UserError where a file's first line is of another evaluation."""
        if other := [key for key, value in self.line().items() if found[key] != value]:
            raise UserError(
                f"{path} holds predictions of another evaluation (other {', '.join(other)}): name "
                "another --out"
            )


def read_header(line: Mapping[str, Any], path: Path) -> PredictionHeader:
    """The PredictionHeader of a file's first line.

    Raises:
      UserError: it is of another version.
    """
    values = dict(line)
    if (found := values.pop("format")) != FORMAT:
        raise UserError(f"{path} has format {found}, not {FORMAT}: make the predictions again")
    return PredictionHeader(**values)


def key_of(line: Mapping[str, Any]) -> tuple:
    """What is predicted once: (model, decoding, number of the question, sample)."""
    return line["model"], line["decoding"], line["number"], line["sample"]


def prediction_file(folder: Path, shard: tuple[int, int] = (1, 1)) -> Path:
    """Where shard i of n, (i, n), keeps its predictions."""
    index, count = shard
    return folder / ("predictions.jsonl" if count == 1 else f"predictions-{index}-of-{count}.jsonl")


def prediction_files(folder: Path) -> list[Path]:
    """All files of predictions in a folder.

    Raises:
      UserError: there are none.
    """
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in there if _NAME.fullmatch(path.name)]
    if not found:
        raise UserError(
            f"{folder} holds no predictions: make some, with --out {folder} but without --rescore"
        )
    return found


def record_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """The question of a suite's record as a line has it, with its truth."""
    return {
        **{name: str(record[name]) for name in ("id", "video", "source", "task", "question")},
        "options": list(map(str, record["options"])),
        "reference": str(record["answer"]),
        "evidence": np.asarray(record["evidence"], float).reshape(-1, 2).tolist(),
        "evidence_time": float(record["evidence_time"]),
        "duration": float(record["duration"]),
    }


def record_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a line, as judges take it; evidence float32 as suites store it."""
    return {
        **{name: line[name] for name in ("id", "video", "source", "task", "question", "options")},
        "answer": line["reference"],
        "evidence": np.asarray(line["evidence"], np.float32).reshape(-1, 2),
        "evidence_time": np.float32(line["evidence_time"]),
        "duration": np.float32(line["duration"]),
    }


def trajectory_fields(trajectory: Trajectory, times: np.ndarray) -> dict[str, Any]:
    """A trajectory as a line has it.

    Args:
      times: [T] seconds, of the video's frames.
    """
    calls, windows = [], []
    for (tool, start, end, status), frames in zip(trajectory.calls, trajectory.frames, strict=True):
        name = str(Tool(tool))
        told = [float(x) if np.isfinite(x) else None for x in (start, end)]
        kind = CallStatus(status).name.lower()
        calls.append({"tool": name, "start": told[0], "end": told[1], "status": kind})
        if status == CallStatus.OK:
            seen = [float(times[frame]) for frame in frames]
            windows.append({"tool": name, "start": told[0], "end": told[1], "times": seen})
    return {
        "text": trajectory.text,
        "answer": extract_answer(trajectory.text) or "",
        "turns": list(trajectory.turns),
        "calls": calls,
        "windows": windows,
    }


def judged_fields(note: str | dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """What a judge, of judge_note, said of an answer, as a line has it."""
    score = None if math.isnan(verdict.score) else float(verdict.score)
    return {"judge": note, "score": score, "reply": verdict.reply}


def calls_of(line: Mapping[str, Any]) -> list[tuple]:
    """The executed calls (tool, start, end, status) of a line, as Trajectory has them."""
    return [
        (_TOOLS[call["tool"]], call["start"], call["end"], _STATUSES[call["status"]])
        for call in line["calls"]
    ]


def scored_line(line: Mapping[str, Any], header: PredictionHeader) -> Scored:
    """A line's scores, with what its judge said."""
    record = record_of(line)
    return score(
        model=line["model"],
        split=line["source"],
        task=line["task"],
        text=line["text"],
        reference=line["reference"],
        evidence=as_evidence(record["evidence"], record["evidence_time"]),
        judge_score=float("nan") if line["score"] is None else line["score"],
        calls=calls_of(line),
        can_look=line["mode"] == "tools",
        decoding=line["decoding"],
        seed=header.seed,
        frame_window=header.frame_window,
    )


def in_order(lines: Sequence[T], keys: Sequence[tuple]) -> list[T]:
    """Lines in the order of an evaluation that went through at once, whatever the files' order.

    keys: of each, see key_of.
    """
    first: dict[tuple, int] = {}
    for model, decoding, *_ in keys:
        first.setdefault((model, decoding), len(first))
    places = sorted(range(len(keys)), key=lambda i: (first[keys[i][:2]], keys[i][2:]))
    return [lines[i] for i in places]
