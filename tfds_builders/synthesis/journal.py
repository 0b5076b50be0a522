"""The journal: every answer that was paid for, on disk before it is used."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from filelock import lock_descriptor

from medscope_jax.errors import UserError, one_line
from tfds_builders.synthesis.items import Reply

_LOG = logging.getLogger(__name__)
_FIELDS = {
    "key": str,
    "kind": str,
    "text": str,
    "refused": bool,
    "prompt_tokens": int,
    "completion_tokens": int,
    "retries": int,
    "seconds": (int, float),
}
_OF_REPLY = tuple(_FIELDS)[2:]
_START = b'{"key": "'  # of every line
# Six bytes for each of a reply's, which the client reads a mebibyte of, and some more.
_LONGEST_LINE = 8 << 20


class Journal:
    """Answers by the hash of their request, in a file that only grows.

    One JSON object a line: key, kind, the fields of a Reply, and sha256, a hash of the line without
    it. It holds what the model said, never what was sent: no frames, no address, no key. Use
    `open_journal`.

    Attributes:
      damaged: numbers of the lines that were skipped, from 1: their answers are asked for again.
    """

    def __init__(self, descriptor: int, replies: dict[str, Reply], damaged: tuple[int, ...] = ()):
        self._descriptor = descriptor
        self._replies = replies
        self.damaged = damaged

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The answer to a request, with origin "journal" if an earlier run had asked."""
        return self._replies.get(key)

    def add(self, key: str, kind: str, reply: Reply) -> None:
        """Keeps an answer; it is on the disk when this returns.

        A kill in the middle leaves part of a line, which the next `open_journal` cuts off; where
        the disk is full, this does.
        """
        values = {name: getattr(reply, name) for name in _OF_REPLY}
        line = _line({"key": key, "kind": kind, **values})
        end = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise
        self._replies[key] = reply


@contextlib.contextmanager
def open_journal(path: str | os.PathLike) -> Iterator[Journal]:
    """Opens a journal, new or an earlier run's, for this process alone.

    Damaged lines are skipped, with a warning that names them. So is what is no line of a journal,
    unless nothing else is in the file.

    Raises:
      UserError: another process has it open, it can't be opened, or it is no journal.
    """
    path = pathlib.Path(path)
    try:
        # Without waiting: a pipe of this name would have it wait for ever.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise UserError(f"{path} can't be opened: {one_line(error)}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path} is no file, so it can't be the journal: move it away")
        try:
            held = lock_descriptor(descriptor, blocking=False)
        except OSError:  # of a file system without locks nothing is known
            held = False
        if not held:
            raise UserError(f"{path} is in use by another run; wait for its end")
        yield _replay(path, descriptor)
    finally:
        os.close(descriptor)


def _line(values: dict[str, Any]) -> bytes:
    """A line of the journal: the values and their checksum."""
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return json.dumps({**values, "sha256": digest}).encode() + b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """The values of a line; None if it is not as it was written.

    Lines of before they had a checksum are as they were written if JSON says so.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    checked = values.pop("sha256", None) is not None
    if list(values) != list(_FIELDS):
        return None
    if not all(isinstance(values[name], kind) for name, kind in _FIELDS.items()):
        return None
    written = _line(values) if checked else json.dumps(values).encode() + b"\n"
    return values if line == written else None


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(line, where it ends in the file) of each; one too long for a journal comes without its rest.

    What stands behind the last line's end comes as the last line, with the end of the line before.
    """
    end = 0
    while line := file.readline(_LONGEST_LINE):
        last = line
        while not last.endswith(b"\n") and (more := file.readline(_LONGEST_LINE)):
            last = more
        end = file.tell() if last.endswith(b"\n") else end
        yield line, end


def _replay(path: pathlib.Path, descriptor: int) -> Journal:
    """A journal with all its answers; what a kill left of a last line is cut off."""
    replies, damaged, ours, end = {}, [], False, 0
    with open(path, "rb") as file:
        for number, (line, after) in enumerate(_lines(file), start=1):
            ours |= line[: len(_START)] == _START[: len(line)]
            if after == end:  # the kill's
                break
            end, entry = after, _entry(line)
            if entry is None:
                damaged.append(number)
            else:
                values = {name: entry[name] for name in _OF_REPLY}
                replies[entry["key"]] = Reply(**values, origin="journal")
        if file.tell() and not ours:
            raise UserError(f"{path} is no journal of a synthesis; move it away to start anew")
    if damaged:
        numbers = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        _LOG.warning(
            "%s: %d damaged line(s) skipped (%s); what they answered is asked for again",
            path,
            len(damaged),
            numbers,
        )
    os.ftruncate(descriptor, end)
    return Journal(descriptor, replies, tuple(damaged))
