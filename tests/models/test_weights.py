"""Weights in and out byte for byte, and configs that say what is wrong with them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax import models
from tests.models import model_cases


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_import_then_export_is_byte_identical(tied, dtype):
    config = model_cases.tiny_config(tied=tied)
    config = models.ModelConfig(config.vision, config.text, dtype=dtype, param_dtype=dtype)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    weights = {
        name: array.astype(kind)
        for name, array in model_cases.random_state_dict(config, seed=1).items()
    }
    back = models.export_hf(models.import_hf(weights, config), config)
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape), name
        assert back[name].tobytes() == array.tobytes(), name


def test_wrong_weights_are_all_named():
    config = model_cases.tiny_config()
    weights = model_cases.random_state_dict(config, seed=1)
    del weights["visual.blocks.2.attn.qkv.bias"]
    weights["model.layers.9.mlp.up_proj.weight"] = np.zeros((1, 1), np.float32)
    weights["model.norm.weight"] = np.zeros((3,), np.float32)
    with pytest.raises(ValueError) as error:
        models.import_hf(weights, config)
    message = str(error.value)
    assert "missing visual.blocks.2.attn.qkv.bias" in message
    assert "extra model.layers.9.mlp.up_proj.weight" in message
    assert "model.norm.weight is (3,), must be (64,)" in message and "\n" not in message


def test_count_params_is_the_sum_of_all():
    config = model_cases.tiny_config(tied=False)
    params = models.init_params(config, jax.random.key(0))
    assert models.count_params(config) == sum(p.size for p in jax.tree.leaves(params))


def test_embed_takes_words_or_bank_rows():
    config = model_cases.tiny_config()
    params = models.init_params(config, jax.random.key(0))
    table = params["text"]["embed_tokens"]
    bank = jnp.arange(5 * 64.0).reshape(5, 64)
    out = models.embed(params, config, jnp.array([[3, 7, 0]]), jnp.array([[-1, 4, -1]]), bank)
    np.testing.assert_array_equal(out[0], jnp.stack([table[3], bank[4], table[0]]))


def test_bfloat16_computes_and_scores_in_float32():
    config = model_cases.tiny_config()
    config = models.ModelConfig(config.vision, config.text, dtype="bfloat16", remat=True)
    params = models.init_params(config, jax.random.key(0))
    encode = jax.jit(models.encode_frames, static_argnums=1)
    bank = encode(params, config, model_cases.random_frames(1, 28, 56, 0))
    assert bank.dtype == jnp.bfloat16
    positions = jnp.broadcast_to(jnp.arange(2), (3, 1, 2))
    forward = jax.jit(models.forward, static_argnums=1)
    hidden = forward(params, config, bank, positions, jnp.ones((1, 2), bool))
    assert hidden.dtype == jnp.bfloat16
    assert models.logits(params, config, hidden).dtype == jnp.float32


def test_config_section_and_its_mistakes():
    section = ConfigDict({"text": {"hidden_size": 64, "mrope_section": [2, 3, 3]}, "remat": True})
    config = models.model_config(section)
    assert config.text.mrope_section == (2, 3, 3) and config.remat
    assert config.vision.out_hidden_size == 64
    assert hash(config) == hash(models.model_config(section))
    with pytest.raises(ValueError, match="text.hidden_sise.*hidden_size"):
        models.model_config({"text": {"hidden_sise": 64}})
    with pytest.raises(ValueError, match="text.mrope_section must be three numbers of sum 8"):
        models.model_config({"text": {"hidden_size": 64}})
    with pytest.raises(ValueError, match="vision.out_hidden_size must equal"):
        models.model_config({"vision": {"out_hidden_size": 12}})
