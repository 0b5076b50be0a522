"""The rollout against the host: same episodes, same log-probabilities, no host inside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import rollout as rollout_room
from medscope_jax.dialogue import Layout, Role, build_episode, pad_row, protocol, train_tokenizer
from medscope_jax.models import init_params, model_config
from medscope_jax.rollout import Prompts, RolloutConfig, make_rollout, row_keys, vocabulary
from medscope_jax.rollout import loop as loop_module
from medscope_jax.rollout.sampling import sample as real_sample
from medscope_jax.tools import CallStatus
from medscope_jax.training.steps import find_targets, token_logprobs
from medscope_jax.video import flat_tokens, preview_indices, stack_bank

LAYOUT = Layout(
    length=256,
    preview_frames=4,
    window_frames=5,
    grid=(1, 2),
    frame_format="{time:.1f}{frame}",
    max_tool_turns=3,
)
CONFIG = RolloutConfig(
    group=2, turn_tokens=60, call_tokens=40, prefill_rows=3, temperature=1.0, top_p=1.0
)
CROP, FRAME = protocol.crop_call, protocol.frame_call
END = "<think>so</think><answer>left</answer>"
# Row by row: different numbers of turns, both tools, typed errors, early and late stops.
SCRIPTS = (
    [END],
    ["<think>a</think>" + CROP(3, 9), END],
    ["<think>a</think>" + FRAME(4), "<think>b</think>" + CROP(0, 30), END],
    ["<think>a</think><tool_call>{broken</tool_call>", END],
    ["<tool_call>nothing" + protocol.TOOL_CALL_END] + ["<think>b</think>" + CROP(8, 2), END],
    ["no opening tag" + protocol.TOOL_CALL_END, "<think>b</think>" + CROP(1, 2.5), END],
    [CROP(1, 3), CROP(2, 4), FRAME(99), END],
    ["<think>a</think>" + CROP(500, 600), FRAME(0), END],
)


@pytest.fixture(scope="module")
def world():
    """Tokenizer, tiny model, a bank of 4 videos, and the host's episodes of SCRIPTS."""
    tokenizer = train_tokenizer([END, "where is it? {broken nothing no opening tag"] * 5, 1024, 64)
    text = {"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    model = model_config({"text": text | {"mrope_section": (4, 2, 2)}})
    params = init_params(model, jax.random.key(0))
    # Larger weights than an initializer's, so that scores differ from uniform.
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 2 else x, params)
    rng = np.random.default_rng(0)
    lengths = (20, 31, 7, 12)
    times = [np.arange(n, dtype=np.float64) for n in lengths]
    tokens = [rng.normal(size=(n, 2, 32)).astype(np.float32) for n in lengths]
    stamps = [[tokenizer.encode(f"{t:.1f}") for t in when] for when in times]
    bank = stack_bank(tokens, times, stamps, [float(n) for n in lengths])
    rows = []
    for i, turns in enumerate(SCRIPTS):
        video = i // CONFIG.group
        shown = preview_indices(lengths[video], LAYOUT.preview_frames)
        rows.append(
            build_episode(
                "where is it?", turns, shown, times[video], lengths[video], tokenizer, LAYOUT, True
            )
        )
    stride = bank.tokens.shape[1] * 2
    expected = {}
    for name in ("tokens", "frame", "role"):
        expected[name] = np.stack([pad_row(row, LAYOUT.length)[name] for row in rows])
    offsets = np.repeat(np.arange(4), CONFIG.group)[:, None] * stride
    expected["frame"] = np.where(expected["frame"] >= 0, expected["frame"] + offsets, -1)
    return tokenizer, model, params, bank, rows, expected


def make_prompts(world, videos, rows_per_video=CONFIG.group):
    """Prompts of the given videos, keys numbered by the rollout's place in SCRIPTS."""
    _, _, _, bank, _, expected = world
    prompt = [expected["role"][v * CONFIG.group] == Role.PROMPT for v in videos]
    width = max(int(p.sum()) for p in prompt)
    pick = [v * CONFIG.group for v in videos]
    stride = bank.tokens.shape[1] * 2
    frame = expected["frame"][pick, :width].copy()
    for i, (v, p) in enumerate(zip(videos, prompt, strict=True)):
        frame[i] = np.where((frame[i] >= 0) & p[:width], frame[i] - (v - v) * stride, -1)
    ids = np.array([[v * rows_per_video + g for g in range(rows_per_video)] for v in videos])
    keys = row_keys(jax.random.key(7), ids.reshape(-1)).reshape(ids.shape)
    return Prompts(
        tokens=jnp.asarray(expected["tokens"][pick, :width]),
        frame=jnp.asarray(frame),
        length=jnp.asarray([int(p.sum()) for p in prompt], jnp.int32),
        video=jnp.asarray(videos, jnp.int32),
        keys=keys,
    )


