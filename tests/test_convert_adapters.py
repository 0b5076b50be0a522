"""Adapters and a vision tower that were trained on a base: kept, merged, or given out as PEFT's."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from medscope_jax import convert, models
from medscope_jax.errors import UserError
from medscope_jax.models.hf import safetensors_io
from tests import convert_cases
from tests.models import weights_cases
from tests.models.hf.peft_cases import import_peft


@pytest.fixture
def adapted(tmp_path):
    """(folder, params, config) of adapters and a vision tower that were trained on a base."""
    lora = models.LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "down_proj"))
    config = convert_cases.tiny()
    drawn = weights_cases.plain_weights(config, "bfloat16")
    convert.import_folder(
        weights_cases.write_folder(tmp_path / "hf", config, drawn), tmp_path / "base"
    )
    config = dataclasses.replace(config, lora=lora)
    params = models.add_lora(models.import_hf(drawn, config), config, jax.random.key(0))
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, models.split_lora(params)[1])
    tower = models.import_hf(weights_cases.plain_weights(config, "bfloat16", seed=2), config)[
        "vision"
    ]
    part = {**adapters, "vision": tower}
    models.save_params(tmp_path / "trained", part, config, base=tmp_path / "base")
    return tmp_path / "trained", models.join_params(params, part), config


def test_a_folder_may_hold_what_was_trained(adapted):
    folder, params, config = adapted
    assert models.read_model(folder) == config
    convert_cases.same_bits(models.load_params(folder, models.weight_shapes(config)), params)
    stored = sum(file.stat().st_size for file in (folder / "params").rglob("*"))
    assert stored < 2 * models.count_params(config)  # the base is pointed to, not copied
    assert (folder / "tokenizer.json").is_file()
    (folder.parent / "base").rename(folder.parent / "elsewhere")
    with pytest.raises(UserError, match="the rest, .*/base, is not there"):
        models.load_params(folder, models.weight_shapes(config))


def test_adapters_are_merged_on_export(adapted, tmp_path):
    folder, params, config = adapted
    convert.main(["export", "--source", str(folder), "--target", str(tmp_path / "out")])
    found, _ = safetensors_io.read_folder(tmp_path / "out")
    expected = models.export_hf(models.merge_lora(params, config), config)
    plain = models.export_hf(models.split_lora(params)[0], config)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        ours = found[name].read()
        assert ours.dtype == array.dtype
        if name.startswith("model.layers.") and name.endswith(
            ("q_proj.weight", "down_proj.weight")
        ):
            wide = array.astype(np.float32)
            np.testing.assert_allclose(ours.astype(np.float32), wide, rtol=2**-7)  # one bit
            assert np.abs(wide - plain[name].astype(np.float32)).max() > 0.01
        else:
            assert ours.tobytes() == array.tobytes(), name


def test_adapters_go_out_as_pefts(adapted, tmp_path, capsys):
    folder, params, config = adapted
    arguments = ["--source", str(folder), "--target", str(tmp_path / "out"), "--adapter"]
    convert.main(["export", *arguments])
    count = sum(leaf.size for leaf in jax.tree.leaves(models.adapter_shapes(config, config.lora)))
    assert f"{count:,} parameters of adapters" in capsys.readouterr().out
    values = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    found = safetensors_io.read_header(tmp_path / "out" / "adapter_model.safetensors")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    tensors = {name: tensor.read() for name, tensor in found.items()}
    adapters, lora = import_peft(tensors, values, config)
    assert lora == config.lora
    convert_cases.same_bits(adapters, models.split_lora(params)[1])
