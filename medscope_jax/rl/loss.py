"""Policy-gradient losses over the generated tokens of trajectories.

ppo     each token's ratio, clipped, the loss bounded where A < 0   (dual clip; GRPO's form)
gspo    one ratio a trajectory: the geometric mean of its tokens', clipped   (arXiv 2507.18071)
cispo   -A * log-probability, weighted by the clipped ratio, which has no gradient: no token
        loses its gradient   (MiniMax-M1, arXiv 2506.13585)
"""

import dataclasses

import jax
import jax.numpy as jnp

from medscope_jax.errors import UserError
from medscope_jax.rl.off_policy import importance

# exp() of anything beyond this says nothing more about the policy and overflows sooner or later.
LOG_RATIO_BOUND = 20.0
AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "constant-length")
KINDS = ("ppo", "gspo", "cispo")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The policy loss: its kind, clipping and aggregation.

    Attributes:
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
      dual_clip: bound of ppo's loss at dual_clip * |A| where A < 0 (above 1).
      aggregation: "token-mean" over all tokens, or per trajectory a sum or mean over its tokens,
        then a mean over trajectories: "seq-mean-token-sum", "seq-mean-token-mean"; or their sum by
        a constant number of tokens, so that a long one's tokens weigh as much as a short one's:
        "constant-length" (Dr. GRPO, arXiv 2503.20783).
      horizon: that number, for "constant-length" alone.
      entropy: coefficient of a bonus, the mean entropy of the tokens' distributions.
      kind: of KINDS, see the module.
      importance_cap: weighs each token by the learning policy's probability to the sampler's, at
        most so much (1 or more); the policy's own ratio is then to itself before this update. 0:
        no weights, the ratio is to the sampler's.
      sequence_bound: trajectories whose mean ratio to the sampler's is beyond this factor (above 1)
        have no loss; 0: all have. See off_policy.py for both.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0
    aggregation: str = "token-mean"
    horizon: int = 0
    entropy: float = 0.0
    kind: str = "ppo"
    importance_cap: float = 0.0
    sequence_bound: float = 0.0

    def __post_init__(self):
        if 0 < self.importance_cap < 1:
            raise UserError(f"importance_cap is {self.importance_cap}; it must be 0, or 1 or more")
        if 0 < self.sequence_bound <= 1:
            raise UserError(f"sequence_bound is {self.sequence_bound}; it must be 0, or above 1")
        if self.kind not in KINDS:
            raise UserError(f'kind is "{self.kind}"; choose {", ".join(KINDS)}')
        if (self.horizon > 0) != (self.aggregation == "constant-length"):
            raise UserError(
                f"horizon is {self.horizon}; it must be above 0 with aggregation=constant-length, "
                "and 0 without"
            )
        if self.aggregation not in AGGREGATIONS:
            raise UserError(
                f'aggregation is "{self.aggregation}"; choose {", ".join(AGGREGATIONS)}'
            )
        if self.dual_clip <= 1.0:
            raise UserError(f"dual_clip is {self.dual_clip}; it must be above 1")


def loss_normalizer(mask: jax.Array, aggregation: str, horizon: int = 0) -> jax.Array:
    """What `aggregate` divides by: tokens with mask, or trajectories that have any, with
    "constant-length" times `horizon`. Scalar >= 1.

    A caller that splits a batch passes the whole batch's normalizer to each part; the parts'
    losses and gradients then add up to the whole batch's.
    """
    mask = mask.astype(jnp.float32)
    count = jnp.sum(mask) if aggregation == "token-mean" else jnp.sum(jnp.any(mask > 0, axis=-1))
    count = count * horizon if aggregation == "constant-length" else count
    return jnp.maximum(count.astype(jnp.float32), 1.0)


def aggregate(
    values: jax.Array,
    mask: jax.Array,
    aggregation: str,
    normalizer: jax.Array | None = None,
    horizon: int = 0,
) -> jax.Array:
    """Reduces per-token values [B, T] under a mask [B, T] to a scalar.

    Rows without a masked token count nowhere, so padding rows are invisible.
    """
    mask = mask.astype(jnp.float32)
    rows = jnp.sum(values * mask, axis=-1)
    if aggregation == "seq-mean-token-mean":
        rows = rows / jnp.maximum(jnp.sum(mask, axis=-1), 1.0)
    if normalizer is None:
        normalizer = loss_normalizer(mask, aggregation, horizon)
    return jnp.sum(rows) / normalizer


