"""The choice of attention's program; whole rows that are split over a mesh.

With a mesh axis `context`, each device holds a part of every row's positions. Its queries attend to
the keys and values of all positions, which are gathered: with grouped heads they are small.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from medscope_jax.distributed import (
    BATCH,
    SEQUENCE,
    TENSOR,
    constrain,
    free_axes,
    tpu_generation,
    usable_axes,
)
from medscope_jax.models.attention.cached import (
    NOTHING,
    Before,
    Seen,
    attend_own,
    attend_prefix,
    padding_for_cached,
)
from medscope_jax.models.attention.cudnn import attend_cudnn, takes_cudnn
from medscope_jax.models.attention.dense import (
    Joined,
    Packed,
    Part,
    RowPlan,
    attend_blocks,
    attend_causal,
    attend_joined,
    attend_packed,
    join,
    sees,
    segments,
)
from medscope_jax.models.attention.filled import BEGUN_BLOCKS, OWN_BLOCKS, attend_filled
from medscope_jax.models.attention.splash import attend_splash, padding_for_splash
from medscope_jax.models.cache import Cache, Prefix, own_start
from medscope_jax.models.layers import precision
from medscope_jax.models.model_config import ModelConfig


def for_mesh(config: ModelConfig, mesh: Mesh) -> ModelConfig:
    """The config with the attention for the mesh's devices, which need not be attached.

    The kernels of TPUs and GPUs are for bfloat16 alone: they would round float32.
    """
    device, kernel = mesh.devices.flat[0], "xla"
    if config.dtype == "bfloat16":
        if tpu_generation(device.device_kind):
            kernel = "splash"
        elif takes_cudnn(device, config.text.head_dim):
            kernel = "cudnn"
    return dataclasses.replace(config, attention=kernel)


def padding_to_add(length: int, config: ModelConfig) -> int:
    """Positions to add to rows of `length`, so that the current mesh's attention takes them."""
    shards = free_axes().get("context", 1)
    if config.attention == "splash":
        return padding_for_splash(length, shards)
    return -length % shards


def cached_length(length: int, config: ModelConfig) -> int:
    """Positions of a cache's rows for `length` of them, such as the attention takes."""
    return length + (padding_for_cached(length) if config.attention == "splash" else 0)


def attend_self(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: jax.Array | Packed | Joined,
    config: ModelConfig,
) -> jax.Array:
    """Attention of each position to the valid positions that it may attend to.

    Args:
        query: [B, L, H, hd]; key, value: [B, L, K, hd].
        valid: bool [B, T] (causal rows), Packed or Joined; positions of L beyond it are padding.

    Returns:
        [B, L, H, hd]. No kernel but a TPU's takes rows that are split: dense attention does.
    """
    exact = precision(config.dtype)
    is_split = bool(usable_axes(query.shape[1], SEQUENCE))
    if config.attention == "cudnn" and not is_split:
        return checkpoint_name(attend_cudnn(query, key, value, valid), "attention")
    if config.attention != "splash" and not is_split:
        key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
        if isinstance(valid, Packed):
            out = attend_packed(query, key, value, valid, exact)
        elif isinstance(valid, Joined):
            out = attend_joined(query, key, value, valid.segment, exact)
        else:
            out = attend_causal(query, key, value, valid, exact)
        return checkpoint_name(out, "attention")
    length = query.shape[1]
    if isinstance(valid, Packed):
        plan = RowPlan(valid.prompt.shape[1], valid.rest.shape[2])
    else:
        plan = RowPlan(length, length)
    segment = segments(valid)
    segment = jnp.pad(segment, [(0, 0), (0, length - segment.shape[1])])
    key, value = (constrain(x, BATCH, None, TENSOR, None) for x in (key, value))
    if config.attention == "splash":
        return attend_splash(query, key, value, segment, plan)
    return checkpoint_name(_attend_own(query, key, value, segment, plan, exact), "attention")


def attend_cache(
    query: jax.Array,
    cache: Cache,
    layer: jax.Array | int,
    start: jax.Array,
    count: jax.Array,
    config: ModelConfig,
    interpret: bool = False,
) -> jax.Array:
    """Attention of each row's next inputs to its filled part of a cache, which holds them too.

    What rows begin with is attended to once for all that lie side by side, and joined with the rest
    of each.

    Args:
        query: [B, N, H, hd]; input n of row b attends to positions up to start[b] + n.
        cache: of B rows; layer: which of its layers.
        start: int32 [B].
        count: int32 [B], inputs that are real; of a row without one, nothing is read.
        interpret: run a TPU's kernel without one, slowly.

    Returns:
        [B, N, H, hd]; of padding, finite numbers without a meaning. Without a TPU's kernel, all
        positions of the cache are read.
    """
    batch, inputs, heads, width = query.shape
    grouped = query.reshape(batch, inputs, cache.kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    attend = _attend_by_kernel if config.attention == "splash" else _attend_densely
    out = attend(grouped, cache, layer, own_start(cache, start), count > 0, config, interpret)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, inputs, heads, width)


