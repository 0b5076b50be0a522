"""Safetensors files: what is written is what the format's own library reads; damage is named."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from medscope_jax.errors import UserError
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf.safetensors_io import Planned

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "b": np.arange(5).astype(ml_dtypes.bfloat16),
    "c": np.array(7, np.float16),
    "d": np.zeros((0, 3), np.float32),
}


def plan(tensors=None):
    def blocks(array):
        return lambda: [array[:1], array[1:]] if array.ndim else [array]

    tensors = TENSORS if tensors is None else tensors
    return [Planned(name, a.dtype, a.shape, blocks(a)) for name, a in tensors.items()]


@pytest.fixture
def file(tmp_path):
    safetensors_io.write_folder(tmp_path, plan())
    return tmp_path / "model.safetensors"


def test_what_is_written_is_read(file):
    found = safetensors_io.read_header(file)
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        back = found[name].read()
        assert (back.dtype, back.shape, back.tobytes()) == (
            array.dtype,
            array.shape,
            array.tobytes(),
        )
    np.testing.assert_array_equal(found["a.weight"].read(1, 3), TENSORS["a.weight"][1:3])
    np.testing.assert_array_equal(found["a.weight"].read(3, 9), TENSORS["a.weight"][3:])
    assert not any(tensor.cut for tensor in found.values())


@pytest.mark.reference
def test_the_formats_own_library_reads_and_writes_the_same(file, tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    theirs = library.load_file(file)
    for name, array in TENSORS.items():
        bits = theirs[name].reshape(-1).view(torch.uint8).numpy()
        assert bits.tobytes() == array.tobytes() and tuple(theirs[name].shape) == array.shape
    library.save_file(theirs, tmp_path / "theirs.safetensors", {"format": "pt"})
    found = safetensors_io.read_header(tmp_path / "theirs.safetensors")
    assert {n: t.read().tobytes() for n, t in found.items()} == {
        n: a.tobytes() for n, a in TENSORS.items()
    }


def test_shards_are_filled_up_to_their_size(tmp_path):
    tensors = {f"t{i}": np.full((10,), i, np.float32) for i in range(7)}
    safetensors_io.write_folder(tmp_path, plan(tensors), shard_bytes=100)
    index = json.loads((tmp_path / safetensors_io.INDEX).read_text())
    assert index["metadata"] == {"total_size": 280}
    counts = np.unique(list(index["weight_map"].values()), return_counts=True)
    assert counts[0][0] == "model-00001-of-00004.safetensors"
    assert counts[1].tolist() == [2, 2, 2, 1]
    found, problems = safetensors_io.read_folder(tmp_path)
    assert not problems and all((found[n].read() == a).all() for n, a in tensors.items())


def test_a_tensor_larger_than_a_shard_gets_its_own():
    shards = safetensors_io.plan_shards(plan(), shard_bytes=1)
    names = [[tensor.name for tensor in shard] for shard in shards.values()]
    assert names == [["a.weight"], ["b"], ["c"], ["d"]]


def test_a_cut_file_names_the_tensors_that_it_lost(file):
    file.write_bytes(file.read_bytes()[:-5])
    found, problems = safetensors_io.read_folder(file.parent)
    assert problems == [
        "b is cut off in model.safetensors",
        "c is cut off in model.safetensors",
    ] or (problems == [f"{n} is cut off in model.safetensors" for n, t in found.items() if t.cut])
    assert found["c"].cut and not found["a.weight"].cut
    with pytest.raises(UserError, match="became shorter"):
        found["b"].read()


@pytest.mark.parametrize("length", [0, 7, 8, 20])
def test_a_file_cut_in_its_header(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match="cut off in its header, or no safetensors file"):
        safetensors_io.read_header(file)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": ',
        b"[1]",
        b"\xff\xfe\xfd",
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
        b'{"a": 3}',
    ],
)
def test_a_broken_header(tmp_path, header):
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match="x.safetensors has a broken header: ") as error:
        safetensors_io.read_header(file)
    assert "\n" not in str(error.value)


def test_a_missing_shard_and_an_index_that_lies(tmp_path):
    tensors = {f"t{i}": np.full((10,), i, np.float32) for i in range(6)}
    safetensors_io.write_folder(tmp_path, plan(tensors), shard_bytes=100)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    index = json.loads((tmp_path / safetensors_io.INDEX).read_text())
    index["weight_map"]["t9"] = "model-00001-of-00003.safetensors"
    (tmp_path / safetensors_io.INDEX).write_text(json.dumps(index))
    found, problems = safetensors_io.read_folder(tmp_path)
    assert found.keys() == {"t0", "t1", "t4", "t5"}
    assert problems == [
        "t9 is not in model-00001-of-00003.safetensors",
        "shard model-00002-of-00003.safetensors is missing, with 2 tensors",
    ]


def test_a_tensor_in_two_shards(tmp_path):
    tensors = {f"t{i}": np.full((10,), i, np.float32) for i in range(4)}
    safetensors_io.write_folder(tmp_path, plan(tensors), shard_bytes=100)
    second = {"t0": tensors["t0"], "t2": tensors["t2"], "t3": tensors["t3"]}
    safetensors_io.write_file(tmp_path / "model-00002-of-00002.safetensors", plan(second))
    _, problems = safetensors_io.read_folder(tmp_path)
    first, last = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    assert problems == [f"t0 is both in {first} and {last}"]


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}']
)
def test_a_broken_index(tmp_path, index):
    (tmp_path / safetensors_io.INDEX).write_text(index)
    with pytest.raises(
        UserError, match="index.json (is no index of shards|is not JSON|holds a list)"
    ):
        safetensors_io.read_folder(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(UserError, match="no weights there"):
        safetensors_io.read_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="it holds pytorch_model.bin"):
        safetensors_io.read_folder(tmp_path)
