"""The journal: every answer that was paid for, on disk before it is used."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

from medscope_jax.errors import UserError
from tfds_builders.synthesis.items import Reply

_FIELDS = ("text", "refused", "prompt_tokens", "completion_tokens", "retries", "seconds")


class Journal:
    """Answers by the hash of their request, in a file that only grows.

    One JSON object a line: key, kind, and the fields of a Reply. It holds what the model said,
    never what was sent: no frames, no address, no key. Use `open_journal`.
    """

    def __init__(self, descriptor: int, replies: dict[str, Reply]):
        self._descriptor = descriptor
        self._replies = replies

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The answer to a request, with origin "journal" if an earlier run had asked."""
        return self._replies.get(key)

    def add(self, key: str, kind: str, reply: Reply) -> None:
        """Keeps an answer; it is on the disk when this returns.

        A kill in the middle leaves part of a line, which the next `open_journal` cuts off.
        """
        values = {name: getattr(reply, name) for name in _FIELDS}
        line = json.dumps({"key": key, "kind": kind, **values}).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)
        self._replies[key] = reply


@contextlib.contextmanager
def open_journal(path: str | os.PathLike) -> Iterator[Journal]:
    """Opens a journal, new or an earlier run's, for this process alone.

    Raises:
      UserError: another process has it open, or it is no journal; names the line.
    """
    path = pathlib.Path(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path} is in use by another run; wait for its end") from None
        yield Journal(descriptor, _replay(path, descriptor))
    finally:
        os.close(descriptor)


def _replay(path: pathlib.Path, descriptor: int) -> dict[str, Reply]:
    """All answers of a journal; what a kill left of a last line is cut off."""
    replies, whole = {}, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                values = {name: entry[name] for name in _FIELDS}
                replies[entry["key"]] = dataclasses.replace(Reply(**values), origin="journal")
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path}, line {number}: no answer of a synthesis; move the file away to start "
                    "anew"
                ) from None
            whole += len(line)
    os.ftruncate(descriptor, whole)
    return replies
