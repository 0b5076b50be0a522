"""The rollout against the host: same episodes, same log-probabilities, no host inside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import rollout as rollout_room
from medscope_jax.dialogue import Role, generated_text, turn_texts
from medscope_jax.rollout import RolloutConfig, find_special_tokens, make_rollout
from medscope_jax.rollout import sample as real_sample
from medscope_jax.tools import CallStatus
from tests.rollout.rollout_cases import (
    CONFIG,
    LAYOUT,
    SCRIPTS,
    full_logprobs,
    make_prompts,
    make_world,
    scripted,
)


@pytest.fixture(scope="module")
def world():
    return make_world(other_end=True)


@pytest.fixture(scope="module")
def played(world):
    """The scripted rollout of all four videos."""
    tokenizer, model, params, bank, _, _ = world
    program = make_rollout(None, model, LAYOUT, CONFIG, scripted(world))
    prompts = make_prompts(world, [0, 1, 2, 3])
    episode, metrics = program(params, bank, prompts, find_special_tokens(tokenizer, LAYOUT))
    return jax.device_get(episode), metrics


def test_device_episodes_equal_the_hosts(world, played):
    """Tokens, visual indices, roles and calls are what build_episode makes of the same turns."""
    episode, metrics = played
    _, _, _, _, rows, expected = world
    for name in ("role", "tokens", "visual_index"):
        np.testing.assert_array_equal(getattr(episode, name), expected[name], err_msg=name)
    for i, row in enumerate(rows):
        for c, (tool, start, end, status, where) in enumerate(row.calls):
            assert episode.calls.tool[i, c] == tool
            assert episode.calls.status[i, c] == status
            assert episode.calls.where[i, c] == where
            np.testing.assert_allclose(
                [episode.calls.start[i, c], episode.calls.end[i, c]], [start, end], rtol=1e-6
            )
        assert (episode.calls.status[i, len(row.calls) :] == -1).all()
    statuses = {call[3] for row in rows for call in row.calls}
    assert {CallStatus.OK, CallStatus.NOT_JSON, CallStatus.BEYOND_DURATION} <= statuses
    assert int(metrics["decoded"]) == (expected["role"] == Role.GENERATED).sum()


def test_a_row_ends_with_any_of_the_ends(world, played):
    """And is read back without it: the transcript ends with the answer."""
    episode, tokenizer = played[0], world[0]
    last = (episode.role != Role.PADDING).sum(axis=1) - 1
    found = [row[place] for row, place in zip(episode.tokens, last, strict=True)]
    assert found == list(tokenizer.ends) * 4
    for tokens, role, script in zip(episode.tokens, episode.role, SCRIPTS, strict=True):
        assert generated_text(tokens, role, tokenizer).endswith("</answer>")
        assert turn_texts(tokens, role, tokenizer) == script


def test_rollout_equals_forward(world, played):
    """Invariant: log-probabilities recorded while sampling equal one full forward pass."""
    episode, _ = played
    np.testing.assert_allclose(episode.logprobs, full_logprobs(world, episode), atol=1e-4)
    assert np.abs(episode.logprobs).sum() > 100


def test_positions_are_recorded(world, played):
    """The M-RoPE positions written while rolling out are those of the finished episode."""
    from medscope_jax.models import mrope_positions

    episode, _ = played
    valid = jnp.asarray(episode.role != Role.PADDING)
    zeros = jnp.zeros(valid.shape[0], jnp.int32)
    positions, _ = mrope_positions(jnp.asarray(episode.visual_index), valid, LAYOUT.grid, zeros)
    np.testing.assert_array_equal(
        np.where(valid, episode.positions, 0), np.where(valid, positions, 0)
    )


@pytest.fixture(scope="module")
def sampled(world):
    """A really sampled rollout (random weights) of all four videos, and the program."""
    tokenizer, model, params, bank, _, _ = world
    config = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)
    program = make_rollout(None, model, LAYOUT, config)
    special_tokens = find_special_tokens(tokenizer, LAYOUT)
    episode, _ = program(params, bank, make_prompts(world, [0, 1, 2, 3]), special_tokens)
    return jax.device_get(episode), program, special_tokens


def test_sampled_rollout_equals_forward(world, sampled):
    """The same invariant with temperature and top-p: the whole distribution at that temperature."""
    episode, _, _ = sampled
    np.testing.assert_allclose(episode.logprobs, full_logprobs(world, episode, 0.7), atol=1e-4)


def test_batch_and_bank_order_change_nothing(world, sampled):
    """Invariant: a row does not depend on its neighbours, its place or the bank's order."""
    episode, program, special_tokens = sampled
    _, _, params, bank, _, _ = world
    order = np.array([2, 0, 3, 1])
    shuffled = jax.tree.map(lambda x: x[order], bank)
    prompts = make_prompts(world, list(order))
    prompts = prompts.replace(video=jnp.arange(4, dtype=jnp.int32))
    other = jax.device_get(program(params, shuffled, prompts, special_tokens)[0])
    rows = (order[:, None] * 2 + np.arange(2)).reshape(-1)
    np.testing.assert_array_equal(other.tokens, episode.tokens[rows])
    np.testing.assert_allclose(other.logprobs, episode.logprobs[rows], atol=1e-5)


