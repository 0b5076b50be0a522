"""CSV files as numbered rows of text, in the form of `_files`.

A header names the columns: in any case, blanks and hyphens for underscores. Cells are parted by
what parts the header: commas, tabs, or semicolons, as Excel writes where the comma is the decimal
mark; then it is one in times, too. Excel's own first line "sep=;" is understood.
"""

import csv
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from medscope_jax.errors import closest
from tfds_builders.readers._files import NumberedRow, text_rows
from tfds_builders.record import Unusable

_DELIMITERS = ",;\t"
_SEP_LINE = re.compile(r"\"?sep=([,;\t])\"?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9])")
# What a column may be called, and how much of it is quoted: other words may be a row's content.
_COLUMN = re.compile(r"[^\W\d][\w -]{0,39}")


def csv_rows(
    path: Path,
    required: Collection[str],
    known: Collection[str] | None = None,
    times: Collection[str] = (),
) -> Iterator[NumberedRow]:
    """The rows of a CSV file with a header, as dicts of text; a row is one line.

    A quote that is never closed therefore spoils its own line only. A header that lacks a required
    column, or that has one which is not `known` (where given), makes every row Unusable. A row of
    empty cells is a blank line.

    Args:
      path: the file.
      required, known: names of columns in lower case.
      times: the columns whose cells are times or spans.
    """
    header = delimiter = None  # what parts the header's names most often parts its rows
    for number, line in text_rows(path):
        if delimiter is None:
            form = _SEP_LINE.fullmatch(str(line).rstrip())
            delimiter = form[1] if form else max(_DELIMITERS, key=str(line).count)
            if form:
                continue
        cells = line if isinstance(line, Unusable) else _cells(line, delimiter)
        if header is None:
            header = cells if isinstance(cells, Unusable) else _header(cells, required, known)
        elif isinstance(header, Unusable):
            yield number, Unusable(f"no row can be read under this header: {header}")
        elif isinstance(cells, Unusable):
            yield number, cells
        elif not any(map(str.strip, cells)):
            continue
        elif len(cells) != len(header):
            yield number, Unusable(f"the row has {len(cells)} columns, the header {len(header)}")
        else:
            row = dict(zip(header, cells, strict=True))
            if delimiter == ";":
                row |= {k: _DECIMAL_COMMA.sub(".", row[k]) for k in times if k in row}
            yield number, row


def unknown_field(name: str, known: Collection[str]) -> str:
    """What is said of a column or field that nobody knows; names it where it can be a name."""
    if not name:
        return "a column without a name"
    shown = f", {name!r}" if _COLUMN.fullmatch(name) else ""
    return f"a field that nobody knows{shown}{closest(name[:40], known)}; known are " + ", ".join(
        known
    )


def _cells(line: str, delimiter: str) -> list[str] | Unusable:
    try:
        (cells,) = csv.reader([line], strict=True, delimiter=delimiter)
    except (csv.Error, ValueError):
        return Unusable("the row is no CSV line: a quote is open, or a cell is too long")
    return cells


def _header(
    cells: list[str], required: Collection[str], known: Collection[str] | None
) -> list[str] | Unusable:
    names = [re.sub(r"[\s-]+", "_", cell.strip().casefold()) for cell in cells]
    if len(set(names)) != len(names):
        return Unusable("it names a column twice")
    strange = [name for name in names if known is not None and name not in known]
    if missing := [name for name in required if name not in names]:
        # Without it, the line may be a row: nothing of it is quoted but what is nearly a name.
        near = [name for name in strange if _COLUMN.fullmatch(name) and closest(name, missing)]
        instead = f", but has {near[0]!r}" if near else "; the first line names the columns"
        return Unusable(f"it lacks the column {missing[0]}{instead}")
    if strange:
        return Unusable(f"it has {unknown_field(strange[0], known)}")
    return names
