"""Weights that are not a whole model: every fault is named, and nothing is written."""

import numpy as np
import pytest

from medscope_jax import convert
from medscope_jax.errors import UserError
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf.hub_folder import open_hub_folder
from tests import convert_cases
from tests.models import weights_cases


def broken(tmp_path, change, dtype="bfloat16"):
    """A folder whose weights `change` has had its hands in."""
    drawn = weights_cases.random_weights(convert_cases.tiny(), dtype)
    change(drawn)
    return weights_cases.write_folder(
        tmp_path / "broken", convert_cases.tiny(), drawn, shard_bytes=20_000
    )


def wrong_everything(drawn):
    norm = drawn["model.norm.weight"]
    drawn["model.norm.weight"] = norm[:3]
    del drawn["visual.blocks.2.attn.qkv.bias"]
    drawn["model.layers.9.mlp.up_proj.weight"] = norm


def test_every_wrong_tensor_is_named_before_anything_is_written(tmp_path, refusal):
    folder, target = broken(tmp_path, wrong_everything), tmp_path / "ck"
    shard = next(
        f
        for f in sorted(folder.glob("*.safetensors"))
        if "model.layers.2.mlp.up_proj.weight" in safetensors_io.read_header(f)
    )
    shard.write_bytes(shard.read_bytes()[:-2])
    last = list(safetensors_io.read_header(shard))[-1]
    line = refusal(convert.main, ["import", "--source", folder, "--target", target])
    assert line.startswith(f"{folder} is not a whole model: ")
    assert f"{last} is cut off in {shard.name}" in line
    assert "missing visual.blocks.2.attn.qkv.bias" in line
    assert "extra model.layers.9.mlp.up_proj.weight" in line
    assert "model.norm.weight is (3,), must be (64,)" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_many_problems_are_counted(tmp_path):
    def change(drawn):
        for name in [name for name in drawn if ".layers." in name]:
            del drawn[name]

    with pytest.raises(UserError) as error:
        open_hub_folder(broken(tmp_path, change))
    assert str(error.value).count("missing model.layers.") == 20
    assert str(error.value).endswith("; and 16 more")


def test_a_missing_shard(tmp_path, refusal):
    folder = broken(tmp_path, lambda drawn: None)
    gone = sorted(folder.glob("*.safetensors"))[3]
    lost = list(safetensors_io.read_header(gone))
    gone.unlink()
    line = refusal(convert.main, ["import", "--source", folder, "--target", tmp_path / "ck"])
    assert f"shard {gone.name} is missing, with {len(lost)} tensors" in line
    assert all(f"missing {name}" in line for name in lost)
    assert not (tmp_path / "ck").exists()


def test_dtypes_that_no_model_has(tmp_path):
    def quantized(drawn):
        drawn["model.layers.1.mlp.up_proj.weight"] = np.zeros((80, 64), np.int8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(safetensors_io.DTYPES, "I8", np.dtype(np.int8))  # to be able to write it
        folder = broken(tmp_path, quantized)
    with pytest.raises(UserError, match="quantized .model.layers.1.mlp.up_proj.weight of I8."):
        open_hub_folder(folder)


def test_two_spellings_of_one_tensor(tmp_path):
    def change(drawn):
        drawn["model.visual.merger.ln_q.weight"] = drawn["visual.merger.ln_q.weight"]

    with pytest.raises(UserError, match="visual.merger.ln_q.weight is there in both spellings"):
        open_hub_folder(broken(tmp_path, change))
