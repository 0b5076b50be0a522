"""The model as functions over plain parameter trees: what the other rooms call."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from medscope_jax.distributed import BATCH, SEQUENCE, usable_axes
from medscope_jax.models.attention.dense import Joined, Packed, segments
from medscope_jax.models.attention.dispatch import padding_to_add
from medscope_jax.models.cache import Cache
from medscope_jax.models.language import LanguageModel, make_context
from medscope_jax.models.model_config import ModelConfig
from medscope_jax.models.vision import VisionTower, frame_grid


def param_shapes(config: ModelConfig) -> dict:
    """The parameter tree as jax.ShapeDtypeStruct leaves; allocates nothing, whatever the size."""
    config = dataclasses.replace(config, attention="xla")  # the one that takes rows of any length
    vision, text = config.vision, config.text
    side = vision.patch_size * vision.spatial_merge_size
    frames = jax.ShapeDtypeStruct((1, 1, side, side, vision.in_channels), jnp.uint8)
    embeddings = jax.ShapeDtypeStruct((1, 1, text.hidden_size), config.dtype)
    positions = jnp.zeros((3, 1, 1), jnp.int32)
    context = make_context(config, positions, jnp.ones((1, 1), bool))

    def init(frames, embeddings):
        key = jax.random.key(0)
        return {
            "vision": VisionTower(config).init(key, frames)["params"],
            "text": LanguageModel(config).init(key, embeddings, context)["params"],
        }

    return jax.eval_shape(init, frames, embeddings)


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: ModelConfig, key: jax.Array) -> dict:
    """Random parameters {"vision": ..., "text": ...}; layers are stacked along axis 0.

    Norms start at 1, biases at 0, the rest is drawn from N(0, initializer_range^2). One draw serves
    all leaves: compiling a generator for each would take seconds.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(param_shapes(config))
    sizes = np.cumsum([leaf.size for _, leaf in leaves])
    draws = jnp.split(jax.random.normal(key, (sizes[-1],)), sizes[:-1])
    spread = {"vision": config.vision.initializer_range, "text": config.text.initializer_range}

    def value(path, leaf, draw):
        constant = {"weight": 1.0, "bias": 0.0}.get(path[-1].key)
        if constant is not None:
            return jnp.full(leaf.shape, constant, leaf.dtype)
        return (spread[path[0].key] * draw).reshape(leaf.shape).astype(leaf.dtype)

    values = [value(*leaf, draw) for leaf, draw in zip(leaves, draws, strict=True)]
    return jax.tree.unflatten(tree, values)


@functools.cache
def count_params(config: ModelConfig) -> int:
    """Number of parameters, computed without allocating any."""
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(config)))


def _apply(module: nn.Module, params: Mapping, *inputs: Any, method: str | None = None) -> Any:
    """What a module's __call__, or another method, gives with these parameters."""
    return module.apply({"params": params}, *inputs, method=method)


def encode_frames(params: dict, config: ModelConfig, frames: jax.Array) -> jax.Array:
    """Visual tokens [N, S, D] of frames uint8 [N, H, W, 3] (RGB), or of pairs [N, 2, H, W, 3].

    A frame alone fills both slots of its temporal patch, as an image does in Qwen2.5-VL; a pair
    shares one, as in its native video mode. No frame or pair sees another.
    """
    if frames.ndim == 4:
        frames = frames[:, None]
    return _apply(VisionTower(config), params["vision"], frames)


def embed(
    params: dict,
    config: ModelConfig,
    tokens: jax.Array,
    index: jax.Array,
    bank: jax.Array | np.ndarray,
    local: bool = False,
) -> jax.Array:
    """Input embeddings [B, L, D]: where(index >= 0, bank[index], embedding[tokens]).

    Args:
        tokens: int32 [B, L]; ignored at visual positions.
        index: int32 [B, L] row of the flat bank, see bank.flat_index; -1 where the position is
            text. Rows beyond the bank are clipped.
        bank: [R, D] visual tokens; R = 0 if there are none.
        local: on a mesh, the visual tokens of a row lie in its own devices' part of the bank, so
            that none is sent to another; those that do not give NaN. See
            distributed.bank_shardings.
    """
    text = _apply(LanguageModel(config), params["text"], tokens, method="embed")
    if bank.shape[0] == 0:
        return text
    if local and usable_axes(len(bank), BATCH) == usable_axes(len(index), BATCH) != ():
        seen = _take_local(bank, index)
    else:
        seen = jnp.take(bank, jnp.maximum(index, 0), axis=0, mode="clip")
    return jnp.where((index >= 0)[..., None], seen.astype(text.dtype), text)


