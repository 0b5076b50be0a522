"""Grounding-aware group advantages (GA-GRPO)."""

import dataclasses

import jax
import jax.numpy as jnp

from medscope_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
    """How evidence modulates group advantages.

    Attributes:
      mode: "binary", "continuous", or "none" (plain group advantages, for ablations).
      good_scale, bad_scale: binary: factors for agreement and disagreement of the advantage's
        sign with the evidence.
      alpha, clip, min_scale: continuous: slope, bound of the fidelity, smallest factor.
      baseline: what a rollout's reward is compared with: "mean" of its group, or "leave-one-out",
        the mean of the others (RLOO, arXiv 2402.14740).
      per_source: divide by the standard deviation of all the batch's advantages of the same source
        of questions, so that sources whose rewards spread more do not outweigh the others.
      normalize_by_std: divide by the group's sample standard deviation plus `std_epsilon`.
    """

    mode: str = "binary"
    baseline: str = "mean"
    per_source: bool = False
    good_scale: float = 1.2
    bad_scale: float = 0.8
    alpha: float = 0.2
    clip: float = 1.0
    min_scale: float = 0.1
    normalize_by_std: bool = False
    std_epsilon: float = 1e-6

    def __post_init__(self):
        if self.mode not in ("binary", "continuous", "none"):
            raise UserError(f'mode is "{self.mode}"; choose "binary", "continuous" or "none"')
        if self.baseline not in ("mean", "leave-one-out"):
            raise UserError(f'baseline is "{self.baseline}"; choose "mean" or "leave-one-out"')


def group_advantages(rewards: jax.Array, config: AdvantageConfig) -> jax.Array:
    """Reward minus its group's baseline, [P, G] -> [P, G] (P questions, G rollouts each).

    A group rewarded alike gets exact zeros: the float32 mean of equal numbers may miss them by a
    rounding error, which a division by a deviation of that size would blow up.
    """
    lowest, highest = (find(rewards, axis=1, keepdims=True) for find in (jnp.min, jnp.max))
    mean = jnp.mean(rewards, axis=1, keepdims=True)
    advantages = jnp.where(lowest == highest, 0.0, rewards - mean)
    if config.baseline == "leave-one-out":  # r - (sum - r) / (G - 1) = (r - mean) * G / (G - 1)
        advantages *= rewards.shape[1] / max(rewards.shape[1] - 1, 1)
    if not config.normalize_by_std:
        return advantages
    # A group of one has no spread: its advantage is 0 either way.
    degrees = max(rewards.shape[1] - 1, 1)
    variance = jnp.sum(advantages**2, axis=1, keepdims=True) / degrees
    # Where nothing is spread the advantages are 0; a root of 0 would have no gradient.
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    return advantages / (deviation + config.std_epsilon)


def by_source(advantages: jax.Array, sources: jax.Array) -> jax.Array:
    """Advantages [P, G] divided by the root mean square of those of the same source, int32 [P];
    a source whose advantages are all 0 keeps them."""
    same = (sources[:, None] == sources).astype(jnp.float32)
    squares = same @ jnp.mean(advantages**2, axis=1) / jnp.sum(same, axis=1)
    return advantages / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))[:, None]


def grounding_aware_advantages(
    rewards: jax.Array,
    fidelity: jax.Array,
    valid: jax.Array,
    config: AdvantageConfig = AdvantageConfig(),
    sources: jax.Array | None = None,
) -> jax.Array:
    """Group advantages, scaled by how well each trajectory's evidence supports them.

    Well-grounded wins and badly grounded losses count for more; lucky wins and unlucky losses
    count for less:

        binary         f > 0         f <= 0
        A >= 0      good_scale     bad_scale
        A <  0       bad_scale    good_scale

    Args:
      rewards: [P, G] total rewards of P questions with G rollouts each.
      fidelity: [P, G] evidence fidelity f; ignored where not valid.
      valid: [P, G] bool: the trajectory used a tool and f is known.
      config: see AdvantageConfig.
      sources: [P] int32, a number for each source of questions, for config.per_source.

    Returns: [P, G] float32. Raises ValueError for shapes that differ.
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    fidelity = jnp.asarray(fidelity, jnp.float32)
    valid = jnp.asarray(valid, bool)
    if rewards.ndim != 2 or not rewards.shape == fidelity.shape == valid.shape:
        raise ValueError(
            f"rewards {rewards.shape}, fidelity {fidelity.shape} and valid {valid.shape} "
            "must all be [questions, rollouts]"
        )
    advantages = group_advantages(rewards, config)
    if config.per_source:
        assert sources is not None
        advantages = by_source(advantages, sources)
    if config.mode == "none":
        return advantages
    if config.mode == "binary":
        agree = (advantages >= 0) == (fidelity > 0)
        scale = jnp.where(agree, config.good_scale, config.bad_scale)
    else:
        bounded = jnp.clip(fidelity, -config.clip, config.clip)
        direction = jnp.where(advantages >= 0, 1.0, -1.0)
        scale = jnp.maximum(1.0 + config.alpha * direction * bounded, config.min_scale)
    return advantages * jnp.where(valid, scale, 1.0)
