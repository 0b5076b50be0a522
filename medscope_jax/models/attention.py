"""Dense attention with grouped key-value heads."""

import jax
import jax.numpy as jnp

from medscope_jax.models.layers import precision

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, allowed: jax.Array | None
) -> jax.Array:
    """Softmax attention; scores and softmax in float32.

    Args:
        query: [B, N, H, hd].
        key, value: [B, M, K, hd], K key-value heads, H a multiple of K.
        allowed: bool, broadcastable to [B, N, M]; None allows everything.

    Returns:
        [B, N, H, hd] in query's dtype.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads
    query = query * (width**-0.5)
    query = query.reshape(batch, length, kv_heads, group, width)
    exact = precision(query.dtype)
    scores = jnp.einsum(
        "bnkgd,bmkd->bkgnm", query, key, precision=exact, preferred_element_type=jnp.float32
    )
    if allowed is not None:
        scores = jnp.where(allowed[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("bkgnm,bmkd->bnkgd", weights, value, precision=exact)
    return out.reshape(batch, length, heads, width)
