"""Attention of new inputs to a key-value cache, by a Pallas kernel for TPUs.

Scores of one block of queries and keys live in the chip's fast memory alone. A row reads the blocks
of the cache that it has filled, not those behind them, straight from the cache of all layers and in
the dtype that it is stored in. One kernel serves prompts, observations and decode steps.

    filled positions  x x x x x x x . . . . . . . . .
    blocks read       [------][------]

Heads of one group share a key: their queries are rows of one product, as in dense attention. So are
the queries of rollouts that begin with one prompt: its keys are read once for all of them.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from medscope_jax.distributed import TENSOR, free_axes, usable_axes
from medscope_jax.models.attention.dense import MASKED
from medscope_jax.models.cache import Cache
from medscope_jax.models.layers import precision

# The kernel's names in a program, of rows' own positions and of what they begin with: planning/
# counts what it reads by them.
OWN_KERNEL, PREFIX_KERNEL = "cached_attention", "prefix_attention"
MOST_KEYS = 2048  # positions of a block of the cache
_KEYS = (MOST_KEYS, 1024, 512, 256, 128)  # the first that fits
_MOST_ROWS = 1024  # queries of a block, all heads of a group together
_MOST_SCORES = 2**19  # of a block of queries and keys: 2 MiB of float32
_LANES = 128
NOTHING = -(2**30)


class Seen(NamedTuple):
    """What of a cache each row of queries sees."""

    layer: jax.Array | int
    row: jax.Array  # int32 [B], of the cache
    last: jax.Array  # int32 [B], the last position that input 0 sees; NOTHING: none sees any
    causal: bool  # whether input n sees n positions more; else all inputs see alike


def padding_for_cached(length: int) -> int:
    """Positions to add to a cache's rows of `length`, so that the kernel takes it."""
    return -length % _KEYS[-1]


class Before(NamedTuple):
    """Attention to what rows begin with, which that to their own positions goes on from."""

    values: jax.Array  # float32 [B, K, G, N, hd]
    logs: jax.Array  # float32 [B, K, G, N, 128], log-sum-exps of scores, all columns alike


def attend_prefix(query: jax.Array, cache: Cache, seen: Seen, interpret: bool = False) -> Before:
    """Attention of inputs to what rows begin with; arguments as attend_own's."""
    return Before(*_call(query, cache, seen, None, PREFIX_KERNEL, interpret))


def attend_own(
    query: jax.Array, cache: Cache, seen: Seen, before: Before | None, interpret: bool = False
) -> jax.Array:
    """Attention of inputs to rows of a cache, and to what came before them.

    Args:
        query: [B, K, G, N, hd], the G queries of a key-value head at each of N inputs.
        cache: of any number of rows, whose length needs no padding (padding_for_cached).
        interpret: run the kernel's program without a TPU, slowly.

    Returns:
        [B, K, G, N, hd] in query's dtype.
    """
    return _call(query, cache, seen, before, OWN_KERNEL, interpret)[0]


def _call(
    query: jax.Array, cache: Cache, seen: Seen, before: Before | None, name: str, interpret: bool
) -> list[jax.Array]:
    """The kernel's outputs [B, K, G, N, .], see _run."""
    batch, kv_heads, group, count, width = query.shape
    stored: tuple[Any, ...] = (cache.k, cache.v, cache.k_scale, cache.v_scale)
    arrays = [part for part in stored if part is not None]
    # A block holds `inputs` inputs, a power of two, of all the group's heads.
    inputs = 1
    while inputs < count and 2 * inputs * group <= _MOST_ROWS:
        inputs *= 2
    blocks = -(-count // inputs)

    def to_blocks(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, blocks * inputs - count), (0, 0)])
        x = x.reshape(batch, kv_heads, group, blocks, inputs, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, kv_heads, blocks, group * inputs, -1)

    def from_blocks(x: jax.Array) -> jax.Array:
        x = x.reshape(batch, kv_heads, blocks, group, inputs, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, kv_heads, group, blocks * inputs, -1)[..., :count, :]

    step = inputs if seen.causal else 0
    run = functools.partial(_run, inputs=inputs, step=step, name=name, interpret=interpret)
    if free_axes():
        # A kernel is a program of one device, on that device's heads.
        heads = usable_axes(kv_heads, TENSOR) or None
        whole, own = PartitionSpec(), PartitionSpec(None, heads)
        run = jax.shard_map(
            run,
            in_specs=(whole, whole, whole, own, own, PartitionSpec(None, None, heads)),
            out_specs=own,
            axis_names=set(free_axes()),
            check_vma=False,
        )
    layer = jnp.asarray(seen.layer, jnp.int32)[None]
    given = [to_blocks(x) for x in before or ()]
    found = run(layer, seen.row, seen.last, to_blocks(query * width**-0.5), given, arrays)
    return [from_blocks(x) for x in found]


