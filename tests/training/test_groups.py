"""Groups of rollouts put together: each keeps what it showed; what has no signal is replaced."""

import numpy as np
import pytest

from medscope_jax.training.groups import join_groups, pick_groups, replace_groups
from medscope_jax.training.rollout_batch import RolloutBatch, dynamic_sampling
from tests.training.group_cases import GROUP, make_groups, names_of, roles_of


def check(groups, rows):
    """Every array of every rollout is that of its question's."""
    np.testing.assert_array_equal(groups.rows, rows)
    np.testing.assert_array_equal(groups.places, 100 + np.asarray(rows))
    episode = groups.episode
    np.testing.assert_array_equal(episode.role, roles_of(names_of(rows)))
    assert episode.visual_index.dtype == episode.tokens.dtype == np.int32
    for p, row in enumerate(rows):
        for g in range(GROUP):
            b, name = p * GROUP + g, row * GROUP + g
            assert groups.found[b].text == f"rollout {name}"
            assert (episode.logprobs[b] == name).all()
            assert (episode.positions[:, b] == name + np.arange(3)[:, None]).all()
            for array, factor in zip(episode.calls, (1, 1, 2, 1, 1), strict=True):
                assert (array[b] == factor * name).all()
            seen = episode.visual_index[b] >= 0
            # A visual token's id says what it showed when it was made.
            np.testing.assert_array_equal(episode.visual_index[b][seen], episode.tokens[b][seen])
            assert (episode.visual_index[b][~seen] == -1).all()


def test_parts_of_a_batch_are_put_together():
    whole = [make_groups([3, 1], [[1, 0], [2, 2]]), make_groups([7, 5], [[0, 1], [1, 1]])]
    joined = join_groups(whole)
    check(joined, [3, 1, 7, 5])
    np.testing.assert_array_equal(joined.totals, [[1, 0], [2, 2], [0, 1], [1, 1]])
    np.testing.assert_array_equal(joined.signal, [True, False, True, False])
    assert join_groups(whole[:1]) is whole[0]
    check(pick_groups(whole, [(1, 1), (0, 0), (1, 1)]), [5, 3, 5])


def test_groups_without_signal_are_replaced_in_order():
    kept = make_groups([1, 2, 3, 4], [[1, 1], [1, 0], [0, 0], [2, 2]])
    fresh = make_groups([5, 6, 7, 8], [[3, 3], [1, 0], [0, 0], [0, 2]])
    groups, count = replace_groups(kept, fresh)
    check(groups, [6, 2, 8, 4])
    assert count == 2
    np.testing.assert_array_equal(groups.signal, [True, True, True, False])
    same, count = replace_groups(kept, make_groups([5, 6], [[1, 1], [0, 0]]))
    assert same is kept and count == 0


# Batches of two questions; a question has a signal where its number is even.
STREAM = [[1, 3], [5, 7], [9, 2], [4, 6], [8, 11]]


@pytest.mark.parametrize(
    "resample, rows, replaced, drawn",
    [
        (0, [1, 3], 0, 1),
        (1, [1, 3], 0, 2),
        (2, [2, 3], 1, 3),
        (3, [2, 4], 2, 4),
        (9, [2, 4], 2, 4),  # the batch is full: nothing more is drawn, 6 is left over
    ],
)
def test_batches_are_drawn_until_the_batch_is_full(resample, rows, replaced, drawn):
    asked, later = [], iter(STREAM[1:])

    def roll(number, rows):
        asked.append((number, list(rows)))
        totals = [[row % 2, 1] for row in rows]
        return RolloutBatch(make_groups(rows, totals), {}, {})

    found = dynamic_sampling(roll, np.array(STREAM[0]), lambda: next(later), resample)
    check(found.groups, rows)
    assert found.replaced == replaced
    assert asked == list(enumerate(STREAM[:drawn])) and len(found.batches) == drawn


def test_a_full_batch_is_left_alone():
    def roll(number, rows):
        assert number == 0
        return RolloutBatch(make_groups(rows, [[0, 1]] * 2), {}, {})

    found = dynamic_sampling(roll, np.array([2, 4]), lambda: pytest.fail("drew"), 5)
    assert found.groups is found.batches[0].groups and found.replaced == 0
