"""The optimizer is AdamW with warm-up and cosine decay, by NumPy; only the trained part moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.training.train_state import apply_gradients, init_state, make_optimizer, trained

STAGE = {
    "learning_rate": 0.1,
    "warmup": 0.25,
    "weight_decay": 0.02,
    "clip_norm": 1.0,
    "final_scale": 0.1,
}
STEPS = 8


def learning_rate(step):
    """Warm-up over 2 of 8 steps to 0.1, then half a cosine down to 0.01 at step 8."""
    if step < 2:
        return 0.05 + 0.05 * step / 2
    return 0.01 + 0.09 * (1 + np.cos(np.pi * (step - 2) / 6)) / 2


def test_updates_are_adamw_by_numpy():
    random = np.random.default_rng(0)
    params = {
        "vision": {"w": random.normal(size=3).astype("f")},
        "text": {"w": random.normal(size=(2, 3)).astype("f"), "b": np.ones(2, "f")},
    }
    optimizer = make_optimizer(STAGE, STEPS)
    state = init_state(jax.tree.map(jnp.asarray, params), optimizer, jax.random.key(0), False)
    wanted = {name: value.astype(np.float64) for name, value in params["text"].items()}
    first = {name: np.zeros(value.shape) for name, value in wanted.items()}
    second = {name: np.zeros(value.shape) for name, value in wanted.items()}
    for step in range(STEPS):
        # Norms below and above the clipping norm of 1.
        scale = 0.1 if step % 2 else 3.0
        gradient = {n: scale * random.normal(size=v.shape) for n, v in wanted.items()}
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        assert (norm > 1) == (step % 2 == 0)
        given = {"text": {n: jnp.asarray(g, jnp.float32) for n, g in gradient.items()}}
        state, reported = apply_gradients(state, given, optimizer)
        np.testing.assert_allclose(reported, norm, rtol=1e-5)
        for name, g in gradient.items():
            g = g / max(1.0, norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.98 * second[name] + 0.02 * g**2
            direction = (first[name] / (1 - 0.9 ** (step + 1))) / (
                np.sqrt(second[name] / (1 - 0.98 ** (step + 1))) + 1e-8
            )
            wanted[name] -= learning_rate(step) * (direction + 0.02 * wanted[name])
        for name, value in wanted.items():
            np.testing.assert_allclose(state.params["text"][name], value, atol=1e-5)
        assert state.step == step + 1
    np.testing.assert_array_equal(state.params["vision"]["w"], params["vision"]["w"])


@pytest.mark.parametrize("vision", [False, True])
def test_the_optimizer_holds_nothing_of_a_frozen_tower(vision):
    params = {"vision": {"w": jnp.ones(5)}, "text": {"w": jnp.ones(7)}}
    assert set(trained(params, vision)) == ({"vision", "text"} if vision else {"text"})
    state = init_state(params, make_optimizer(STAGE, STEPS), jax.random.key(0), vision)
    sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
    assert sizes.count(7) == 2 and sizes.count(5) == (2 if vision else 0)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_stages_have_a_schedule(steps):
    optimizer = make_optimizer(STAGE, steps)
    params = {"vision": {}, "text": {"w": jnp.ones(2)}}
    state = init_state(params, optimizer, jax.random.key(0), False)
    for _ in range(steps):
        state, _ = apply_gradients(state, {"text": {"w": jnp.ones(2)}}, optimizer)
    moved = np.asarray(state.params["text"]["w"])
    assert np.isfinite(moved).all() and (moved < 1).all()
