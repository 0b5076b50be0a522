"""Four videos with two rollouts each, a tiny model, and the episodes that the host makes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank import flat_index, flat_tokens, stack_bank
from medscope_jax.dialogue import Layout, Role, build_episode, pad_row, protocol, train_tokenizer
from medscope_jax.models import init_params, model_config
from medscope_jax.rollout import (
    Prompts,
    RolloutConfig,
    find_special_tokens,
    make_rollout,
    row_keys,
    sample,
)
from medscope_jax.training.logprobs import find_targets, token_logprobs
from medscope_jax.video import preview_indices

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


def make_world(layers=2, kv_heads=1, other_end=False):
    """Tokenizer, tiny model, a bank of 4 videos, and the host's episodes of SCRIPTS.

    other_end: every other row ends with <|endoftext|>, which then ends turns too.
    """
    tokenizer = train_tokenizer([END, "where is it? {broken nothing no opening tag"] * 5, 1024, 64)
    if other_end:
        ends = (tokenizer.tag(protocol.IM_END), tokenizer.tag(protocol.PAD))
        tokenizer = dataclasses.replace(tokenizer, ends=ends)
    text = {"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "num_hidden_layers": layers}
    text |= {"num_attention_heads": 2, "num_key_value_heads": kv_heads, "intermediate_size": 48}
    model = model_config({"text": text | {"mrope_section": (4, 2, 2)}})
    params = init_params(model, jax.random.key(0))
    # Larger weights than an initializer's, so that scores differ from uniform.
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 2 else x, params)
    rng = np.random.default_rng(0)
    lengths = (20, 31, 7, 12)
    times = [np.arange(n, dtype=np.float64) for n in lengths]
    tokens = [rng.normal(size=(n, 2, 32)).astype(np.float32) for n in lengths]

    def stamps(when):
        return [tokenizer.encode(f"{t:.1f}") for t in when]

    bank = stack_bank(tokens, times, [float(n) for n in lengths], stamps).padded()
    rows = []
    for i, turns in enumerate(SCRIPTS):
        video = i // CONFIG.group
        shown = preview_indices(lengths[video], LAYOUT.preview_frames)
        rows.append(
            build_episode(
                "where is it?", turns, shown, times[video], lengths[video], tokenizer, LAYOUT, True
            )
        )
        if other_end and i % 2:
            rows[-1].tokens[-1] = tokenizer.tag(protocol.PAD)
    padded = [pad_row(row, LAYOUT.length) for row in rows]
    expected = {name: np.stack([row[name] for row in padded]) for name in padded[0]}
    return tokenizer, model, params, bank, rows, expected


def make_prompts(world, videos, rows_per_video=CONFIG.group):
    """Prompts of the given videos, keys numbered by the rollout's place in SCRIPTS."""
    expected = world[5]
    prompt = [expected["role"][v * CONFIG.group] == Role.PROMPT for v in videos]
    width = max(int(p.sum()) for p in prompt)
    pick = [v * CONFIG.group for v in videos]
    shown = np.where([p[:width] for p in prompt], expected["visual_index"][pick, :width], -1)
    ids = np.array([[v * rows_per_video + g for g in range(rows_per_video)] for v in videos])
    keys = row_keys(jax.random.key(7), ids.reshape(-1)).reshape(ids.shape)
    return Prompts(
        tokens=jnp.asarray(expected["tokens"][pick, :width]),
        visual_index=jnp.asarray(shown),
        length=jnp.asarray([int(p.sum()) for p in prompt], jnp.int32),
        video=jnp.asarray(videos, jnp.int32),
        keys=keys,
        least=min(int(p.sum()) for p in prompt) // 8 * 8,
    )


def scripted(world):
    """A `sample` that writes the host's episode position by position, with the model's own scores.

    A row is known by its random key.
    """
    script = jnp.asarray(world[5]["tokens"])
    known = jax.random.key_data(make_prompts(world, range(4)).keys.reshape(-1))

    def sample(scores, keys, position, temperature, top_p):
        row = jnp.argmax((jax.random.key_data(keys)[:, None] == known).all(-1), axis=1)
        token = jnp.take_along_axis(script[row], position[:, None], axis=1, mode="clip")[:, 0]
        logprobs = jax.nn.log_softmax(scores)
        return token, jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]

    return sample


def full_logprobs(world, episode, temperature=1.0):
    """Log-probabilities [B, L] of generated tokens, at their positions, from one forward pass."""
    _, model, params, bank, _, _ = world
    count = int((np.asarray(episode.role) == Role.GENERATED).sum(1).max())
    targets = find_targets(jnp.asarray(episode.role), count)
    video = np.arange(len(episode.role)) // CONFIG.group
    values, _ = token_logprobs(
        params,
        model,
        jnp.asarray(episode.tokens),
        flat_index(video, episode.visual_index, bank.tokens.shape[1] * 2),
        jnp.asarray(episode.role),
        flat_tokens(bank),
        targets,
        LAYOUT.grid,
        temperature,
    )
    out = np.zeros(episode.role.shape, np.float32)
    for b, (positions, mask) in enumerate(zip(*map(np.asarray, targets), strict=True)):
        out[b, positions[mask]] = np.asarray(values)[b][mask]
    return out


def play(world, config, draw=sample):
    """(episode, metrics, program, its arguments) of the eight rollouts, on one device."""
    tokenizer, model, params, bank, _, _ = world
    program = make_rollout(None, model, LAYOUT, config, draw)
    arguments = (
        params,
        bank,
        make_prompts(world, [0, 1, 2, 3]),
        find_special_tokens(tokenizer, LAYOUT),
    )
    episode, metrics = jax.device_get(program(*arguments))
    return episode, metrics, program, arguments


def assert_same(found, wanted, atol=1e-5):
    """Two episodes are the same, log-probabilities to atol."""
    for name in ("tokens", "visual_index", "role", "positions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    for got, want in zip(found.calls, wanted.calls, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=atol)
