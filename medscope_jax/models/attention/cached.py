"""Attention of new inputs to a key-value cache, by a Pallas kernel for TPUs.

Scores of one block of queries and keys live in the chip's fast memory alone. A row reads the blocks
of the cache that it has filled, not those behind them, straight from the cache of all layers and in
the dtype that it is stored in. One kernel serves prompts, observations and decode steps.

    filled positions  x x x x x x x . . . . . . . . .
    blocks read       [------][------]

Heads of one group share a key: their queries are rows of one product, as in dense attention.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from medscope_jax.distributed import BATCH, TENSOR, free_axes, usable_axes
from medscope_jax.models.attention.dense import MASKED
from medscope_jax.models.cache import Cache
from medscope_jax.models.layers import precision

KERNEL = "cached_attention"  # its name in a program; planning/ counts what it reads by it
_MOST_ROWS = 1024  # queries of a block, all heads of a group together
_MOST_SCORES = 2**19  # of a block of queries and keys: 2 MiB of float32
MOST_KEYS = 2048  # positions of a block of the cache
_KEYS = (MOST_KEYS, 1024, 512, 256, 128)  # the first that fits
_LANES = 128


def takes_cached(length: int) -> bool:
    """Whether the kernel takes a cache of so many positions a row."""
    return length % _KEYS[-1] == 0


def attend_cached(
    query: jax.Array,
    cache: Cache,
    layer: jax.Array | int,
    start: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """Attention of each row's next inputs to all that it was fed before, and to themselves.

    Args:
        query: [B, N, H, hd].
        cache: of B rows of M positions (takes_cached), which holds the inputs' keys and values too.
        layer: of the cache.
        start: int32 [B], the position of each row's input 0. Input n attends to positions up to
            start + n.
        interpret: run the kernel's program without a TPU, slowly.

    Returns:
        [B, N, H, hd] in query's dtype.
    """
    batch, count, heads, width = query.shape
    kv_heads = cache.kv_heads
    parts = [part for part in (cache.k, cache.v, cache.k_scale, cache.v_scale) if part is not None]
    # A block holds `inputs` inputs, a power of two, of all the group's heads.
    inputs = 1
    while inputs < count and 2 * inputs * (heads // kv_heads) <= _MOST_ROWS:
        inputs *= 2
    grouped = jnp.pad(query * width**-0.5, [(0, 0), (0, -count % inputs), (0, 0), (0, 0)])
    grouped = grouped.reshape(batch, -1, inputs, kv_heads, heads // kv_heads, width)
    grouped = grouped.transpose(0, 3, 1, 4, 2, 5)  # [B, K, blocks, group, inputs, hd]
    run = functools.partial(_run, interpret=interpret)
    if free_axes():
        # A kernel is a program of one device, on that device's part.
        rows = usable_axes(batch, BATCH) or None
        tensor = usable_axes(kv_heads, TENSOR) or None
        own = PartitionSpec(rows, tensor)
        run = jax.shard_map(
            run,
            in_specs=(PartitionSpec(), PartitionSpec(rows), own, PartitionSpec(None, rows, tensor)),
            out_specs=own,
            axis_names=set(free_axes()),
            check_vma=False,
        )
    out = run(jnp.asarray(layer, jnp.int32)[None], start, grouped, parts)
    out = out.transpose(0, 2, 4, 1, 3, 5)  # [B, blocks, inputs, K, group, hd]
    return out.reshape(batch, -1, heads, width)[:, :count]


def _run(
    layer: jax.Array, start: jax.Array, query: jax.Array, parts: list[jax.Array], interpret: bool
) -> jax.Array:
    """layer [1], start [B], query [B, K, blocks, group, inputs, hd], parts: k and v [layers, B, K,
    M, hd], then their factors [layers, B, K, M] if there are any -> as query."""
    batch, kv_heads, blocks, group, inputs, width = query.shape
    length, rows = parts[0].shape[3], group * inputs
    keys = next(
        n for n in _KEYS if length % n == 0 and (rows * n <= _MOST_SCORES or n == _KEYS[-1])
    )

    def last(b, i, start):
        """The last block of keys that a block of queries reads."""
        return jnp.minimum((start[b] + (i + 1) * inputs - 1) // keys, length // keys - 1)

    def own(b, h, i, j, layer, start):
        return b, h, i, 0, 0

    def stored(b, h, i, j, layer, start):
        # Behind the last one the same block again, which is not fetched again.
        return layer[0], b, h, jnp.minimum(j, last(b, i, start)), 0

    def factors(b, h, i, j, layer, start):
        return layer[0], b, 0, jnp.minimum(j, last(b, i, start))

    queries = pl.BlockSpec((1, 1, 1, rows, width), own)
    specs = [pl.BlockSpec((1, 1, 1, keys, width), stored)] * 2
    if len(parts) > 2:
        specs += [pl.BlockSpec((1, 1, kv_heads, keys), factors)] * 2
    out = pl.pallas_call(
        functools.partial(_kernel, inputs=inputs),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, kv_heads, blocks, length // keys),
            in_specs=[queries, *specs],
            out_specs=queries,
            scratch_shapes=[
                pltpu.VMEM((rows, _LANES), jnp.float32),
                pltpu.VMEM((rows, _LANES), jnp.float32),
                pltpu.VMEM((rows, width), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((batch, kv_heads, blocks, rows, width), query.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        name=KERNEL,
        interpret=interpret,
    )(layer, start, query.reshape(batch, kv_heads, blocks, rows, width), *parts)
    return out.reshape(query.shape)


def _kernel(
    layer_ref: jax.Ref,
    start_ref: jax.Ref,
    query_ref: jax.Ref,
    key_ref: jax.Ref,
    value_ref: jax.Ref,
    *refs: jax.Ref,
    inputs: int,
) -> None:
    """One block of queries and one of keys: softmax's maximum, sum and weighted values so far.

    refs: the blocks of factors of key and value if there are any, the output, then what is kept
        from block to block: maximum and sum [rows, 128] (all columns alike), values [rows, hd].
    """
    *factors, out_ref, top_ref, total_ref, values_ref = refs
    row, head, block, step = map(pl.program_id, range(4))
    rows, keys = query_ref.shape[3], key_ref.shape[3]
    first = start_ref[row] + block * inputs  # the position of the block's first input

    @pl.when(step == 0)
    def _():
        top_ref[...] = jnp.full_like(top_ref, MASKED)
        total_ref[...] = jnp.zeros_like(total_ref)
        values_ref[...] = jnp.zeros_like(values_ref)

    @pl.when(step * keys < first + inputs)
    def _():
        query = query_ref[0, 0, 0]
        key, value = (ref[0, 0, 0].astype(query.dtype) for ref in (key_ref, value_ref))
        scores = _product(query, key, 1)
        if factors:
            scores *= factors[0][0, 0, pl.ds(head, 1), :]
        # Rows are head by head of a group, inputs (a power of two) within.
        shape = (rows, keys)
        position = first + (jax.lax.broadcasted_iota(jnp.int32, shape, 0) & inputs - 1)
        seen = step * keys + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        scores = jnp.where(seen <= position, scores, MASKED)
        before = top_ref[:, :1]
        top = jnp.maximum(before, scores.max(axis=1, keepdims=True))
        weights, less = jnp.exp(scores - top), jnp.exp(before - top)
        total = less * total_ref[:, :1] + weights.sum(axis=1, keepdims=True)
        if factors:
            weights *= factors[1][0, 0, pl.ds(head, 1), :]
        values_ref[...] = less * values_ref[...] + _product(weights.astype(query.dtype), value, 0)
        top_ref[...] = jnp.broadcast_to(top, top_ref.shape)
        total_ref[...] = jnp.broadcast_to(total, total_ref.shape)

    @pl.when(step == pl.num_programs(3) - 1)
    def _():
        out_ref[0, 0, 0] = (values_ref[...] / total_ref[:, :1]).astype(out_ref.dtype)


def _product(left: jax.Array, right: jax.Array, axis: int) -> jax.Array:
    """float32 products of rows of `left` with `right`, along that axis of right."""
    # float32, of tests, is multiplied as such; the chip multiplies bfloat16 exactly anyway.
    exact = precision(str(left.dtype))
    return jax.lax.dot_general(
        left,
        right,
        (((1,), (axis,)), ((), ())),
        precision=exact,
        preferred_element_type=jnp.float32,
    )
