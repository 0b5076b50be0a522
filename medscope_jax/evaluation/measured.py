"""What one stored prediction says of its model: values whose means are a table's numbers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from medscope_jax.metrics import Scored
from medscope_jax.metrics.grounding import THRESHOLDS, recall_at
from medscope_jax.metrics.text import mean_token_f1
from medscope_jax.rl import as_evidence, total_length
from medscope_jax.rl.rewards import is_instant

_RIGHT = 1.0  # a judge's score of a fully right answer


@dataclasses.dataclass(frozen=True)
class Measured:
    """One prediction's values.

    Attributes:
      model, decoding, source, task: what it counts for.
      question: (number in the split, sample); video: that it is about.
      values: by name, NaN where there is nothing to measure; see `measure`.
    """

    model: str
    decoding: str
    source: str
    task: str
    question: tuple[int, int]
    video: str
    values: dict[str, float]


def measure(line: Mapping[str, Any], scored: Scored, frame_window: float) -> Measured:
    """The values of a prediction's line.

    recall_0.3, recall_0.5, recall_0.7, miou: of questions with evidence. accuracy: the judge found
    the answer fully right; judge_score; token_f1. looked: 1 if it looked at all; looks: calls that
    showed frames; seconds: of the recording that they showed, what two of them showed once;
    failed_calls; answered: 1 if there is an answer to read; evidence_seen: 1 if a look showed a
    frame of the evidence; accuracy_seen, accuracy_unseen: accuracy of those where it did, and of
    those where not.

    Args:
      scored: the line's scores.
      frame_window: seconds from the time of an instant that still show it.
    """
    right = float(scored.judge_score == _RIGHT)
    right = math.nan if math.isnan(scored.judge_score) else right
    fit = math.nan if scored.localization is None else scored.localization
    seen = evidence_seen(line, frame_window)
    spans = [(w["start"], w["end"]) for w in line["windows"] if w["tool"] == "crop_video"]
    values = {
        **{f"recall_{t}": math.nan if math.isnan(fit) else recall_at([fit], t) for t in THRESHOLDS},
        "miou": fit,
        "accuracy": right,
        "judge_score": scored.judge_score,
        "token_f1": mean_token_f1([scored.answer], [scored.reference]),
        "looked": float(scored.tool_calls > 0),
        "looks": float(scored.tool_calls),
        "seconds": total_length(spans),
        "failed_calls": float(sum(call["status"] != "ok" for call in line["calls"])),
        "answered": float(bool(scored.answer)),
        "evidence_seen": math.nan if seen is None else float(seen),
        "accuracy_seen": right if seen else math.nan,
        "accuracy_unseen": right if seen is False else math.nan,
    }
    return Measured(
        line["model"],
        line["decoding"],
        line["source"],
        line["task"],
        (line["number"], line["sample"]),
        line["video"],
        values,
    )


def evidence_seen(line: Mapping[str, Any], frame_window: float) -> bool | None:
    """Whether a look showed a frame of the question's evidence; None if it has no evidence."""
    evidence = as_evidence(line["evidence"], line["evidence_time"])
    times = [time for window in line["windows"] for time in window["times"]]
    if is_instant(evidence):
        return any(abs(time - evidence) <= frame_window for time in times)
    if not evidence:
        return None
    return any(start <= time <= end for start, end in evidence for time in times)
