"""The host's part of stage 3: rewards of trajectories, sizes, what is logged."""

import dataclasses

import numpy as np
import pytest

from medscope_jax.dialogue import CallRecord, Episode, Role
from medscope_jax.rl import Reward, RewardConfig, grounding_aware_advantages, make_judge
from medscope_jax.rollout import Trajectory
from medscope_jax.tools import CallStatus, Tool
from medscope_jax.training.ga_grpo import most_generated, summary_of
from medscope_jax.training.groups import Groups, judge_all, reward_all
from medscope_jax.training.packing import few_sizes
from medscope_jax.training.rollout_batch import DynamicBatch, RolloutBatch

CALL = (
    '<tool_call>{"name": "crop_video", "arguments": {"start_time": %s, "end_time": %s}}</tool_call>'
)
SEEN = "<tool_response>...</tool_response>"
ANSWER = "<think>b</think><answer>left</answer>"


def question(answer="left", evidence=((10.0, 20.0),), frame=-1.0):
    return {
        "question": "On which side?",
        "answer": answer,
        "task": "vqa",
        "evidence": np.array(evidence, np.float32).reshape(-1, 2),
        "evidence_time": np.float32(frame),
        "duration": np.float32(60),
    }


def looked(start, end, answer=ANSWER, status=CallStatus.OK):
    call = CALL % (start, end)
    tool = Tool.CROP_VIDEO if status == CallStatus.OK else Tool.NONE
    return Trajectory(
        f"<think>a</think>{call}{SEEN}{answer}",
        [f"<think>a</think>{call}", answer],
        [(int(tool), float(start), float(end), int(status))],
        [[]],
    )


DIRECT = Trajectory(ANSWER, [ANSWER], [], [])


@pytest.fixture
def judge():
    return make_judge({"url": "", "model": "", "timeout": 1.0, "concurrency": 1})


def test_each_trajectory_is_scored_by_its_own_question(judge):
    found = [looked(10, 20), looked(10, 20), DIRECT, looked(14, 16)]
    asked = [question(), question("right"), question(), question(evidence=(), frame=15.0)]
    scores = judge_all(found, asked, judge)
    scored = reward_all(found, asked, scores, RewardConfig(crop_reward="step"))
    # On target: sign 1 and a full bonus of 0.1 for each 0.05 of IoU above 0.5.
    assert [r.crop for r in scored] == pytest.approx([2.0, 2.0, 0.0, 1.0])
    assert [r.accuracy for r in scored] == [1.0, 0.0, 1.0, 1.0]
    assert [r.format for r in scored] == [1.0] * 4
    assert [r.total for r in scored] == pytest.approx([4.0, 3.0, 2.0, 3.0])


def test_only_executed_calls_earn_evidence():
    """A window that the tools refused is none; a response that is made up is a format error."""
    refused = looked(10, 20, status=CallStatus.NOT_JSON)
    made_up = Trajectory(looked(10, 20).text, [], [], [])
    scored = reward_all([refused, made_up], [question()] * 2, [1.0, 1.0], RewardConfig())
    assert [r.crop for r in scored] == [0.0, 0.0]
    assert [r.format for r in scored] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        ([[1.0, np.nan, 2.0]], [[1.0, 1.5, 2.0]]),
        ([[0.1, 0.1, np.nan]], [[0.1, 0.1, 0.1]]),
        ([[np.nan] * 3], [[0.0] * 3]),
    ],
)
def test_a_rollout_without_a_score_has_no_part_in_its_group(totals, expected):
    """The others keep their mean, its advantage is none; alike means no signal at all."""
    scored = [Reward(total, 0, 0, 0, total) for total in totals[0]]
    groups = Groups(np.arange(1), np.arange(1), None, [], scored)
    np.testing.assert_array_equal(groups.totals, np.array(expected, np.float32))
    zeros = np.zeros((1, 3))
    advantages = grounding_aware_advantages(groups.totals, zeros, zeros > 0)
    unknown = np.isnan(totals)
    np.testing.assert_allclose(advantages[unknown], 0.0, atol=1e-7)
    known = np.array(totals)[~unknown]
    if known.size:
        np.testing.assert_allclose(advantages[~unknown], known - known.mean(), atol=1e-7)
    assert groups.signal[0] == (len(set(known)) > 1)


