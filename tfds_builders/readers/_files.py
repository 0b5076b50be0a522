"""Files as numbered rows, read so that one bad row costs no other, and rows as annotations.

A row is (number, value). The number is its line, counted from 1; in a JSON list it says which
element it is too, for a list may stand on one line. The value may be an Unusable, which says why
the row has none.
"""

import codecs
import contextlib
import csv
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medscope_jax.errors import UserError, closest
from tfds_builders.record import Annotation, BadRow

MAX_ROW = 16 * 2**20  # bytes of a line
MAX_DOCUMENT = 2**30  # bytes of a JSON file that is read as a whole
_BLANK = re.compile(r"[ \t\r\n]*")


class Unusable(ValueError):
    """Why a row, or a field of it, can't be used: a sentence that quotes none of its content."""


Row = tuple[int | str, Any]


def require_file(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
      UserError: nothing is there, or no file.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file" if path.exists() else f"there is no file {path}")
    return path


def annotate(
    path: Path, rows: Iterable[Row], make: Callable[[str, Any], Annotation]
) -> Iterator[Annotation | BadRow]:
    """One Annotation or BadRow a row: `make(place, value)`, or why it raised Unusable.

    A row that says what an earlier one said is a BadRow, and so is a file without rows.
    """
    earlier: dict[bytes, int | str] = {}
    empty = True
    for number, value in rows:
        empty = False
        place = f"{path.name}:{number}"
        try:
            if isinstance(value, Unusable):
                raise value
            annotation = make(place, value)
            digest = _digest(annotation)
            if digest in earlier:
                raise Unusable(f"the row repeats row {earlier[digest]}")
            earlier[digest] = number
        except Unusable as error:
            yield BadRow(place, str(error))
        else:
            yield annotation
    if empty:
        yield BadRow(f"{path.name}:1", "the file holds no rows")


def refuse_twice() -> Callable[[Any, str], None]:
    """A check `(key, name)` for keys that a source gives once: Unusable when one comes again."""
    seen = set()

    def check(key: Any, name: str) -> None:
        if key in seen:
            raise Unusable(f"the row's {name} is that of an earlier row")
        seen.add(key)

    return check


def text_rows(path: Path) -> Iterator[Row]:
    """The lines that are not blank, without their ends; Unusable where not UTF-8 or too long."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_ROW + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > MAX_ROW and not line.endswith(b"\n"):
                # The rest of it is read past in pieces: memory stays bounded.
                while (rest := file.readline(MAX_ROW)) and not rest.endswith(b"\n"):
                    pass
                yield number, Unusable(f"the row is longer than {MAX_ROW >> 20} MiB")
            elif line.strip():
                yield number, _decoded(line.rstrip(b"\r\n"), "row")


def json_rows(path: Path) -> Iterator[Row]:
    """The values of a file of JSON Lines, or the elements of a .json file that is one list."""
    if path.suffix.lower() == ".json" and _starts_with_bracket(path):
        yield from _elements(path)
        return
    for number, line in text_rows(path):
        yield number, line if isinstance(line, Unusable) else _parsed(line, "row")


def json_document(path: Path) -> Any:
    """The one value of a JSON file, or Unusable."""
    text = _whole(path)
    return text if isinstance(text, Unusable) else _parsed(text, "file")


def csv_rows(
    path: Path, required: Collection[str], known: Collection[str] | None = None
) -> Iterator[Row]:
    """The rows of a CSV file with a header, as dicts of text; a row is one line.

    A quote that is never closed therefore spoils its own line only. A header that lacks a required
    column, or that has one which is not `known` (where given), makes every row Unusable.
    """
    header = None
    for number, line in text_rows(path):
        cells = line if isinstance(line, Unusable) else _cells(line)
        if header is None:
            header = cells if isinstance(cells, Unusable) else _header(cells, required, known)
        elif isinstance(header, Unusable):
            yield number, Unusable(f"no row can be read under this header: {header}")
        elif isinstance(cells, Unusable):
            yield number, cells
        elif len(cells) != len(header):
            yield number, Unusable(f"the row has {len(cells)} columns, the header {len(header)}")
        else:
            yield number, dict(zip(header, cells, strict=True))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error


def _digest(annotation: Annotation) -> bytes:
    """What an annotation says, wherever it stands."""
    said = repr(dataclasses.replace(annotation, place=""))
    return hashlib.blake2b(said.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def _decoded(data: bytes, what: str) -> str | Unusable:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return Unusable(f"the {what} is not UTF-8 text")


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Unusable(f"the {what} is no valid JSON")


def _whole(path: Path) -> str | Unusable:
    with _opened(path) as file:
        data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        return Unusable(f"the file is larger than {MAX_DOCUMENT >> 20} MiB")
    return _decoded(data.removeprefix(codecs.BOM_UTF8), "file")


def _starts_with_bracket(path: Path) -> bool:
    with _opened(path) as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _elements(path: Path) -> Iterator[Row]:
    """The elements of a JSON list with their lines, up to where the list is broken."""
    text = _whole(path)
    if isinstance(text, Unusable):
        yield 1, text
        return
    decoder = json.JSONDecoder()
    broken = Unusable("the JSON list is broken here; what follows can't be read")
    line, counted, at, element = 1, 0, text.index("[") + 1, 0
    while True:
        at = _BLANK.match(text, at).end()
        line, counted = line + text.count("\n", counted, at), at
        if not element and text.startswith("]", at):
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield line, broken
            return
        element += 1
        yield f"{line}, element {element}", value
        at = _BLANK.match(text, end).end()
        line, counted = line + text.count("\n", counted, at), at
        if text.startswith("]", at):
            break
        if not text.startswith(",", at):
            yield line, broken
            return
        at += 1
    if text[at + 1 :].strip(" \t\r\n"):
        yield line, broken


def _cells(line: str) -> list[str] | Unusable:
    try:
        (cells,) = csv.reader([line], strict=True)
    except (csv.Error, ValueError):
        return Unusable("the row is no CSV line: a quote is open, or a cell is too long")
    return cells


def _header(
    cells: list[str], required: Collection[str], known: Collection[str] | None
) -> list[str] | Unusable:
    names = [cell.strip() for cell in cells]
    if len(set(names)) != len(names):
        return Unusable("it names a column twice")
    if missing := [name for name in required if name not in names]:
        return Unusable(f"it lacks the column {missing[0]}")
    strange = [name for name in names if known is not None and name not in known]
    if strange:
        return Unusable(f"it has a column that nobody knows{closest(strange[0][:40], known)}")
    return names
