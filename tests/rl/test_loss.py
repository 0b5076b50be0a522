"""Policy loss: golden values, a second implementation with its gradient, padding, splitting."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.rl import LossConfig, loss_normalizer, policy_loss, reference_kl
from medscope_jax.rl.loss import AGGREGATIONS

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "policy_loss.json").read_text())


HORIZON = 11  # tokens


def config_of(aggregation, **more):
    horizon = HORIZON if aggregation == "constant-length" else 0
    return LossConfig(aggregation=aggregation, horizon=horizon, **more)


@pytest.mark.parametrize("golden", GOLDENS, ids=range(len(GOLDENS)))
def test_golden(golden):
    config = LossConfig(
        golden["clip_low"], golden["clip_high"], golden["dual_clip"], golden["aggregation"]
    )
    inputs = (np.float32(golden[name]) for name in ("logprob", "old_logprob", "advantages", "mask"))
    loss, metrics = policy_loss(*inputs, config)
    assert loss == pytest.approx(golden["loss"], abs=1e-5)
    for name in ("clip_fraction", "approx_kl"):
        assert metrics[name] == pytest.approx(golden[name], abs=1e-5), name


def plain_loss(new, old, advantages, mask, config):
    """Token by token in float64; returns the loss and its gradient by `new`."""
    rows, counts = len(new), mask.sum(1)
    loss, gradient = 0.0, np.zeros(new.shape)
    for b in range(rows):
        for t in range(new.shape[1]):
            if not mask[b, t]:
                continue
            weight = {
                "token-mean": 1 / counts.sum(),
                "seq-mean-token-sum": 1 / (counts > 0).sum(),
                "seq-mean-token-mean": 1 / (counts > 0).sum() / max(counts[b], 1),
                "constant-length": 1 / (counts > 0).sum() / HORIZON,
            }[config.aggregation]
            difference = float(new[b, t]) - float(old[b, t])
            ratio = np.exp(np.clip(difference, -20, 20))
            low, high = 1 - config.clip_low, 1 + config.clip_high
            gain = min(ratio * advantages[b], np.clip(ratio, low, high) * advantages[b])
            moving = ratio <= high if advantages[b] > 0 else ratio >= low
            if advantages[b] < 0 and gain < config.dual_clip * advantages[b]:
                gain, moving = config.dual_clip * advantages[b], False
            loss -= weight * gain
            gradient[b, t] = -weight * ratio * advantages[b] * moving * (abs(difference) < 20)
    return loss, gradient


def sample(seed, rows=4, length=9, spread=1.0):
    random = np.random.default_rng(seed)
    old = -random.exponential(1, (rows, length)).astype(np.float32)
    new = old + random.normal(0, spread, (rows, length)).astype(np.float32)
    advantages = random.normal(0, 1, rows).astype(np.float32)
    return new, old, advantages, random.random((rows, length)) < 0.7


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(AGGREGATIONS), st.sampled_from([0.05, 1.0, 12.0]))
def test_loss_and_gradient_equal_second_implementation(seed, aggregation, spread):
    inputs = sample(seed, spread=spread)
    config = config_of(aggregation, clip_low=0.2, clip_high=0.28)
    value = jax.value_and_grad(policy_loss, has_aux=True)
    (loss, _), gradient = jax.jit(value, static_argnums=4)(*inputs, config)
    expected, expected_gradient = plain_loss(*inputs, config)
    np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_padding_is_invisible_even_when_it_is_not_a_number(aggregation):
    new, old, advantages, mask = sample(1)
    config = config_of(aggregation)
    dirty = np.where(mask, new, np.nan)
    wide = [np.pad(x, ((0, 2), (0, 3)), constant_values=np.nan) for x in (dirty, old)]
    padded = (*wide, np.append(advantages, [5, np.nan]), np.pad(mask, ((0, 2), (0, 3))))
    value = jax.value_and_grad(policy_loss, has_aux=True)
    (loss, metrics), gradient = value(new, old, advantages, mask, config)
    (padded_loss, padded_metrics), padded_gradient = value(*map(jnp.asarray, padded), config)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:4, :9], np.where(mask, gradient, 0), rtol=1e-6)
    assert not np.any(padded_gradient[4:]) and not np.any(padded_gradient[:, 9:])
    for name in metrics:
        np.testing.assert_allclose(padded_metrics[name], metrics[name], rtol=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_parts_of_a_batch_add_up(aggregation):
    inputs = sample(2, rows=6)
    config = config_of(aggregation)
    whole = policy_loss(*inputs, config)[0]
    normalizer = loss_normalizer(inputs[3], aggregation, config.horizon)
    parts = [
        policy_loss(*(x[rows] for x in inputs), config, normalizer)[0]
        for rows in (slice(0, 2), slice(2, 6))
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_an_empty_batch_costs_nothing():
    new, old, advantages, mask = sample(3)
    loss, metrics = policy_loss(new, old, advantages, np.zeros_like(mask))
    assert loss == 0 and all(value == 0 for value in metrics.values())


def test_ratios_are_those_of_generated_tokens():
    new, old, advantages, mask = sample(6)
    new = np.where(mask, new, old + 9)  # elsewhere they are larger, and count nowhere
    _, metrics = policy_loss(new, old, advantages, mask)
    ratios = np.exp(new.astype(np.float64) - old)[mask]
    assert metrics["ratio_mean"] == pytest.approx(ratios.mean(), rel=1e-5)
    assert metrics["ratio_max"] == pytest.approx(ratios.max(), rel=1e-5)


def test_on_policy_gradient_is_the_policy_gradient():
    new, _, advantages, mask = sample(4)
    gradient = jax.grad(lambda x: policy_loss(x, new, advantages, mask)[0])(new)
    np.testing.assert_allclose(gradient, -advantages[:, None] * mask / mask.sum(), rtol=1e-5)


def test_reference_kl_is_zero_at_the_reference_and_positive_elsewhere():
    new, old, _, mask = sample(5)
    assert reference_kl(new, new, mask) == 0
    difference = (old - new)[mask].astype(np.float64)
    expected = np.mean(np.exp(difference) - difference - 1)
    assert reference_kl(new, old, mask) == pytest.approx(expected, rel=1e-5)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="choose token-mean"):
        LossConfig(aggregation="mean")
    with pytest.raises(ValueError, match="dual_clip"):
        LossConfig(dual_clip=1.0)