def test_sharded_rollout_is_the_same(world, sampled):
    """Invariant: four devices, each with its own loop, give the very same episodes."""
    episode, _, special_tokens = sampled
    _, model, params, bank, _, _ = world
    mesh = jax.make_mesh(
        (4, 1, 1),
        ("data", "fsdp", "tensor"),
        devices=jax.devices()[:4],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    config = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)
    program = make_rollout(mesh, model, LAYOUT, config)
    other = jax.device_get(
        program(params, bank, make_prompts(world, [0, 1, 2, 3]), special_tokens)[0]
    )
    np.testing.assert_array_equal(other.tokens, episode.tokens)
    np.testing.assert_array_equal(other.visual_index, episode.visual_index)
    np.testing.assert_allclose(other.logprobs, episode.logprobs, atol=1e-5)


def test_no_host_in_the_loop(world, sampled):
    """Invariant: the rollout needs no transfer, and its jaxpr holds no callback."""
    _, program, special_tokens = sampled
    _, model, params, bank, _, _ = world
    prompts = make_prompts(world, [0, 1, 2, 3])
    arguments = jax.device_put((params, bank, prompts, special_tokens))
    program(*arguments)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(program(*arguments))
    config = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)
    function = functools.partial(rollout_room.rollout, model=model, layout=LAYOUT, config=config)
    assert "callback" not in str(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
def test_nucleus_is_the_sorted_one(top_p):
    """Sampled tokens come from the set that sorting and summing gives, and from all of it."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(3, 12)).astype(np.float32) * 2
    draws = 4000
    keys = jax.random.split(jax.random.key(0), draws)
    wanted = []
    for row in scores:
        p = np.exp(row - row.max())
        p /= p.sum()
        order = np.argsort(-p)
        keep = np.searchsorted(np.cumsum(p[order]), top_p - 1e-6) + 1
        wanted.append(set(order[:keep].tolist()))
    for row, allowed in zip(scores, wanted, strict=True):
        tokens, logprobs = real_sample(
            jnp.broadcast_to(row, (draws, 12)), keys, jnp.zeros(draws, jnp.int32), 1.0, top_p
        )
        seen = set(np.asarray(tokens).tolist())
        assert seen <= allowed
        likely = {i for i in allowed if np.exp(row[i]) / np.exp(row).sum() > 0.01}
        assert likely <= seen
        expected = np.asarray(jax.nn.log_softmax(row))[np.asarray(tokens)]
        np.testing.assert_allclose(logprobs, expected, atol=1e-5)


def test_greedy_takes_the_best():
    """Temperature 0 is argmax, with the log-probability at temperature 1."""
    scores = jnp.asarray([[0.0, 3.0, 1.0], [2.0, -1.0, 0.5]])
    keys = jax.random.split(jax.random.key(0), 2)
    tokens, logprobs = real_sample(scores, keys, jnp.zeros(2, jnp.int32), 0.0, 1.0)
    assert tokens.tolist() == [1, 0]
    np.testing.assert_allclose(logprobs, jax.nn.log_softmax(scores).max(-1), atol=1e-6)