def _take_local(bank: jax.Array | np.ndarray, index: jax.Array) -> jax.Array:
    """bank[index], [B, L, D], with bank and index split over the mesh's rows alike.

    The bank is split over a context axis too, along which devices add up what each of them has.
    """
    rows, parts = usable_axes(len(index), BATCH), usable_axes(len(bank), BATCH + SEQUENCE)
    along = parts[len(rows) :]

    def take(part, index):
        place = index - jax.lax.axis_index(parts) * len(part)
        here = (index < 0) | ((place >= 0) & (place < len(part)))
        seen = jnp.where(here[..., None], jnp.take(part, place, axis=0, mode="clip"), 0)
        if along:
            seen, here = jax.lax.psum((seen, here.astype(jnp.int32)), along)
        return jnp.where((here > 0)[..., None], seen, jnp.nan)

    return jax.shard_map(
        take,
        in_specs=(PartitionSpec(parts), PartitionSpec(rows)),
        out_specs=PartitionSpec(rows),
        axis_names=set(parts),
        check_vma=False,
    )(bank, index)


def forward(
    params: dict,
    config: ModelConfig,
    embeddings: jax.Array,
    positions: jax.Array,
    valid: jax.Array | Packed | Joined,
) -> jax.Array:
    """Hidden states [B, L, D] after the final norm.

    Args:
        embeddings: [B, L, D].
        positions: int32 [3, B, L], see mrope_positions.
        valid: bool [B, L]; a position attends to the valid ones up to it. The values at invalid
            positions (NaN included) never change a valid position's result. Packed: a row is a
            prompt and the rests of several conversations that begin with it (L = N + G * M), each
            of which attends to the prompt and to itself. Joined: a row is several conversations,
            one behind the other, each of which attends to itself.
    """
    real = segments(valid) > 0 if isinstance(valid, Packed | Joined) else valid
    embeddings = jnp.where(real[..., None], embeddings, 0)
    length = embeddings.shape[1]
    more = padding_to_add(length, config)
    if more:
        embeddings = jnp.pad(embeddings, [(0, 0), (0, more), (0, 0)])
        positions = jnp.pad(positions, [(0, 0), (0, 0), (0, more)])
    context = make_context(config, positions, valid)
    hidden, _ = LanguageModel(config).apply({"params": params["text"]}, embeddings, context)
    return hidden[:, :length] if more else hidden


def forward_cached(
    params: dict,
    config: ModelConfig,
    embeddings: jax.Array,
    positions: jax.Array,
    cache: Cache,
    start: jax.Array,
    count: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Hidden states of each row's next inputs, which attend to all that it was fed before.

    Args:
        embeddings: [B, N, D]; positions: int32 [3, B, N].
        cache: from init_cache or an earlier call.
        start: int32 [B], positions that each row has filled already; its inputs go to
            start .. start + count - 1. Inputs beyond the cache are dropped: bound them yourself.
        count: int32 [B], inputs of each row that are real (0 to N); the others are never written,
            and their hidden states have no meaning.

    Returns:
        (hidden [B, N, D] after the final norm, the cache). Input i attends to positions up to
        start + i.
    """
    context = make_context(config, positions, start=start, count=count)
    return _apply(LanguageModel(config), params["text"], embeddings, context, cache)


def logits(params: dict, config: ModelConfig, hidden: jax.Array) -> jax.Array:
    """Scores float32 [..., V] of hidden states [..., D]; V is large, so call it for a few."""
    return _apply(LanguageModel(config), params["text"], hidden, method="logits")


__all__ = [
    "count_params",
    "embed",
    "encode_frames",
    "forward",
    "forward_cached",
    "frame_grid",
    "init_params",
    "logits",
    "param_shapes",
]
