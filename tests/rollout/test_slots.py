"""Fewer slots than rollouts: every row's trajectory is the same, only its place and time differ."""

import dataclasses

import jax
import numpy as np
import pytest

from medscope_jax.dialogue import Role
from medscope_jax.rollout import RolloutConfig, make_rollout, vocabulary
from tests.rollout.rollout_cases import (
    CONFIG,
    LAYOUT,
    full_logprobs,
    make_prompts,
    make_world,
    scripted,
)

SAMPLED = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)


@pytest.fixture(scope="module")
def world():
    return make_world(layers=1)


def play(world, config, draw=None, mesh=None):
    """(episode, metrics) of the eight rollouts."""
    tokenizer, model, params, bank, _, _ = world
    extra = () if draw is None else (draw,)
    program = make_rollout(mesh, model, LAYOUT, config, *extra)
    words = vocabulary(tokenizer, LAYOUT)
    return jax.device_get(program(params, bank, make_prompts(world, [0, 1, 2, 3]), words))


def assert_same(found, wanted):
    for name in ("tokens", "frame", "role", "positions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    for got, want in zip(found.calls, wanted.calls, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-5)


@pytest.fixture(scope="module")
def lockstep(world):
    """The scripted rollout with a slot for every row."""
    return play(world, CONFIG, scripted(world))


@pytest.mark.parametrize("slots, together", [(1, 3), (3, 2)])
def test_calls_do_not_depend_on_slots(world, lockstep, slots, together):
    """Rows of different lengths, numbers of turns and kinds of calls: as the host has them."""
    config = dataclasses.replace(CONFIG, slots=slots, prefill_rows=together)
    episode, metrics = play(world, config, scripted(world))
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
    """Random keys belong to the rollout and the position, not to the slot."""
    found, _ = play(world, dataclasses.replace(SAMPLED, slots=slots))
    assert_same(found, sampled)
    assert len(np.unique(found.tokens, axis=0)) == 8


def test_likeliest_tokens_do_not_depend_on_slots(world):
    greedy = dataclasses.replace(SAMPLED, temperature=0.0)
    found, _ = play(world, dataclasses.replace(greedy, slots=3))
    assert_same(found, play(world, greedy)[0])
    assert len(np.unique(found.tokens, axis=0)) == 4  # two rollouts of a question are the same


def test_more_slots_than_rows_are_as_many_as_rows(world):
    """Eight rows in a hundred slots, beside eight rows in eight: the same program."""
    tokenizer, model, params, bank, _, _ = world
    arguments = params, bank, make_prompts(world, [0, 1, 2, 3]), vocabulary(tokenizer, LAYOUT)
    many, all_rows = (
        make_rollout(None, model, LAYOUT, dataclasses.replace(SAMPLED, slots=slots))
        .lower(*arguments)
        .as_text()
        for slots in (100, 0)
    )
    assert many == all_rows


def test_every_device_fills_its_own_slots(world, sampled):
    """Two devices with two questions each and three slots: the very same episodes."""
    mesh = jax.make_mesh(
        (2, 1, 1),
        ("data", "fsdp", "tensor"),
        devices=jax.devices()[:2],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    found, metrics = play(world, dataclasses.replace(SAMPLED, slots=3), mesh=mesh)
    assert_same(found, sampled)
    assert metrics["slot_steps"] == 3 * metrics["decode_steps"]


def test_no_host_in_the_loop(world):
    """Invariant: also with fewer slots than rows, the rollout needs no transfer."""
    tokenizer, model, params, bank, _, _ = world
    program = make_rollout(None, model, LAYOUT, dataclasses.replace(SAMPLED, slots=3))
    words = vocabulary(tokenizer, LAYOUT)
    arguments = jax.device_put((params, bank, make_prompts(world, [0, 1, 2, 3]), words))
    program(*arguments)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(program(*arguments))
    assert "callback" not in str(jax.make_jaxpr(program)(*arguments))
