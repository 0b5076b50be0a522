"""Losses that others publish: GSPO, CISPO, Dr. GRPO's constant length, RLOO, and what shapes
rewards, against their formulas written out in NumPy, and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.errors import UserError
from medscope_jax.rl import AdvantageConfig, LossConfig, RewardConfig, overlong_penalty, policy_loss
from medscope_jax.rl.advantages import by_source, group_advantages
from medscope_jax.rl.loss import loss_normalizer


def drawn(seed, rows=5, length=7):
    random = np.random.default_rng(seed)
    old = -random.exponential(1, (rows, length))
    new = old + random.normal(0, 0.3, (rows, length))
    mask = np.arange(length) < random.integers(0, length + 1, (rows, 1))
    mask[0] = True
    return new, old, random.normal(0, 1, rows), mask


def gspo(new, old, advantages, mask, low, high):
    """(loss, gradient by new): the mean over sequences of -min(s A, clip(s) A), s the geometric
    mean of the tokens' ratios (equations 5 and 7 of the paper)."""
    rows = [b for b in range(len(new)) if mask[b].any()]
    loss, gradient = 0.0, np.zeros(new.shape)
    for b in rows:
        seen = mask[b]
        ratio = np.exp(np.mean((new - old)[b, seen]))
        free, held = ratio * advantages[b], np.clip(ratio, 1 - low, 1 + high) * advantages[b]
        loss -= min(free, held) / len(rows)
        if free <= held:
            gradient[b, seen] = -free / seen.sum() / len(rows)
    return loss, gradient


def cispo(new, old, advantages, mask, low, high):
    """(loss, gradient by new): -sg(clip(r)) A log p, a mean over all tokens (equation 4)."""
    weights = np.clip(np.exp(new - old), 1 - low, 1 + high) * advantages[:, None] * mask
    return -(weights * new * mask).sum() / mask.sum(), -weights / mask.sum()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(0.2, 0.2), (0.0003, 0.0004), (0.1, 0.5)]))
def test_gspo_and_cispo_are_their_formulas(seed, clip):
    new, old, advantages, mask = drawn(seed)
    for kind, formula, aggregation in (
        ("gspo", gspo, "seq-mean-token-mean"),
        ("cispo", cispo, "token-mean"),
    ):
        config = LossConfig(kind=kind, clip_low=clip[0], clip_high=clip[1], aggregation=aggregation)

        def loss(new, config=config):
            return policy_loss(new, old, jnp.asarray(advantages), jnp.asarray(mask), config)[0]

        wanted, slope = formula(new, old, advantages, mask, *clip)
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(new, jnp.float32))
        assert value == pytest.approx(wanted, rel=1e-4, abs=1e-5), kind
        np.testing.assert_allclose(gradient, slope, rtol=2e-3, atol=1e-5, err_msg=kind)


def test_gspo_s_ratio_is_one_a_trajectory():
    """One token ten times as likely, one a tenth: together nothing has changed, and nothing is
    clipped, where ppo clips both."""
    new, old = np.log([[0.5, 0.05, 0.3]]), np.log([[0.05, 0.5, 0.3]])
    mask = np.ones((1, 3))
    found = {}
    for kind in ("ppo", "gspo"):
        _, found[kind] = policy_loss(new, old, np.ones(1), mask, LossConfig(kind=kind))
    assert found["gspo"]["ratio_max"] == pytest.approx(1) and found["gspo"]["clip_fraction"] == 0
    assert found["ppo"]["ratio_max"] == pytest.approx(10)
    assert found["ppo"]["clip_fraction"] == pytest.approx(1 / 3)


def test_a_constant_length_weighs_all_tokens_alike():
    """Dr. GRPO by hand: ratios of 1, so a token's loss is -A; rows of 1 and 3 tokens, a horizon of
    10: (2 * 1 - 1 * 3) / (2 * 10)."""
    mask = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0]])
    config = LossConfig(aggregation="constant-length", horizon=10)
    zeros, advantages = np.zeros((3, 3)), np.array([-2.0, 1.0, 5.0])
    loss, _ = policy_loss(zeros, zeros, advantages, mask, config)
    assert loss == pytest.approx((2 * 1 - 1 * 3) / 20)
    # Parts of a batch add up, with the whole's normalizer.
    whole = loss_normalizer(jnp.asarray(mask), config.aggregation, config.horizon)
    assert whole == 20
    parts = [
        policy_loss(zeros[i:j], zeros[i:j], advantages[i:j], mask[i:j], config, whole)[0]
        for i, j in ((0, 1), (1, 3))
    ]
    assert sum(parts) == pytest.approx(loss)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=6))
def test_leave_one_out_compares_with_the_others(rewards):
    config = AdvantageConfig(mode="none", baseline="leave-one-out")
    found = group_advantages(jnp.asarray([rewards], jnp.float32), config)[0]
    for i, value in enumerate(rewards):
        others = [r for j, r in enumerate(rewards) if j != i]
        # Where all are alike, exactly 0; the mean of equal numbers may miss them by a rounding.
        assert found[i] == pytest.approx(value - np.mean(others), abs=1e-4)


def test_sources_weigh_alike():
    """One source's rewards spread ten times as far; another has no signal."""
    advantages = jnp.array([[1.0, -1.0], [10.0, -10.0], [30.0, -30.0], [0.0, 0.0]])
    found = by_source(advantages, jnp.array([0, 1, 1, 2]))
    root = np.sqrt((10**2 + 30**2) / 2)
    wanted = [[1, -1], [10 / root, -10 / root], [30 / root, -30 / root], [0, 0]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("tokens, lost", [(80, 0), (90, 0), (95, 0.5), (100, 1), (4000, 1)])
def test_what_is_too_long_loses(tokens, lost):
    assert overlong_penalty(tokens, RewardConfig(overlong=100, overlong_buffer=10)) == -lost
    assert overlong_penalty(tokens, RewardConfig()) == 0
    assert overlong_penalty(tokens, RewardConfig(overlong=100)) == -float(tokens > 100)


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda: LossConfig(kind="grpo"), 'kind is "grpo"; choose ppo, gspo, cispo'),
        (lambda: LossConfig(horizon=5), "horizon is 5; it must be above 0 with"),
        (lambda: LossConfig(aggregation="constant-length"), "horizon is 0; it must be above 0"),
        (lambda: AdvantageConfig(baseline="loo"), 'choose "mean" or "leave-one-out"'),
        (lambda: RewardConfig(overlong_buffer=5), "overlong_buffer is 5; it must be from 0 to"),
    ],
)
def test_values_that_mean_nothing_are_refused(make, why):
    with pytest.raises(UserError, match=why):
        make()
