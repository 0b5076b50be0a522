"""One scored trajectory, and rows of metrics over many."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from medscope_jax.metrics.grounding import (
    THRESHOLDS,
    localization,
    mean_iou,
    predicted_evidence,
    recall_at,
)
from medscope_jax.metrics.text import accuracy, bleu, mean_token_f1
from medscope_jax.rl import Judge, as_evidence, extract_answer, total_length
from medscope_jax.rl.rewards import Evidence
from medscope_jax.rollout import Trajectory

# Tasks whose answers are sentences, for which BLEU says something.
_LONG_ANSWERS = ("description", "caption")
# What identifies a row; everything else in it is a measurement.
KEYS = ("model", "split", "task", "decoding", "seed")
METRICS = (
    *(f"recall_{threshold}" for threshold in THRESHOLDS),
    *("miou", "accuracy", "judge_score", "token_f1", "bleu", "tool_rate", "tool_calls", "window"),
)


@dataclasses.dataclass(frozen=True)
class Scored:
    """One trajectory, scored.

    Attributes:
      model, split, task: where it counts; split is the record's source, such as "ophthalmic".
      answer, reference: texts; the answer is "" where there is none.
      judge_score: 0, 0.5 or 1; NaN where the judge gave none.
      localization: fit of its evidence in [0, 1]; None where the question has no evidence.
      parsed: it pointed to some evidence that could be read.
      window: seconds that it pointed to (0 for an instant); None if not parsed.
      tool_calls: executed calls that succeeded.
      decoding: "greedy", "sampled", ...
      seed: of the run.
    """

    model: str
    split: str
    task: str
    answer: str
    reference: str
    judge_score: float
    localization: float | None
    parsed: bool
    window: float | None
    tool_calls: int
    decoding: str = "greedy"
    seed: int = 0


def score(
    *,
    model: str,
    split: str,
    task: str,
    text: str,
    reference: str,
    evidence: Evidence,
    judge_score: float,
    calls: Iterable[tuple] = (),
    can_look: bool = True,
    decoding: str = "greedy",
    seed: int = 0,
    frame_window: float = 1.0,
) -> Scored:
    """Scores one finished trajectory.

    Args:
      model, split, task, decoding, seed: where it counts, see Scored.
      text: the transcript, from its first <think> to its end.
      reference: the expected answer.
      evidence: spans in seconds, or one frame time (see rl.as_evidence); [] if there is none.
      judge_score: of the answer.
      calls: executed calls (tool, start, end, status), failed ones and empty slots included.
      can_look: False for a model without tools, whose evidence is the window it states.
      frame_window: seconds, see `localization`.
    """
    calls = list(calls)
    known = not hasattr(evidence, "__len__") or len(evidence) > 0
    prediction = predicted_evidence(text, task, calls, can_look)
    spans = prediction if isinstance(prediction, list) else []
    return Scored(
        model=model,
        split=split,
        task=task,
        answer=extract_answer(text) or "",
        reference=reference,
        judge_score=float(judge_score),
        localization=localization(prediction, evidence, frame_window) if known else None,
        parsed=prediction is not None,
        window=None if prediction is None else total_length(spans),
        tool_calls=sum(int(call[3]) == 0 for call in calls),
        decoding=decoding,
        seed=seed,
    )


def metrics(samples: Sequence[Scored]) -> dict[str, float | int | None]:
    """Metrics of samples of one kind; fractions in [0, 1], None where nothing can be measured.

    recall_0.3, recall_0.5, recall_0.7, miou: over questions with evidence. accuracy: judged fully
    right; judge_score: mean; token_f1; bleu (descriptions only). tool_rate: share that looked at
    least once; tool_calls: mean; window: mean seconds pointed to. count: samples; unparsed:
    questions with evidence for which nothing readable was pointed to (they do score, 0); unscored:
    answers that the judge gave no score (accuracy and judge_score are of the others).
    """
    answers = [sample.answer for sample in samples]
    references = [sample.reference for sample in samples]
    scores = [sample.localization for sample in samples if sample.localization is not None]
    windows = [sample.window for sample in samples if sample.window is not None]
    judged = [s.judge_score for s in samples if not math.isnan(s.judge_score)]
    long = all(sample.task in _LONG_ANSWERS for sample in samples)
    values = {f"recall_{threshold}": recall_at(scores, threshold) for threshold in THRESHOLDS}
    values |= {
        "miou": mean_iou(scores),
        "accuracy": accuracy(judged),
        "judge_score": _mean(judged),
        "token_f1": mean_token_f1(answers, references),
        "bleu": bleu(answers, references) if long else math.nan,
        "tool_rate": _mean([sample.tool_calls > 0 for sample in samples]),
        "tool_calls": _mean([sample.tool_calls for sample in samples]),
        "window": _mean(windows),
    }
    finite = {key: None if math.isnan(value) else value for key, value in values.items()}
    missing = sum(s.localization is not None and not s.parsed for s in samples)
    unscored = len(samples) - len(judged)
    return finite | {"count": len(samples), "unparsed": missing, "unscored": unscored}


def result_rows(samples: Iterable[Scored]) -> list[dict]:
    """One row {model, split, task, decoding, seed, metrics...} a kind, in order of appearance."""
    groups = collections.defaultdict(list)
    for sample in samples:
        groups[tuple(getattr(sample, key) for key in KEYS)].append(sample)
    return [dict(zip(KEYS, key, strict=True)) | metrics(group) for key, group in groups.items()]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def score_questions(
    model: str,
    records: Sequence[Mapping],
    trajectories: Sequence[Sequence[Trajectory]],
    judge: Judge,
    *,
    decoding: str,
    can_look: bool,
    seed: int,
    frame_window: float,
) -> list[Scored]:
    """Scores each question's trajectories; a record's source is the table's split.

    An answer that the judge gives no score has NaN in its place, and counts as unscored.
    """
    asked = [record for record, found in zip(records, trajectories, strict=True) for _ in found]
    found = [trajectory for group in trajectories for trajectory in group]
    judged = judge(asked, [extract_answer(t.text) or "" for t in found])
    return [
        score(
            model=model,
            split=record["source"],
            task=record["task"],
            text=trajectory.text,
            reference=record["answer"],
            evidence=as_evidence(record["evidence"], record["evidence_time"]),
            judge_score=value,
            calls=trajectory.calls,
            can_look=can_look,
            decoding=decoding,
            seed=seed,
            frame_window=frame_window,
        )
        for record, trajectory, value in zip(asked, found, judged, strict=True)
    ]
