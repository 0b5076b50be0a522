"""Grounding-aware advantages: golden values, a second implementation, invariances."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.distributed import make_mesh
from medscope_jax.rl import AdvantageConfig, Reward, grounding_aware_advantages
from medscope_jax.training.groups import Groups

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "advantages.json").read_text())
FIELDS = (
    "good_scale",
    "bad_scale",
    "alpha",
    "clip",
    "min_scale",
    "normalize_by_std",
    "std_epsilon",
)


@pytest.mark.parametrize("golden", GOLDENS, ids=range(len(GOLDENS)))
def test_golden(golden):
    config = AdvantageConfig(golden["mode"], **{name: golden[name] for name in FIELDS})
    shape = (-1, golden["group_size"])
    rewards, fidelity, valid = (
        np.reshape(golden[name], shape) for name in ("rewards", "fidelity", "used_tool")
    )
    advantages = grounding_aware_advantages(rewards, fidelity, valid, config)
    np.testing.assert_allclose(advantages.ravel(), golden["advantages"], atol=1e-5)


def plain_advantages(rewards, fidelity, valid, config):
    """One trajectory at a time, in float64."""
    result = np.zeros(rewards.shape)
    for p, group in enumerate(rewards.astype(np.float64)):
        for g, reward in enumerate(group):
            advantage = reward - group.mean()
            if config.normalize_by_std:
                advantage /= group.std(ddof=1) + config.std_epsilon
            f, scale = fidelity[p, g], 1.0
            if valid[p, g] and config.mode == "binary":
                if advantage >= 0:
                    scale = config.good_scale if f > 0 else config.bad_scale
                else:
                    scale = config.bad_scale if f > 0 else config.good_scale
            elif valid[p, g] and config.mode == "continuous":
                c = min(max(f, -config.clip), config.clip)
                sign = 1 if advantage >= 0 else -1
                scale = max(1 + sign * config.alpha * c, config.min_scale)
            result[p, g] = advantage * scale
    return result


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    mode=st.sampled_from(["binary", "continuous", "none"]),
    normalize=st.booleans(),
    alpha=st.sampled_from([0.2, 2.0]),
)
def test_equals_second_implementation(seed, mode, normalize, alpha):
    random = np.random.default_rng(seed)
    rewards = random.normal(1, 1, (3, 8)).astype(np.float32)
    fidelity = random.choice([-1, -0.3, 0, 0.4, 1.6], (3, 8)).astype(np.float32)
    valid = random.random((3, 8)) < 0.7
    config = AdvantageConfig(mode=mode, normalize_by_std=normalize, alpha=alpha)
    np.testing.assert_allclose(
        jax.jit(grounding_aware_advantages, static_argnums=3)(rewards, fidelity, valid, config),
        plain_advantages(rewards, fidelity, valid, config),
        atol=1e-5,
    )


def test_unknown_fidelity_is_never_read():
    rewards = np.float32([[1, 2, 3, 4]])
    fidelity = np.float32([[np.nan, 1, -1, 0]])
    valid = np.zeros((1, 4), bool)
    advantages = grounding_aware_advantages(rewards, fidelity, valid)
    np.testing.assert_allclose(advantages, [[-1.5, -0.5, 0.5, 1.5]])


# Rewards as runs give them: sums of parts in tenths, and any others.
tenths = st.integers(-20, 40).map(lambda tenth: np.float32(round(tenth * 0.1, 1)))
amounts = st.one_of(tenths, st.floats(-100, 100, width=32))
COMPILED = jax.jit(grounding_aware_advantages, static_argnums=3)


@settings(deadline=None, max_examples=80)
@given(
    alike=st.lists(amounts, min_size=4, max_size=4),
    seed=st.integers(0, 10_000),
    case=st.sampled_from(
        [(8, "binary", True), (3, "continuous", True), (31, "none", True), (8, "binary", False)]
    ),
)
def test_groups_rewarded_alike_have_no_advantage(alike, seed, case):
    """Exact zeros, whatever is known of their evidence; the other groups as ever."""
    group, mode, normalize = case
    random = np.random.default_rng(seed)
    rewards = np.repeat(np.float32(alike)[:, None], group, axis=1)
    # The others differ in tenths: nothing that rounding could hide.
    rewards[2:] += np.float32(random.integers(0, 5, (2, group)) * 0.1)
    fidelity = random.normal(0, 1, rewards.shape).astype(np.float32)
    valid = random.random(rewards.shape) < 0.5
    config = AdvantageConfig(mode=mode, normalize_by_std=normalize)
    scored = [Reward(0, 0, 0, 0, total) for total in rewards.ravel().tolist()]
    signal = Groups(np.arange(4), np.arange(4), None, scored, scored).signal
    assert not signal[:2].any()
    found = np.asarray(COMPILED(rewards, fidelity, valid, config))
    np.testing.assert_array_equal(found.any(axis=1), signal)
    expected = plain_advantages(rewards, fidelity, valid, config) * signal[:, None]
    # Half an ulp of rewards near 100 beside a deviation of 0.1 is 1e-4 at most.
    np.testing.assert_allclose(found, expected, atol=3e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_equal_rewards_on_a_mesh(normalize):
    """Groups spread over devices, and single groups split between them."""
    values = np.round(np.arange(-20, 40) * 0.1, 1).astype(np.float32)
    rewards = np.repeat(values[:56, None], 8, axis=1)
    config = AdvantageConfig(normalize_by_std=normalize)
    mesh = make_mesh({"data": 4, "tensor": 2})
    for axes in (("data", None), ("data", "tensor")):
        split = jax.device_put(rewards, jax.NamedSharding(mesh, jax.P(*axes)))
        assert not np.any(COMPILED(split, split, split > 0, config))


def test_gradients_are_finite():
    """Also through groups without spread, and without the epsilon that guards the division."""
    rewards = np.float32([[2.4] * 8, [0.1, 0.7] * 4, [1e-30, 0.0] * 4])
    config = AdvantageConfig(normalize_by_std=True, std_epsilon=0.0)

    @jax.jit
    @jax.value_and_grad
    def total(rewards):
        return jnp.sum(grounding_aware_advantages(rewards, rewards, rewards > 0, config) ** 2)

    value, gradient = total(rewards)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="questions, rollouts"):
        grounding_aware_advantages(np.ones((2, 4)), np.ones((2, 3)), np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="choose"):
        AdvantageConfig(mode="ternary")
