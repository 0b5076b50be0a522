"""Chunked prefill: prompts and observations go through the model into the key-value cache."""

import math

import jax
import jax.numpy as jnp

from medscope_jax.bank import flat_index
from medscope_jax.models import Cache, embed, forward_cached
from medscope_jax.rollout.state import RolloutInputs


def chunked_prefill(
    inputs: RolloutInputs,
    cache: Cache,
    tokens: jax.Array,
    visual_index: jax.Array,
    video: jax.Array,
    positions: jax.Array,
    start: jax.Array,
    count: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Feeds each row its next inputs.

    Attention's scores grow with the inputs of one call times the cache's positions: a long text
    goes chunk by chunk, `prefill_tokens` of each row at a time, as far as the longest row reaches.

    Args:
        cache: of R rows.
        tokens, visual_index: [R, N]; video: [R], the bank's row of each row's video.
        positions: [3, R, N], of the M-RoPE.
        start: [R] positions that each row has filled already.
        count: [R] inputs that are real.

    Returns:
        (hidden [R, D] after each row's last real input, the cache). Where count is 0, a row's
        hidden state has no meaning.
    """
    index = flat_index(video, visual_index, math.prod(inputs.bank.tokens.shape[1:3]))
    length = tokens.shape[1]
    size = min(inputs.config.prefill_tokens or length, length)

    def read(cache, first, tokens, index, positions):
        """(hidden of the last real input, cache) of the chunk that begins with input `first`."""
        embedded = embed(inputs.params, inputs.model, tokens, index, inputs.flat)
        real = jnp.clip(count - first, 0, size)
        hidden, cache = forward_cached(
            inputs.params, inputs.model, embedded, positions, cache, start + first, real
        )
        last = jnp.maximum(real - 1, 0)[:, None, None]
        return jnp.take_along_axis(hidden, last, axis=1)[:, 0], cache

    if size == length:
        return read(cache, 0, tokens, index, positions)
    padding = [(0, 0), (0, -length % size)]
    tokens, index = jnp.pad(tokens, padding), jnp.pad(index, padding, constant_values=-1)
    positions = jnp.pad(positions, [(0, 0), *padding])

    def body(chunk, carry):
        last, cache = carry
        first = chunk * size
        part = (
            jax.lax.dynamic_slice_in_dim(array, first, size, axis=-1)
            for array in (tokens, index, positions)
        )
        hidden, cache = read(cache, first, *part)
        return jnp.where((count > first)[:, None], hidden, last), cache

    last = jnp.zeros((len(tokens), inputs.model.text.hidden_size), inputs.model.dtype)
    chunks = (jnp.max(count) + size - 1) // size
    with jax.named_scope("chunked_prefill"):  # planning/ counts the loop's chunks by this name
        return jax.lax.fori_loop(0, chunks, body, (last, cache))
