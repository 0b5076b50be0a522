"""Parquet files as numbered rows, in the form of `_files`; a row's number counts from 1.

A kilobyte of Parquet may hold one text of 40 MB and name it in a million rows. So texts stay in
their dictionary until a row is made, no row is made whose values take more than MAX_ROW bytes, and
no row group is read that says it takes more than MAX_GROUP.
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from medscope_jax.files import open_regular
from tfds_builders.readers._files import MAX_ROW, Row, Unusable, json_rows, require_file

MAX_GROUP = 256 * 2**20  # bytes of a row group's columns, unpacked
MAX_ROWS = 2**22  # of a file: a kilobyte may claim a billion, each of which would be quarantined
MAX_VALUES = 2**20  # of a row
_MAX_NESTED = 2**24  # values of a column of lists, a row group: their places are all in memory
_MAX_FIXED = 64  # bytes of a value of a type of fixed length
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
        with open_regular(path) as source, parquet.ParquetFile(source) as shape:
            present = [name for name in columns if name in shape.schema_arrow.names]
            if not present:
                yield 1, Unusable(f"the file has none of the columns {', '.join(columns)}")
                return
            if shape.metadata.num_rows > MAX_ROWS:
                yield 1, Unusable(f"the file has more than {MAX_ROWS:,} rows: split it")
                return
            leaves = [
                i
                for i in range(len(shape.schema))
                if shape.schema.column(i).path.split(".")[0] in present
            ]
            texts = [
                shape.schema.column(i).path
                for i in leaves
                if shape.schema.column(i).physical_type == "BYTE_ARRAY"
            ]
            file = parquet.ParquetFile(source, read_dictionary=texts, pre_buffer=False)
            for group in range(shape.num_row_groups):
                if fault := _group_fault(shape, group, leaves):
                    yield number + 1, fault
                    return
                for batch in file.iter_batches(_BATCH, row_groups=[group], columns=present):
                    for row in _made(batch):
                        number += 1
                        yield number, row
    # Arrow's errors, and those of the codecs below it, share no class but these.
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        broken = "the Parquet file is damaged here, or is none; what follows can't be read"
        yield number + 1, Unusable(broken)


def _group_fault(file: parquet.ParquetFile, group: int, leaves: list[int]) -> Unusable | None:
    """Why a row group is not read: what it claims to unpack to."""
    found = file.metadata.row_group(group)
    size = sum(found.column(i).total_uncompressed_size for i in leaves)
    if size > MAX_GROUP or size < 0:
        return Unusable(
            f"the row group takes more than {MAX_GROUP >> 20} MiB, write it in smaller ones; what "
            "follows is not read"
        )
    for i in leaves:
        column = file.schema.column(i)
        nested = column.max_repetition_level > 0
        if nested and not 0 <= found.column(i).num_values <= _MAX_NESTED:
            return Unusable(
                f"a column of lists has more than {_MAX_NESTED:,} values in the row group, write "
                "it in smaller ones; what follows is not read"
            )
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.length > _MAX_FIXED:
            return Unusable(
                f"a column has values of more than {_MAX_FIXED} bytes each that are no texts; the "
                "file is not read"
            )
    return None


def _made(batch: pa.RecordBatch) -> Iterator[dict | Unusable]:
    """The rows of a batch, one after the other where together they are too long or no text."""
    if not _is_long(batch):
        with contextlib.suppress(pa.ArrowException, ValueError):
            yield from batch.to_pylist()
            return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if _is_long(row):
            limits = f"{MAX_ROW >> 20} MiB, or has more than {MAX_VALUES:,} values"
            yield Unusable(f"the row is longer than {limits}")
            continue
        try:
            yield from row.to_pylist()
        except (pa.ArrowException, ValueError):
            yield Unusable("the row holds text that is not UTF-8")


def _is_long(batch: pa.RecordBatch) -> bool:
    sizes = [_size(column) for column in batch.columns]
    return sum(size for size, _ in sizes) > MAX_ROW or sum(n for _, n in sizes) > MAX_VALUES


def _size(array: pa.Array) -> tuple[int, int]:
    """(bytes of its texts, number of its values) of an array, without making any of them."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        places = array.indices.drop_null().to_numpy(zero_copy_only=False)
        if not len(places):
            return 0, len(array)
        words = array.dictionary
        wide = pa.types.is_large_string(words.type) or pa.types.is_large_binary(words.type)
        offsets = np.frombuffer(words.buffers()[1], np.int64 if wide else np.int32)[words.offset :]
        return int((offsets[places + 1] - offsets[places]).sum(dtype=np.int64)), len(array)
    if pa.types.is_struct(kind):
        parts = [_size(part) for part in array.flatten()]
    elif pa.types.is_nested(kind):
        parts = [_size(array.flatten())]
    else:
        return array.nbytes, len(array)
    return sum(size for size, _ in parts), len(array) + sum(count for _, count in parts)
