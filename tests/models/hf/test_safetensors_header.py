"""Headers of safetensors files: what the format's own library refuses is refused here."""

import json
import os
import random
import struct

import pytest

from medscope_jax.errors import UserError
from medscope_jax.models.hf.safetensors_header import read_header
from tests.models.hf import header_cases

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]}


def write(tmp_path, header, size=16, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)
    with file.open("ab") as stream:
        stream.truncate(file.stat().st_size + size)
    return file


def test_whole_files_are_read_as_they_were_made(tmp_path):
    draw = random.Random(5)
    for _ in range(100):
        header, size = header_cases.whole(draw)
        found = read_header(write(tmp_path, header, size))
        header.pop("__metadata__", None)
        assert {n: (t.kind, list(t.shape), t.size) for n, t in found.items()} == {
            n: (e["dtype"], e["shape"], e["data_offsets"][1] - e["data_offsets"][0])
            for n, e in header.items()
        }
        assert not any(tensor.cut for tensor in found.values())


@pytest.mark.parametrize(
    "header, size, message",
    [
        ({"a": A, "b": {**B, "data_offsets": [4, 12]}}, 12, "b overlaps the tensor before it"),
        ({"a": A, "b": {**A}}, 8, "overlaps the tensor before it"),
        ({"a": A, "b": {**B, "data_offsets": [12, 20]}}, 20, "4 bytes before b are of no tensor"),
        ({"a": {**A, "data_offsets": [4, 12]}}, 12, "4 bytes before a are of no tensor"),
        ({"a": A, "b": B}, 20, "4 bytes after the last tensor are of none"),
        ({}, 1, "1 bytes after the last tensor are of none"),
        ({"a": {**A, "dtype": "F33"}}, 8, "has the dtype F33, which the format has not"),
        ({"a": {**A, "dtype": 32}}, 8, "has the dtype 32, which the format has not"),
        ({"a": {**A, "shape": [3]}}, 8, "bytes .0, 8. can't hold F32 .3."),
        ({"a": {**A, "shape": [-2]}}, 8, "no lists of counts"),
        ({"a": {**A, "shape": [2.0]}}, 8, "no lists of counts"),
        ({"a": {**A, "shape": [True, 2]}}, 8, "no lists of counts"),
        ({"a": {**A, "shape": [2**40] * 2}}, 8, "larger than any file"),
        ({"a": {**A, "shape": [2**20] * 2_000_000}}, 8, "header of .* bytes; 16,777,216 at most"),
        ({"a": {**A, "shape": [2**20] * 100_000}}, 8, "larger than any file"),
        ({"a": {**A, "data_offsets": [8, 0]}}, 8, "can't hold"),
        ({"a": {**A, "data_offsets": [0, 8, 16]}}, 16, "can't hold"),
        ({"a": {**A, "dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, 1, "can't hold F4"),
        ({"__metadata__": {"a": 1}, "b": A}, 8, "__metadata__ must be texts by name"),
        (b'{"a": %b, "a": %b}' % ((json.dumps(A).encode(),) * 2), 8, "'a' is there twice"),
        (b'{"a": {"x": NaN}}', 8, "NaN is no number of JSON"),
        (b'{"a": {"x": 1e999}}', 8, "1e999 is out of range"),
        (b'{"\\ud800": {}}', 8, "surrogates not allowed"),
        (b'{"a": ' + b"[" * 100_000, 8, "nested too deeply"),
        (b" {}", 0, "does not start with {"),
        (b"{}\0", 0, "broken header: "),
    ],
)
def test_a_header_that_lies(tmp_path, header, size, message):
    with pytest.raises(UserError, match=f"^{tmp_path}/x.safetensors has a .*{message}"):
        read_header(write(tmp_path, header, size))


@pytest.mark.parametrize("length", [0, 1, 10**3, 2**40, 2**63, 2**64 - 1])
def test_a_length_that_lies(tmp_path, length):
    with pytest.raises(UserError, match="cut off in its header, or no safetensors file"):
        read_header(write(tmp_path, {"a": A}, 8, length))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no regular file"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.reference
def test_the_formats_own_library_accepts_and_refuses_the_same(tmp_path):
    """But for two tensors of a name, of which it takes the last."""
    library = pytest.importorskip("safetensors")
    file, read = tmp_path / "x.safetensors", 0
    for data in header_cases.files(seed=9, count=6000):
        file.write_bytes(data)
        try:
            with library.safe_open(file, "np") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                theirs = {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
        except library.SafetensorError:
            theirs = None
        try:
            found = read_header(file)
            ours = {name: (tensor.kind, tensor.shape) for name, tensor in found.items()}
            ours = None if any(tensor.cut for tensor in found.values()) else ours
        except UserError as error:
            if "is there twice" in str(error):
                continue
            ours = None
        assert ours == theirs, data[:400]
        read += ours is not None
    assert 1000 < read < 5000
