"""Safetensors files, read and written piece by piece.

The format's own library writes a shard from tensors that are all in memory. Here a tensor is read
by rows, and a shard of any size is written from blocks.
"""

import dataclasses
import json
import math
import os
import re
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.models.hf.safetensors_header import DTYPES, Tensor, read_header
from medscope_jax.strict_json import read_json_object

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD_BYTES = 5 * 10**9  # what the hub's tools cut at


def read_folder(
    folder: Path, optional: Collection[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a Hugging Face folder's weights, and what is wrong with its files.

    Args:
        folder: with one safetensors file, or several and their index.
        optional: tensors that the index may name although no file has them.

    Returns:
        Tensors by name, and one line for each shard that is missing or damaged and for each tensor
        that is cut off, that is not where the index says, or that is there twice.

    Raises:
        UserError: the folder holds no safetensors weights at all, or two sets of them.
    """
    tensors: dict[str, Tensor] = {}
    problems = []
    for name, expected in sorted(_weight_files(folder).items()):
        file = folder / name
        if not file.is_file():
            problems.append(f"shard {name} is missing, with {len(expected)} tensors")
            continue
        try:
            found = read_header(file)
        except UserError as error:
            problems.append(str(error))
            continue
        problems += [f"{n} is cut off in {name}" for n, tensor in found.items() if tensor.cut]
        problems += [
            f"{n} is both in {tensors[n].file.name} and {name}" for n in found if n in tensors
        ]
        absent = [n for n in expected if n not in found and n not in optional]
        problems += [f"{n} is not in {name}" for n in absent]
        tensors |= found
    return tensors, problems


def _weight_files(folder: Path) -> dict[str, list[str]]:
    """The files that hold a folder's weights, and the tensors that the index expects in each."""
    index, single = folder / INDEX, folder / SINGLE
    if not index.is_file():
        if single.is_file():
            return {SINGLE: []}
        loose = sorted(folder.glob("*.safetensors"))
        others = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
        found = f"it holds {(loose or others)[0].name}" if loose or others else "no weights there"
        raise UserError(f"{folder} has neither {INDEX} nor {SINGLE}: {found}")
    files = _read_index(index)
    if single.is_file() and SINGLE not in files:
        if not any((folder / name).exists() for name in files):
            return {SINGLE: []}  # a leftover of shards that are gone
        raise UserError(
            f"{folder} holds two sets of weights, {SINGLE} and the shards of {INDEX}, and programs "
            "differ in which they read: move the one that is not meant to another folder"
        )
    return files


def _read_index(index: Path) -> dict[str, list[str]]:
    """The tensors that an index expects in each file."""
    places = read_json_object(index).get("weight_map")
    files: dict[str, list[str]] = {}
    for tensor, name in places.items() if isinstance(places, dict) else ():
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w. -]{0,199}", name, re.ASCII):
            raise UserError(
                f"{index} is no index of shards: {str(name)[:80]!r} is no file of the folder"
            )
        files.setdefault(name, []).append(tensor)
    if not files:
        raise UserError(f"{index} is no index of shards: weight_map gives a file for each tensor")
    return files


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor to write; its values are made when it is its turn."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[np.ndarray]]  # gives the values, cut along the first axis

    @property
    def size(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_folder(folder: Path, tensors: Sequence[Planned], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes tensors as the hub's shards, with their index where one file is not enough.

    Args:
        folder: where to; it must exist.
        tensors: in the order in which they are written; one block of one tensor is in memory.
        shard_bytes: no shard's tensors take more, unless a single one does.
    """
    shards = plan_shards(tensors, shard_bytes)
    for name, shard in shards.items():
        write_file(folder / name, shard)
    write_index(folder, shards)


def plan_shards(tensors: Sequence[Planned], shard_bytes: int) -> dict[str, list[Planned]]:
    """The files that tensors go to, filled one after the other."""
    shards: list[list[Planned]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.size for t in shards[-1]) + tensor.size > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    count = len(shards)
    return {f"model-{n:05}-of-{count:05}.safetensors": s for n, s in enumerate(shards, 1)}


def write_index(folder: Path, shards: Mapping[str, Sequence[Planned]]) -> None:
    """Writes the index of several shards; a single file needs none."""
    if len(shards) == 1:
        return
    total = sum(tensor.size for shard in shards.values() for tensor in shard)
    places = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_file(file: Path, tensors: Sequence[Planned]) -> None:
    """Writes one safetensors file, block by block, and waits until it is on the disk."""
    start = make_header(tensors)
    with file.open("wb") as stream:
        stream.write(start)
        for tensor in tensors:
            for block in tensor.blocks():
                stream.write(np.ascontiguousarray(as_integers(block)).data)
        stream.flush()
        os.fsync(stream.fileno())
        if stream.tell() != len(start) + sum(tensor.size for tensor in tensors):
            raise ValueError(f"the blocks of {file.name} do not add up to its tensors")


def make_header(tensors: Sequence[Planned]) -> bytes:
    """All bytes of a file before the first tensor's."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.size
        shape = list(tensor.shape)
        entry = {"dtype": kinds[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
        header[tensor.name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return struct.pack("<Q", len(text)) + text


def as_integers(array: np.ndarray) -> np.ndarray:
    """The same bytes as unsigned integers, which NumPy moves faster than bfloat16."""
    return array.view(f"u{array.dtype.itemsize}")
