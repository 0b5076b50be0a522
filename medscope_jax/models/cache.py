"""The key-value cache of a batch of rows.

It is the largest array of a long rollout: 57 KB a token for a 7B in bfloat16. On a mesh it is split
by rows over data and fsdp and by heads over tensor. int8 halves it: a head of a position is then
numbers from -127 to 127 and one factor.

Rows that begin alike have their prompt once, as a row of a prefix cache, and behind it each its own
positions. Position numbers count from the prompt's begin on:

    prefix cache    row 0: A A A A .     row 1: B B B B B
    own positions   a a . .   a a a .    b . . .   b b . .
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from medscope_jax.distributed import BATCH, TENSOR, constrain, free_axes, usable_axes
from medscope_jax.models.model_config import ModelConfig
from medscope_jax.models.quantize import dequantize, quantize


class Prefix(flax.struct.PyTreeNode):
    """What rows of a cache begin with."""

    cache: "Cache"  # Q prompts, without a prefix of their own
    row: jax.Array  # int32 [B], which of them each row begins with
    length: jax.Array  # int32 [B], its positions; 0: none
    # Rows that begin alike lie side by side, so many of each of the Q in order; 0: any lie anyhow.
    group: int = flax.struct.field(pytree_node=False, default=0)


class Cache(flax.struct.PyTreeNode):
    """Keys (rotated) and values of each row's inputs; position i holds the i-th input.

    Rows are axis 1 of every array, positions axis 3.

    Attributes:
        k, v: each one array [layers, B, K, M, head_dim], or a tuple of such arrays with one layer
            each, which spares a CPU the copy of a layer's slice at every step. In the model's
            dtype, or int8.
        k_scale, v_scale: the factors of int8 numbers, float32 [layers, B, K, M], or tuples as
            above; None for another dtype.
        prefix: what the rows begin with; the arrays then hold the positions behind it.
    """

    k: jax.Array | tuple[jax.Array, ...]
    v: jax.Array | tuple[jax.Array, ...]
    k_scale: jax.Array | tuple[jax.Array, ...] | None = None
    v_scale: jax.Array | tuple[jax.Array, ...] | None = None
    prefix: Prefix | None = None

    @property
    def length(self) -> int:
        """How many positions a row has of its own, M."""
        return jax.tree.leaves(self.k)[0].shape[3]

    @property
    def rows(self) -> int:
        """How many rows it has, B."""
        return jax.tree.leaves(self.k)[0].shape[1]

    @property
    def kv_heads(self) -> int:
        """Heads that a layer stores, K."""
        return jax.tree.leaves(self.k)[0].shape[2]


def init_cache(
    config: ModelConfig, batch: int, length: int, per_layer: bool = False, dtype: str = ""
) -> Cache:
    """An empty cache for `batch` rows of at most `length` positions.

    Args:
        per_layer: one array a layer instead of one for all. Decoding is then faster on a CPU, but
            every layer is compiled: for models of a few layers.
        dtype: "" for the model's, or "int8".
    """
    text = config.text
    layers = text.num_hidden_layers
    shape = (1 if per_layer else layers, batch, text.num_key_value_heads, length)

    def zeros(tail: tuple[int, ...], dtype):
        def one():
            split = (None, BATCH, TENSOR, None, *(None for _ in tail))
            return constrain(jnp.zeros(shape + tail, dtype), *split)

        return tuple(one() for _ in range(layers)) if per_layer else one()

    head = (text.head_dim,)
    if dtype != "int8":
        return Cache(zeros(head, config.dtype), zeros(head, config.dtype))
    return Cache(
        zeros(head, jnp.int8),
        zeros(head, jnp.int8),
        zeros((), jnp.float32),
        zeros((), jnp.float32),
    )


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of some rows, with the same prefix cache; rows: [R] indices within the batch."""
    taken = jax.tree.map(lambda part: part[:, rows], cache.replace(prefix=None))
    prefix = cache.prefix
    if prefix is not None:
        prefix = prefix.replace(row=prefix.row[rows], length=prefix.length[rows], group=0)
    return taken.replace(prefix=prefix)


def put_rows(cache: Cache, rows: jax.Array, part: Cache) -> Cache:
    """The cache with rows [R] (within the batch, no index twice) replaced by those of `part`; what
    they begin with stays.

    Where `part` has fewer positions, they replace a row's first ones. It is done slice by slice, in
    the order of axes that decoding has: for a scatter of whole rows, or in another order, a TPU's
    compiler makes a second cache, and copies the first one there and back.
    """

    def put(whole, new):
        for i in range(len(rows)):
            place = (0, rows[i]) + (0,) * (whole.ndim - 2)
            whole = jax.lax.dynamic_update_slice(whole, new[:, i : i + 1], place)
        return _in_order(whole)

    placed = jax.tree.map(put, cache.replace(prefix=None), part.replace(prefix=None))
    return placed.replace(prefix=cache.prefix)


