"""Parquet files as numbered rows, in the form of `_files`; a row's number counts from 1.

parquet_rows.py says what is read of them; it runs as a process of its own for each file.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from medscope_jax.files import open_regular
from tfds_builders.parquet_rows import BROKEN
from tfds_builders.readers._files import NumberedRow, json_rows, require_file
from tfds_builders.record import Unusable


def table_rows(path: Path, columns: Collection[str]) -> Iterator[NumberedRow]:
    """The rows of a .parquet file, or of a file of JSON (see `_files.json_rows`).

    Of a Parquet file only `columns` are read; those that it lacks are missing in every row.

    Raises:
      UserError: no such file.
    """
    require_file(path)
    return _rows(path, columns) if path.suffix.lower() == ".parquet" else json_rows(path)


def _rows(path: Path, columns: Collection[str]) -> Iterator[NumberedRow]:
    command = [sys.executable, "-m", "tfds_builders.parquet_rows", *columns]
    # Arrow's own allocators reserve more than they take, which a limit of memory would count.
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    number, ended = 0, False
    with open_regular(path) as source:
        if not _is_whole(source):
            yield 1, Unusable(BROKEN)
            return
        process = subprocess.Popen(
            command,
            env={**os.environ, **settings},
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    with process:
        try:
            for line in process.stdout:
                # Of a process that was ended midway, the last line may be a part of one.
                if not line.endswith(b"\n"):
                    break
                found = json.loads(line)
                ended = found == "end"
                if not ended:
                    number += 1
                    row, fault = found
                    yield number, Unusable(fault) if fault else row
        finally:
            process.kill()
    if not ended:
        yield number + 1, Unusable(BROKEN)


def _is_whole(file: BinaryIO) -> bool:
    """Whether a file begins and ends as Parquet does; goes back to its begin."""
    begin, end = file.read(4), b""
    if file.seek(0, os.SEEK_END) >= 12:
        file.seek(-4, os.SEEK_END)
        end = file.read(4)
    file.seek(0)
    return begin == end == b"PAR1"
