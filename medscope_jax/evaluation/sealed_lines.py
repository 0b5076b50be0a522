"""Files of JSON lines that only grow: every line ends with its checksum.

A line is on the disk when `append` returns. A kill leaves whole lines and at most a part of one,
which the next `read` drops. A line that is not as it was written is left out, and counted.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from medscope_jax.errors import UserError, is_disk_full, one_line
from medscope_jax.stored import parse

_SEAL = "sha256"
_LONGEST = 32 * 2**20  # bytes of a line, as of any JSON that is read again


@dataclasses.dataclass
class LineFaults:
    """What was left out of a file."""

    damaged: list[int] = dataclasses.field(default_factory=list)  # numbers of lines, from 1
    torn: int = 0  # bytes of a last line that was cut off

    def told(self) -> str:
        """One line about them; "" if there are none."""
        parts = []
        if self.torn:
            parts.append(f"a last line that was cut off ({self.torn} bytes) is dropped")
        if count := len(self.damaged):
            first = ", ".join(map(str, self.damaged[:5])) + (", ..." if count > 5 else "")
            parts.append(f"{count} damaged line(s) left out ({first})")
        return "; ".join(parts)


def sealed(values: Mapping[str, Any]) -> bytes:
    """A line: the values, and last their checksum."""
    digest = hashlib.sha256(json.dumps(values, allow_nan=False).encode()).hexdigest()
    return json.dumps({**values, _SEAL: digest}, allow_nan=False).encode() + b"\n"


def read_sealed(path: str | os.PathLike, first: Any, others: Any) -> "SealedReading":
    """The values of a file's lines, to be read one after the other; the file stays as it is.

    Args:
      first, others: schemas (see stored.py), without the checksum, of the first line and the rest.
    """
    return SealedReading(Path(path), first, others)


class SealedReading:
    """An iterator over a file's lines as (number, values); `faults` is complete at its end."""

    def __init__(self, path: Path, first: Any, others: Any):
        self.faults, self.end = LineFaults(), 0  # end: where the last whole line ends
        self._values = self._read(path, first, others)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return self._values

    def _read(self, path: Path, first: Any, others: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(_lines(file), start=1):
                    if not line.endswith(b"\n") and file.tell() == os.fstat(file.fileno()).st_size:
                        self.faults.torn = file.tell() - self.end
                        return
                    self.end = file.tell()
                    values = _values(line, first if number == 1 else others)
                    if values is None:
                        self.faults.damaged.append(number)
                    else:
                        yield number, values
        except OSError as error:
            raise UserError(f"{path} can't be read: {one_line(error)}") from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is too long its end alone."""
    while line := file.readline(_LONGEST):
        while len(line) == _LONGEST and not line.endswith(b"\n"):
            line = file.readline(_LONGEST) or b""
        yield line


def _values(line: bytes, schema: Mapping) -> dict[str, Any] | None:
    """What a line says; None if it is not as it was written."""
    try:
        values = parse(line, {**schema, _SEAL: str})
    except (ValueError, RecursionError):
        return None
    del values[_SEAL]
    return values if sealed(values) == line else None


class SealedFile(contextlib.AbstractContextManager):
    """A file that lines are added to; hold a lock while it is open."""

    def __init__(self, path: Path):
        """Opens or makes it, its owner's alone.

        Raises:
          UserError: something else lies there, or it can't be opened.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise UserError(f"{path} can't be opened: {one_line(error)}") from error
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise UserError(f"{path} is no regular file: move it away")

    def read(self, first: Any, others: Any) -> SealedReading:
        """The lines so far, see read_sealed; give what it has found to `cut` before appending."""
        return read_sealed(self.path, first, others)

    def cut(self, reading: SealedReading) -> None:
        """Drops what stands behind the last whole line that was read."""
        os.ftruncate(self._descriptor, reading.end)

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines.

        Raises:
          UserError: the disk is full; the lines before are kept.
        """
        data = b"".join(map(sealed, lines))
        end = os.fstat(self._descriptor).st_size
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            if not is_disk_full(error):
                raise
            raise UserError(
                f"disk full while writing {self.path}; its lines so far are kept: free some space "
                "and run again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
