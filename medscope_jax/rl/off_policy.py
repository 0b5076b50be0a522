"""Corrections for rollouts that another policy sampled than the one that learns from them.

With int8 weights, or weights of a step before, the sampler gives a token probability s where the
trainer gives p. The expectation of a gradient under p is that of p / s times the gradient under s.

cap     each token's loss is weighted by min(p / s, cap)   (truncated importance sampling: Ionides,
        2008; for rollouts by other kernels or weights: Yao et al., 2025)
mask    a trajectory whose tokens' p / s has a geometric mean beyond a bound, or below its inverse,
        has no loss: it is hardly one of the policy's   (Liu et al., 2025)
"""

import jax
import jax.numpy as jnp


def importance(
    log_ratio: jax.Array, mask: jax.Array, cap: float, bound: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weights of tokens' losses, without a gradient.

    Args:
        log_ratio: [B, T] log p - log s; 0 where mask is.
        mask: [B, T] 1 (or True) on generated tokens.
        cap: at least 1; 0: tokens are not weighted.
        bound: above 1; 0: no trajectory is left out.

    Returns:
        (weights [B, T], metrics, each [B, T]: `importance_mean` of p / s before it is capped,
        `importance_capped` and `sequence_masked`, whether a token's was or its trajectory is).
    """
    keep = mask > 0
    log_ratio = jax.lax.stop_gradient(jnp.where(keep, log_ratio, 0.0))
    ratio = jnp.exp(log_ratio)
    weights, metrics = jnp.ones_like(ratio), {}
    if cap:
        weights = jnp.minimum(ratio, cap)
        metrics = {"importance_mean": ratio, "importance_capped": ratio > cap}
    if bound:
        tokens = jnp.maximum(jnp.sum(keep, axis=1, keepdims=True), 1)
        mean = jnp.sum(log_ratio, axis=1, keepdims=True) / tokens
        masked = jnp.broadcast_to(jnp.abs(mean) > jnp.log(bound), ratio.shape)
        weights = jnp.where(masked, 0.0, weights)
        metrics["sequence_masked"] = masked
    return weights, metrics
