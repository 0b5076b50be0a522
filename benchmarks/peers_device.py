"""The compiled pieces of the peers' loop, and the arrays that they take."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.dialogue import Layout
from medscope_jax.models import (
    ModelConfig,
    embed,
    encode_frames,
    forward_cached,
    init_cache,
    logits,
    mrope_positions,
)

_ENCODED = 128  # frames of one call of the vision tower
_SLOTS, _FEATURES = 32, 1024  # prefill widths and visual tokens are rounded up to these
_FEW_LAYERS = 8  # up to here one cache array a layer is the faster form, see models.init_cache


class Device(NamedTuple):
    """Compiled functions; each compiles once for every shape that it meets."""

    prefill: (
        Callable  # (params, tokens, index, features, length, slots) -> (token, cache, position)
    )
    step: Callable  # (params, token, cache, start, position, going) -> the same
    encode: Callable  # (params, frames [128, H, W, 3]) -> [128, S, D]


def make_device(model: ModelConfig, layout: Layout) -> Device:
    """Compiles lazily for one model and layout."""
    prefill = functools.partial(_prefill, model=model, layout=layout)
    return Device(
        prefill=jax.jit(prefill, static_argnames="slots"),
        step=jax.jit(functools.partial(_step, model=model), donate_argnums=2),
        encode=jax.jit(lambda params, frames: encode_frames(params, model, frames)),
    )


def _prefill(params, tokens, index, features, length, *, slots: int, model, layout):
    """Whole conversations through the model, into a fresh cache of `slots`.

    Args:
        tokens, index: [B, N]; index is a row of features [R, D], or -1. length: [B], 0: no row.

    Returns:
        (most likely next token [B], cache, next M-RoPE position [B]).
    """
    zeros = jnp.zeros_like(length)
    valid = jnp.arange(tokens.shape[1]) < length[:, None]
    positions, following = mrope_positions(index, valid, layout.grid, zeros)
    inputs = embed(params, model, tokens, index, features)
    per_layer = model.text.num_hidden_layers <= _FEW_LAYERS
    cache = init_cache(model, tokens.shape[0], slots, per_layer=per_layer)
    hidden, cache = forward_cached(params, model, inputs, positions, cache, zeros, length)
    last = jnp.maximum(length - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
    return _most_likely(params, hidden, model), cache, following


def _step(params, token, cache, start, position, going, *, model):
    """Feeds each going row its token [B] at slot start [B]; returns as _prefill does."""
    none = jnp.full((token.shape[0], 1), -1)
    width = model.text.hidden_size
    inputs = embed(params, model, token[:, None], none, jnp.zeros((0, width)))
    positions = jnp.broadcast_to(position[:, None], (3, token.shape[0], 1))
    hidden, cache = forward_cached(params, model, inputs, positions, cache, start, going)
    return _most_likely(params, hidden[:, 0], model), cache, position + going


def _most_likely(params, hidden, model):
    return jnp.argmax(logits(params, model, hidden), axis=-1).astype(jnp.int32)


def encode_all(device: Device, params: dict, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Visual tokens [F, S, D] of each window of frames [F, H, W, 3], all in one stream of calls."""
    if not windows:
        return []
    frames = np.concatenate(windows)
    count = len(frames)
    frames = np.pad(frames, ((0, -count % _ENCODED), (0, 0), (0, 0), (0, 0)))
    parts = [
        np.asarray(device.encode({"vision": params["vision"]}, frames[i : i + _ENCODED]))
        for i in range(0, len(frames), _ENCODED)
    ]
    ends = np.cumsum([len(window) for window in windows])
    return np.split(np.concatenate(parts)[:count], ends[:-1])


def make_batch(
    ids: Sequence[Sequence[int]], features: Sequence[Sequence[np.ndarray]], image: int
) -> tuple[np.ndarray, ...]:
    """Arrays of a round: tokens and index [B, N], length [B], features [R, D].

    ids: a row's tokens; features: its frames' visual tokens [S, D], in the order of the tokens that
    equal `image`. B is the next power of two (8 or more); rows beyond the real ones have length 0.
    """
    count = max(8, 1 << (len(ids) - 1).bit_length())
    width = max(map(len, ids))
    tokens = np.zeros((count, width + -width % _SLOTS), np.int32)
    index = np.full_like(tokens, -1)
    length = np.zeros(count, np.int32)
    first = 0
    for i, row in enumerate(ids):
        length[i] = len(row)
        tokens[i, : len(row)] = row
        seen = np.flatnonzero(np.asarray(row) == image)
        index[i, seen] = first + np.arange(len(seen))
        first += len(seen)
    flat = np.concatenate([part for row in features for part in row])
    return tokens, index, length, np.pad(flat, ((0, -len(flat) % _FEATURES), (0, 0)))
