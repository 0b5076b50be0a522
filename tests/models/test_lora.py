"""Adapters against merged weights and direct formulas; what they leave alone stays bitwise.

Tolerances in float32, where only the order of sums differs: 1e-5 for logits of size 1, 1e-4 of each
array's largest entry for gradients.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.errors import UserError
from medscope_jax.models.layers import Dense
from tests.models import model_cases

LORA = models.LoraConfig(rank=4, alpha=6.0, base="float32")
CONFIG = dataclasses.replace(model_cases.tiny_config(), lora=LORA)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@functools.cache
def params(base="float32"):
    """Weights and adapters, none of them zero, with the frozen leaves in `base`."""
    weights = models.import_hf(model_cases.random_state_dict(CONFIG, seed=1), CONFIG)
    whole = models.add_lora(models.freeze(weights, base), CONFIG, jax.random.key(2))
    random = np.random.default_rng(3)
    change = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.1, leaf.shape), jnp.float32),
        models.adapter_shapes(CONFIG, LORA),
    )
    return models.join_params(whole, change)


def inputs(length=12):
    """(embeddings [2, L, 64], positions [3, 2, L], valid [2, L]); the second row is shorter."""
    random = np.random.default_rng(4)
    x = jnp.asarray(random.normal(0, 1, (2, length, 64)), jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(length), (3, 2, length))
    return x, positions, jnp.arange(length) < jnp.array([length, length - 4])[:, None]


@functools.partial(jax.jit, static_argnums=1)
def scores(weights, config=CONFIG):
    return models.logits(weights, config, models.forward(weights, config, *inputs()))


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("base", ["float32", "int8"])
def test_adapters_compute_what_merged_weights_do(base):
    plain = dataclasses.replace(CONFIG, lora=None)
    with_adapters = scores(params(base))
    merged = models.merge_lora(params(base), CONFIG)
    assert jax.tree.structure(merged) == jax.tree.structure(models.param_shapes(plain))
    without = scores(models.plain_kernels(models.split_lora(params(base))[0]), plain)
    assert np.abs(with_adapters - without).max() > 0.3
    np.testing.assert_allclose(with_adapters, scores(merged, plain), atol=1e-5)


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_cached_pass_uses_adapters_too(per_layer):
    """As a rollout does: a prompt at once, then input by input."""
    x, positions, _ = inputs()
    hidden = models.forward(params(), CONFIG, x, positions, jnp.ones(x.shape[:2], bool))
    step = jax.jit(models.forward_cached, static_argnums=1)
    cache, found = models.init_cache(CONFIG, 2, 12, per_layer), []
    for start, count in ((0, 9), (9, 3)):
        part = slice(start, start + count)
        arrays = x[:, part], positions[:, :, part], cache
        out, cache = step(params(), CONFIG, *arrays, jnp.full(2, start), jnp.full(2, count))
        found.append(out)
    np.testing.assert_allclose(jnp.concatenate(found, 1), hidden, atol=1e-4)


def test_new_adapters_change_nothing_and_are_drawn_as_pefts():
    weights = models.split_lora(params())[0]
    whole = models.add_lora(weights, CONFIG, jax.random.key(0))
    assert_bitwise(scores(whole), scores(weights))
    layers = models.split_lora(whole)[1]["text"]["layers"]
    for name, projection in {**layers["self_attn"], **layers["mlp"]}.items():
        down, up = projection["lora_a"], projection["lora_b"]
        assert down.dtype == up.dtype == jnp.float32 and not up.any(), name
        # Kaiming uniform with a slope of sqrt(5): uniform up to 1 / sqrt(in).
        bound = down.shape[1] ** -0.5
        assert 0.95 * bound < np.abs(down).max() <= bound
        np.testing.assert_allclose(np.std(down), bound / 3**0.5, rtol=0.1)
    other = models.add_lora(weights, CONFIG, jax.random.key(1))
    assert np.abs(scores(other) - scores(whole)).max() == 0
    key = ("text", "layers", "mlp", "up_proj", "lora_a")
    values = [functools.reduce(lambda tree, name: tree[name], key, t) for t in (whole, other)]
    assert (values[0] != values[1]).any()
    with pytest.raises(ValueError, match="adapters already"):
        models.add_lora(whole, CONFIG, jax.random.key(0))


def test_gradients_follow_from_those_of_the_merged_weights():
    """With W = K + s A B: dL/dA = s dL/dW B^T and dL/dB = s A^T dL/dW, by NumPy."""
    cotangent = np.random.default_rng(5).normal(size=(2, 12, CONFIG.text.vocab_size))

    def loss(part, whole, config):
        return jnp.sum(scores(models.join_params(whole, part), config) * cotangent)

    gradient = jax.grad(loss)
    base, adapters = models.split_lora(params())
    got = gradient(adapters, base, CONFIG)["text"]["layers"]
    merged = models.merge_lora(params(), CONFIG)
    plain = dataclasses.replace(CONFIG, lora=None)
    kernels = {"text": {"layers": merged["text"]["layers"]}}
    by_kernel = gradient(kernels, merged, plain)["text"]["layers"]
    seen = 0
    for part, projections in got.items():
        for name, pair in projections.items():
            whole = np.asarray(by_kernel[part][name]["kernel"], np.float64)
            own = adapters["text"]["layers"][part][name]
            down, up = (np.asarray(own[leaf], np.float64) for leaf in ("lora_a", "lora_b"))
            wanted = {
                "lora_a": 1.5 * whole @ up.swapaxes(1, 2),
                "lora_b": 1.5 * down.swapaxes(1, 2) @ whole,
            }
            for leaf, value in wanted.items():
                bound = 1e-4 * np.abs(value).max()
                np.testing.assert_allclose(pair[leaf], value, rtol=0, atol=bound, err_msg=name)
                assert np.abs(value).max() > 0.1
                seen += 1
    assert seen == 14


def test_one_projection_by_numpy():
    """x K s + (x A) B alpha / rank + bias in float64, int8 kernel, and its gradient in x."""
    random = np.random.default_rng(6)
    leaves = {
        "kernel": random.integers(-127, 128, (10, 7)).astype(np.int8),
        "kernel_scale": random.uniform(0.01, 0.02, 7).astype(np.float32),
        "lora_a": random.normal(size=(10, 4)).astype(np.float32),
        "lora_b": random.normal(size=(4, 7)).astype(np.float32),
        "bias": random.normal(size=7).astype(np.float32),
    }
    x, cotangent = random.normal(size=(3, 10)), random.normal(size=(3, 7))
    k, s, a, b, bias = (leaf.astype(np.float64) for leaf in leaves.values())
    matrix = k * s + a @ b * 6.0 / 4
    module = Dense(7, True, CONFIG)
    values, pull = jax.vjp(
        lambda x: module.apply({"params": leaves}, x), jnp.asarray(x, jnp.float32)
    )
    np.testing.assert_allclose(values, x @ matrix + bias, atol=2e-5)
    (back,) = pull(jnp.asarray(cotangent, jnp.float32))
    np.testing.assert_allclose(back, cotangent @ matrix.T, atol=2e-5)


@pytest.mark.parametrize("base", ["float32", "bfloat16", "int8"])
def test_merging_leaves_its_parameters_as_they_were(base):
    """Bit for bit, with the arrays' types; without adapters there is nothing to merge."""
    before = jax.tree.map(np.array, params(base))
    merged = models.merge_lora(params(base), CONFIG)
    kernel = merged["text"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.dtype == jnp.float32 and (kernel != 0).all()
    assert_bitwise(params(base), before)
    assert models.merge_lora(merged, CONFIG) == merged


def test_split_and_join_copy_nothing():
    base, adapters = models.split_lora(params())
    assert jax.tree.structure(base) == jax.tree.structure(models.param_shapes(CONFIG))
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(adapters)} == {
        "lora_a",
        "lora_b",
    }
    joined = models.join_params(base, adapters)
    assert jax.tree.structure(joined) == jax.tree.structure(params())
    pairs = zip(jax.tree.leaves(joined), jax.tree.leaves(params()), strict=True)
    assert all(a is b for a, b in pairs)
    again = models.pick_params(joined, adapters)
    assert all(
        a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(adapters), strict=True)
    )
    assert models.split_lora(base) == (base, {})


