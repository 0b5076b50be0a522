"""The published sizes: their parameters are the reference's, counted without allocating any."""

import pytest

from medscope_jax import models
from medscope_jax.errors import UserError

# What the hub says of the published checkpoints (72b: the same sum over its config.json).
PARAMETERS = {
    "3b": 3_754_622_976,
    "7b": 8_292_166_656,
    "32b": 33_452_718_336,
    "72b": 73_410_777_344,
}
TENSORS = {"3b": 824, "7b": 729, "32b": 1161, "72b": 1353}  # in the hub's shards


@pytest.mark.parametrize("size", models.PRESETS)
def test_parameters_and_tensors(size):
    config = models.preset(size)
    assert models.count_params(config) == PARAMETERS[size]
    assert len(models.hf_shapes(config)) == TENSORS[size]


def test_shapes_of_the_7b():
    shapes = models.hf_shapes(models.preset("7b"))
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (152064, 3584)
    assert shapes["model.layers.27.mlp.gate_proj.weight"] == (18944, 3584)
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (512, 3584)
    assert shapes["visual.blocks.31.attn.qkv.weight"] == (3840, 1280)
    assert shapes["visual.patch_embed.proj.weight"] == (1280, 3, 2, 14, 14)
    assert shapes["visual.merger.mlp.2.weight"] == (3584, 5120)
    assert "lm_head.weight" not in models.hf_shapes(models.preset("3b"))


def test_a_size_that_does_not_exist():
    with pytest.raises(UserError, match="no published size '7B' .did you mean '7b'"):
        models.preset("7B")


@pytest.mark.reference
@pytest.mark.parametrize("size", models.PRESETS)
def test_the_reference_counts_the_same(size):
    torch = pytest.importorskip("torch", reason="counting with the reference needs PyTorch")
    transformers = pytest.importorskip("transformers")
    config = models.preset(size)
    with torch.device("meta"):
        model = transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(**models.hf_config(config))
        )
    named = dict(model.named_parameters())  # a tied head is not named twice
    assert sum(parameter.numel() for parameter in named.values()) == models.count_params(config)
    spelled = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        for name in named
    }
    assert spelled == set(models.hf_shapes(config))
