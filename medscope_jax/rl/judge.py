"""Judging a short answer against its reference without a model (plain Python)."""

import collections
import string
import unicodedata
from collections.abc import Sequence

from medscope_jax.rl.intervals import interval_iou, parse_intervals

_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLES = frozenset(("a", "an", "the"))

# IoU of a grounding answer with its evidence from which it counts as right, and as half right.
FULL_IOU = 0.7
PARTIAL_IOU = 0.4
# Token F1 from which another answer counts as half right.
PARTIAL_F1 = 0.5


def normalize_answer(text: str) -> str:
    """Lower case, compatibility forms unified, no punctuation, no articles, single spaces.

        "The  Nucleus, is separated." -> "nucleus is separated"

    Decimal points inside numbers stay ("3.5" is one word).
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    words = []
    for word in text.split():
        bare = word.strip(string.punctuation)
        if bare.replace(".", "", 1).isdecimal():
            words.append(bare)
        else:
            words.extend(word.translate(_PUNCTUATION).split())
    return " ".join(word for word in words if word not in _ARTICLES)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the normalized words of both texts, counted with multiplicity, in [0, 1].

    Two texts that are empty after normalization agree (1.0).
    """
    words, expected = normalize_answer(answer).split(), normalize_answer(reference).split()
    if not words or not expected:
        return float(words == expected)
    common = sum((collections.Counter(words) & collections.Counter(expected)).values())
    return 2.0 * common / (len(words) + len(expected))


def judge_answer(
    answer: str, reference: str, task: str, evidence: Sequence[Sequence[float]] = ()
) -> float:
    """Scores an answer 1 (right), 0.5 (partly right) or 0 (wrong).

    Args:
      answer: the model's answer, without its tags.
      reference: the expected answer.
      task: "grounding": the answer is "[start, end]" (several are a union) and its IoU with the
        evidence decides: >= 0.7 gives 1, >= 0.4 gives 0.5. Any other task: 1 for the same
        normalized text, 0.5 for a token F1 of at least 0.5.
      evidence: spans [[start, end], ...] in seconds; where empty, those in the reference.
    """
    if task == "grounding":
        spans = evidence if len(evidence) else parse_intervals(reference)
        iou = interval_iou(parse_intervals(answer), spans) + 1e-9
        return 1.0 if iou >= FULL_IOU else 0.5 if iou >= PARTIAL_IOU else 0.0
    normalized = normalize_answer(answer)
    if not normalized:
        return 0.0
    if normalized == normalize_answer(reference):
        return 1.0
    return 0.5 if token_f1(answer, reference) >= PARTIAL_F1 else 0.0
