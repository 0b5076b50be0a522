"""Our model on parity_cases: visual tokens, logits of whole conversations, greedy generation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax import models
from medscope_jax.models.vision import VisionBlock, VisionTower
from medscope_jax.video import temporal_patches
from tests.models import parity_cases
from tests.models.clip_bank_reference import encode_clips, visual_rows
from tests.models.parity_cases import Conversations
from tests.models.positions_reference import conversation_positions


@functools.partial(jax.jit, static_argnums=1)
def tower(params, config, frames):
    """Visual tokens [N, S, D] of frames [N, t, H, W, 3], and every block's output [N, P, D']."""
    tokens, captured = VisionTower(config).apply(
        {"params": params["vision"]},
        frames,
        capture_intermediates=lambda module, _: isinstance(module, VisionBlock),
        mutable=["intermediates"],
    )
    return tokens, captured["intermediates"]["blocks"]["__call__"][0][0]


def make_bank(params, config):
    """encode_clips of the parity cases' clips."""
    return encode_clips(
        lambda frames: tower(params, config, frames)[0],
        [temporal_patches(clip, native=len(clip) > 1) for clip in parity_cases.make_clips()],
        parity_cases.BATCH,
    )


def frame_rows(rows, said: Conversations) -> np.ndarray:
    """The bank row of every slot."""
    images, videos = ([rows[clip] for clip in clips] for clips in (said.images, said.videos))
    return visual_rows(said.kinds, images, videos)


def positions(config, said: Conversations):
    """(positions [3, B, L], following [B]) of conversations."""
    return conversation_positions(
        said.kinds,
        said.valid,
        [parity_cases.grid_of(clip) for clip in said.images],
        [parity_cases.grid_of(clip) for clip in said.videos],
        said.seconds,
        config.vision.tokens_per_second,
    )


@functools.partial(jax.jit, static_argnums=1)
def _logits(params, config, tokens, frame, bank, places, valid):
    x = models.embed(params, config, tokens, frame, bank)
    return models.logits(params, config, models.forward(params, config, x, places, valid))


def logits(params, config, said: Conversations, bank, rows) -> np.ndarray:
    """Logits [B, L, V] by one forward pass."""
    places, _ = positions(config, said)
    frame = frame_rows(rows, said)
    return np.asarray(_logits(params, config, said.tokens, frame, bank, places, said.valid))


@functools.partial(jax.jit, static_argnums=1)
def feed(params, config, tokens, frame, bank, places, cache, start, count):
    """Feeds each row `count` of its inputs: the likeliest next token [B], and the cache."""
    x = models.embed(params, config, tokens, frame, bank)
    hidden, cache = models.forward_cached(params, config, x, places, cache, start, count)
    last = hidden[jnp.arange(len(hidden)), jnp.maximum(count - 1, 0)]
    scores = models.logits(params, config, last)
    return scores.argmax(axis=-1).astype(jnp.int32), cache


def generate(params, config, said: Conversations, bank, rows, steps: int) -> np.ndarray:
    """Greedy continuations [B, steps] of right-padded conversations."""
    places, following = positions(config, said)
    frame, count = frame_rows(rows, said), said.valid.sum(axis=1).astype(np.int32)
    cache = models.init_cache(config, len(count), said.tokens.shape[1] + steps)
    start, one = np.zeros_like(count), np.ones_like(count)
    token, cache = feed(params, config, said.tokens, frame, bank, places, cache, start, count)
    out = [token]
    nothing = np.full((len(count), 1), -1, np.int32)
    for step in range(steps - 1):
        place = np.broadcast_to((following + step)[None, :, None], (3, len(count), 1))
        token, cache = feed(
            params, config, token[:, None], nothing, bank, place, cache, count + step, one
        )
        out.append(token)
    return np.stack(out, axis=1)