def test_targets_choose_projections_and_counts_are_known():
    lora = models.LoraConfig(rank=4, targets=("q_proj", "down_proj"))
    layers = models.adapter_shapes(CONFIG, lora)["text"]["layers"]
    assert {part: list(names) for part, names in layers.items()} == {
        "self_attn": ["q_proj"],
        "mlp": ["down_proj"],
    }
    text = models.TextConfig(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        mrope_section=(16, 24, 24),
    )
    vision = dataclasses.replace(CONFIG.vision, out_hidden_size=3584)
    leaves = jax.tree.leaves(
        models.adapter_shapes(models.ModelConfig(vision, text), models.LoraConfig())
    )
    # What PEFT reports for Qwen2.5-7B with rank 64 on all linear layers of the decoder.
    assert sum(leaf.size for leaf in leaves) == 161_480_704


def test_a_config_section_and_its_mistakes():
    def section(**values):
        return models.model_config({"lora": {"rank": 8, **values}}).lora

    assert section(alpha=4, targets="q_proj up_proj") == models.LoraConfig(
        8, 4, ("q_proj", "up_proj")
    )
    assert section().targets == tuple(TARGETS) and section().base == "bfloat16"
    for off in ({}, {"lora": None}, {"lora": {"rank": 0, "alpha": 128.0, "targets": "q_proj"}}):
        assert models.model_config(off).lora is None
    for values, message in (
        ({"rank": -1}, "lora.rank is -1; it must be from 1 to 65,536"),
        ({"alpha": 0.0}, "lora.alpha is 0.0"),
        ({"targets": ""}, "lora.targets is empty"),
        ({"targets": "q_porj"}, "unknown name 'q_porj' in lora.targets.*q_proj"),
        ({"base": "int4"}, "lora.base is 'int4'; choose one of float32, bfloat16, int8"),
        ({"rnak": 3}, "lora.rnak.*rank"),
    ):
        with pytest.raises(UserError, match=message):
            section(**values)


def test_adapters_without_a_meaning_are_an_error():
    with pytest.raises(ValueError, match="the ModelConfig has no lora"):
        scores(params(), dataclasses.replace(CONFIG, lora=None))
