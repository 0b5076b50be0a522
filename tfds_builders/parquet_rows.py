"""The rows of a Parquet file, bounded; a program of its own, since a damaged file can end one.

    python -m tfds_builders.parquet_rows COLUMN ... < FILE

writes a line of JSON a row, [row, ""] or [null, why it has none], and at last "end". Arrow calls
abort on some damaged files, and believes what a page says of its size; here that costs a process
of at most MAX_MEMORY and not a build. readers/_parquet.py starts it.

A kilobyte of Parquet may hold one text of 40 MB and name it in a million rows. So texts stay in
their dictionary until a row is made, no row is made whose values take more than MAX_ROW bytes, and
no row group is read that says it takes more than MAX_GROUP.
"""

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import parquet

MAX_ROW = 16 * 2**20  # bytes of a row's texts
MAX_VALUES = 2**20  # of a row
MAX_ROWS = 2**22  # of a file: a kilobyte may claim a billion, each of which would be quarantined
MAX_GROUP = 256 * 2**20  # bytes of a row group's columns, unpacked
MAX_MEMORY = 2**30  # bytes of the process
_MAX_NESTED = 2**24  # values of a column of lists, a row group: their places are all in memory
_MAX_FIXED = 64  # bytes of a value of a type of fixed length
_BATCH = 64  # rows in memory at a time
BROKEN = (
    "the Parquet file is damaged here, is none, or takes more than 1 GiB of memory; what follows "
    "can't be read"
)

# A row's values by column, and why there are none: "" where there are.
ParquetRow = tuple[dict[str, Any] | None, str]


def rows(source: BinaryIO, columns: Sequence[str]) -> Iterator[ParquetRow]:
    """The rows of an open file; only `columns` are read, those that it lacks are missing."""
    try:
        with parquet.ParquetFile(source) as file:
            names = file.schema_arrow.names
            present = [name for name in names if name.strip().casefold() in columns]
            fault = _file_fault(file, columns, present)
            if fault:
                yield None, fault
                return
            numbered = ((i, file.schema.column(i)) for i in range(len(file.schema)))
            leaves = {i: leaf for i, leaf in numbered if leaf.path.split(".")[0] in present}
            texts = [leaf.path for leaf in leaves.values() if leaf.physical_type == "BYTE_ARRAY"]
            left = file.metadata.num_rows
            lazy = parquet.ParquetFile(
                source, read_dictionary=texts, pre_buffer=False, page_checksum_verification=True
            )
            for group in range(file.num_row_groups):
                if fault := _group_fault(file.metadata.row_group(group), leaves):
                    yield None, fault
                    return
                for batch in lazy.iter_batches(
                    _BATCH, row_groups=[group], columns=present, use_threads=False
                ):
                    left -= batch.num_rows
                    yield from _made(batch)
            if left:
                yield None, BROKEN
    # Arrow's errors, and those of the codecs below it, share no class but these.
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, MemoryError):
        yield None, BROKEN


def _file_fault(file: parquet.ParquetFile, columns: Sequence[str], present: Sequence[str]) -> str:
    if not present:
        return f"the file has none of the columns {', '.join(columns)}"
    if len({name.strip().casefold() for name in present}) < len(present):
        return "the file has two columns of one name"
    # As tables do that know no objects: nothing of it would be read.
    heads = [name.partition(".")[0] for name in file.schema_arrow.names if name not in present]
    if flat := [head for head in heads if head in columns]:
        return f"the file has a column of its own for a field of {flat[0]}: write objects, or JSON"
    if file.metadata.num_rows > MAX_ROWS:
        return f"the file has more than {MAX_ROWS:,} rows: split it"
    return ""


