"""Unions of intervals against brute force on a fine grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.rl import interval_iou, merge_spans, parse_intervals, total_length

# Span ends are whole grid ticks, so that counting cells is exact.
TICKS = 60
spans = st.lists(
    st.tuples(st.integers(0, TICKS), st.integers(0, TICKS)).map(lambda pair: tuple(sorted(pair))),
    max_size=6,
)


def cells(intervals):
    covered = np.zeros(TICKS, bool)
    for start, end in intervals:
        covered[start:end] = True
    return covered


@settings(deadline=None, max_examples=300)
@given(spans, spans)
def test_iou_equals_counting_cells(spans_a, spans_b):
    covered_a, covered_b = cells(spans_a), cells(spans_b)
    union = (covered_a | covered_b).sum()
    expected = (covered_a & covered_b).sum() / union if union else 0.0
    assert interval_iou(spans_a, spans_b) == pytest.approx(expected, abs=1e-12)
    assert interval_iou(spans_b, spans_a) == interval_iou(spans_a, spans_b)
    assert total_length(spans_a) == covered_a.sum()


@settings(deadline=None)
@given(spans)
def test_merged_spans_are_disjoint_sorted_and_cover_the_same(intervals):
    merged = merge_spans(intervals)
    assert all(left[1] < right[0] for left, right in zip(merged, merged[1:], strict=False))
    assert (cells([(int(s), int(e)) for s, e in merged]) == cells(intervals)).all()


def test_hand_computed():
    assert interval_iou([(0, 10)], [(5, 15)]) == pytest.approx(1 / 3)
    assert interval_iou([(0, 10)], [(0, 2), (8, 10)]) == pytest.approx(0.4)
    assert interval_iou([(0, 10)], [(10, 20)]) == 0.0
    assert interval_iou([], [(0, 1)]) == 0.0
    assert interval_iou(np.float32([[1, 3]]), np.float32([[1, 3]])) == 1.0


@pytest.mark.parametrize("span", [(3, 1), (0, float("nan")), (0, float("inf"))])
def test_broken_spans_are_refused(span):
    with pytest.raises(ValueError, match="finite and end after"):
        merge_spans([span])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[30.0, 42.0]", [(30.0, 42.0)]),
        ("It is at [30s - 42 s].", [(30.0, 42.0)]),
        ("[1 to 2] and [5.5,6.]", [(1.0, 2.0), (5.5, 6.0)]),
        ("[-3, 5]", [(-3.0, 5.0)]),
        ("[42, 30]", []),
        ("[30, 30]", []),
        ("30 to 42", []),
        ("[30, 42", []),
        ("[nan, 1e5]", []),
        ("[01:05, 01:10.5]", [(65.0, 70.5)]),
        ("[00:01:05 - 1:02:03]", [(65.0, 3723.0)]),
        ("From 01:05 - 01:10, or 00:02:00 to 00:02:05.", [(65.0, 70.0), (120.0, 125.0)]),
        ("[65, 01:10]", [(65.0, 70.0)]),
        ("[30 \u2013 42]", [(30.0, 42.0)]),
        ("[01:75, 02:00]", []),
        ("[00:01:05:12, 00:01:06:00]", []),
        ("00:01:05:12 - 00:01:06:00", []),
        ("01:10 - 01:05", []),
        ("at 01:05", []),
        ("", []),
    ],
)
def test_intervals_in_text(text, expected):
    assert parse_intervals(text) == expected


@settings(deadline=None)
@given(st.text(alphabet="[]0123456789.,:-+ sto\n", max_size=80))
def test_interval_parsing_never_fails(text):
    assert all(end > start for start, end in parse_intervals(text))
