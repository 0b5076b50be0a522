"""Dense attention with grouped key-value heads.

Heads of one group share a key, so their queries are folded into rows: one [group * N, hd] x
[hd, M] product for each key-value head. Causal attention goes block by block of queries: a block
looks at the keys up to its own end only, which saves nearly half the work, and its scores are
recomputed in the backward pass instead of stored, so memory grows with length, not its square.

    block 0   x . . . | . . . . | not computed
              x x . . | . . . .
    block 1   x x x . | . . . .
              x x x x | ...
"""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite
_FEWEST, _MOST = 128, 512  # queries a block


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, allowed: jax.Array | None, exact
) -> jax.Array:
    """Softmax attention; scores and softmax in float32.

    Args:
        query: [B, N, H, hd].
        key, value: [B, K, M, hd], K key-value heads, H a multiple of K.
        allowed: bool, broadcastable to [B, N, M]; None allows everything.
        exact: precision of the two matrix products.

    Returns:
        [B, N, H, hd] in query's dtype.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[1]
    query = query.reshape(batch, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    out = _attend(query, key, value, allowed, exact)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def attend_causal(
    query: jax.Array, key: jax.Array, value: jax.Array, valid: jax.Array, exact
) -> jax.Array:
    """Attention of slot i to the valid slots up to i: as attend, with M = N and valid [B, N]."""
    batch, length, heads, width = query.shape
    kv_heads = key.shape[1]
    query = query.reshape(batch, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    size = min(max(-(-length // 4), _FEWEST), _MOST)
    out = []
    for start in range(0, length, size):
        end = min(start + size, length)
        order = jnp.arange(start, end)[:, None] >= jnp.arange(end)
        allowed = order & valid[:, None, :end]
        block = jax.checkpoint(_attend, static_argnums=4, prevent_cse=False)
        part = query[:, :, :, start:end], key[:, :, :end], value[:, :, :end], allowed, exact
        out.append(block(*part))
    out = jnp.concatenate(out, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _attend(query, key, value, allowed, exact):
    """query [B, K, G, N, hd], key and value [B, K, M, hd] -> [B, K, G, N, hd]."""
    batch, kv_heads, group, length, width = query.shape
    rows = (query * width**-0.5).reshape(batch, kv_heads, group * length, width)
    scores = jnp.einsum(
        "bkrd,bkmd->bkrm", rows, key, precision=exact, preferred_element_type=jnp.float32
    )
    scores = scores.reshape(batch, kv_heads, group, length, -1)
    if allowed is not None:
        scores += jnp.where(allowed, 0.0, MASKED)[:, None, None]
    # The sum divides the (narrow) output instead of the (wide) weights.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype).reshape(batch, kv_heads, group * length, -1)
    out = jnp.einsum(
        "bkrm,bkmd->bkrd", weights, value, precision=exact, preferred_element_type=jnp.float32
    )
    out = out.reshape(batch, kv_heads, group, length, width) / total
    return out.astype(value.dtype)
