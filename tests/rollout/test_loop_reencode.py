"""Invariant: bank = re-encode. A rollout whose observations are gathered from the frame bank scores
its tokens as a plain forward pass does that encodes each window's pixels afresh; by our own tower,
and by transformers' Qwen2.5-VL on the same weights. Tolerance 1e-4 in float32.

Everything between pixels and scores is done twice: once by the product (bank, prompts, compiled
loop), once here by hand (frames of each window, their tokens, their places, M-RoPE positions).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.bank import make_bank
from medscope_jax.dialogue import (
    Layout,
    Role,
    build_episode,
    protocol,
    stamp_ids,
    train_tokenizer,
)
from medscope_jax.rollout import (
    RolloutConfig,
    find_special_tokens,
    make_prompts,
    make_rollout,
    prompt_width,
    row_keys,
)
from medscope_jax.video import Video
from tests.models import model_cases

HEIGHT, WIDTH, GRID = 56, 84, (2, 3)
SIZE = GRID[0] * GRID[1]  # visual tokens of a frame
LAYOUT = Layout(
    length=320,
    preview_frames=3,
    window_frames=5,
    grid=GRID,
    frame_format="{frame}{time:.1f}",
    max_tool_turns=2,
)
CONFIG = RolloutConfig(
    group=2, turn_tokens=60, call_tokens=40, prefill_rows=3, temperature=1.0, top_p=1.0
)
QUESTION = "where is it?"
END = "<think>so</think><answer>left</answer>"
LENGTHS = (17, 12)  # frames of the two videos
# Row by row: the turns, and the frames that each observation must show.
SCRIPTS = (
    (["<think>a</think>" + protocol.crop_call(2, 6), END], [[2, 3, 4, 5, 6]]),
    (
        ["<think>b</think>" + protocol.frame_call(9), protocol.crop_call(15.5, 99), END],
        [[8, 9, 10], [16]],
    ),
    (["<tool_call>{broken</tool_call>", protocol.crop_call(0, 1), END], [[], [0, 1]]),
    ([END], []),
)
PREVIEWS = ([0, 8, 16], [0, 6, 11])  # first, middle (rounded half to even), last


@pytest.fixture(scope="module")
def world():
    """(tokenizer, config, hub weights, our parameters, videos)."""
    tokenizer = train_tokenizer([END, QUESTION, "{broken"] * 5, 1024, 20)
    tiny = model_cases.tiny_config()
    text = {"vocab_size": -(tokenizer.vocab_size + 4) // 128 * -128}  # 4 special ids at the end
    config = models.ModelConfig(
        vision=tiny.vision, text=type(tiny.text)(**{**vars(tiny.text), **text})
    )
    weights = model_cases.random_state_dict(config, seed=3)
    videos = [
        Video(
            model_cases.random_frames(n, HEIGHT, WIDTH, seed=n),
            np.arange(n, dtype=np.float64),
            float(n),
        )
        for n in LENGTHS
    ]
    return tokenizer, config, weights, models.import_hf(weights, config), videos


def script_tokens(world):
    """What each row writes and reads, position by position, [4, L]."""
    tokenizer, _, _, _, videos = world
    tokens = np.zeros((4, LAYOUT.length), np.int32)
    for i, (turns, _) in enumerate(SCRIPTS):
        video = videos[i // 2]
        row = build_episode(
            QUESTION, turns, PREVIEWS[i // 2], video.times, video.duration, tokenizer, LAYOUT, True
        )
        tokens[i, : len(row.tokens)] = row.tokens
    return jnp.asarray(tokens)


@pytest.fixture(scope="module")
def episode(world):
    """The rollout of both videos from the bank, by the compiled loop; only sampling is scripted."""
    tokenizer, config, _, params, videos = world
    encode = jax.jit(lambda frames: models.encode_frames(params, config, frames))
    stamps = functools.partial(stamp_ids, tokenizer, LAYOUT)
    bank = make_bank(encode, videos, stamps, batch_frames=7, max_frames=20).padded()
    keys = row_keys(jax.random.key(0), jnp.arange(4)).reshape(2, 2)
    prompts = make_prompts(
        [{"question": QUESTION}] * 2,
        [0, 1],
        [video.times for video in videos],
        keys,
        prompt_width(
            [{"question": QUESTION}] * 2, [video.times for video in videos], tokenizer, LAYOUT, True
        ),
        tokenizer,
        LAYOUT,
        True,
    )
    script = script_tokens(world)

    def write(scores, keys, position, temperature, top_p):
        token = jnp.take_along_axis(script, position[:, None], axis=1, mode="clip")[:, 0]
        logprobs = jax.nn.log_softmax(scores)
        return token, jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]

    program = make_rollout(None, config, LAYOUT, CONFIG, write)
    found, _ = program(params, bank, prompts, find_special_tokens(tokenizer, LAYOUT))
    return jax.device_get(found)


def read_row(world, episode, i):
    """(tokens [N], is visual [N], pixels of the frames it shows in reading order) of row i."""
    tokenizer, _, _, _, videos = world
    count = int((episode.role[i] != Role.PADDING).sum())
    tokens = episode.tokens[i, :count]
    visual = tokens == tokenizer.tag(protocol.IMAGE)
    shown = PREVIEWS[i // 2] + [frame for window in SCRIPTS[i][1] for frame in window]
    assert visual.sum() == len(shown) * SIZE
    return tokens, visual, videos[i // 2].frames[shown]


def plain_positions(visual):
    """M-RoPE positions [3, N]: words count on, a frame is a block of rows and columns."""
    positions, base, at = [], 0, 0
    while at < len(visual):
        if visual[at]:
            positions += [
                (base, base + y, base + x) for y in range(GRID[0]) for x in range(GRID[1])
            ]
            base, at = base + max(GRID), at + SIZE
        else:
            positions.append((base, base, base))
            base, at = base + 1, at + 1
    return np.array(positions, np.int32).T


def assert_scores(world, episode, i, scores):
    """Recorded log-probabilities of row i are those of scores [N, V], to 1e-4."""
    tokens, _, _ = read_row(world, episode, i)
    scores = np.asarray(scores, np.float64)
    every = scores - scores.max(-1, keepdims=True)
    every -= np.log(np.exp(every).sum(-1, keepdims=True))
    generated = np.nonzero(episode.role[i] == Role.GENERATED)[0]
    wanted = every[generated - 1, tokens[generated]]
    assert len(generated) > 5 and wanted.std() > 0.5
    np.testing.assert_allclose(episode.logprobs[i, generated], wanted, atol=1e-4)


def test_rows_show_what_was_asked_for(world, episode):
    """The rollouts are the scripts: the calls were executed on the device, the windows shown."""
    np.testing.assert_array_equal(
        np.where(episode.role != Role.PADDING, episode.tokens, 0), script_tokens(world)
    )
    for i, (_, windows) in enumerate(SCRIPTS):
        assert (episode.calls.status[i] >= 0).sum() == len(windows)
        frames = [frame for window in windows for frame in window]
        index = episode.visual_index[i]
        seen = index[(episode.role[i] == Role.OBSERVATION) & (index >= 0)]
        np.testing.assert_array_equal(seen[::SIZE] // SIZE, frames)


@pytest.mark.parametrize("i", range(len(SCRIPTS)))
def test_bank_equals_a_window_encoded_afresh(world, episode, i):
    _, config, _, params, _ = world
    tokens, visual, pixels = read_row(world, episode, i)
    # Each frame of its own, so that nothing of the bank's batches of frames remains.
    encode = jax.jit(models.encode_frames, static_argnums=1)
    fresh = np.concatenate([encode(params, config, frame[None])[0] for frame in pixels])
    inputs = np.array(params["text"]["embed_tokens"])[tokens]
    inputs[visual] = fresh
    positions = plain_positions(visual)[:, None]
    hidden = models.forward(
        params, config, inputs[None], positions, np.ones((1, len(tokens)), bool)
    )
    assert_scores(world, episode, i, models.logits(params, config, hidden)[0])


@pytest.mark.reference
@pytest.mark.parametrize("i", range(len(SCRIPTS)))
def test_bank_equals_the_reference(world, episode, i):
    """transformers' Qwen2.5-VL, every shown frame an image of its own, explicit position ids."""
    torch = pytest.importorskip("torch", reason="the live comparison needs PyTorch")
    pytest.importorskip("transformers", reason="the live comparison needs transformers")
    from tests.models import torch_reference

    _, config, weights, _, _ = world
    tokens, visual, pixels = read_row(world, episode, i)
    model = torch_reference.build(config, weights)
    patches, grid = torch_reference.pixel_values(config, pixels[:, None])
    ids = np.where(visual, model.config.image_token_id, tokens)
    with torch.no_grad():
        scores = model(
            input_ids=torch.tensor(ids[None], dtype=torch.long),
            attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
            position_ids=torch.tensor(plain_positions(visual)[:, None], dtype=torch.long),
            pixel_values=patches,
            image_grid_thw=grid,
            use_cache=False,
        ).logits[0]
    assert_scores(world, episode, i, scores.numpy())
