"""Temporal grounding: what evidence a trajectory points to, and how well it fits the truth."""

import math
from collections.abc import Iterable, Sequence

from medscope_jax.rl import extract_answer, parse_intervals, window_iou
from medscope_jax.rl.intervals import Span, interval_iou
from medscope_jax.rl.rewards import Evidence, is_instant
from medscope_jax.rl.transcript import elements
from medscope_jax.tools import CallStatus, Tool

THRESHOLDS = (0.3, 0.5, 0.7)
# An IoU that equals a threshold but for rounding counts as reaching it.
_EPSILON = 1e-9

# Evidence that a trajectory points to: windows, one instant, or nothing.
Prediction = Sequence[Span] | float | None


def answer_spans(text: str) -> list[Span] | None:
    """Windows "[start, end]" of a transcript's answer; None if there is none to read."""
    return parse_intervals(extract_answer(text) or "") or None


def stated_window(text: str) -> list[Span] | None:
    """The last "[start, end]" inside <think>, as models that cannot look state it; else None."""
    found = [span for think in elements(text, "think") for span in parse_intervals(think)]
    return found[-1:] or None


def last_look(calls: Iterable[tuple]) -> Prediction:
    """The last thing looked at: a cropped window [(start, end)], a frame's instant, or None.

    `calls` are executed calls (tool, start, end, status) in order; failed ones are skipped.
    """
    look: Prediction = None
    for tool, start, end, status in calls:
        if int(status) == CallStatus.OK:
            crop = int(tool) == Tool.CROP_VIDEO
            look = [(float(start), float(end))] if crop else float(start)
    return look


def predicted_evidence(
    text: str, task: str, calls: Iterable[tuple], can_look: bool = True
) -> Prediction:
    """Evidence that a trajectory points to.

    Grounding questions are answered with it. For all others it is the last thing looked at or,
    for a model that cannot look (`can_look=False`), the last window stated in its thinking.
    """
    if task == "grounding":
        return answer_spans(text)
    return last_look(calls) if can_look else stated_window(text)


def localization(prediction: Prediction, evidence: Evidence, frame_window: float = 1.0) -> float:
    """How well a prediction fits the evidence, in [0, 1]; no prediction scores 0.

                        evidence spans             evidence at a frame time gf
        windows         IoU of the unions          1 if one contains gf, else 0
        an instant t    0 (it has no length)       max(0, 1 - |t - gf| / frame_window)

    The right column is the paper's reward for frame times: a hit score, which does not punish wide
    windows. Read it beside the mean window length.
    """
    if prediction is None:
        return 0.0
    if is_instant(prediction):
        if not is_instant(evidence):
            return 0.0
        return max(0.0, 1.0 - abs(float(prediction) - float(evidence)) / frame_window)
    if is_instant(evidence):
        return max(window_iou(window, evidence) for window in prediction)
    return interval_iou(prediction, evidence)


def recall_at(scores: Sequence[float], threshold: float) -> float:
    """Share of localization scores that reach a threshold; NaN for no scores."""
    if not scores:
        return math.nan
    return sum(score >= threshold - _EPSILON for score in scores) / len(scores)


def mean_iou(scores: Sequence[float]) -> float:
    """Mean localization score; NaN for no scores."""
    return math.fsum(scores) / len(scores) if scores else math.nan
