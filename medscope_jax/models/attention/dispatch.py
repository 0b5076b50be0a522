"""The choice of attention's program; whole rows that are split over a mesh.

With a mesh axis `context`, each device holds a part of every row's positions. Its queries attend to
the keys and values of all positions, which are gathered: with grouped heads they are small.
"""

import dataclasses

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
from medscope_jax.models.attention.cached import attend_cached, takes_cached
from medscope_jax.models.attention.cudnn import attend_cudnn, takes_cudnn
from medscope_jax.models.attention.dense import (
    Joined,
    Packed,
    RowPlan,
    attend,
    attend_blocks,
    attend_causal,
    attend_joined,
    attend_packed,
    sees,
    segments,
)
from medscope_jax.models.attention.splash import attend_splash, padding_for_splash
from medscope_jax.models.cache import Cache, read
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
        [B, L, H, hd]. A GPU's kernel does not take joined rows, and no kernel but a TPU's takes
        rows that are split: dense attention does.
    """
    exact = precision(config.dtype)
    is_split = bool(usable_axes(query.shape[1], SEQUENCE))
    if config.attention == "cudnn" and not (is_split or isinstance(valid, Joined)):
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
    config: ModelConfig,
) -> jax.Array:
    """Attention of each row's next inputs to its filled part of a cache, which holds them too.

    Args:
        query: [B, N, H, hd]; input n of row b attends to positions up to start[b] + n.
        cache: of B rows; layer: which of its layers.
        start: int32 [B].

    Returns:
        [B, N, H, hd]. Without a TPU's kernel, all positions of the cache are read.
    """
    if config.attention == "splash" and takes_cached(cache.length):
        return attend_cached(query, cache, layer, start)
    positions = start[:, None] + jnp.arange(query.shape[1])
    allowed = jnp.arange(cache.length) <= positions[..., None]
    key, value = read(cache, layer, query.dtype)
    return attend(query, key, value, allowed, precision(config.dtype))


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
