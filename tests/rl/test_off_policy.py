"""Corrections for another policy's rollouts: their formulas in NumPy, and what they are for, that
the expectation of a gradient under the sampler's policy is the learner's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.errors import UserError
from medscope_jax.rl import LossConfig, policy_loss


def drawn(seed, rows=5, length=7):
    random = np.random.default_rng(seed)
    sampled = -random.exponential(1, (rows, length))
    learned = sampled + random.normal(0, 0.7, (rows, length))
    mask = np.arange(length) < random.integers(0, length + 1, (rows, 1))
    mask[0] = True
    return learned, sampled, random.normal(0, 1, rows), mask


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["ppo", "gspo", "cispo"]),
    st.sampled_from([0.0, 1.0, 1.3, 2.0]),
    st.sampled_from([0.0, 1.05, 1.3]),
)
def test_tokens_are_weighted_and_trajectories_left_out(seed, kind, cap, bound):
    learned, sampled, advantages, mask = drawn(seed)
    config = LossConfig(kind=kind, importance_cap=cap, sequence_bound=bound)

    def loss(learned, config=config, old=sampled):
        arrays = learned, jnp.asarray(old), jnp.asarray(advantages), jnp.asarray(mask)
        return policy_loss(*arrays, config)

    (_, metrics), slope = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(learned, jnp.float32))
    ratio = np.exp(learned - sampled)
    mean = np.exp(np.where(mask, learned - sampled, 0).sum(1) / np.maximum(mask.sum(1), 1))
    kept = np.ones(len(mask), bool)
    if bound:
        kept = (mean <= bound) & (mean >= 1 / bound)
        assert metrics["sequence_masked"] == pytest.approx(
            (~kept[:, None] & mask).sum() / mask.sum()
        )
    if cap:
        # The ratio to the policy before the update is 1: a token's slope is -A, or the gradient of
        # its trajectory's mean ratio, before the weight.
        plain = np.where(mask, -advantages[:, None], 0) / mask.sum()
        if kind == "gspo":
            total = (np.minimum(ratio, cap) * mask).sum(1, keepdims=True)
            plain, weights = plain / np.maximum(mask.sum(1, keepdims=True), 1) * total, 1.0
        else:
            weights = np.minimum(ratio, cap)
        np.testing.assert_allclose(slope, plain * weights * kept[:, None], rtol=2e-3, atol=1e-6)
        wanted = (ratio > cap)[mask].mean()
        assert metrics["importance_capped"] == pytest.approx(wanted, abs=1e-6)
        assert metrics["importance_mean"] == pytest.approx(ratio[mask].mean(), rel=1e-4)
    else:
        without = jax.grad(lambda x: loss(x, LossConfig(kind=kind))[0])(
            jnp.asarray(learned, jnp.float32)
        )
        np.testing.assert_allclose(slope, without * kept[:, None], rtol=1e-5, atol=1e-8)
        assert "importance_mean" not in metrics


def test_the_mean_gradient_is_the_learner_s_own():
    """A choice among four words, summed over all that the sampler may write, by its probability:
    what the learner's own samples would give, which without the weights it is not."""
    learner, sampler = np.array([0.2, -0.5, 1.0, 0.1]), np.array([0.5, 0.1, 0.2, -0.3])
    rewards = np.array([1.0, -2.0, 0.5, 3.0])

    def gradient(scores_of_sampler, cap):
        chance = jax.nn.softmax(jnp.asarray(scores_of_sampler))
        sampled = jnp.log(chance)[:, None]

        def loss(scores):
            told = jax.nn.log_softmax(scores)[:, None]
            config = LossConfig(importance_cap=cap, aggregation="seq-mean-token-sum")
            # Each word is a trajectory of one token, which the sampler writes `chance` often.
            weighted = jnp.asarray(rewards) * chance * len(rewards)
            return policy_loss(told, sampled, weighted, jnp.ones((4, 1)), config)[0]

        return jax.grad(loss)(jnp.asarray(learner))

    wanted = gradient(learner, 0.0)
    np.testing.assert_allclose(gradient(sampler, 100.0), wanted, atol=1e-6)
    assert np.abs(gradient(sampler, 1.0) - wanted).max() > 0.05


def test_padding_may_hold_anything():
    learned, sampled, advantages, mask = drawn(3)
    config = LossConfig(importance_cap=2.0, sequence_bound=2.0)
    holes = [np.where(mask, x, np.nan) for x in (learned, sampled)]
    found = policy_loss(*map(jnp.asarray, (*holes, advantages, mask)), config)
    wanted = policy_loss(*map(jnp.asarray, (learned, sampled, advantages, mask)), config)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"importance_cap": 0.5}, "importance_cap is 0.5; it must be 0, or 1 or more"),
        ({"sequence_bound": 1.0}, "sequence_bound is 1.0; it must be 0, or above 1"),
    ],
)
def test_bounds_that_mean_nothing(values, message):
    with pytest.raises(UserError, match=message):
        LossConfig(**values)
