"""Rollouts in few slots, greedily and with an int8 cache."""

import dataclasses

import numpy as np
import pytest

from medscope_jax.rollout import RolloutConfig
from tests.rollout.rollout_cases import (
    CONFIG,
    assert_same,
    full_logprobs,
    make_world,
    play,
    scripted,
)


@pytest.fixture(scope="module")
def world():
    return make_world(layers=1)


def test_likeliest_tokens_do_not_depend_on_slots(world):
    greedy = RolloutConfig(2, 24, 40, 3, 0.0, 1.0)
    found = play(world, dataclasses.replace(greedy, slots=5))[0]
    assert_same(found, play(world, greedy)[0])
    assert len(np.unique(found.tokens, axis=0)) == 4  # two rollouts of a question are the same


def test_int8_cache_scores_nearly_alike(world):
    """Rounded keys and values move log-probabilities, here by less than 0.05, and nothing else."""
    config = dataclasses.replace(CONFIG, slots=3, kv_dtype="int8")
    episode = play(world, config, scripted(world))[0]
    for name, wanted in world[5].items():
        np.testing.assert_array_equal(getattr(episode, name), wanted, err_msg=name)
    gap = np.abs(episode.logprobs - full_logprobs(world, episode))
    assert 1e-4 < gap.max() < 0.05
