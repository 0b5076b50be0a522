"""Self-attention of whole rows: by which program, and where a row's slots lie on the mesh.

With a mesh axis `context`, each device holds a part of every row's slots. It looks from its own
slots at the keys and values of all, which are gathered: with grouped heads they are small.
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
from medscope_jax.models.attention.cudnn import attend_cudnn, takes_cudnn
from medscope_jax.models.attention.dense import (
    Packed,
    RowPlan,
    attend_blocks,
    attend_causal,
    attend_packed,
    sees,
)
from medscope_jax.models.attention.splash import attend_splash, padding_for_splash
from medscope_jax.models.layers import precision
from medscope_jax.models.model_config import ModelConfig


def for_mesh(config: ModelConfig, mesh: Mesh) -> ModelConfig:
    """The config with the attention of the mesh's devices, which need not be there.

    TPUs and GPUs have kernels of their own, for bfloat16: they would round float32.
    """
    device, kernel = mesh.devices.flat[0], "xla"
    if config.dtype == "bfloat16":
        if tpu_generation(device.device_kind):
            kernel = "splash"
        elif takes_cudnn(device, config.text.head_dim):
            kernel = "cudnn"
    return dataclasses.replace(config, attention=kernel)


def slots_to_add(length: int, config: ModelConfig) -> int:
    """Slots of padding with which rows of `length` can be attended to on the current mesh."""
    shards = free_axes().get("context", 1)
    if config.attention == "splash":
        return padding_for_splash(length, shards)
    return -length % shards


def attend_self(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: jax.Array | Packed,
    config: ModelConfig,
) -> jax.Array:
    """Attention of each slot to the valid slots that it may see.

    Args:
        query: [B, L, H, hd]; key, value: [B, L, K, hd].
        valid: as of attend_causal or attend_packed; slots beyond it, if L is larger, are padding.

    Returns:
        [B, L, H, hd].
    """
    exact = precision(config.dtype)
    own_slots = bool(usable_axes(query.shape[1], SEQUENCE))
    if config.attention == "cudnn" and not own_slots:
        return checkpoint_name(attend_cudnn(query, key, value, valid), "attention")
    if config.attention == "xla" and not own_slots:
        key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
        look = attend_packed if isinstance(valid, Packed) else attend_causal
        return checkpoint_name(look(query, key, value, valid, exact), "attention")
    length = query.shape[1]
    if isinstance(valid, Packed):
        plan = RowPlan(valid.prompt.shape[1], valid.rest.shape[2])
        valid = valid.flat()
    else:
        plan = RowPlan(length, length)
    real = jnp.pad(valid, [(0, 0), (0, length - valid.shape[1])])
    key, value = (constrain(x, BATCH, None, TENSOR, None) for x in (key, value))
    if config.attention == "splash":
        return attend_splash(query, key, value, real, plan)
    return checkpoint_name(_attend_own(query, key, value, real, plan, exact), "attention")


def _attend_own(query, key, value, real, plan: RowPlan, exact):
    """Each device along the context axis attends from its own slots."""

    def attend(query, key, value, real):
        first = jax.lax.axis_index("context") * query.shape[1]
        keys = jnp.arange(key.shape[1])

        def allowed(start: int, end: int) -> jax.Array:
            slots = first + jnp.arange(start, end)
            return sees(slots[:, None], keys, plan) & real[:, None]

        key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
        return attend_blocks(query, key, value, allowed, exact)

    own, whole = PartitionSpec(None, SEQUENCE), PartitionSpec()
    return jax.shard_map(
        attend,
        in_specs=(own, whole, whole, whole),
        out_specs=own,
        axis_names=set(SEQUENCE),
        check_vma=False,
    )(query, key, value, real)
