"""transformers loads what we export, and we load what it saves, with the same numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from medscope_jax import convert, models
from medscope_jax.models.hf import safetensors_io
from tests.models import model_cases, weights_cases

torch = pytest.importorskip("torch", reason="the live comparison needs PyTorch")
transformers = pytest.importorskip("transformers", reason="it compares with transformers")
from tests.models import torch_reference  # noqa: E402

pytestmark = pytest.mark.reference


def bits(folder):
    """The bytes of every tensor of a Hugging Face folder, by the hub's name."""
    found, problems = safetensors_io.read_folder(folder)
    assert not problems
    return {
        convert.huggingface.hub_name(name): (t.kind, t.shape, t.read().tobytes())
        for name, t in found.items()
    }


def our_logits(folder, config, rows, frames, grid):
    """Logits [B, L, V] of a weights folder's parameters, computed in float32."""
    wide = dataclasses.replace(config, dtype="float32", param_dtype="float32")
    params = models.load_params(folder, models.weight_shapes(models.read_model(folder)))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)

    @jax.jit
    def run(params, frames, tokens, index, valid):
        bank = models.encode_frames(params, wide, frames).reshape(-1, config.text.hidden_size)
        x = models.embed(params, wide, tokens, index, bank)
        start = np.zeros(len(tokens), np.int32)
        positions, _ = models.mrope_positions(index, valid, grid, start)
        return models.logits(params, wide, models.forward(params, wide, x, positions, valid))

    return np.asarray(run(params, frames, *rows))


@pytest.mark.parametrize(
    ("dtype", "tied"), [("bfloat16", True), ("float32", False), ("float16", False)]
)
def test_an_exported_folder_gives_the_same_logits(dtype, tied, tmp_path):
    config = model_cases.tiny_config(tied=tied)
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    drawn = weights_cases.plain_weights(config, dtype)
    source = weights_cases.write_folder(tmp_path / "hf", config, drawn, shard_bytes=50_000)
    convert.import_folder(source, tmp_path / "ck")
    params = models.load_params(tmp_path / "ck", models.param_shapes(config))
    models.save_params(tmp_path / "bare", params, config)  # no config.json: export writes its own
    convert.export_folder(tmp_path / "bare", tmp_path / "out", shard_bytes=60_000)
    auto = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert type(auto) is transformers.Qwen2_5_VLForConditionalGeneration
    assert str(auto.dtype) == f"torch.{dtype}"
    model, problems = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(problems.values()), problems
    frames, grid = model_cases.random_frames(3, 56, 84, seed=3), (2, 3)
    pairs = [model_cases.random_conversation(config, 3, 6, n, seed=n) for n in (40, 25)]
    rows = model_cases.pad_rows(pairs, 40)
    theirs = torch_reference.logits(model.eval(), config, *rows, frames)
    ours = our_logits(tmp_path / "ck", config, rows, frames, grid)
    assert theirs.std() > 0.3
    np.testing.assert_allclose(ours[rows[2]], theirs[rows[2]], atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_that_transformers_saved_comes_back_bit_for_bit(tied, tmp_path):
    config = model_cases.tiny_config(tied=tied)
    config = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    drawn = weights_cases.plain_weights(config, "bfloat16")
    first = weights_cases.write_folder(tmp_path / "first", config, drawn)
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(first)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    assert convert.import_folder(tmp_path / "theirs", tmp_path / "ck") == config
    convert.export_folder(tmp_path / "ck", tmp_path / "back")
    assert bits(tmp_path / "back") == bits(first)
    saved = (tmp_path / "theirs" / "config.json").read_bytes()
    assert (tmp_path / "back" / "config.json").read_bytes() == saved
    again = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "back")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_merged_adapters_give_the_logits_of_the_adapted_model(tmp_path):
    config = model_cases.tiny_config(tied=False)
    drawn = weights_cases.plain_weights(config, "float32")
    convert.import_folder(
        weights_cases.write_folder(tmp_path / "hf", config, drawn), tmp_path / "ck"
    )
    config = dataclasses.replace(config, lora=models.LoraConfig(rank=4, alpha=6.0))
    params = models.add_lora(models.import_hf(drawn, config), config, jax.random.key(0))
    trained = jax.tree.map(lambda leaf: leaf + 0.05, models.split_lora(params)[1])
    models.save_params(tmp_path / "trained", trained, config, base=tmp_path / "ck")
    convert.export_folder(tmp_path / "trained", tmp_path / "out")
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out")
    frames, grid = model_cases.random_frames(3, 56, 84, seed=3), (2, 3)
    rows = model_cases.pad_rows([model_cases.random_conversation(config, 3, 6, 30, seed=1)], 30)
    theirs = torch_reference.logits(model.eval(), config, *rows, frames)
    ours = our_logits(tmp_path / "trained", config, rows, frames, grid)
    np.testing.assert_allclose(ours[rows[2]], theirs[rows[2]], atol=1e-4)
    plain = our_logits(tmp_path / "ck", config, rows, frames, grid)
    assert np.abs(ours - plain)[rows[2]].max() > 0.1
