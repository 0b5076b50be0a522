"""The run's log, one JSON line a step, exact across kills; a progress display with time left."""

import io
import itertools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self, TextIO

import numpy as np
from tqdm import tqdm

from medscope_jax.errors import UserError, is_disk_full, one_line
from medscope_jax.files import is_there, open_regular, write_bytes
from medscope_jax.paths import is_remote, to_path
from medscope_jax.stored import at_least, parse
from medscope_jax.visible import shown

_LOG = logging.getLogger(__name__)
_NOT_FINITE = ("nan", "inf", "-inf")
_LONGEST = 2**24  # bytes of a line
_BETWEEN = 60.0  # seconds after which a bucket's file is put again
_LINE = {"stage": str, "step": at_least(0), "time": float, ...: object}


class MetricsWriter:
    """Appends to metrics.jsonl, `{"stage": ..., "step": ..., "time": ..., ...}` a line.

    Every line is on the disk when `write` returns. A bucket has no appending: there the lines are
    kept in memory and put as a whole, every minute and by `flush`. `lines` and `bytes` count them:
    note both in each checkpoint and give them as `keep` and `size` on resume. What was logged after
    that checkpoint is cut off and logged again, so a resumed run's file equals that of one never
    killed, timing fields aside.
    """

    def __init__(self, path: str | Path | None, keep: int = 0, size: int | None = None):
        """Opens or makes the file, with its first `keep` lines (see cut); None writes nothing.

        Raises:
          UserError: something else lies there, such as a pipe.
        """
        self.lines, self.bytes = keep, size or 0
        self._path = None if path is None else to_path(path)
        self._file: BinaryIO | None = None
        self._stored, self._waiting = time.monotonic(), False
        if self._path is None:
            return
        if is_remote(self._path):
            there = is_there(self._path)
            self._file = open_regular(self._path) if there else io.BytesIO()
            self.cut(keep, size)
            return
        if os.path.exists(self._path) and not os.path.isfile(self._path):
            raise UserError(f"{self._path} is no regular file: move it away")
        self._file = open(self._path, "a+b")  # noqa: SIM115 - closed by close()
        self.cut(keep, size)

    def cut(self, keep: int, size: int | None = None) -> None:
        """Cuts the file to its first `keep` lines, as an older checkpoint asks for.

        A last line that was cut off goes, too. A damaged line before it stays as it is.

        Args:
          keep: how many lines.
          size: how many bytes they had; None if that was not noted. Where a line ends there, it
            decides: a damaged byte may have made two lines of one, or one of two.
        """
        self.lines, self.bytes = keep, size or 0
        if self._file is None:
            return
        if not (keep and size and _ends_at(self._file, size)):
            ends = [0, *itertools.islice(_ends(self._file), keep)]
            if len(ends) <= keep:
                name = shown(self._path)
                _LOG.warning("%s has %d whole lines, not %d", name, len(ends) - 1, keep)
            self.lines, size = len(ends) - 1, ends[-1]
        self.bytes = size
        self._file.truncate(size)
        self._waiting = True
        self._file.seek(0)
        _tell_damaged(self._path, [_read(line) for line in _whole_lines(self._file)])

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line.

        Args:
          stage: the stage's name.
          step: the step within the stage.
          metrics: numbers (NumPy's and JAX's too), strings, or lists and dicts of them. Names of
            wall-clock figures start with "seconds" or "time".

        Raises:
          UserError: the disk is full; the lines before are kept.
        """
        record = {"stage": stage, "step": int(step), "time": round(time.time(), 3)}
        line = json.dumps(record | _jsonable(dict(metrics)), allow_nan=False) + "\n"
        data = line.encode()
        if self._file is not None and is_remote(self._path or ""):
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._waiting = True
            if time.monotonic() - self._stored > _BETWEEN:
                self._try_to_store()
        elif self._file is not None and self._path is not None:
            end = self._file.seek(0, os.SEEK_END)
            try:
                self._file.write(data)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                if not is_disk_full(error):
                    raise
                os.truncate(self._path, end)
                raise UserError(
                    f"disk full while writing {self._path}; its {self.lines} lines are kept; "
                    "free some space and run again"
                ) from error
        self.lines += 1
        self.bytes += len(data)

    def flush(self) -> None:
        """Stores the lines that a bucket has not yet; those of a file are stored already.

        Raises:
          UserError: the bucket can't be reached.
        """
        if self._waiting and isinstance(self._file, io.BytesIO) and self._path is not None:
            write_bytes(self._path, self._file.getvalue())
            self._stored, self._waiting = time.monotonic(), False

    def _try_to_store(self) -> None:
        """flush; a bucket that can't be reached now costs nothing before the next checkpoint."""
        self._stored = time.monotonic()
        try:
            self.flush()
        except UserError as error:
            _LOG.warning("%s", shown(error))

    def close(self) -> None:
        """Stores what is left and closes the file."""
        if self._file is not None:
            self.flush()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, in order.

    A half-written last line is left out, and so are damaged ones, which a warning names.

    Raises:
      UserError: it can't be read.
    """
    try:
        with open_regular(path) as file:
            records = [_read(line) for line in _whole_lines(file)]
    except OSError as error:
        raise UserError(f"{path} can't be read: {one_line(error)}") from error
    _tell_damaged(path, records)
    return [record for record in records if record is not None]


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines that end; of one too long to be ours, which is damaged, its end alone."""
    while line := file.readline(_LONGEST):
        if line.endswith(b"\n"):
            yield line