def test_only_a_usable_answer_lacks_a_score(judge):
    """Where there is nothing to judge, accuracy is 0 whatever happens to the judge."""
    found = [DIRECT, Trajectory("<think>a</think><answer> </answer>", [], [], [])]
    scored = reward_all(found, [question()] * 2, [np.nan] * 2, RewardConfig())
    np.testing.assert_array_equal([r.accuracy for r in scored], [np.nan, 0.0])
    np.testing.assert_array_equal(np.isnan([r.total for r in scored]), [True, False])


def make_episode(role):
    rows, length = role.shape
    grid = np.arange(rows * length, dtype=np.int32).reshape(rows, length)
    empty = np.full((rows, 2), -1, np.int32)
    return Episode(
        tokens=grid,
        visual_index=grid - 7,
        role=role,
        positions=np.stack([grid, grid + 1, grid + 2]),
        logprobs=-grid.astype(np.float32),
        calls=CallRecord(empty, empty * 1.0, empty * 1.0, empty, empty),
    )


def test_a_size_is_rounded_up_by_an_eighth_at_most_to_one_of_a_few():
    sizes = range(1, 32769)
    found = [few_sizes(size, 32) for size in sizes]
    assert found == sorted(found) and len(set(found)) == 64
    for size, rounded in zip(sizes, found, strict=True):
        assert size <= rounded <= max(size + 31, size * 9 / 8) and rounded % 32 == 0
        assert few_sizes(rounded, 32) == rounded


def test_most_generated_is_rounded_up_but_never_exceeds_the_slots():
    role = np.zeros((3, 40), np.int32)
    role[1, 5:22] = Role.GENERATED
    assert most_generated(role) == 32
    role[1, 5:40] = Role.GENERATED
    assert most_generated(role) == 40


def test_the_summary_counts_what_happened(judge):
    found = [looked(10, 20), looked(30, 40), DIRECT, looked(5, 1, status=CallStatus.EMPTY_WINDOW)]
    config = RewardConfig(crop_reward="smooth")
    asked = [question()] * 4
    scored = reward_all(found, asked, judge_all(found, asked, judge), config)
    role = np.zeros((4, 10), np.int32)
    role[:2, 3:9] = Role.GENERATED
    rows = np.arange(2)
    groups = Groups(rows, rows, make_episode(role), found, scored)
    seconds = {"seconds_rollout": 2.0, "seconds_judge": 1.0}
    rolled = RolloutBatch(groups, {"decoded": 12}, seconds, unscored=1)
    summary = summary_of(DynamicBatch(groups, 0, [rolled]))
    assert summary["reward"] == pytest.approx(np.mean([r.total for r in scored]))
    assert summary["reward_accuracy"] == summary["reward_format"] == 1.0
    # On target: IoU 1 and ten bonus steps of 0.1, in one of four.
    assert summary["reward_crop"] == pytest.approx(2.0 / 4)
    assert summary["iou"] == pytest.approx(1 / 4)
    assert summary["tool_rate"] == 0.5 and summary["calls"] == 0.75
    assert summary["calls_empty_window"] == 1 and summary["calls_not_json"] == 0
    assert summary["tokens"] == 3.0 and summary["tokens_max"] == 6
    # The second question's rollouts were all rewarded alike: they teach nothing.
    assert summary["groups_without_signal"] == 0.5
    assert summary["unscored"] == 1
    assert summary["groups_replaced"] == 0 and summary["batches_drawn"] == 1
    scored[0] = dataclasses.replace(scored[0], accuracy=np.nan, total=np.nan)
    assert summary_of(DynamicBatch(groups, 0, [rolled]))["reward_accuracy"] == 1.0  # of the others
    assert summary["decoded"] == 12 and summary["seconds_rollout"] == 2.0
