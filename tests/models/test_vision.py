"""The vision tower: frames are independent of each other, windows of each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.models import vision
from tests.models import model_cases

CONFIG = model_cases.tiny_config(window=56, full=(1,))


@functools.cache
def tower(config):
    params = models.import_hf(model_cases.random_state_dict(config, seed=4), config)
    encode = jax.jit(models.encode_frames, static_argnums=1)
    return lambda frames: np.asarray(encode(params, config, frames))


def test_a_frames_tokens_do_not_depend_on_its_neighbours():
    frames = model_cases.random_frames(5, 84, 112, seed=1)
    together = tower(CONFIG)(frames)
    for index in (0, 3):
        alone = tower(CONFIG)(frames[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)
    other = frames.copy()
    other[1:3] = 0
    np.testing.assert_array_equal(tower(CONFIG)(other)[[0, 3, 4]], together[[0, 3, 4]])


def test_without_full_attention_a_window_sees_itself_only():
    config = model_cases.tiny_config(window=56, full=())
    frames = model_cases.random_frames(1, 84, 112, seed=2)
    before = tower(config)(frames)[0].reshape(3, 4, -1)
    frames[0, :28, :28] ^= 255  # inside the window of rows 0 to 1, columns 0 to 1
    changed = (tower(config)(frames)[0].reshape(3, 4, -1) != before).any(axis=-1)
    np.testing.assert_array_equal(changed, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (4, 4), (9, 2)])
def test_every_patch_has_one_slot(shape):
    grid = vision.make_grid(CONFIG.vision, *shape)
    assert sorted(grid.order) == list(range(shape[0] * shape[1]))
    np.testing.assert_array_equal(
        grid.places[grid.places >= 0],
        np.arange(shape[0] * shape[1] * CONFIG.vision.spatial_merge_size**2),
    )


def test_one_compilation_a_frame_size():
    traced = []

    @jax.jit
    def encode(params, frames):
        traced.append(frames.shape)
        return models.encode_frames(params, CONFIG, frames)

    params = models.init_params(CONFIG, jax.random.key(0))
    for seed in range(3):
        encode(params, model_cases.random_frames(2, 56, 84, seed))
    assert traced == [(2, 56, 84, 3)]


def test_frames_that_do_not_split_into_tokens_are_refused():
    assert models.frame_grid(CONFIG, 28, 56) == (1, 2)
    with pytest.raises(ValueError, match="30x56 pixels do not split into 28-pixel tokens"):
        models.frame_grid(CONFIG, 30, 56)


@pytest.mark.parametrize("full", [(), (0, 1, 2), (1,)])
def test_gradients_equal_finite_differences(full):
    """The window gathers have a backward pass of their own; windows do not divide this frame."""
    config = model_cases.tiny_config(window=56, full=full)
    params = models.import_hf(model_cases.random_state_dict(config, seed=4), config)
    frames = model_cases.random_frames(2, 84, 84, seed=6)

    @jax.jit
    def loss(vision):
        return jnp.sin(models.encode_frames({"vision": vision}, config, frames)).sum()

    random = np.random.RandomState(0)
    gradient, params = jax.grad(loss)(params["vision"]), params["vision"]
    step = jax.tree.map(lambda p: random.standard_normal(p.shape).astype(np.float32), params)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, s: float((g * s).sum()), gradient, step)))

    def moved(size):
        return float(loss(jax.tree.map(lambda p, s: p + size * s, params, step)))

    np.testing.assert_allclose((moved(1e-4) - moved(-1e-4)) / 2e-4, slope, rtol=0.02)
