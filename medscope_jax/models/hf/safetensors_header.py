"""The header of a safetensors file, accepted or refused as the format's own library does.

A file is eight bytes (the header's length), a JSON header that gives each tensor's dtype, shape and
place, and the tensors' bytes: one after the other, without holes, up to the file's end.
https://huggingface.co/docs/safetensors

The library itself has no bfloat16 for NumPy and does not say which tensors a truncated file lost,
so the header is read here. Only here are duplicate names and headers of over 16 MiB refused.
"""

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from medscope_jax.errors import UserError, one_line
from medscope_jax.files import open_regular
from medscope_jax.strict_json import parse_json

DTYPES = {  # the format's name -> NumPy's, for the types that weights are read in
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F64": np.dtype(np.float64),
}
_BITS = {  # of every dtype that the format knows
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
_LONGEST = 2**24  # bytes; a model of 72 B parameters takes 200 kB
_LARGEST = 2**64  # numbers are below it


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
    """The tensors of one file by name, in the order of their bytes.

    Of a file that was cut off the last ones lie beyond its end, see Tensor.cut.

    Raises:
        UserError: no such file, or its header is cut off or broken: no JSON, an impossible dtype or
            shape, tensors that overlap, bytes that belong to none.
    """
    try:
        with open_regular(file) as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= size - 8:
                raise UserError(f"{file} is cut off in its header, or no safetensors file")
            if length > _LONGEST:
                raise UserError(f"{file} has a header of {length:,} bytes; {_LONGEST:,} at most")
            entries = _parse(stream.read(length))
        return _tensors(file, entries, 8 + length, size)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} has a broken header: {one_line(error)[:200]}") from error


def _parse(text: bytes) -> dict[str, Any]:
    """The entries by tensor name; ValueError where the text is no header."""
    if not text.startswith(b"{"):
        raise ValueError("it does not start with {")
    header = parse_json(text)
    metadata = header.pop("__metadata__", None)
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if metadata is not None and not texts:
        raise ValueError("__metadata__ must be texts by name")
    return header


def _tensors(file: Path, entries: dict[str, Any], start: int, size: int) -> dict[str, Tensor]:
    tensors = [(name, _tensor(file, name, entry, start)) for name, entry in entries.items()]
    found, place = {}, start
    for name, tensor in sorted(tensors, key=lambda pair: (pair[1].offset, pair[1].size)):
        if tensor.offset < place:
            raise ValueError(f"{name[:80]} overlaps the tensor before it")
        if tensor.offset > place:
            raise ValueError(f"{tensor.offset - place} bytes before {name[:80]} are of no tensor")
        place += tensor.size
        found[name] = tensor
    if place < size:
        raise ValueError(f"{size - place} bytes after the last tensor are of none")
    return found


def _tensor(file: Path, name: str, entry: Any, start: int) -> Tensor:
    """The tensor of an entry; ValueError where it can't be one."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{name[:80]} has no dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(map(_is_count, numbers)):
            raise ValueError(f"{name[:80]} has a shape or data_offsets that are no lists of counts")
    if not isinstance(kind, str) or kind not in _BITS:
        raise ValueError(f"{name[:80]} has the dtype {str(kind)[:40]}, which the format has not")
    bits = _BITS[kind]
    elements = 1
    for side in shape:
        elements *= side
        if elements >= _LARGEST:  # long before the product of a million of them takes minutes
            raise ValueError(f"{name[:80]} is larger than any file")
    if len(offsets) != 2 or 8 * (offsets[1] - offsets[0]) != elements * bits:
        raise ValueError(f"{name[:80]}: bytes {offsets[:2]} can't hold {kind} {shape[:8]}")
    begin, end = offsets
    return Tensor(file, kind, tuple(shape), start + begin, end - begin)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST
