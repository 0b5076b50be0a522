"""One video's stored tokens: an ArrayRecord file of blocks of frames, described by its last record.

    records 0 .. n - 1   tokens of so many frames each (the last one: of the rest)
    record n             a checksum, a line feed, and the description as JSON: what it was made of,
                         times, duration, how many frames a record has, and each one's checksum

A conversation shows some frames of a video: records are small, so that little else is read.

The file takes its name when it is whole and on the disk, so a killed process leaves at most a
.partial of the one video that it was writing. What happens to a file later shows by its checksums.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from medscope_jax.bank.bank_codec import (
    RoundingError,
    item_size,
    pack,
    read_as,
    rounding_error,
    unpack,
)
from medscope_jax.errors import UserError, one_line
from medscope_jax.files import put_file

# Of a record, at most: beyond it a disk reads no faster. A frame of 64 tokens of 3,584 bfloat16 has
# 458,752 and is a record of its own.
RECORD_BYTES = 2**18
_MOST_FRAMES = 32  # of a record; int8 shares its factors among them
FORMAT = 2  # raised whenever files of before can't be read
SUFFIX, PARTIAL = ".array_record", ".partial"
# Tokens hardly compress, and one record is one read.
_WRITE = "group_size:1,uncompressed,max_parallelism:1"
_READ = "readahead_buffer_size:0,max_parallelism:0"


class DamagedBank(UserError):
    """A stored video that is not what was written; the message is the reason alone."""


class TokenWriter:
    """Writes one video's file; takes tokens as they come, and keeps less than a record of them."""

    def __init__(self, path: Path, dtype: str):
        """path: the finished file's; dtype: one of bank_codec.DTYPES."""
        self._path, self._dtype = path, dtype
        self._partial = path.with_name(path.name + PARTIAL)
        self._writer = ArrayRecordWriter(str(self._partial), _WRITE)
        self._waiting: list[np.ndarray] = []
        self._records: list[list[str]] = []
        self._frames, self._shape, self._block = 0, (0, 0), 1
        self._computed = ""
        self._error = RoundingError()

    def add(self, tokens: np.ndarray) -> None:
        """The next frames' tokens [n, S, D].

        Raises:
          UserError: a value is infinite or no number.
        """
        if not np.isfinite(tokens).all():
            raise UserError("the vision tower gives values that are not finite")
        self._shape, self._computed = tokens.shape[1:], tokens.dtype.name
        self._block = block = frames_of_record(tokens.shape[1:], self._dtype)
        self._waiting.append(tokens)
        waiting = sum(map(len, self._waiting))
        if waiting >= block:
            tokens = np.concatenate(self._waiting)
            full = waiting // block * block
            for start in range(0, full, block):
                self._write(tokens[start : start + block])
            self._waiting = [tokens[full:].copy()]

    def finish(self, **made_of: Any) -> None:
        """Writes the rest and the description, which holds made_of, and gives the file its name."""
        rest = np.concatenate(self._waiting)
        if len(rest):
            self._write(rest)
        error = self._error
        description = {
            **made_of,
            "format": FORMAT,
            "dtype": self._dtype,
            "computed": self._computed,
            "shape": [self._frames, *self._shape],
            "block": self._block,
            "records": self._records,
            "squares": [error.off, error.whole],
            "worst": [error.worst, error.frame, error.token],
        }
        text = json.dumps(description, sort_keys=True).encode()
        self._writer.write(_checksum(text).encode() + b"\n" + text)
        self._writer.close()
        put_file(self._partial, self._path)

    def abandon(self) -> None:
        """Removes what was written."""
        with contextlib.suppress(Exception):
            self._writer.close()
        self._partial.unlink(missing_ok=True)

    def _write(self, tokens: np.ndarray) -> None:
        data, factors = pack(tokens, self._dtype)
        if self._dtype not in ("float32", self._computed):  # else nothing was rounded
            stored = unpack(data, tokens.shape, self._dtype, factors)
            self._error = self._error.plus(rounding_error(tokens, stored), self._frames)
        self._frames += len(tokens)
        self._records.append([factors, _checksum(data)])
        self._writer.write(data)


def frames_of_record(shape: tuple[int, ...], dtype: str) -> int:
    """How many frames of (S, D) tokens a record holds."""
    return max(1, min(_MOST_FRAMES, RECORD_BYTES // (int(np.prod(shape)) * item_size(dtype))))


class BankFile:
    """An open file of a video's tokens; see opened.

    Attributes:
      description: what the file says of itself.
    """

    def __init__(self, reader: ArrayRecordReader, description: dict[str, Any]):
        self._reader, self.description = reader, description

    def blocks(self) -> Iterator[np.ndarray]:
        """The tokens [n, S, D] of one record after another, read as they are asked for."""
        return (self._block(number) for number in range(len(self.description["records"])))

    def read(self, frames: np.ndarray) -> np.ndarray:
        """The tokens [n, S, D] of frames [n]; no other records are read than theirs."""
        block, (_, *shape) = self.description["block"], self.description["shape"]
        stored = self.description["dtype"]
        tokens = np.empty((len(frames), *shape), read_as(stored))
        records = frames // block
        for number in np.unique(records):
            mine = records == number
            tokens[mine] = self._block(int(number))[frames[mine] - number * block]
        return tokens

    def _block(self, number: int) -> np.ndarray:
        frames, *shape = self.description["shape"]
        block = self.description["block"]
        factors, checksum = self.description["records"][number]
        data = _read(self._reader, number)
        if _checksum(data) != checksum:
            raise DamagedBank(f"record {number} is not what was written")
        count = min(block, frames - number * block)
        return unpack(data, (count, *shape), self.description["dtype"], factors)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BankFile]:
    """The file of a video, open.

    Tokens are float32 for int8, else as stored, and are read as they are asked for. A file that is
    replaced meanwhile stays what it was to whoever has it open.

    Raises:
      DamagedBank: it is not whole or was altered; for a record's tokens, when they are asked for.
    """
    try:
        reader = ArrayRecordReader(str(path), _READ)
        count = reader.num_records()
    except Exception as error:  # the library's own kinds, by what it stumbles over
        raise DamagedBank(f"it can't be opened: {_short(error)}") from error
    try:
        yield BankFile(reader, _description(reader, count))
    finally:
        with contextlib.suppress(Exception):  # closing a damaged one complains again
            reader.close()


def _description(reader: ArrayRecordReader, count: int) -> dict[str, Any]:
    if not count:
        raise DamagedBank("its end is broken")
    checksum, _, text = _read(reader, count - 1).partition(b"\n")
    if checksum != _checksum(text).encode():
        raise DamagedBank("its description is not what was written")
    description = json.loads(text)
    if description["format"] != FORMAT:
        raise DamagedBank("another version wrote it")
    if len(description["records"]) != count - 1:
        raise DamagedBank("records are missing")
    return description


def _read(reader: ArrayRecordReader, number: int) -> bytes:
    try:
        return reader.read([number])[0]
    except Exception as error:
        raise DamagedBank(f"record {number} can't be read: {_short(error)}") from error


def _short(error: Exception) -> str:
    return one_line(error).split(";")[0][:80]


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
