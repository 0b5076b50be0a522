"""Parquet files as numbered rows, in the form of `_files`; a row's number counts from 1."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tfds_builders.readers._files import Row, Unusable, json_rows, require_file

_BATCH = 64  # rows in memory at a time


def table_rows(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a .parquet file, or of a file of JSON (see `_files.json_rows`).

    Of a Parquet file only `columns` are read; those that it lacks are missing in every row.

    Raises:
      UserError: no such file.
    """
    require_file(path)
    return _rows(path, columns) if path.suffix.lower() == ".parquet" else json_rows(path)


def _rows(path: Path, columns: Collection[str]) -> Iterator[Row]:
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            if not present:
                yield 1, Unusable(f"the file has none of the columns {', '.join(columns)}")
                return
            for batch in file.iter_batches(_BATCH, columns=present):
                for index in range(batch.num_rows):
                    number += 1
                    yield number, _row(batch, index)
    # Arrow's errors, and those of the codecs below it, share no class but these.
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        broken = "the Parquet file is damaged here, or is none; what follows can't be read"
        yield number + 1, Unusable(broken)


def _row(batch: pa.RecordBatch, index: int) -> dict | Unusable:
    try:
        (row,) = batch.slice(index, 1).to_pylist()
    except (pa.ArrowException, ValueError):
        return Unusable("the row holds text that is not UTF-8")
    return row
