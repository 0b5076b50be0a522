"""Spans against gold ones: NExT-GQA by hand, against its published loop, and reading "a - b"."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscope_jax.metrics.protocols.spans import first_span, grounded_choice, moment, overlaps

GQA = ("iou", "iop", "iou_0.3", "iou_0.5", "iop_0.3", "iop_0.5", "acc_qa", "acc_gqa")


def test_overlaps_by_hand():
    assert overlaps((2, 6), (4, 10)) == (2 / 8, 2 / 4)
    assert overlaps((4, 6), (4, 10)) == (2 / 6, 1)
    assert overlaps((0, 2), (5, 9)) == (0, 0)  # not below 0
    assert overlaps((0, 5), (5, 9)) == (0, 0)
    assert overlaps((7, 7), (5, 9)) == (0, 1) and overlaps((3, 3), (5, 9)) == (0, 0)
    assert overlaps((9, 5), (5, 9)) == (0, 0)
    assert overlaps((5, 9), (5, 9)) == (1, 1)


def test_grounded_choices_by_hand():
    """Five questions of two spans: the best gold span of each measure, not one for both."""
    gold = [(0.0, 4.0), (10.0, 30.0)]
    found = [
        # IoP is best with the second span (1), IoU with the first (0.5 of 0..6 is none of it).
        grounded_choice((12.0, 14.0), gold, True),  # IoU 2/20, IoP 1
        grounded_choice((2.0, 6.0), gold, True),  # IoU 2/6, IoP 2/4
        grounded_choice((2.0, 12.0), gold, True),  # first: 2/12, 2/10; second: 2/28, 2/10
        grounded_choice((10.0, 30.0), gold, False),  # 1, 1, the wrong option
        grounded_choice(None, gold, True),
    ]
    assert [set(values) == set(GQA) for values in found] == [True] * 5
    means = {name: sum(values[name] for values in found) / 5 for name in GQA}
    assert means == pytest.approx(
        {
            "iou": (0.1 + 1 / 3 + 1 / 6 + 1) / 5,
            "iop": (1 + 0.5 + 0.2 + 1) / 5,
            "iou_0.3": 2 / 5,
            "iou_0.5": 1 / 5,
            "iop_0.3": 3 / 5,
            "iop_0.5": 3 / 5,
            "acc_qa": 4 / 5,
            "acc_gqa": 2 / 5,
        }
    )


def test_the_best_gold_span_is_taken_for_each_measure():
    values = grounded_choice((0.0, 10.0), [(0.0, 6.0), (1.0, 9.0)], False)
    assert (values["iou"], values["iop"]) == (0.8, 0.8)
    # The first has the larger IoU (4 / 10 against 5 / 25), the second the larger IoP.
    values = grounded_choice((6.0, 16.0), [(6.0, 10.0), (0.0, 25.0)], False)
    assert (values["iou"], values["iop"]) == (0.4, 1.0)


def published_mean(predictions, golds, right):
    """NExT-GQA's figures as its evaluation loops over questions and spans (in other words)."""
    sums = np.zeros(8)
    for span, spans, is_right in zip(predictions, golds, right, strict=True):
        best = np.zeros(2)
        for gold in spans:
            if span[0] == span[1]:
                pair = [0, int(gold[0] <= span[0] <= gold[1])]
            else:
                inter = min(gold[1], span[1]) - max(gold[0], span[0])
                hull = max(gold[1], span[1]) - min(gold[0], span[0])
                pair = [inter / hull if hull > 0 else 0, 0]
                pair[1] = inter / (span[1] - span[0]) if span[1] > span[0] else 0
            best = np.maximum(best, pair)
        iou, iop = best
        reached = [iou >= 0.3, iou >= 0.5, iop >= 0.3, iop >= 0.5]
        sums += [iou, iop, *reached, is_right, is_right and iop >= 0.5]
    return sums / len(predictions)


def test_200_random_questions_are_what_the_published_loop_makes_of_them():
    draw = random.Random(0)
    ends = [sorted(draw.choices(range(40), k=2)) for _ in range(199)] + [[9, 3]]
    golds = [
        [sorted(draw.sample(range(40), 2)) for _ in range(draw.randint(1, 4))] for _ in range(200)
    ]
    right = [draw.random() < 0.6 for _ in range(200)]
    found = [grounded_choice(*question) for question in zip(ends, golds, right, strict=True)]
    means = [np.mean([values[name] for values in found]) for name in GQA]
    np.testing.assert_allclose(means, published_mean(ends, golds, right), rtol=1e-12)


def test_moments_by_hand():
    assert moment((10, 20), (12, 22)) == {
        "iou": 8 / 12,
        "recall_0.3": 1,
        "recall_0.5": 1,
        "recall_0.7": 0,
        "unread": 0,
    }
    assert moment(None, (12, 22)) == dict.fromkeys(
        ("iou", "recall_0.3", "recall_0.5", "recall_0.7"), 0
    ) | {"unread": 1}


@pytest.mark.parametrize(
    ("answer", "span"),
    [
        ("12.5 - 20", (12.5, 20)),
        ("The query happens in 12.5-20.0 seconds.", (12.5, 20)),
        ("From 12.5s to 20 seconds, and again 30 - 40", (12.5, 20)),
        ("20 \u2013 12.5", (12.5, 20)),
        ("[12.5, 20]", (12.5, 20)),
        ("between (3 s, 4 s)", (3, 4)),
        ("1:05 - 1:10.5", (65, 70.5)),
        ("00:01:05 to 00:01:10", (65, 70)),
        ("\u624b\u672f 3 - 4", (3, 4)),
        ("3 - 3", (3, 3)),
        ("", None),
        ("at 12.5", None),
        ("At 3, 5 clips are seen", None),
        ("step 3", None),
        ("T2-3", None),
        ("1.2.3 - 4.5:6", None),
    ],
)
def test_the_first_span_of_an_answer(answer, span):
    assert first_span(answer) == span


@given(st.text("0123456789.:-to s[](),\u2013", max_size=200))
def test_any_text_has_an_ordered_span_or_none(text):
    found = first_span(text)
    assert found is None or found[0] <= found[1]