def scripted(world, videos):
    """A `sample` that writes the host's episode slot by slot, with the model's own scores."""
    rows = np.concatenate([np.arange(CONFIG.group) + v * CONFIG.group for v in videos])
    script = jnp.asarray(world[5]["tokens"][rows])

    def sample(scores, keys, position, temperature, top_p):
        token = jnp.take_along_axis(script, position[:, None], axis=1, mode="clip")[:, 0]
        logprobs = jax.nn.log_softmax(scores)
        return token, jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]

    return sample


@pytest.fixture(scope="module")
def played(world):
    """The scripted rollout of all four videos."""
    tokenizer, model, params, bank, _, _ = world
    videos = [0, 1, 2, 3]
    original, loop_module.sample = loop_module.sample, scripted(world, videos)
    try:
        words = vocabulary(tokenizer, LAYOUT)
        episode, metrics = make_rollout(None, model, LAYOUT, CONFIG)(
            params, bank, make_prompts(world, videos), words
        )
    finally:
        loop_module.sample = original
    return jax.device_get(episode), metrics


def test_device_episodes_equal_the_hosts(world, played):
    """Tokens, bank indices, roles and calls are what build_episode makes of the same turns."""
    episode, metrics = played
    _, _, _, _, rows, expected = world
    for name in ("role", "tokens", "frame"):
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


def full_logprobs(world, episode, temperature=1.0):
    """Log-probabilities of generated tokens from one forward pass, back in their slots [B, L]."""
    _, model, params, bank, _, _ = world
    count = int((np.asarray(episode.role) == Role.GENERATED).sum(1).max())
    targets = find_targets(jnp.asarray(episode.role), count)
    values, _ = token_logprobs(
        params,
        model,
        *(jnp.asarray(x) for x in (episode.tokens, episode.frame, episode.role)),
        flat_tokens(bank),
        targets,
        LAYOUT.grid,
        temperature,
    )
    out = np.zeros(episode.role.shape, np.float32)
    for b, (slots, mask) in enumerate(zip(*map(np.asarray, targets), strict=True)):
        out[b, slots[mask]] = np.asarray(values)[b][mask]
    return out


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
    positions, _ = mrope_positions(jnp.asarray(episode.frame), valid, LAYOUT.grid, zeros)
    np.testing.assert_array_equal(
        np.where(valid, episode.positions, 0), np.where(valid, positions, 0)
    )


@pytest.fixture(scope="module")
def sampled(world):
    """A really sampled rollout (random weights) of all four videos, and the program."""
    tokenizer, model, params, bank, _, _ = world
    config = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)
    program = make_rollout(None, model, LAYOUT, config)
    words = vocabulary(tokenizer, LAYOUT)
    episode, _ = program(params, bank, make_prompts(world, [0, 1, 2, 3]), words)
    return jax.device_get(episode), program, words


def test_sampled_rollout_equals_forward(world, sampled):
    """The same invariant with temperature and top-p: the whole distribution at that temperature."""
    episode, _, _ = sampled
    np.testing.assert_allclose(episode.logprobs, full_logprobs(world, episode, 0.7), atol=1e-4)


def test_batch_and_bank_order_change_nothing(world, sampled):
    """Invariant: a row does not depend on its neighbours, its place or the bank's order."""
    episode, program, words = sampled
    _, _, params, bank, _, _ = world
    order = np.array([2, 0, 3, 1])
    shuffled = jax.tree.map(lambda x: x[order], bank)
    prompts = make_prompts(world, list(order))
    stride = bank.tokens.shape[1] * 2
    places = np.arange(4)
    moved = (places - order)[:, None] * stride
    frame = np.where(prompts.frame >= 0, prompts.frame + moved, -1)
    prompts = prompts.replace(frame=jnp.asarray(frame), video=jnp.asarray(places, jnp.int32))
    other = jax.device_get(program(params, shuffled, prompts, words)[0])
    rows = (order[:, None] * 2 + np.arange(2)).reshape(-1)
    np.testing.assert_array_equal(other.tokens, episode.tokens[rows])
    np.testing.assert_allclose(other.logprobs, episode.logprobs[rows], atol=1e-5)


def test_sharded_rollout_is_the_same(world, sampled):
    """Invariant: four devices, each with its own loop, give the very same episodes."""
    episode, _, words = sampled
    _, model, params, bank, _, _ = world
    mesh = jax.make_mesh(
        (4, 1, 1),
        ("data", "fsdp", "tensor"),
        devices=jax.devices()[:4],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    config = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)
    program = make_rollout(mesh, model, LAYOUT, config)
    other = jax.device_get(program(params, bank, make_prompts(world, [0, 1, 2, 3]), words)[0])
    np.testing.assert_array_equal(other.tokens, episode.tokens)
    np.testing.assert_array_equal(other.frame, episode.frame)
    np.testing.assert_allclose(other.logprobs, episode.logprobs, atol=1e-5)


def test_no_host_in_the_loop(world, sampled):
    """Invariant: the rollout needs no transfer, and its jaxpr holds no callback."""
    _, program, words = sampled
    _, model, params, bank, _, _ = world
    prompts = make_prompts(world, [0, 1, 2, 3])
    arguments = jax.device_put((params, bank, prompts, words))
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
