"""Fewer slots than rollouts: every row's trajectory is the same, only its place and time differ."""

import dataclasses

import jax
import numpy as np
import pytest

from medscope_jax.dialogue import Role
from medscope_jax.rollout import RolloutConfig, find_special_tokens, make_rollout
from tests.rollout.rollout_cases import (
    CONFIG,
    LAYOUT,
    assert_same,
    full_logprobs,
    make_prompts,
    make_world,
    play,
    scripted,
)

SAMPLED = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)


@pytest.fixture(scope="module")
def world():
    return make_world(layers=1)


@pytest.fixture(scope="module")
def lockstep(world):
    """The scripted rollout with a slot for every row."""
    return play(world, CONFIG, scripted(world))


@pytest.mark.parametrize(
    "slots, together, tokens", [(1, 3, 0), pytest.param(3, 2, 7, marks=pytest.mark.invariant)]
)
def test_calls_do_not_depend_on_slots(world, lockstep, slots, together, tokens):
    """Rows of different lengths, numbers of turns and kinds of calls: as the host has them.

    Also when prompts and observations are read a few tokens at a time.
    """
    changes = {"slots": slots, "prefill_rows": together, "prefill_tokens": tokens}
    config = dataclasses.replace(CONFIG, **changes)
    episode, metrics, _, _ = play(world, config, scripted(world))
    for name, wanted in world[5].items():
        np.testing.assert_array_equal(getattr(episode, name), wanted, err_msg=name)
    assert_same(episode, lockstep[0])
    np.testing.assert_allclose(episode.logprobs, full_logprobs(world, episode), atol=1e-4)
    generated = (world[5]["role"] == Role.GENERATED).sum()
    assert metrics["decoded"] == lockstep[1]["decoded"] == generated
    assert metrics["slot_steps"] == slots * metrics["decode_steps"]
    assert metrics["slot_steps"] < lockstep[1]["slot_steps"] == 8 * lockstep[1]["decode_steps"]
    if slots == 1:
        assert metrics["slot_steps"] == generated  # a slot alone never stands still


@pytest.fixture(scope="module")
def sampled(world):
    """The sampled rollout with a slot for every row."""
    return play(world, SAMPLED)[0]


@pytest.mark.parametrize("slots", [3, 5])
def test_samples_do_not_depend_on_slots(world, sampled, slots):
    """Random keys belong to the rollout and the position; and there is no host in the loop."""
    found, _, program, arguments = play(world, dataclasses.replace(SAMPLED, slots=slots))
    assert_same(found, sampled)
    assert len(np.unique(found.tokens, axis=0)) == 8
    arguments = jax.device_put(arguments)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(program(*arguments))
    assert "callback" not in str(jax.make_jaxpr(program)(*arguments))


def test_more_slots_than_rows_are_as_many_as_rows(world):
    """Eight rows in a hundred slots, beside eight rows in eight: the same program."""
    tokenizer, model, params, bank, _, _ = world
    arguments = (
        params,
        bank,
        make_prompts(world, [0, 1, 2, 3]),
        find_special_tokens(tokenizer, LAYOUT),
    )
    many, all_rows = (
        make_rollout(None, model, LAYOUT, dataclasses.replace(SAMPLED, slots=slots))
        .lower(*arguments)
        .as_text()
        for slots in (100, 0)
    )
    assert many == all_rows
