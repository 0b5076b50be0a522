"""A cache of int8 numbers: what rounding does to what is read, and to the model's scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.models import cache as cache_room
from tests.models import model_cases

CONFIG = model_cases.tiny_config(kv_heads=2)
SLOTS = 24


def filled(dtype, per_layer=False):
    """A cache with positions 2 to 6 of row 0 and 0 to 2 of row 1 written, and what was written."""
    layers, heads, width = 2, 2, CONFIG.text.head_dim
    config = dataclasses.replace(
        CONFIG, text=dataclasses.replace(CONFIG.text, num_hidden_layers=layers)
    )
    cache = models.init_cache(config, 2, SLOTS, per_layer, dtype)
    random = np.random.RandomState(0)
    key, value = random.standard_normal((2, layers, 2, 5, heads, width)).astype(np.float32)
    key[0, 0, 1, 1] = 0  # a head without any size
    key[1, 0, 2, 0, 3] = 50.0  # one number far larger than the others of its head
    start, count = jnp.array([2, 0]), jnp.array([5, 3])
    parts = cache_room.split_layers(cache) if per_layer else [cache] * layers
    for layer in range(layers):
        place = 0 if per_layer else layer
        given = parts[layer] if per_layer else cache
        cache = cache_room.write(given, place, key[layer], value[layer], start, count)
        parts[layer] = cache
    return (cache_room.join_layers(parts) if per_layer else cache), key, value


@pytest.mark.parametrize("per_layer", [False, True])
def test_int8_is_off_by_half_a_factor(per_layer):
    """Each head of each position has a factor of its own: its largest number over 127."""
    cache, key, value = filled("int8", per_layer)
    for layer in range(2):
        part = cache_room.split_layers(cache)[layer] if per_layer else cache
        found = cache_room.read(part, 0 if per_layer else layer, jnp.float32)
        for got, wanted in zip(found, (key[layer], value[layer]), strict=True):
            got = np.asarray(got).transpose(0, 2, 1, 3)  # [B, M, K, hd]
            step = np.abs(wanted).max(axis=-1, keepdims=True) / 127
            off = np.abs(got[0, 2:7] - wanted[0])
            assert (off <= step[0] / 2 + 1e-6).all() and off.max() > 0
            assert (np.abs(got[1, :3] - wanted[1, :3]) <= step[1, :3] / 2 + 1e-6).all()
            assert (got[0, :2] == 0).all() and (got[0, 7:] == 0).all() and (got[1, 3:] == 0).all()


def test_layers_of_a_cache_come_apart_and_together():
    cache, _, _ = filled("int8", per_layer=True)
    parts = cache_room.split_layers(cache)
    assert len(parts) == 2 and all(part.k.shape[0] == 1 for part in parts)
    again = cache_room.join_layers(parts)
    assert jax.tree.structure(again) == jax.tree.structure(cache)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(cache), strict=True):
        np.testing.assert_array_equal(one, other)


def test_int8_rows_move_with_their_factors():
    """Also into a cache with more positions, whose other positions stay."""
    cache, _, _ = filled("int8")
    larger = models.init_cache(CONFIG, 3, SLOTS + 6, dtype="int8")
    larger = jax.tree.map(lambda part: part[:2] + 1, larger)
    moved = models.put_rows(larger, jnp.array([2]), models.take_rows(cache, jnp.array([0])))
    for got, wanted in zip(jax.tree.leaves(moved), jax.tree.leaves(cache), strict=True):
        np.testing.assert_array_equal(got[:, 2, :, :SLOTS], wanted[:, 0])
        assert (got[:, 2, :, SLOTS:] == 1).all() and (got[:, :2] == 1).all()


def size(dtype):
    """Bytes of a 7B's cache for a row of 1,024 positions."""
    cache = jax.eval_shape(lambda: models.init_cache(models.preset("7b"), 1, 1024, dtype=dtype))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))


def test_int8_takes_half():
    assert size("") == 1024 * 28 * 4 * 128 * 2 * 2
    assert size("int8") / size("") == pytest.approx((128 + 4) / 256)


def test_scores_with_int8_are_close():
    """A prompt, then single steps, in a random model: logits move by 3 % of their spread."""
    params = models.import_hf(model_cases.random_state_dict(CONFIG, seed=3), CONFIG)
    random = np.random.RandomState(0)
    x = random.standard_normal((3, 20, 64)).astype(np.float32)
    positions = np.broadcast_to(np.arange(20, dtype=np.int32), (3, 3, 20))
    step = jax.jit(models.forward_cached, static_argnums=1)
    scores = {}
    for dtype in ("", "int8"):
        cache, hidden = models.init_cache(CONFIG, 3, SLOTS, dtype=dtype), []
        for begin, end in ((0, 17), (17, 18), (18, 19), (19, 20)):
            start, count = np.full(3, begin), np.full(3, end - begin)
            piece, place = x[:, begin:end], positions[:, :, begin:end]
            out, cache = step(params, CONFIG, piece, place, cache, start, count)
            hidden.append(out)
        scores[dtype] = np.asarray(models.logits(params, CONFIG, jnp.concatenate(hidden, axis=1)))
    off = np.abs(scores["int8"] - scores[""]) / scores[""].std()
    assert 1e-4 < off.max() < 0.03 and off.mean() < 0.006
