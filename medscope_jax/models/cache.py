"""The key-value cache: what each row of a batch has seen, written slot by slot."""

import flax
import jax
import jax.numpy as jnp

from medscope_jax.models.config import ModelConfig


class Cache(flax.struct.PyTreeNode):
    """Keys (rotated) and values of what each row has seen; slot i of a row is its i-th input.

    k, v: each one array [layers, B, K, M, head_dim], or a tuple of such arrays with one layer each
    (which spares a CPU the copy of a layer's slice at every step). Rows are axis 1 of every leaf,
    slots axis 3. In the model's dtype.
    """

    k: jax.Array | tuple[jax.Array, ...]
    v: jax.Array | tuple[jax.Array, ...]


def init_cache(config: ModelConfig, batch: int, length: int, per_layer: bool = False) -> Cache:
    """An empty cache for `batch` rows of at most `length` slots.

    per_layer: one array a layer instead of one for all: decoding is faster on a CPU, but compiles
    every layer anew; for models of a few layers.
    """
    text = config.text
    layers = text.num_hidden_layers
    shape = (1 if per_layer else layers, batch, text.num_key_value_heads, length, text.head_dim)

    def zeros():
        if per_layer:
            return tuple(jnp.zeros(shape, config.dtype) for _ in range(layers))
        return jnp.zeros(shape, config.dtype)

    return Cache(zeros(), zeros())


def repeat_rows(cache: Cache, repeats: int) -> Cache:
    """Every row `repeats` times in a row: a prompt's cache for each of its samples."""
    return jax.tree.map(lambda part: jnp.repeat(part, repeats, axis=1), cache)


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of rows [R] (indices within the batch)."""
    return jax.tree.map(lambda part: part[:, rows], cache)


def put_rows(cache: Cache, rows: jax.Array, part: Cache) -> Cache:
    """The cache with rows [R] (no index twice) replaced by those of `part`.

    Where `part` has fewer slots, they replace a row's first ones.
    """

    def put(whole, new):
        return whole.at[:, rows, :, : new.shape[3]].set(new)

    return jax.tree.map(put, cache, part)


def write(
    cache: Cache, layer, key: jax.Array, value: jax.Array, start: jax.Array, count: jax.Array
) -> Cache:
    """Put key and value [B, N, K, head_dim] of each row's first `count` [B] inputs into the slots
    from `start` [B] on of a layer, in place."""
    inputs, length = jnp.arange(key.shape[1]), cache.k.shape[3]
    slots = start[:, None] + inputs
    # Padding inputs go to slot M: out of bounds on purpose, dropped.
    slots = jnp.where(inputs < count[:, None], slots, length)
    rows = jnp.arange(key.shape[0])[:, None]
    return Cache(
        cache.k.at[layer, rows, :, slots].set(key, mode="drop"),
        cache.v.at[layer, rows, :, slots].set(value, mode="drop"),
    )
