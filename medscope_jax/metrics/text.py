"""Answers as text: accuracy by a judge, token F1, BLEU."""

import math
from collections.abc import Sequence

import sacrebleu

from medscope_jax.rl import token_f1


def accuracy(judge_scores: Sequence[float]) -> float:
    """Share of answers that a judge calls fully right (score 1); NaN for no answers."""
    if not judge_scores:
        return math.nan
    return sum(score >= 1.0 for score in judge_scores) / len(judge_scores)


def mean_token_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean token F1 of answers with their references; NaN for no answers."""
    pairs = list(zip(answers, references, strict=True))
    return math.fsum(token_f1(*pair) for pair in pairs) / len(pairs) if pairs else math.nan


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4 by sacrebleu (its default tokenization and smoothing), in [0, 1].

    Lower-cased, one reference an answer; NaN for no answers. ValueError for different counts.
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers but {len(references)} references")
    if not answers:
        return math.nan
    return sacrebleu.corpus_bleu(list(answers), [list(references)], lowercase=True).score / 100
