"""What is asked: which questions of a split, and what their prompts show."""

import jax
import numpy as np
import pytest

from medscope_jax.evaluation.predict import chosen_records, oracle_frames
from medscope_jax.rollout import make_prompts, prompt_width, row_keys
from medscope_jax.video import preview_indices
from tests.evaluation.prediction_cases import RECORDS, record
from tests.rollout.rollout_cases import LAYOUT, make_world


@pytest.mark.parametrize("count", [0, 1, 7, 40])
@pytest.mark.parametrize("limit", [None, 1, 7, 100])
@pytest.mark.parametrize("shards", [1, 3, 8])
def test_shards_are_the_first_questions_each_once(count, limit, shards):
    parts = [chosen_records(count, limit, (i + 1, shards)) for i in range(shards)]
    asked = range(count if limit is None else min(count, limit))
    assert [n for part in parts for n in part] == list(asked)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_evidence_is_shown_beside_the_preview():
    times = np.arange(40) * 1.0
    preview = set(preview_indices(40, LAYOUT.preview_frames).tolist())
    most = LAYOUT.window_frames

    def beside(evidence=(), instant=-1.0):
        row = record(0, "vqa", "", evidence, instant)
        frames = oracle_frames(row, times, LAYOUT.preview_frames, LAYOUT.window_frames)
        assert list(frames) == sorted(set(frames.tolist())) and preview <= set(frames.tolist())
        return set(frames.tolist())

    assert beside() == preview
    assert beside([(10.0, 11.0)]) == preview | {10, 11}
    assert beside(instant=20.2) == preview | set([19, 20, 21][: max(1, min(3, most))])
    two = beside([(3.0, 3.0), (30.0, 31.0)])
    assert two == preview | {3, 30, 31}
    long = beside([(0.0, 39.0)]) - preview
    assert len(long) <= most and {0, 39} <= long | preview
    assert RECORDS[2]["evidence"].size == 0


def test_prompts_show_the_frames_that_they_are_told():
    tokenizer, *_ = make_world()
    times = np.arange(12.0)
    rows = [{"question": "What is cut?"}] * 2
    told = [None, np.array([2, 3, 7])]
    width = prompt_width(rows, [times, times], tokenizer, LAYOUT, False, shown=told)
    keys = row_keys(jax.random.key(0), np.arange(2)).reshape(2, 1)
    made = make_prompts(rows, [0, 0], [times, times], keys, width, tokenizer, LAYOUT, False, told)
    size = LAYOUT.tokens_per_frame
    for row, own in enumerate((preview_indices(12, LAYOUT.preview_frames), told[1])):
        visual = np.asarray(made.visual_index[row])
        seen = visual[visual >= 0]
        expected = np.concatenate([np.arange(size) + frame * size for frame in own])
        assert np.array_equal(seen, expected)
