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
from medscope_jax.files import open_regular
from tfds_builders.record import Annotation, BadRow

MAX_ROW = 16 * 2**20  # bytes of a line; characters of an element of a JSON list
MAX_DOCUMENT = 16 * 2**20  # bytes of a JSON file that is read as a whole
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
        with open_regular(path) as file:
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


class _Window:
    """A text of which only what is looked at next is in memory.

    text[at:] holds MAX_ROW characters at least once `fill` was called, or all that is left (whole).
    line counts up to `at`.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.line, self.whole, self.is_text = "", 0, 1, False, True
        self.fill()

    def fill(self) -> None:
        """Reads on where less than MAX_ROW characters are left."""
        if self.whole or len(self.text) - self.at >= MAX_ROW:
            return
        pieces = [self.text[self.at :]]
        self.at, left = 0, MAX_ROW + MAX_ROW // 4 - len(pieces[0])
        while left > 0 and not self.whole:
            data = self._file.read(left)
            try:
                pieces.append(self._decoder.decode(data, final=not data))
            except UnicodeDecodeError as error:
                pieces.append(error.object[: error.start].decode())
                self.is_text = False
            self.whole = not data or not self.is_text
            left -= len(pieces[-1])
        self.text = "".join(pieces)

    def move(self, place: int) -> str:
        """Goes to text[place] and on past what is blank; the character that is there, or ""."""
        while True:
            self.line += self.text.count("\n", self.at, place)
            self.at = place
            place = _BLANK.match(self.text, place).end()
            self.line += self.text.count("\n", self.at, place)
            self.at = place
            self.fill()
            place = self.at
            if self.text[place : place + 1] not in (" ", "\t", "\r", "\n"):
                return self.text[place : place + 1]


def _elements(path: Path) -> Iterator[Row]:
    """The elements of a JSON list with their lines, up to where the list is broken."""
    decoder = json.JSONDecoder()
    with _opened(path) as file:
        window, element = _Window(file), 0
        next_one = window.move(window.text.index("[") + 1)
        closed = next_one == "]"
        while not closed:
            try:
                value, end = decoder.raw_decode(window.text, window.at)
                if end == len(window.text) and not window.whole:
                    raise ValueError
            except (ValueError, RecursionError):
                break
            element += 1
            if end - window.at > MAX_ROW:
                value = Unusable(f"the row is longer than {MAX_ROW >> 20} MiB")
            yield f"{window.line}, element {element}", value
            next_one = window.move(end)
            closed = next_one == "]"
            if closed or next_one != ",":
                break
            window.move(window.at + 1)
        if not closed or window.move(window.at + 1):
            yield window.line, _list_fault(window)


def _list_fault(window: _Window) -> Unusable:
    if not window.is_text:
        return Unusable("the file is not UTF-8 text from here on, so that nothing more is read")
    if window.whole:
        return Unusable("the JSON list is broken here; what follows can't be read")
    return Unusable(
        f"the JSON list is broken here, or an element is longer than {MAX_ROW >> 20} MiB; what "
        "follows can't be read"
    )


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
