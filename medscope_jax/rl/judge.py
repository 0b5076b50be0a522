"""Judging a short answer against its reference without a model (plain Python)."""

import collections
from collections.abc import Sequence

from medscope_jax.rl.choices import judge_choice
from medscope_jax.rl.intervals import interval_iou, parse_intervals
from medscope_jax.rl.words import answer_words, contradict

# IoU of a grounding answer with its evidence from which it counts as right, and as half right.
FULL_IOU = 0.7
PARTIAL_IOU = 0.4
# Token F1 from which another answer counts as half right.
PARTIAL_F1 = 0.5


def token_f1(answer: str, reference: str) -> float:
    """F1 of the normalized words of both texts, counted with multiplicity, in [0, 1].

    Two texts that are empty after normalization agree (1.0).
    """
    return _f1(answer_words(answer), answer_words(reference))


def _f1(words: Sequence[str], expected: Sequence[str]) -> float:
    if not words or not expected:
        return float(words == expected)
    common = sum((collections.Counter(words) & collections.Counter(expected)).values())
    return 2.0 * common / (len(words) + len(expected))


def judge_answer(
    answer: str,
    reference: str,
    task: str,
    evidence: Sequence[Sequence[float]] = (),
    options: Sequence[str] = (),
) -> float:
    """Scores an answer 1 (right), 0.5 (partly right) or 0 (wrong).

    Args:
      answer: the model's answer, without its tags.
      reference: the expected answer.
      task: "grounding": the answer is "[start, end]" (several are a union) and its IoU with the
        evidence decides: >= 0.7 gives 1, >= 0.4 gives 0.5. Any other task: 1 for the same words
        (see words.normalize_answer), 0.5 for a token F1 of at least 0.5, but 0 where they
        contradict: other numbers, other units, or a "no" on one side only.
      options: choices of a multiple-choice question: an answer is right or wrong by the option that
        it names, see choices.judge_choice. A reference that is none of them is compared by words.
      evidence: spans [[start, end], ...] in seconds; where empty, those in the reference.
    """
    if task == "grounding":
        spans = evidence if len(evidence) else parse_intervals(reference)
        iou = interval_iou(parse_intervals(answer), spans) + 1e-9
        return 1.0 if iou >= FULL_IOU else 0.5 if iou >= PARTIAL_IOU else 0.0
    if len(options) and (score := judge_choice(answer, reference, options)) is not None:
        return score
    words, expected = answer_words(answer), answer_words(reference)
    if not words or contradict(words, expected):
        return 0.0
    if words == expected:
        return 1.0
    return 0.5 if _f1(words, expected) >= PARTIAL_F1 else 0.0