def _group_fault(group: parquet.RowGroupMetaData, leaves: dict[int, Any]) -> str:
    """Why a row group is not read: what it claims to unpack to."""
    sizes = [group.column(i).total_uncompressed_size for i in leaves]
    if sum(sizes) > MAX_GROUP or min(sizes) < 0:
        return (
            f"the row group takes more than {MAX_GROUP >> 20} MiB, write it in smaller ones; what "
            "follows is not read"
        )
    for i, leaf in leaves.items():
        if leaf.max_repetition_level and not 0 <= group.column(i).num_values <= _MAX_NESTED:
            return (
                f"a column of lists has more than {_MAX_NESTED:,} values in the row group, write "
                "it in smaller ones; what follows is not read"
            )
        if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" and leaf.length > _MAX_FIXED:
            return (
                f"a column has values of more than {_MAX_FIXED} bytes each that are no texts; the "
                "file is not read"
            )
    return ""


def _made(batch: pa.RecordBatch) -> Iterator[ParquetRow]:
    """The rows of a batch, one after the other where together they are too long or no text."""
    if not _is_long(batch):
        with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):
            yield from [(row, "") for row in batch.to_pylist()]
            return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if _is_long(row):
            limits = f"{MAX_ROW >> 20} MiB, or has more than {MAX_VALUES:,} values"
            yield None, f"the row is longer than {limits}"
            continue
        try:
            (made,) = row.to_pylist()
        except (pa.ArrowException, UnicodeDecodeError):
            yield None, "the row holds text that is not UTF-8"
        except (ValueError, OverflowError):
            yield None, "the row holds a date that there is not"
        else:
            yield made, ""


def _is_long(batch: pa.RecordBatch) -> bool:
    sizes = [_size(column) for column in batch.columns]
    return sum(size for size, _ in sizes) > MAX_ROW or sum(n for _, n in sizes) > MAX_VALUES


def _size(array: pa.Array) -> tuple[int, int]:
    """(bytes of its texts, number of its values) of an array, without making any of them.

    Raises:
      IndexError: it names what its dictionary does not have. Arrow would read beyond it.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        places = array.indices.drop_null().to_numpy(zero_copy_only=False)
        if not len(places):
            return 0, len(array)
        words = array.dictionary
        if places.min() < 0 or places.max() >= len(words):
            raise IndexError("no such word in the dictionary")
        if not _is_text(words.type):
            bytes_each, values_each = (-(-most // len(words)) for most in _size(words))
            return len(places) * bytes_each, len(array) * values_each
        wide = pa.types.is_large_string(words.type) or pa.types.is_large_binary(words.type)
        offsets = np.frombuffer(words.buffers()[1], np.int64 if wide else np.int32)[words.offset :]
        return int((offsets[places + 1] - offsets[places]).sum(dtype=np.int64)), len(array)
    if pa.types.is_struct(kind):
        parts = [_size(part) for part in array.flatten()]
    elif pa.types.is_map(kind):  # which Arrow does not flatten
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        parts = [_size(part.slice(first, last - first)) for part in (array.keys, array.items)]
    elif pa.types.is_nested(kind):
        parts = [_size(array.flatten())]
    else:
        return array.nbytes, len(array)
    return sum(size for size, _ in parts), len(array) + sum(count for _, count in parts)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _plain(value: Any) -> Any:
    """What stands in JSON for a value that JSON has no form of: never null, which means absent."""
    if isinstance(value, bytes):  # also texts of the types ENUM and JSON
        try:
            return value.decode()
        except UnicodeDecodeError:
            return "broken text \udcff"  # whoever reads the field refuses it, in these words
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)  # decimals, dates, times


def lines(source: BinaryIO, columns: Sequence[str]) -> Iterator[str]:
    """`rows` as lines of JSON."""
    return (json.dumps(row, default=_plain) + "\n" for row in rows(source, columns))


def main(columns: Sequence[str]) -> None:
    """Writes the rows of the file on standard input."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # where there is no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(0, "rb") as source, open(1, "w", encoding="utf-8") as target:
        target.writelines(lines(source, columns))
        target.write('"end"\n')


if __name__ == "__main__":
    main(sys.argv[1:])