def _attend_by_kernel(query, cache, layer, start, active, config, interpret) -> jax.Array:
    """attend_cache for query [B, K, G, N, hd], start [B] among each row's own positions; active
    [B]: rows with inputs."""
    prefix, before = cache.prefix, None
    if prefix is not None:
        folded, unfold = _fold(query, prefix)
        size = max(1, prefix.group)
        row, last = prefix.row[::size], prefix.length[::size] - 1
        last = jnp.where(active.reshape(-1, size).any(axis=1), last, NOTHING)
        seen = Seen(layer, row, last, causal=False)
        before = Before(*map(unfold, attend_prefix(folded, prefix.cache, seen, interpret)))
    last = jnp.where(active, start, NOTHING)
    seen = Seen(layer, jnp.arange(len(query)), last, causal=True)
    return attend_own(query, cache, seen, before, interpret)


def _attend_densely(query, cache, layer, start, active, config, interpret) -> jax.Array:
    """As _attend_by_kernel."""
    prefix, exact, count = cache.prefix, precision(config.dtype), query.shape[3]
    last = start[:, None] + jnp.arange(count)  # position of the row that each query attends up to
    newest = jnp.where(active, start + count - 1, 0).max(initial=0)

    def allowed(positions: jax.Array) -> jax.Array:
        return positions <= last[..., None]

    own = attend_filled(query, cache, layer, newest, allowed, exact, OWN_BLOCKS)
    if prefix is None:
        return (own.values / own.total).astype(query.dtype)
    length, rows = prefix.length[:: max(1, prefix.group)], None
    if prefix.group or count > 1:
        rows = None if prefix.group else prefix.row
        folded, change = _fold(query, prefix)
    else:
        # Each prompt is read once, for all rows: more products than copies of a prompt for each of
        # its rows, but fewer bytes.
        prompts = prefix.cache.rows
        length = jnp.zeros(prompts, jnp.int32).at[prefix.row].max(prefix.length)
        folded = query.transpose(1, 0, 2, 3, 4).reshape(1, cache.kv_heads, -1, 1, query.shape[-1])
        folded = jnp.broadcast_to(folded, (prompts, *folded.shape[1:]))

        def change(x: jax.Array) -> jax.Array:
            x = x.reshape(*x.shape[:2], len(query), -1, 1, x.shape[-1])
            return x.transpose(2, 0, 1, 3, 4, 5)[jnp.arange(len(query)), prefix.row]

    def begun(positions: jax.Array) -> jax.Array:
        return (positions < length[:, None])[:, None]

    newest = length.max() - 1
    part = attend_filled(folded, prefix.cache, layer, newest, begun, exact, BEGUN_BLOCKS, rows)
    return join(own, Part(*map(change, part))).astype(query.dtype)


def _fold(query: jax.Array, prefix: Prefix) -> tuple[jax.Array, Callable]:
    """Rows that begin alike as one row, of as many heads as they have together.

    Returns:
        (query [B / g, K, g * G, N, hd] of [B, K, G, N, hd], the function that takes what has its
        shape but for the last axis apart again).
    """
    batch, kv_heads, group, count, _ = query.shape
    size = max(1, prefix.group)
    folded = query.reshape(-1, size, *query.shape[1:]).transpose(0, 2, 1, 3, 4, 5)

    def unfold(x: jax.Array) -> jax.Array:
        x = x.reshape(-1, kv_heads, size, group, count, x.shape[-1]).transpose(0, 2, 1, 3, 4, 5)
        return x.reshape(batch, kv_heads, group, count, -1)

    return folded.reshape(-1, kv_heads, size * group, count, query.shape[-1]), unfold


def _attend_own(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment: jax.Array,
    plan: RowPlan,
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """Attention whose queries stay on their devices along the context axis."""

    def attend(query, key, value, mine, every):
        first = jax.lax.axis_index("context") * query.shape[1]
        keys = jnp.arange(key.shape[1])

        def allowed(start: int, end: int) -> jax.Array:
            positions = first + jnp.arange(start, end)
            same = mine[:, start:end, None] == every[:, None]
            return sees(positions[:, None], keys, plan) & same

        key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
        return attend_blocks(query, key, value, allowed, exact)

    own, whole = PartitionSpec(None, SEQUENCE), PartitionSpec()
    return jax.shard_map(
        attend,
        in_specs=(own, whole, whole, own, whole),
        out_specs=own,
        axis_names=set(SEQUENCE),
        check_vma=False,
    )(query, key, value, segment, segment)