def _ends_at(file: BinaryIO, size: int) -> bool:
    """Whether a line ends after so many bytes."""
    file.seek(size - 1)
    return file.read(1) == b"\n"


def _ends(file: BinaryIO) -> Iterator[int]:
    """Where each line of a file ends, in bytes."""
    file.seek(0)
    for _ in _whole_lines(file):
        yield file.tell()


def _read(line: bytes) -> dict[str, Any] | None:
    """A line's record; None if it is damaged."""
    try:
        return _restored(parse(line, _LINE))
    except (ValueError, RecursionError):
        return None


def _tell_damaged(path: str | Path | None, records: Sequence[dict | None]) -> None:
    damaged = [number for number, record in enumerate(records, 1) if record is None]
    if damaged:
        first = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        many = f"{len(damaged)} damaged lines ({first})" if len(damaged) > 1 else f"line {first}"
        _LOG.warning(
            "%s: %s can't be read: kept in the file, left out of curves", shown(path), many
        )


def _jsonable(value: Any) -> Any:
    """Plain JSON values; what is not finite becomes "nan", "inf" or "-inf", which JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, (str, bool, int, type(None))):
        return value
    if not isinstance(value, float):
        return _jsonable(np.asarray(value).tolist())
    return value if math.isfinite(value) else str(value)


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return float(value) if isinstance(value, str) and value in _NOT_FINITE else value


class Progress:
    """Shows how far a long job is and how long it will take yet.

    A bar on a terminal; elsewhere (a log file, a notebook's shell) a line at most every `interval`
    seconds, and one at the end.
    """

    def __init__(
        self,
        total: int,
        description: str,
        done: int = 0,
        unit: str = "steps",
        stream: TextIO | None = None,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts at `done` of `total` units; `stream` is stderr unless told otherwise."""
        self._stream = sys.stderr if stream is None else stream
        self._total, self._description, self._unit = total, description, unit
        self._first = self._done = done
        self._interval, self._clock = interval, clock
        self._start = self._said = clock()
        self._text = ""
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=description,
                initial=done,
                unit=f" {unit}",
                file=self._stream,
                dynamic_ncols=True,
            )

    def update(self, count: int = 1, **shown: Any) -> None:
        """Counts `count` more units; `shown` are figures to show, such as loss=0.3."""
        self._done += count
        self._text = "".join(f", {name} {_short(value)}" for name, value in shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._text.removeprefix(", "), refresh=False)
            self._bar.update(count)
        elif self._clock() - self._said >= self._interval and self._done < self._total:
            self._say()

    def close(self) -> None:
        """Ends the display; without a terminal, prints the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._first:
            self._say()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self) -> None:
        self._said = self._clock()
        spent = self._said - self._start
        left = spent / max(1, self._done - self._first) * (self._total - self._done)
        ending = f"{clock_text(left)} left" if self._done < self._total else clock_text(spent)
        print(
            f"{self._description}: {self._done}/{self._total} {self._unit}{self._text}, {ending}",
            file=self._stream,
            flush=True,
        )


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):.4g}"


def clock_text(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