def _run(
    layer: jax.Array,
    row: jax.Array,
    last: jax.Array,
    query: jax.Array,
    before: Sequence[jax.Array],
    arrays: Sequence[jax.Array],
    inputs: int,
    step: int,
    name: str,
    interpret: bool,
) -> list[jax.Array]:
    """The output in query's dtype; of PREFIX_KERNEL values and logs as Before has them.

    Args:
        layer: [1]; row, last: [B]; query: [B, K, blocks, rows, hd].
        before: values and logs, as query; or nothing.
        arrays: k and v [layers, Q, K, M, hd], then their factors [layers, Q, K, M] if there are
            any.
        inputs: of a block; step: by how many positions more the next block sees.
    """
    batch, kv_heads, blocks, rows, width = query.shape
    length = arrays[0].shape[3]
    keys = next(
        n for n in _KEYS if length % n == 0 and (rows * n <= _MOST_SCORES or n == _KEYS[-1])
    )

    def own(b, h, i, j, layer, row, last):
        return b, h, i, 0, 0

    def place(b, i, j, last):
        """The block of keys to read: behind the last one that is seen the same one again, which is
        not fetched again."""
        end = last[b] + i * step + max(step - 1, 0)
        return jnp.minimum(j, jnp.clip(end // keys, 0, length // keys - 1))

    # Rows that see nothing name one and the same block, which is fetched once at most.
    def stored(b, h, i, j, layer, row, last):
        sees = last[b] >= 0
        place_of = (jnp.where(sees, x, 0) for x in (row[b], h, place(b, i, j, last)))
        return layer[0], *place_of, 0

    def factors(b, h, i, j, layer, row, last):
        sees = last[b] >= 0
        return layer[0], jnp.where(sees, row[b], 0), 0, place(b, i, j, last)

    def block(columns: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, 1, 1, rows, columns), own)

    specs = [pl.BlockSpec((1, 1, 1, keys, width), stored)] * 2
    if len(arrays) > 2:
        specs += [pl.BlockSpec((1, 1, kv_heads, keys), factors)] * 2
    whole = (*query.shape[:-1], width)
    outputs = [jax.ShapeDtypeStruct(whole, query.dtype)]
    if name == PREFIX_KERNEL:
        logs = (*query.shape[:-1], _LANES)
        outputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (whole, logs)]
    return pl.pallas_call(
        functools.partial(_kernel, inputs=inputs, step=step, arrays=len(arrays)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(batch, kv_heads, blocks, length // keys),
            in_specs=[block(width), *specs, *(block(x.shape[-1]) for x in before)],
            out_specs=[block(output.shape[-1]) for output in outputs],
            scratch_shapes=[
                pltpu.VMEM((rows, _LANES), jnp.float32),
                pltpu.VMEM((rows, _LANES), jnp.float32),
                pltpu.VMEM((rows, width), jnp.float32),
            ],
        ),
        out_shape=outputs,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        name=name,
        interpret=interpret,
    )(layer, row, last, query, *arrays, *before)


def _kernel(
    layer_ref: jax.Ref,
    row_ref: jax.Ref,
    last_ref: jax.Ref,
    query_ref: jax.Ref,
    *refs: jax.Ref,
    inputs: int,
    step: int,
    arrays: int,
) -> None:
    """One block of queries and one of keys: softmax's maximum, sum and weighted values so far.

    refs: `arrays` blocks of the cache, those of what came before if anything did, one output or
        two, then what is kept from block to block: maximum and sum [rows, 128] (all columns
        alike), values [rows, hd].
    """
    (key_ref, value_ref, *factors), others = refs[:arrays], refs[arrays:-3]
    top_ref, total_ref, values_ref = refs[-3:]
    before, outputs = (others[:2], others[2:]) if len(others) == 3 else ((), others)
    row, head, block, at = map(pl.program_id, range(4))
    rows, keys = query_ref.shape[3], key_ref.shape[3]
    # Positions that the block's first input sees, and its last one.
    least = last_ref[row] + 1 + block * step
    most = least + max(step - 1, 0)

    @pl.when(at == 0)
    def _():
        if before:
            values_ref[...], top_ref[...] = before[0][0, 0, 0], before[1][0, 0, 0]
            total_ref[...] = jnp.ones_like(total_ref)
        else:
            values_ref[...] = jnp.zeros_like(values_ref)
            top_ref[...] = jnp.full_like(top_ref, MASKED)
            total_ref[...] = jnp.zeros_like(total_ref)

    @pl.when(at * keys < most)
    def _():
        query = query_ref[0, 0, 0]
        key, value = (ref[0, 0, 0].astype(query.dtype) for ref in (key_ref, value_ref))
        scores = _product(query, key, 1)
        if factors:
            scores *= factors[0][0, 0, pl.ds(head, 1), :]
        shape, end = (rows, keys), least
        if step:  # rows are head by head of a group, inputs (a power of two) within
            end += jax.lax.broadcasted_iota(jnp.int32, shape, 0) & inputs - 1
        position = at * keys + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        scores = jnp.where(position < end, scores, MASKED)
        before_top = top_ref[:, :1]
        top = jnp.maximum(before_top, scores.max(axis=1, keepdims=True))
        weights, less = jnp.exp(scores - top), jnp.exp(before_top - top)
        total = less * total_ref[:, :1] + weights.sum(axis=1, keepdims=True)
        if factors:
            weights *= factors[1][0, 0, pl.ds(head, 1), :]
        values_ref[...] = less * values_ref[...] + _product(weights.astype(query.dtype), value, 0)
        top_ref[...] = jnp.broadcast_to(top, top_ref.shape)
        total_ref[...] = jnp.broadcast_to(total, total_ref.shape)

    @pl.when(at == pl.num_programs(3) - 1)
    def _():
        total = jnp.where(total_ref[...] > 0, total_ref[...], 1.0)  # 0: nothing is seen
        outputs[0][0, 0, 0] = (values_ref[...] / total[:, :1]).astype(outputs[0].dtype)
        if len(outputs) > 1:
            outputs[1][0, 0, 0] = top_ref[...] + jnp.log(total)


def _product(left: jax.Array, right: jax.Array, axis: int) -> jax.Array:
    """float32 products of rows of `left` with `right`, along that axis of right."""
    return jax.lax.dot_general(
        left,
        right,
        (((1,), (axis,)), ((), ())),
        precision=precision(str(left.dtype)),
        preferred_element_type=jnp.float32,
    )
