"""Safetensors files, read and written piece by piece.

A file is eight bytes (the header's length), a JSON header that gives each tensor's dtype, shape and
place, and the tensors' bytes. The format's own library writes a shard from tensors that are all in
memory, has no bfloat16 for NumPy, and does not say which tensors a truncated file lost; here a
tensor is read by rows, and a shard of any size is written from blocks.
https://huggingface.co/docs/safetensors
"""

import dataclasses
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from medscope_jax.errors import UserError, one_line

DTYPES = {  # the format's name -> NumPy's, for the types that weights come in
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD_BYTES = 5 * 10**9  # what the hub's tools cut at
_LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file; nothing of it is in memory."""

    file: Path
    kind: str  # the format's name of its dtype, as "BF16"
    shape: tuple[int, ...]
    offset: int  # bytes from the file's start
    size: int  # bytes

    @property
    def dtype(self) -> np.dtype:
        """NumPy's dtype; KeyError where `kind` is none of DTYPES."""
        return DTYPES[self.kind]

    @property
    def cut(self) -> bool:
        """Whether the file ends before the tensor does."""
        return self.offset + self.size > self.file.stat().st_size

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop (all by default) along the first axis, copied into memory."""
        rows, *rest = self.shape or (1,)
        stop = rows if stop is None else min(stop, rows)
        width = math.prod(rest)
        count, offset = (stop - start) * width, start * width * self.dtype.itemsize
        values = np.fromfile(self.file, self.dtype, count, offset=self.offset + offset)
        if values.size != count:
            raise UserError(f"{self.file} became shorter while it was read")
        return values.reshape((stop - start, *rest) if self.shape else ())


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name; they may lie beyond its end, see Tensor.cut.

    Raises:
        UserError: no such file, or its header is cut off or is none.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_LONGEST_HEADER, file.stat().st_size - 8):
                raise UserError(f"{file} is cut off in its header, or no safetensors file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return {name: _tensor(file, entry, 8 + length) for name, entry in header.items()}
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} has a broken header: {one_line(error)}") from error


def _tensor(file: Path, entry: dict[str, Any], start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    shape = tuple(int(side) for side in entry["shape"])
    kind = entry["dtype"]
    right = kind not in DTYPES or end - begin == math.prod(shape) * DTYPES[kind].itemsize
    if begin < 0 or end < begin or not right:
        raise ValueError(f"bytes {begin} to {end} can't hold {kind} {list(shape)}")
    return Tensor(file, kind, shape, start + begin, end - begin)


def read_folder(folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a Hugging Face folder's weights, and what is wrong with its files.

    Returns:
        Tensors by name, and one line for each shard that is missing or damaged and for each tensor
        that is cut off, that is not where the index says, or that is there twice.

    Raises:
        UserError: the folder holds no safetensors weights at all.
    """
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file():
        places = _read_index(index)
        files = sorted({folder / file for file in places.values()})
    elif single.is_file():
        places, files = {}, [single]
    else:
        loose = sorted(folder.glob("*.safetensors"))
        others = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
        found = f"it holds {(loose or others)[0].name}" if loose or others else "no weights there"
        raise UserError(f"{folder} has neither {INDEX} nor {SINGLE}: {found}")
    tensors: dict[str, Tensor] = {}
    problems = []
    for file in files:
        if not file.is_file():
            count = sum(folder / place == file for place in places.values())
            problems.append(f"shard {file.name} is missing, with {count} tensors")
            continue
        try:
            found = read_header(file)
        except UserError as error:
            problems.append(str(error))
            continue
        problems += [f"{name} is cut off in {file.name}" for name, t in found.items() if t.cut]
        twice = [name for name in found if name in tensors]
        problems += [f"{n} is both in {tensors[n].file.name} and {file.name}" for n in twice]
        expected = [name for name, place in places.items() if folder / place == file]
        problems += [f"{n} is not in {file.name}" for n in expected if n not in found]
        tensors |= found
    return tensors, problems


def _read_index(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text())["weight_map"]
        if not places or any(Path(place).name != place for place in places.values()):
            raise ValueError("weight_map must give a file of the folder for each tensor")
    except OSError as error:
        raise UserError(f"{index} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{index} is no index of shards: {one_line(error)}") from error
    return places


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor to write; its values come when their turn comes."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[np.ndarray]]  # the values in order, cut along the first axis

    @property
    def size(self) -> int:
        """Bytes."""
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
                np.ascontiguousarray(as_integers(block)).tofile(stream)
        stream.flush()
        os.fsync(stream.fileno())
        if stream.tell() != len(start) + sum(tensor.size for tensor in tensors):
            raise ValueError(f"the blocks of {file.name} do not add up to its tensors")


def make_header(tensors: Sequence[Planned]) -> bytes:
    """All that stands in a file before the first tensor's bytes."""
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
