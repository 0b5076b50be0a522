"""Self-attention by JAX's Pallas kernel for TPUs ("splash": sparse flash attention).

The kernel holds scores of one block of queries and keys at a time in the chip's fast memory and
skips blocks that a mask leaves empty. Masks are rules on positions, see dense.sees: no array of
length x length ever exists, on the chip or on the host. Attention stays within a segment: padding
is one, and so is each conversation of a joined row (dense.segments). Their borders are data, so
that blocks on the far side of one are computed, and masked: a row of many conversations takes as
long as a row of one.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    SegmentIds,
    make_splash_mha,
)
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax.distributed import BATCH, SEQUENCE, TENSOR, free_axes, split_size, usable_axes
from medscope_jax.models.attention.dense import RowPlan, sees

SMALLEST_BLOCK, LARGEST_BLOCK = 128, 512  # positions


def attend_splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment: jax.Array,
    plan: RowPlan,
    interpret: bool = False,
) -> jax.Array:
    """Attention of each position to the positions of its segment that `plan` allows.

    Args:
        query: [B, L, H, hd]; key, value: [B, L, K, hd], H a multiple of K. L is a multiple of
            SMALLEST_BLOCK, times the size of the mesh's context axis.
        segment: int32 [B, L]; 0 where a position is padding.
        interpret: run the kernel's program without a TPU, slowly.

    Returns:
        [B, L, H, hd] in query's dtype; of no meaning where a position is padding.
    """
    batch, length, heads, width = query.shape
    shards = length // split_size(length, SEQUENCE)
    kernel = _kernel(length, plan, shards, interpret)
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query * width**-0.5, key, value))

    def attend(kernel, query, key, value, own, every):
        return jax.vmap(lambda q, k, v, a, b: kernel(q, k, v, SegmentIds(a, b)))(
            query, key, value, own, every
        )

    if free_axes():
        # A kernel is a program of one device, on that device's part.
        parts = ((batch, BATCH), (length, SEQUENCE), (key.shape[1], TENSOR))
        rows, sequence, tensor = (usable_axes(*part) or None for part in parts)
        mesh = jax.sharding.get_abstract_mesh()
        place = NamedSharding(mesh, PartitionSpec(None, sequence))
        whole = PartitionSpec(rows, tensor)
        attend = jax.shard_map(
            attend,
            in_specs=(
                kernel.manual_sharding_spec(place),
                PartitionSpec(rows, tensor, sequence),
                whole,
                whole,
                PartitionSpec(rows, sequence),
                PartitionSpec(rows),
            ),
            out_specs=PartitionSpec(rows, tensor, sequence),
            axis_names=set(free_axes()),
            check_vma=False,
        )
    out = attend(kernel, query, key, value, segment, segment)
    return out.transpose(0, 2, 1, 3)


def padding_for_splash(length: int, shards: int) -> int:
    """Positions to add to `length`, so that blocks of a good size divide each of `shards` parts."""
    block = LARGEST_BLOCK if length >= shards * LARGEST_BLOCK else SMALLEST_BLOCK
    return -length % (shards * block)


@dataclasses.dataclass(frozen=True)
class PositionMask(masks.Mask):
    """dense.sees in the kernel's form: a rule to compute, never an array of its shape."""

    length: int
    plan: RowPlan

    @property
    def shape(self) -> tuple[int, int]:
        """(queries, keys) of the mask, both L."""
        return self.length, self.length

    @functools.cached_property
    def q_sequence(self) -> np.ndarray:
        """int32 [L]: the position of each query; with it, the kernel calls mask_function."""
        return np.arange(self.length, dtype=np.int32)

    @functools.cached_property
    def mask_function(self) -> Callable:
        """(positions of queries, positions of keys) -> bool."""
        return functools.partial(sees, plan=self.plan)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """bool, a block of the mask; or [1, 1] where the whole block is alike.

        The kernel only asks whether a block is full, empty or mixed. At 150,000 positions there are
        80,000 blocks, and evaluating each would take minutes.
        """
        (top, bottom), (left, right) = ((s.start or 0, s.stop or self.length) for s in index)
        prompt, rest = self.plan
        if left >= bottom:
            return np.zeros((1, 1), bool)
        if right <= top + 1 and right <= prompt:
            return np.ones((1, 1), bool)
        if min(top, left) >= prompt:
            first, last = ((query - prompt) // rest for query in (top, bottom - 1))
            if first > (right - 1 - prompt) // rest:
                return np.zeros((1, 1), bool)
            if first == last == (left - prompt) // rest and right <= top + 1:
                return np.ones((1, 1), bool)
        queries, keys = np.arange(top, bottom), np.arange(left, right)
        return sees(queries[:, None], keys, self.plan)


def _kernel(length: int, plan: RowPlan, shards: int, interpret: bool):
    """The kernel of all heads (they share a mask), its queries in `shards` parts."""
    sizes = range(LARGEST_BLOCK, SMALLEST_BLOCK - 1, -SMALLEST_BLOCK)
    block = next((size for size in sizes if length // shards % size == 0), None)
    if block is None or length % shards:
        raise ValueError(
            f"{length} positions do not split into {shards} x blocks of {SMALLEST_BLOCK}"
        )
    blocks = BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return make_splash_mha(
        masks.MultiHeadMask((PositionMask(length, plan),)),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