def _in_order(whole: jax.Array) -> jax.Array:
    """An array of a cache, laid out in memory in the order of its axes."""

    def order(part):
        return with_layout_constraint(part, Layout(tuple(range(part.ndim))))

    rows, heads = usable_axes(whole.shape[1], BATCH), usable_axes(whole.shape[2], TENSOR)
    if not rows + heads:
        return order(whole)
    # Without shard_map, the compiler would send each device the whole array.
    split = PartitionSpec(None, rows or None, heads or None)
    return jax.shard_map(
        order, in_specs=split, out_specs=split, axis_names=set(free_axes()), check_vma=False
    )(whole)


def split_layers(cache: Cache) -> list[Cache]:
    """The layers of a cache with one array a layer, each a cache of its own."""
    layers = len(cache.k)
    leaves = jax.tree.leaves(cache.replace(prefix=None))  # k's layers, v's, those of the factors
    parts = [Cache(*leaves[layer::layers]) for layer in range(layers)]
    prefix = cache.prefix
    if prefix is None:
        return parts
    begun = split_layers(prefix.cache)
    return [
        part.replace(prefix=prefix.replace(cache=one))
        for part, one in zip(parts, begun, strict=True)
    ]


def join_layers(parts: list[Cache]) -> Cache:
    """Puts caches of single layers together into one; undoes split_layers."""
    alone = [part.replace(prefix=None) for part in parts]
    fields = zip(*(jax.tree.leaves(part) for part in alone), strict=True)
    arrays: list[Any] = [tuple(field) for field in fields]
    joined, prefix = Cache(*arrays), parts[0].prefix
    if prefix is None:
        return joined
    begun = join_layers([part.prefix.cache for part in parts if part.prefix is not None])
    return joined.replace(prefix=prefix.replace(cache=begun))


def write(
    cache: Cache,
    layer: jax.Array | int,
    key: jax.Array,
    value: jax.Array,
    start: jax.Array,
    count: jax.Array,
) -> Cache:
    """The cache with a layer's keys and values of new inputs, written in place.

    Args:
        key, value: [B, N, K, head_dim].
        start: [B] position of each row's first input, behind its prefix.
        count: [B] inputs to write; the others are padding.
    """
    inputs, length = jnp.arange(key.shape[1]), cache.length
    positions = own_start(cache, start)[:, None] + inputs
    # Padding inputs go to position M: out of bounds on purpose, dropped.
    positions = jnp.where(inputs < count[:, None], positions, length)
    rows = jnp.arange(key.shape[0])[:, None]

    def put(whole, new):
        return whole.at[layer, rows, :, positions].set(new, mode="drop")

    if cache.k_scale is None:
        return cache.replace(k=put(cache.k, key), v=put(cache.v, value))
    (key, k_scale), (value, v_scale) = (quantize(x[..., None]) for x in (key, value))
    return cache.replace(
        k=put(cache.k, key[..., 0]),
        v=put(cache.v, value[..., 0]),
        k_scale=put(cache.k_scale, k_scale[..., 0]),
        v_scale=put(cache.v_scale, v_scale[..., 0]),
    )


def own_start(cache: Cache, start: jax.Array) -> jax.Array:
    """Where position `start` [B] of each row lies among the row's own, [B]."""
    return start if cache.prefix is None else start - cache.prefix.length


def read(
    cache: Cache,
    layer: jax.Array | int,
    dtype: jax.typing.DTypeLike,
    start: jax.Array | int = 0,
    count: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Keys and values [B, K, M, head_dim] of a layer, int8 ones as the numbers they stand for; the
    rows' own.

    start, count: of the M positions that are read; all, without.
    """

    def take(whole):
        size = (1, *whole.shape[1:3], count or cache.length, *whole.shape[4:])
        begin = (layer, 0, 0, start, 0)[: whole.ndim]
        return jax.lax.dynamic_slice(whole, begin, size)[0]

    def part(whole, scale):
        whole = take(whole)
        if scale is None:
            return whole
        scale = take(scale)
        return dequantize(whole[..., None], scale[..., None])[..., 0].astype(dtype)

    return part(cache.k, cache.k_scale), part(cache.v, cache.v_scale)
