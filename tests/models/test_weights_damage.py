"""Weights folders that were damaged or edited: refused in one line that names the file."""

import dataclasses
import json
import random
import shutil

import jax
import numpy as np
import pytest

from medscope_jax import convert, models
from medscope_jax.errors import UserError
from medscope_jax.manifest import MANIFEST, read_manifest, seal, write_manifest
from medscope_jax.models import weights
from tests.models import model_cases, weights_cases

REMEDY = "put back a copy, or make the folder again by python -m medscope_jax.convert"
KERNEL = "params/text.layers.mlp.up_proj.kernel"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole weights folder of numbers whose every bit counts; tests copy it."""
    root = tmp_path_factory.mktemp("damage")
    config = dataclasses.replace(
        model_cases.tiny_config(), dtype="bfloat16", param_dtype="bfloat16"
    )
    drawn = weights_cases.random_weights(config, "bfloat16")
    convert.import_folder(weights_cases.write_folder(root / "hf", config, drawn), root / "ck")
    return root / "ck"


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "ck")


def load(folder):
    """All that is read of a folder: the model, its arrays."""
    return models.load_params(folder, models.weight_shapes(models.read_model(folder)))


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(file, place, bit=0):
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << bit
    file.write_bytes(data)


def refused(folder, file, read=load):
    """That reading is refused in one line with the file's name and what to do."""
    with pytest.raises(UserError) as error:
        read(folder)
    line = str(error.value)
    assert str(file) in line and REMEDY in line and "\n" not in line, line


def test_every_file_is_listed(whole):
    listed = read_manifest(whole, REMEDY)
    names = {path.relative_to(whole).as_posix() for path in files(whole)}
    assert listed.keys() == names - {MANIFEST}
    chunks = {name for name, checksum in listed.items() if checksum.startswith("crc32c:")}
    assert chunks == {name for name in names if "/c." in name} and len(chunks) > 20


@pytest.mark.parametrize(
    "name, place",
    [
        (f"{KERNEL}/c.0.0.0", 0),
        (f"{KERNEL}/c.0.0.0", 5_000),
        (f"{KERNEL}/c.0.0.0", -1),
        (f"{KERNEL}/zarr.json", 60),
        ("params/_METADATA", 100),
        ("model.json", 40),
        ("config.json", -3),
        ("tokenizer.json", 5),
        ("preprocessor_config.json", 1),
        (MANIFEST, 100),
        (MANIFEST, -4),
    ],
)
def test_a_flipped_bit_is_noticed(copy, name, place):
    flip(copy / name, place)
    refused(copy, copy / name)


def test_a_damaged_chunk_is_not_exported(copy, tmp_path):
    flip(copy / KERNEL / "c.0.0.0", 3_000)
    refused(
        copy,
        copy / KERNEL / "c.0.0.0",
        lambda folder: convert.export_folder(folder, tmp_path / "o"),
    )
    assert not (tmp_path / "o").exists()


def test_files_that_are_gone_cut_or_exchanged(copy, whole):
    norm = "params/text.layers.input_layernorm.weight/c.0.0"
    chunk = copy / norm
    other = copy / norm.replace("input_layernorm", "post_attention_layernorm")
    first = chunk.read_bytes()
    chunk.write_bytes(other.read_bytes())  # whole in itself, but another's
    refused(copy, chunk)
    chunk.write_bytes(first[:-4])
    refused(copy, chunk)
    chunk.write_bytes(b"")
    refused(copy, chunk)
    chunk.unlink()
    refused(copy, chunk)
    chunk.mkdir()
    refused(copy, chunk)
    chunk.rmdir()
    chunk.write_bytes(first)
    same = zip(jax.tree.leaves(load(copy)), jax.tree.leaves(load(whole)), strict=True)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in same)
    (copy / "tokenizer.json").unlink()
    refused(copy, copy / "tokenizer.json")


