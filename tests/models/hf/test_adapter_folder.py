"""PEFT's folders by the command line: in beside their base, and out; mistakes in one line."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from medscope_jax import convert, models
from medscope_jax.errors import UserError
from medscope_jax.models import weight_arrays
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf.safetensors_header import read_header
from medscope_jax.models.hf.safetensors_io import Planned, write_file
from tests.models import model_cases, weights_cases
from tests.models.hf.test_peft import assert_bitwise

LORA = models.LoraConfig(rank=4, alpha=6.0, targets=("q_proj", "down_proj"))
CONFIG = dataclasses.replace(model_cases.tiny_config(), lora=LORA)


def draw_adapters(seed=3):
    random = np.random.default_rng(seed)
    shapes = models.adapter_shapes(CONFIG, LORA)
    return jax.tree.map(lambda s: random.normal(0, 0.1, s.shape).astype(np.float32), shapes)


def write_adapter(folder, adapters, **changes):
    """PEFT's folder of adapters, by hand."""
    folder.mkdir()
    planned = [
        Planned(name, array.dtype, array.shape, lambda array=array: [array])
        for name, array in models.peft_state_dict(adapters, CONFIG).items()
    ]
    write_file(folder / "adapter_model.safetensors", planned)
    values = models.adapter_config(CONFIG, "hub/some-model") | changes
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A whole model's weights folder, and the Hugging Face folder beside it; only read."""
    folder = tmp_path_factory.mktemp("adapter")
    model = dataclasses.replace(CONFIG, lora=None)
    weights_cases.write_folder(folder / "hf", model, weights_cases.plain_weights(model, "float32"))
    convert.import_folder(folder / "hf", folder / "base")
    return folder / "base"


def read(folder, name="adapter_model.safetensors"):
    tensors = read_header(folder / name)
    return {name: tensor.read() for name, tensor in tensors.items()}


def run(*flags):
    convert.main([str(flag) for flag in flags])


@pytest.mark.parametrize("chunk_bytes", [2**25, pytest.param(1000, marks=pytest.mark.invariant)])
def test_in_and_out_again(base, tmp_path, capsys, monkeypatch, chunk_bytes):
    """The same bits beside the base; merged, the sum of both. Also where a layer is a chunk."""
    monkeypatch.setattr(weight_arrays, "_CHUNK_BYTES", chunk_bytes)
    adapters = draw_adapters()
    source = write_adapter(tmp_path / "adapter", adapters)
    run("import", "--source", source, "--base", base, "--target", tmp_path / "ck")
    printed = capsys.readouterr().out
    assert "the adapter says that it was made for 'hub/some-model'" in printed
    assert "adapters of rank 4 on q_proj down_proj" in printed
    config = models.read_model(tmp_path / "ck")
    assert config.lora == LORA
    params = models.load_params(tmp_path / "ck", models.weight_shapes(config))
    assert_bitwise(models.split_lora(params)[1], adapters)
    assert_bitwise(
        models.split_lora(params)[0],
        models.load_params(base, models.param_shapes(CONFIG)),
    )
    for name in weights_cases.COMPANIONS:
        assert (tmp_path / "ck" / name).read_bytes() == (base / name).read_bytes()
    run("export", "--adapter", "--source", tmp_path / "ck", "--target", tmp_path / "back")
    assert {k: v.tobytes() for k, v in read(tmp_path / "back").items()} == {
        k: v.tobytes() for k, v in read(source).items()
    }
    run("export", "--source", tmp_path / "ck", "--target", tmp_path / "merged")
    merged = models.import_hf(read(tmp_path / "merged", safetensors_io.SINGLE), CONFIG)
    assert_bitwise(merged, models.merge_lora(params, config))


def test_another_base_in_its_place_is_refused(base, tmp_path):
    source = write_adapter(tmp_path / "adapter", draw_adapters())
    own = shutil.copytree(base, tmp_path / "own")
    run("import", "--source", source, "--base", own, "--target", tmp_path / "ck")
    shapes = models.weight_shapes(models.read_model(tmp_path / "ck"))
    shutil.rmtree(own)
    with pytest.raises(UserError, match=f"ck holds a part of a model, and the rest, {own}, is not"):
        models.load_params(tmp_path / "ck", shapes)
    model = dataclasses.replace(CONFIG, lora=None)
    weights = weights_cases.plain_weights(model, "float32", seed=5)
    weights_cases.write_folder(tmp_path / "hf", model, weights)
    convert.import_folder(tmp_path / "hf", own)
    with pytest.raises(UserError, match=f"{own} has other weights than those that .*ck was made"):
        models.load_params(tmp_path / "ck", shapes)


def test_what_is_missing_is_said(base, tmp_path, refusal):
    source = write_adapter(tmp_path / "adapter", draw_adapters())

    def refused(folder=source, on=base):
        flags = ["import", "--source", folder, "--target", tmp_path / "ck"]
        line = refusal(convert.main, [*flags, *(["--base", on] if on else [])])
        assert not (tmp_path / "ck").exists()
        return line

    assert "name the weights folder that it goes on with --base" in refused(on=None)
    assert "has no adapter_config.json: leave it out" in refused(base.parent / "hf")
    assert "has no model.json" in refused(on=base.parent / "hf")
    (source / "config.json").write_text("{}")  # transformers would load both
    assert "move one of the two elsewhere" in refused(on=None)
    run("import", "--source", source, "--base", base, "--target", tmp_path / "first")
    assert "holds only a part of a model, or adapters already" in refused(on=tmp_path / "first")
    whole = (source / "adapter_model.safetensors").read_bytes()
    (source / "adapter_model.safetensors").write_bytes(whole[:-1])
    assert "is cut off" in refused()
    (source / "adapter_model.safetensors").unlink()
    (source / "adapter_model.bin").write_bytes(b"")
    assert "pickled" in refused()
    (source / "adapter_model.safetensors").write_bytes(whole)
    (source / "adapter_config.json").unlink()
    assert "adapter_config.json can't be read" in refused()