def _log_ratio(logprobs: jax.Array, reference: jax.Array, mask: jax.Array) -> jax.Array:
    # Padding may hold anything, NaN included; it must reach neither the loss nor its gradient.
    keep = mask > 0
    difference = jnp.where(keep, logprobs, 0.0) - jnp.where(keep, reference, 0.0)
    return jnp.clip(difference, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def policy_loss(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    config: LossConfig = LossConfig(),
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of config.kind, without a KL term.

    Args:
      logprobs: [B, T] log-probabilities of the sampled tokens under the policy being trained.
      old_logprobs: [B, T] the same, recorded while sampling.
      advantages: [B] one advantage a trajectory.
      mask: [B, T] 1 (or True) on generated tokens; observations and padding carry no loss.
      config: see LossConfig.
      normalizer: scalar from `loss_normalizer` of a larger batch that this is a part of.

    Returns: (scalar loss, metrics): `clip_fraction` and `dual_clip_fraction` of tokens,
      `approx_kl`, the mean of old - new log-probability over tokens, `ratio_mean` and `ratio_max`
      of new to old probability (all of this part of the batch); those of off_policy.importance.
    """
    sampled = jax.lax.stop_gradient(old_logprobs)
    before = jax.lax.stop_gradient(logprobs)
    correction, corrected = importance(
        _log_ratio(before, sampled, mask), mask, config.importance_cap, config.sequence_bound
    )
    old = before if config.importance_cap else sampled
    token_log_ratio = log_ratio = _log_ratio(logprobs, old, mask)
    if config.kind == "gspo":
        tokens = jnp.maximum(jnp.sum(mask > 0, axis=-1, keepdims=True), 1)
        mean = jnp.sum(log_ratio * (mask > 0), axis=-1, keepdims=True) / tokens
        log_ratio = jnp.broadcast_to(mean, log_ratio.shape)
    ratio = jnp.exp(log_ratio)
    # A row without tokens is padding: its advantage may be anything, NaN included.
    used = jnp.any(mask > 0, axis=-1)
    weights = jax.lax.stop_gradient(jnp.where(used, advantages, 0.0))[:, None]
    plain = -weights * ratio
    within = jnp.clip(ratio, 1.0 - config.clip_low, 1.0 + config.clip_high)
    clipped = -weights * within
    pessimistic = jnp.maximum(plain, clipped)
    bound = -weights * config.dual_clip
    negative = (weights < 0) & (config.kind == "ppo")
    values = jnp.where(negative, jnp.minimum(bound, pessimistic), pessimistic)
    if config.kind == "cispo":
        told = jnp.where(mask > 0, logprobs, 0.0)
        values = -weights * jax.lax.stop_gradient(within) * told
    values = correction * values
    loss = aggregate(values, mask, config.aggregation, normalizer, config.horizon)
    metrics = {
        **{name: aggregate(each, mask, "token-mean") for name, each in corrected.items()},
        "clip_fraction": aggregate(clipped > plain, mask, "token-mean"),
        "dual_clip_fraction": aggregate(negative & (pessimistic > bound), mask, "token-mean"),
        "approx_kl": aggregate(-token_log_ratio, mask, "token-mean"),
        "ratio_mean": aggregate(ratio, mask, "token-mean"),
        "ratio_max": jnp.max(jnp.where(mask > 0, ratio, 0.0)),
    }
    return loss, jax.tree.map(jax.lax.stop_gradient, metrics)


def reference_kl(
    logprobs: jax.Array,
    reference_logprobs: jax.Array,
    mask: jax.Array,
    config: LossConfig = LossConfig(),
    normalizer: jax.Array | None = None,
) -> jax.Array:
    """Estimate of the KL divergence to a reference policy, for callers that add such a term.

    The non-negative estimator exp(d) - d - 1 with d = reference - policy log-probability
    (Schulman's k3), aggregated like the loss. All arrays [B, T]; returns a scalar.
    """
    difference = -_log_ratio(logprobs, jax.lax.stop_gradient(reference_logprobs), mask)
    values = jnp.expm1(difference) - difference
    return aggregate(values, mask, config.aggregation, normalizer, config.horizon)
