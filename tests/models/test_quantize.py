"""int8 and bfloat16 bases: bounds by NumPy, and what they do to logits, measured."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.models.quantize import dequantize, quantize
from tests.models import model_cases

CONFIG = model_cases.tiny_config()
# Relative, root mean square. int8 with a factor a channel: a weight is off by at most half a step,
# and uniformly, so a normal channel's error is (largest / 127) / sqrt(12) of its spread: for 64 to
# 80 weights with a largest of 2.5 spreads 0.57 %. bfloat16 keeps 8 bits: 2^-9 at most, 0.17 % on
# average. Logits add up the errors of 21 products in 3 layers.
KERNELS = {"float32": (0, 0), "bfloat16": (1e-3, 2.5e-3), "int8": (4e-3, 8e-3)}
LOGITS = {"float32": (0, 0), "bfloat16": (1e-3, 1.5e-2), "int8": (3e-3, 3e-2)}


def weights():
    return models.import_hf(model_cases.random_state_dict(CONFIG, seed=1), CONFIG)


def scores(params):
    x = jnp.asarray(np.random.default_rng(4).normal(0, 1, (2, 12, 64)), jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(12), (3, 2, 12))
    hidden = models.forward(params, CONFIG, x, positions, jnp.ones((2, 12), bool))
    return np.asarray(models.logits(params, CONFIG, hidden), np.float64)


def test_each_channel_has_its_own_factor():
    kernel = np.random.default_rng(0).normal(size=(3, 20, 5)).astype(np.float32)
    kernel[:, :, 1] *= 1e-6
    kernel[1, :, 3] = 0
    rounded, scale = quantize(jnp.asarray(kernel))
    assert rounded.dtype == jnp.int8 and scale.shape == (3, 5)
    rounded, scale = np.asarray(rounded), np.asarray(scale)
    largest = np.abs(kernel).max(1)
    np.testing.assert_allclose(scale[largest > 0], (largest / 127)[largest > 0], rtol=1e-6)
    assert (np.abs(rounded).max(1)[largest > 0] == 127).all()
    assert not rounded[1, :, 3].any() and np.isfinite(scale).all()
    error = np.abs(rounded * scale[:, None].astype(np.float64) - kernel)
    assert (error <= scale[:, None] * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("base", KERNELS)
def test_a_frozen_base_and_its_error(base):
    params = weights()
    frozen = models.freeze(params, base)
    kernels = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(frozen):
        names = [entry.key for entry in path]
        decoder = names[:2] == ["text", "layers"]
        if base == "int8" and decoder and names[-1] == "kernel":
            assert leaf.dtype == jnp.int8
            kernels += 1
        elif names[-1] == "kernel_scale":
            assert base == "int8" and decoder and leaf.dtype == jnp.float32
        else:
            assert leaf.dtype == (jnp.float32 if base == "float32" else jnp.bfloat16), names
    assert kernels == (7 if base == "int8" else 0)
    low, high = KERNELS[base]
    assert low <= models.rounding_error(params, frozen) <= high
    exact, found = scores(params), scores(frozen)
    low, high = LOGITS[base]
    assert low <= np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)) <= high


def test_int8_products_are_those_of_the_kernels_they_stand_for():
    frozen = models.freeze(weights(), "int8")
    np.testing.assert_allclose(scores(frozen), scores(models.plain_kernels(frozen)), atol=2e-5)


def test_freezing_again_rounds_nothing_again():
    params = weights()
    frozen = models.freeze(params, "int8")
    again = models.freeze(frozen, "int8")
    jax.tree.map(np.testing.assert_array_equal, frozen, again)
    back = models.freeze(frozen, "float32")
    assert jax.tree.structure(back) == jax.tree.structure(params)
    part = frozen["text"]["layers"]["mlp"]["up_proj"]
    np.testing.assert_array_equal(
        back["text"]["layers"]["mlp"]["up_proj"]["kernel"],
        dequantize(part["kernel"], part["kernel_scale"]),
    )


def test_an_int8_decoder_is_half_of_a_bfloat16_one():
    """At the 7B's sizes, without allocating them: bytes of the decoder's layers."""
    text = models.TextConfig(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        mrope_section=(16, 24, 24),
    )
    vision = dataclasses.replace(CONFIG.vision, out_hidden_size=3584)
    shapes = models.param_shapes(models.ModelConfig(vision, text))

    def size(base):
        frozen = jax.eval_shape(lambda params: models.freeze(params, base), shapes)
        leaves = jax.tree.leaves(frozen["text"]["layers"])
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    assert size("bfloat16") * 2 == size("float32")
    assert 0.5 < size("int8") / size("bfloat16") < 0.501
