"""Feeding rows piece by piece equals one full forward pass; what is padding never shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from tests.models import model_cases

CONFIG = model_cases.tiny_config(kv_heads=2)
LENGTHS = np.array([23, 7, 31, 16])
SLOTS = 40


@pytest.fixture(scope="module")
def params():
    return models.import_hf(model_cases.random_state_dict(CONFIG, seed=3), CONFIG)


@jax.jit
def full(params, x, positions, valid):
    return models.forward(params, CONFIG, x, positions, valid)


@jax.jit
def cached(params, x, positions, cache, start, count):
    return models.forward_cached(params, CONFIG, x, positions, cache, start, count)


def rows(seed=0):
    """Embeddings [4, 32, D], positions [3, 4, 32] and valid [4, 32] of four rows."""
    random = np.random.RandomState(seed)
    x = random.standard_normal((4, 32, 64)).astype(np.float32)
    steps = random.randint(0, 3, (3, 4, 32))
    return x, np.cumsum(steps, axis=-1).astype(np.int32), np.arange(32) < LENGTHS[:, None]


def feed(params, x, positions, width, random, garbage=0.0, per_layer=False):
    """Hidden states of the real inputs, fed in random pieces of at most `width`, row by row own."""
    cache = models.init_cache(CONFIG, 4, SLOTS, per_layer)
    cache = jax.tree.map(lambda part: part + garbage, cache)
    start, out = np.zeros(4, np.int32), np.zeros_like(x)
    while (start < LENGTHS).any():
        count = np.minimum(random.randint(0, width + 1, 4), LENGTHS - start).astype(np.int32)
        take = np.minimum(start[:, None] + np.arange(width), 31)
        inside = np.arange(width) < count[:, None]
        piece = np.where(inside[..., None], np.take_along_axis(x, take[..., None], 1), garbage)
        place = np.take_along_axis(positions, np.broadcast_to(take, (3, *take.shape)), 2)
        hidden, cache = cached(params, piece, place, cache, start, count)
        for row in range(4):
            span = slice(start[row], start[row] + count[row])
            out[row, span] = np.asarray(hidden)[row, : count[row]]
        start = start + count
    return out, cache


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("width", [1, 5, 32])
def test_cached_equals_full_whatever_the_pieces(params, width, per_layer):
    x, positions, valid = rows()
    expected = np.asarray(full(params, x, positions, valid))
    for seed in range(3):
        random = np.random.RandomState(seed)
        out, _ = feed(params, x, positions, width, random, seed * 3.0, per_layer)
        np.testing.assert_allclose(out[valid], expected[valid], atol=1e-5)


def test_padding_is_invisible(params):
    x, positions, valid = rows()
    expected = np.asarray(full(params, x, positions, valid))
    dirty = np.where(valid[..., None], x, np.nan).astype(np.float32)
    away = np.where(valid, positions, 12345).astype(np.int32)
    out = np.asarray(full(params, dirty, away, valid))
    np.testing.assert_array_equal(out[valid], expected[valid])
    # Left padding: the same row further right, at the same positions.
    left = np.roll(x, 4, axis=1), np.roll(positions, 4, axis=2), np.roll(valid, 4, axis=1)
    left[2][2, :4] = False  # the longest row wraps around: only its first 28 inputs stay
    left[2][2, 31] = False
    out = np.asarray(full(params, *left))
    np.testing.assert_allclose(out[0, 4:27], expected[0, :23], atol=1e-5)
    np.testing.assert_allclose(out[1, 4:11], expected[1, :7], atol=1e-5)


def test_rows_do_not_depend_on_their_batch(params):
    x, positions, valid = rows()
    expected = np.asarray(full(params, x, positions, valid))
    order = np.array([2, 0, 3, 1])
    out = np.asarray(full(params, x[order], positions[:, order], valid[order]))
    np.testing.assert_allclose(out[valid[order]], expected[order][valid[order]], atol=1e-6)


def test_gradients_of_padding_are_zero(params):
    x, positions, valid = rows()
    dirty = np.where(valid[..., None], x, np.nan).astype(np.float32)

    def loss(x):
        return jnp.square(jnp.where(valid[..., None], full(params, x, positions, valid), 0)).sum()

    gradient = np.asarray(jax.grad(loss)(dirty))
    assert np.isfinite(gradient).all()
    assert (gradient[~valid] == 0).all() and (np.abs(gradient[valid]).max(axis=-1) > 0).all()


def test_nothing_is_written_beyond_count(params):
    x, positions, _ = rows()
    cache = jax.tree.map(lambda part: part + 7.0, models.init_cache(CONFIG, 4, SLOTS))
    start, count = np.array([0, 3, 38, 40], np.int32), np.array([2, 0, 5, 5], np.int32)
    _, after = cached(params, x[:, :5], positions[:, :, :5], cache, start, count)
    touched = np.asarray(after.k != 7.0).any(axis=(0, 2, 4))  # [B, M]
    assert [list(np.flatnonzero(row)) for row in touched] == [[0, 1], [], [38, 39], []]


@pytest.mark.parametrize("per_layer", [False, True])
def test_rows_of_a_cache_move_together(per_layer):
    cache = models.init_cache(CONFIG, 3, 5, per_layer)
    cache = jax.tree.map(lambda part: part + np.arange(3.0)[:, None, None, None], cache)

    def values(cache):
        return [part[0, :, 0, 0, 0].tolist() for part in jax.tree.leaves(cache)][-1]

    part = models.take_rows(cache, np.array([2, 0]))
    assert values(part) == [2, 0]
    assert values(models.put_rows(cache, np.array([0, 1]), part)) == [2, 0, 2]


def test_long_rows_cross_query_blocks(params):
    """Causal attention works in blocks of queries: a length of several equals the cached path."""
    length = 300
    random = np.random.RandomState(1)
    x = random.standard_normal((2, length, 64)).astype(np.float32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (3, 2, length))
    valid = np.arange(length) < np.array([[300], [131]])
    expected = np.asarray(full(params, x, positions, valid))
    cache = models.init_cache(CONFIG, 2, length)
    count = np.array([300, 131], np.int32)
    out, _ = cached(params, x, positions, cache, np.zeros(2, np.int32), count)
    np.testing.assert_allclose(np.asarray(out)[valid], expected[valid], atol=1e-5)
