"""Steps of the shard that takes longest, against the loop's rules carried out by hand."""

import numpy as np
import pytest

from medscope_jax.planning.shards import TURNS, draw, shard_steps, slowest_steps


@pytest.mark.parametrize(
    "rollouts, slots, rows, tools, decoded",
    [
        ([[3], [5]], 2, 1, 0, 5),  # side by side, as long as the longer one
        ([[3], [5]], 1, 1, 0, 8),  # one behind the other
        ([[3, 2], [5]], 2, 1, 1, 5),  # the call is executed at once, and both go on
        ([[3, 2], [5]], 2, 2, 1, 7),  # the call waits for a second one, which does not come
        ([[3, 2], [3, 4]], 2, 2, 1, 7),  # two calls in one step
        ([[3, 2], [3, 4]], 2, 1, 2, 7),  # and in two
        ([[2], [6], [3]], 2, 1, 0, 6),  # the third takes the slot of the first
        (
            [[2, 1], [6], [9]],
            2,
            2,
            1,
            12,
        ),  # 2 + 1 + 3 + 6: while one other writes, a call waits for none
    ],
)
def test_steps_of_a_shard_by_hand(rollouts, slots, rows, tools, decoded):
    found = shard_steps(rollouts, slots, rows)
    assert (found.execute_tools, found.decode_step) == (tools, decoded)
    assert found.rows * decoded == pytest.approx(sum(map(sum, rollouts)))


def test_who_writes_by_hand():
    """Two questions with two rollouts each: the first is done after four of ten steps."""
    found = shard_steps([[1], [4], [10], [2]], 4, 1, group=2)
    assert found == (0, 10, 17 / 10, 14 / 10)


def test_the_slowest_of_many_takes_longer_than_one_and_one_longer_than_the_mean():
    """64 shards of 8 rollouts in 4 slots; the mean: all slots at work to the end."""
    sizes = {"questions": 1, "group": 8, "slots": 4, "rows": 2, "most": 512, "turns": 6}
    one, many = (slowest_steps(n, **sizes, share=0.5) for n in (1, 64))
    mean = 3 * 256 * 8 / 4
    assert mean < one.decode_step
    assert 1.4 * mean < many.decode_step < 3 * mean
    assert 1 < many.rows < 4 and many.questions == 1
    assert many == slowest_steps(64, **sizes, share=0.5)  # no draw of its own each time


def test_draws_have_the_assumed_means():
    rollouts = draw(np.random.default_rng(1), 20_000, 512, 6, 0.5)
    assert np.mean([len(turns) for turns in rollouts]) == pytest.approx(3, abs=0.03)
    assert np.mean(np.concatenate(rollouts)) == pytest.approx(256.5, rel=0.01)
    assert sum(TURNS) == pytest.approx(1)
    short = draw(np.random.default_rng(1), 100, 8, 2, 0.5)
    assert max(map(len, short)) == 2 and 1 <= min(map(min, short)) <= max(map(max, short)) <= 8
