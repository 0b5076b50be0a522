"""Grounding metrics: hand-computed values, brute force, and what counts as evidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.metrics import (
    answer_spans,
    last_look,
    localization,
    mean_iou,
    predicted_evidence,
    recall_at,
    stated_window,
)
from medscope_jax.tools import CallStatus, Tool

LOOKED = "<think>I saw it in [1, 2].</think><answer>[10.0, 20.0]</answer>"


def test_recall_and_mean_by_hand():
    scores = [0.0, 0.3, 0.5, 0.7, 1.0]
    assert [recall_at(scores, at) for at in (0.3, 0.5, 0.7)] == [0.8, 0.6, 0.4]
    assert mean_iou(scores) == pytest.approx(0.5)
    assert recall_at([0.1 + 0.2, 0.7 - 1e-12], 0.3) == 1.0
    assert recall_at([0.7 - 1e-12], 0.7) == 1.0
    assert np.isnan(recall_at([], 0.5)) and np.isnan(mean_iou([]))


TICKS = 40
windows = st.lists(
    st.tuples(st.integers(0, TICKS - 1), st.integers(1, 10)).map(lambda w: (w[0], sum(w))),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=200)
@given(windows, windows)
def test_localization_equals_counting_cells(predicted, evidence):
    def cells(spans):
        return {tick for start, end in spans for tick in range(start, end)}

    a, b = cells(predicted), cells(evidence)
    assert localization(predicted, evidence) == pytest.approx(len(a & b) / len(a | b))


@pytest.mark.parametrize(
    ("prediction", "evidence", "expected"),
    [
        (None, [(0, 10)], 0.0),
        (None, 5.0, 0.0),
        ([(0, 5)], [(0, 10)], 0.5),
        ([(0, 5)], np.float32([[0, 10]]), 0.5),
        ([(0, 5)], 5.0, 1.0),
        ([(0, 5)], 5.5, 0.0),
        ([(0, 5), (8, 9)], 8.5, 1.0),
        (5.0, 5.25, 0.75),
        (5.0, 7.0, 0.0),
        (5.0, [(0, 10)], 0.0),
        ([(0, 5)], [], 0.0),
    ],
)
def test_localization_by_hand(prediction, evidence, expected):
    assert localization(prediction, evidence) == pytest.approx(expected)


def test_frame_window_widens_the_slope():
    assert localization(5.0, 7.0, frame_window=4.0) == 0.5


def test_last_look():
    crop = (Tool.CROP_VIDEO, 3.0, 9.0, CallStatus.OK)
    frame = (Tool.GET_FRAME, 5.0, 5.0, CallStatus.OK)
    failed = (Tool.CROP_VIDEO, 0.0, 0.0, CallStatus.EMPTY_WINDOW)
    empty = (Tool.NONE, 0.0, 0.0, -1)
    assert last_look([frame, crop, failed, empty]) == [(3.0, 9.0)]
    assert last_look([crop, frame]) == 5.0
    assert last_look([failed, empty]) is None
    assert last_look([]) is None
    arrays = zip(np.int32([1]), np.float32([2.5]), np.float32([4]), np.int32([0]), strict=True)
    assert last_look(arrays) == [(2.5, 4.0)]


def test_stated_window_is_the_last_one_in_the_thinking():
    assert stated_window("<think>[1, 2] no, [3, 4]</think><answer>[5, 6]</answer>") == [(3.0, 4.0)]
    assert stated_window("<think>unsure</think><answer>[5, 6]</answer>") is None
    assert stated_window("<think>never closed [1, 2]") is None


def test_answer_spans():
    assert answer_spans(LOOKED) == [(10.0, 20.0)]
    assert answer_spans("<think>[1, 2]</think><answer>soon</answer>") is None
    assert answer_spans("<think>[1, 2]</think>") is None


def test_predicted_evidence_by_task_and_model():
    calls = [(Tool.CROP_VIDEO, 3.0, 9.0, CallStatus.OK)]
    assert predicted_evidence(LOOKED, "grounding", calls) == [(10.0, 20.0)]
    assert predicted_evidence(LOOKED, "vqa", calls) == [(3.0, 9.0)]
    assert predicted_evidence(LOOKED, "vqa", [], can_look=False) == [(1.0, 2.0)]
    assert predicted_evidence(LOOKED, "vqa", []) is None
