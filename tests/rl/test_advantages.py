"""Grounding-aware advantages: golden values, a second implementation, invariances."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.rl import AdvantageConfig, grounding_aware_advantages

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


def test_equal_rewards_and_lone_rollouts_give_zero():
    for shape in ((2, 4), (3, 1)):
        ones = np.ones(shape, np.float32)
        config = AdvantageConfig(normalize_by_std=True)
        assert not np.any(grounding_aware_advantages(ones, ones, ones > 0, config))


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="questions, rollouts"):
        grounding_aware_advantages(np.ones((2, 4)), np.ones((2, 3)), np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="choose"):
        AdvantageConfig(mode="ternary")
