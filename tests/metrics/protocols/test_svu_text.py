"""SVU-31K's text metrics against the libraries, called as its scripts call them, and by hand."""

import math
import re
import sys
import warnings

import numpy as np
import pytest

from medscope_jax.errors import UserError
from medscope_jax.metrics.protocols import meteor
from medscope_jax.metrics.protocols.svu_text import (
    bleu_of,
    bleu_rows,
    bleu_words,
    cider_values,
    rouge_l_values,
    text_metrics,
)
from tests.metrics.protocols.text_cases import random_pairs

nltk_bleu = pytest.importorskip("nltk.translate.bleu_score")
cider = pytest.importorskip("pycocoevalcap.cider.cider")
rouge = pytest.importorskip("rouge")

# Nothing, one word, another alphabet, white space, marks alone, and a pair of twins.
HARD = [
    ("", "the clip is placed on the duct"),
    ("clip", "Clip."),
    ("手术 开始 了 吗", "手术 开始 了 吗"),
    ("  the\tlens \n is  here ", "the lens is here"),
    ("!?", "the lens is here"),
    ("Größe 3,5 µm", "größe 3.5 µm"),
]


def sets():
    answers, references = random_pairs()
    yield answers, references
    yield answers + [a for a, _ in HARD], references + [r for _, r in HARD]
    yield from (
        [[answer], [reference]] for answer, reference in [*HARD, (answers[0], references[0])]
    )


def own_bleu(answers, references):
    return float(bleu_of(bleu_rows(answers, references).sum(axis=0)[None])[0])


@pytest.mark.parametrize(("answers", "references"), list(sets()))
def test_bleu_is_the_protocols(answers, references):
    def words(text):
        return re.sub(r"[^\w\s]", "", text).lower().split()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of no matching n-grams
        expected = nltk_bleu.corpus_bleu(
            [[words(text)] for text in references],
            [words(text) for text in answers],
            weights=(0.25, 0.25, 0.25, 0.25),
        )
    assert own_bleu(answers, references) == pytest.approx(expected, rel=1e-12, abs=1e-60)


def test_bleu_by_hand():
    assert bleu_words("3.5 mm, T-tube: Größe") == ["35", "mm", "ttube", "größe"]
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; one word shorter: e^(1 - 6/5).
    found = own_bleu(["The lens is inserted now!"], ["the lens is inserted, here again"])
    assert found == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25 * math.exp(1 - 6 / 5))


@pytest.mark.parametrize(("answers", "references"), list(sets()))
def test_cider_is_the_protocols(answers, references):
    expected, _ = cider.Cider().compute_score(
        {i: [text] for i, text in enumerate(references)},
        {i: [text] for i, text in enumerate(answers)},
    )
    values = cider_values(answers, references)
    assert np.mean(values) == pytest.approx(expected, rel=1e-12)
    assert len(values) == len(answers) and (len(answers) > 1 or values == [0])


def test_cider_of_references_without_words():
    assert cider_values(["a", ""], ["", " "]) == [0, 0] and cider_values([], []) == []
    # Twins of words that no other reference has: a cosine of 1, ten times.
    assert cider_values(["a b c d", "x"], ["a b c d", "e f g h"]) == pytest.approx([10, 0])


def test_rouge_is_the_protocols():
    answers, references = random_pairs()
    scores = rouge.Rouge().get_scores(answers, references, avg=True)
    values = rouge_l_values(answers, references)
    assert np.mean(values) == pytest.approx(scores["rouge-l"]["f"], rel=1e-12)


def test_rouge_by_hand_and_where_the_library_stops():
    # Three of four distinct words of each, in order.
    assert rouge_l_values(["the lens is here"], ["the lens is gone"]) == pytest.approx([0.75])
    assert rouge_l_values(["The lens"], ["the lens"]) == pytest.approx([0.5])  # case counts
    for empty in ("", "...", "."):
        with pytest.raises(ValueError):
            rouge.Rouge().get_scores(empty, "the lens", avg=True)
        assert rouge_l_values([empty, "the lens"], ["the lens", empty]) == [0, 0]
    assert rouge_l_values([" "], ["the lens"]) == [0]


def test_rouge_of_an_answer_that_never_ends():
    """The library calls itself once a word, past Python's limit; the limit is put back."""
    limit = sys.getrecursionlimit()
    endless, reference = "clip the " * 600, "the clip is here " * 30
    with pytest.raises(RecursionError):
        rouge.Rouge().get_scores(endless, reference)
    assert rouge_l_values([endless], [reference]) == pytest.approx([2 / 3])  # 2 of 2, 2 of 4
    assert sys.getrecursionlimit() == limit


def test_all_of_them_with_their_intervals(monkeypatch):
    answers, references = random_pairs(60)
    videos = [i // 4 for i in range(60)]

    def absent():
        raise UserError("METEOR needs Java, and there is none")

    monkeypatch.setattr(meteor, "_java", absent)
    found, notes = text_metrics(answers, references, videos, seed=1)
    assert list(found) == ["bleu_4", "cider", "rouge_l"]
    assert notes == ["METEOR is left out: METEOR needs Java, and there is none"]
    for estimate in found.values():
        assert estimate.low < estimate.value < estimate.high
        assert (estimate.count, estimate.videos) == (60, 15)
    assert found["bleu_4"].value == pytest.approx(own_bleu(answers, references))
    assert found == text_metrics(answers, references, videos, seed=1)[0]
    # BLEU-4's interval against one made video by video.
    draw, scores = np.random.default_rng(5), []
    rows = bleu_rows(answers, references).reshape(15, 4, -1).sum(axis=1)
    for _ in range(1000):
        scores.append(bleu_of(rows[draw.integers(0, 15, 15)].sum(axis=0)[None])[0])
    width = found["bleu_4"].high - found["bleu_4"].low
    low, high = np.quantile(scores, [0.025, 0.975])
    assert (found["bleu_4"].low, found["bleu_4"].high) == pytest.approx(
        (low, high), abs=0.15 * width
    )
    with pytest.raises(ValueError, match="1 answers but 2"):
        text_metrics(["a"], ["a", "b"], [0], seed=0)


def test_a_library_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge", None)
    with pytest.raises(UserError, match="text metrics need rouge, which is not installed: "):
        rouge_l_values(["a"], ["a"])