def test_a_folder_without_a_manifest_is_imported_again(copy):
    (copy / MANIFEST).unlink()
    with pytest.raises(UserError, match=f"has no {MANIFEST}.*an earlier version.*{REMEDY}"):
        models.read_model(copy)
    for text in ("", "[]", "{", '{"files": [], "seal": 1}', '{"files": {"a": 1}, "seal": 0}'):
        (copy / MANIFEST).write_text(text)
        refused(copy, copy / MANIFEST, models.read_model)
    listed = {"a\0b": "sha256:0"}
    (copy / MANIFEST).write_text(json.dumps({"files": listed, "seal": seal(listed)}))
    with pytest.raises(UserError, match="can't be read .embedded null byte.*put back a copy"):
        models.read_model(copy)


def test_a_part_of_a_model_checks_its_base_too(copy, tmp_path):
    config = dataclasses.replace(models.read_model(copy), lora=models.LoraConfig(rank=2))
    shapes = models.adapter_shapes(config, config.lora)
    adapters = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    models.save_params(tmp_path / "part", adapters, config, base=copy)
    load(tmp_path / "part")
    adapter = tmp_path / "part" / "params" / "text.layers.mlp.up_proj.lora_a" / "c.0.0.0"
    data = adapter.read_bytes()
    flip(adapter, 20)
    refused(tmp_path / "part", adapter)
    adapter.write_bytes(data)
    shutil.move(adapter.parent, tmp_path / "gone")  # the base's array of the name is not taken
    refused(tmp_path / "part", adapter.parent)
    shutil.move(tmp_path / "gone", adapter.parent)
    flip(copy / KERNEL / "c.0.0.0", 1_000)
    refused(tmp_path / "part", copy / KERNEL / "c.0.0.0")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text": {"num_hidden_layers": 10**6}}, "num_hidden_layers is 1000000; it must be from"),
        ({"text": {"vocab_size": 10**12}}, "vocab_size is 1000000000000; it must be from 1 to"),
        ({"text": {"hidden_size": -64}}, "hidden_size is -64; it must be from 1 to"),
        ({"text": {"rms_norm_eps": "1e-6"}}, "rms_norm_eps is '1e-6'; it must be a value such"),
        ({"text": {"hidden_sise": 1}}, "hidden_sise .did you mean 'hidden_size'"),
        ({"text": [1, 2]}, "broken"),
        ({"text": "wide"}, "text is 'wide'; it must be a section of values"),
        ({"vision": {"patch_size": 10**9}}, "patch_size is 1000000000; it must be from"),
        ({"lora": {"rank": "many"}}, "lora.rank is 'many'; it must be"),
        ({"lora": 3}, "lora is 3; it must be a section"),
        ({"dtype": "int8"}, "dtype is 'int8'; choose one of float32, bfloat16, float16"),
        ({"remat": "yes"}, "remat is 'yes'; it must be"),
        ({"base": 5}, "base must be the path of a folder"),
        ({"base": "/nowhere"}, "the rest, /nowhere, is not there"),
    ],
)
def test_a_model_json_that_can_not_be(copy, change, message):
    """Also where somebody made the manifest anew."""
    values = json.loads((copy / weights.MODEL).read_text())
    for key, part in change.items():
        both = isinstance(part, dict) and isinstance(values[key], dict)
        values[key] = values[key] | part if both else part
    (copy / weights.MODEL).write_text(json.dumps(values))
    write_manifest(copy, weights.is_chunk)
    with pytest.raises(UserError, match=message):
        load(copy)


@pytest.mark.invariant
def test_flips_all_over_are_noticed(copy):
    draw = random.Random(3)
    for file in files(copy):
        data = file.read_bytes()
        for place in (0, len(data) - 1, draw.randrange(len(data))):
            flip(file, place, draw.randrange(8))
            refused(copy, file)
            file.write_bytes(data)
    load(copy)
