"""SVU-31K's text metrics, by the libraries that its scripts use, with their settings.

| metric  | library, settings | over questions |
|---|---|---|
| BLEU-4  | nltk: only word characters and white space are kept, lower case, unsmoothed | of sums |
| CIDEr   | pycocoevalcap: words as they stand, case and marks too; its factor 10 included | mean |
| METEOR  | pycocoevalcap's Java program, version 1.5, see meteor.py | of sums |
| ROUGE-L | rouge: F1, case kept, sentences end at "." | mean |

Where the scripts would stop (rouge: a text without a word) or wait for ever (METEOR: a line break
in an answer), the question scores 0, or the break is a space. CIDEr weighs words by how many of the
references have them: it belongs to its set of questions, and is 0 for a single one.
"""

import re
import sys
from collections.abc import Hashable, Sequence

import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.metrics.protocols.meteor import meteor_rows, meteor_scores
from medscope_jax.metrics.uncertainty import Estimate, bootstrap_estimate, mean_estimate

_ORDERS = 4
_MARKS = re.compile(r"[^\w\s]")


def text_metrics(
    answers: Sequence[str],
    references: Sequence[str],
    videos: Sequence[Hashable],
    *,
    seed: int,
) -> tuple[dict[str, Estimate], list[str]]:
    """BLEU-4, CIDEr, METEOR and ROUGE-L of answers, each with its interval, and notes.

    METEOR needs Java: where it can't be run it is not among the metrics, and a note says why.

    Args:
      answers, references: texts of the questions, one reference each.
      videos: the video of each question.
      seed: of the bootstrap over videos that BLEU-4's and METEOR's intervals come from.

    Raises:
      UserError: a library is missing.
    """
    _same_count(answers, references)
    found = {
        "bleu_4": bootstrap_estimate(bleu_rows(answers, references), videos, bleu_of, seed=seed),
        "cider": mean_estimate(cider_values(answers, references), videos),
    }
    notes = []
    try:
        rows = meteor_rows(answers, references)
        found["meteor"] = bootstrap_estimate(rows, videos, meteor_scores, seed=seed)
    except UserError as error:
        notes.append(f"METEOR is left out: {error}")
    found["rouge_l"] = mean_estimate(rouge_l_values(answers, references), videos)
    return found, notes


def bleu_rows(answers: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What each question adds to BLEU-4, [questions, 10]: matching n-grams, n-grams of the answer
    (at least 1, as nltk counts), n from 1 to 4; words of the answer; words of the reference."""
    try:
        from nltk.translate.bleu_score import modified_precision
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    rows = np.zeros((len(answers), 2 * _ORDERS + 2))
    for row, answer, reference in zip(rows, answers, references, strict=True):
        said, expected = bleu_words(answer), bleu_words(reference)
        found = [modified_precision([expected], said, n + 1) for n in range(_ORDERS)]
        row[:_ORDERS] = [share.numerator for share in found]
        row[_ORDERS : 2 * _ORDERS] = [share.denominator for share in found]
        row[2 * _ORDERS :] = len(said), len(expected)
    return rows


def bleu_words(text: str) -> list[str]:
    """Words as the protocol's BLEU-4 counts them: "3.5 mm, T-tube" -> 35, mm, ttube."""
    return _MARKS.sub("", text).lower().split()


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """BLEU-4 of sums of bleu_rows, [draws, 10] -> [draws]; 0 where no quadruple of words agrees."""
    matches, counts = sums[:, :_ORDERS], sums[:, _ORDERS : 2 * _ORDERS]
    said, expected = sums[:, -2], sums[:, -1]
    with np.errstate(divide="ignore"):
        means = np.exp(np.log(matches / counts).mean(axis=1))
    return means * np.exp(np.minimum(0.0, 1 - expected / np.maximum(said, 1)))


def cider_values(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """CIDEr of each question among these, in [0, 10]."""
    if not answers:
        return []
    try:
        from pycocoevalcap.cider.cider import Cider
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    expected = {i: [reference] for i, reference in enumerate(references)}
    if not any(reference.split() for reference in references):
        return [0.0] * len(answers)  # its own check stops at an empty table of words
    _, values = Cider().compute_score(expected, {i: [text] for i, text in enumerate(answers)})
    return values.tolist()


def rouge_l_values(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 of each question, in [0, 1]; 0 where a text has nothing between its points."""
    try:
        from rouge import Rouge
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    scorer, values = Rouge(metrics=["rouge-l"]), []
    limit = sys.getrecursionlimit()
    try:
        for answer, reference in zip(answers, references, strict=True):
            if not (answer.strip(".") and reference.strip(".")):
                values.append(0.0)
                continue
            # The library calls itself once a word of both texts.
            words = len(answer.split()) + len(reference.split())
            sys.setrecursionlimit(max(limit, words + 1000))
            values.append(scorer.get_scores(answer, reference)[0]["rouge-l"]["f"])
    finally:
        sys.setrecursionlimit(limit)
    return values


def _same_count(answers: Sequence[str], references: Sequence[str]) -> None:
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers but {len(references)} references")


def _missing(error: ModuleNotFoundError) -> UserError:
    return UserError(
        f"text metrics need {error.name}, which is not installed: python -m pip install nltk "
        "pycocoevalcap rouge"
    )
