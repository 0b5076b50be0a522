"""Files as numbered rows, read so that one bad row costs no other, and rows as annotations.

A row is (number, value). The number is its line, counted from 1; in a JSON list it says which
element it is too, for a list may stand on one line. The value may be an Unusable, which says why
the row has none.
"""

import codecs
import collections
import contextlib
import dataclasses
import fnmatch
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medscope_jax.errors import UserError
from medscope_jax.files import open_regular
from tfds_builders.record import Annotation, BadRow, Unusable

MAX_ROW = 16 * 2**20  # bytes of a line; characters of an element of a JSON list
MAX_DOCUMENT = 16 * 2**20  # bytes of a JSON file that is read as a whole
MAX_BAD = 10_000  # rows of a file that can't be used
TOO_MANY_BAD = f"{MAX_BAD:,} lines or frames can't be read, so that no question is made of the file"
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPED = re.compile("[\ud800-\udfff]")  # bytes that are no text
_NO_MORE = "nothing more is read"


NumberedRow = tuple[int | str, Any]


def require_file(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
      UserError: nothing is there, or no file.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file" if path.exists() else f"there is no file {path}")
    return path


def listed(folder: Path, pattern: str) -> list[Path]:
    """What a folder holds of names like `pattern`; nothing if there is no folder.

    Raises:
      OSError: it can't be read, where Path.glob would find nothing.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in names if fnmatch.fnmatchcase(name, pattern)]


def annotate(
    path: Path, rows: Iterable[NumberedRow], make: Callable[[str, Any], Annotation]
) -> Iterator[Annotation | BadRow]:
    """One Annotation or BadRow a row: `make(place, value)`, or why it raised Unusable.

    A row that says what an earlier one said is a BadRow, and so is a file without rows. Of a file
    of whose first MAX_BAD rows none can be used the others are not read.
    """
    earlier: dict[bytes, int | str] = {}
    bad = 0
    for number, value in rows:
        place = f"{path.name}:{number}"
        if bad == MAX_BAD and not earlier:
            yield BadRow(place, f"none of {MAX_BAD:,} rows can be used; {_NO_MORE} of the file")
            return
        try:
            if isinstance(value, Unusable):
                raise value
            annotation = make(place, value)
            digest = _digest(annotation)
            if digest in earlier:
                raise Unusable(f"the row repeats row {earlier[digest]}")
            earlier[digest] = number
        except Unusable as error:
            bad += 1
            yield BadRow(place, str(error))
        else:
            yield annotation
    if not (bad or earlier):
        yield BadRow(f"{path.name}:1", "the file holds no rows")


def refuse_twice() -> Callable[[Any, str], None]:
    """A check `(key, name)` for keys that a source gives once: Unusable when one comes again."""
    seen = set()

    def check(key: Any, name: str) -> None:
        if key in seen:
            raise Unusable(f"the row's {name} is that of an earlier row")
        seen.add(key)

    return check


def text_rows(path: Path) -> Iterator[NumberedRow]:
    """The lines that are not blank, without their ends; Unusable where no text or too long."""
    with _opened(path) as file:
        # A line feed, a carriage return, or both together end a line.
        lines = io.TextIOWrapper(file, _encoding_of(file), errors="surrogateescape", newline=None)
        for number in itertools.count(1):
            try:
                line = lines.readline(MAX_ROW + 1)
                is_long = len(line) > MAX_ROW and not line.endswith("\n")
                # The rest of it is read past in pieces: memory stays bounded.
                while is_long and (rest := lines.readline(MAX_ROW)) and not rest.endswith("\n"):
                    pass
            except UnicodeDecodeError:
                yield number, Unusable(f"the file is no text from here on; {_NO_MORE}")
                return
            if not line:
                return
            if is_long:
                yield number, Unusable(f"the row is longer than {MAX_ROW >> 20} MiB")
            elif line.strip(" \t\n\v\f"):
                yield number, _checked(line.removesuffix("\n"))


def _encoding_of(file: BinaryIO) -> str:
    """The encoding of a text by its byte order mark, if it has one; goes back to its begin."""
    mark = file.read(2)
    file.seek(0)
    return "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _checked(line: str) -> str | Unusable:
    if _ESCAPED.search(line):
        return Unusable("the row is not UTF-8 text")
    if "\0" in line:
        return Unusable("the row holds NUL characters; if the file is UTF-16, write it as UTF-8")
    return line


def json_rows(path: Path) -> Iterator[NumberedRow]:
    """The values of a file of JSON Lines, or the elements of a .json file that is one list."""
    if path.suffix.lower() == ".json" and _starts_with_bracket(path):
        yield from _elements(path)
        return
    for number, line in text_rows(path):
        yield number, line if isinstance(line, Unusable) else parsed(line, "row")


def json_document(path: Path) -> Any:
    """The one value of a JSON file, or Unusable."""
    with _opened(path) as file:
        encoding = _encoding_of(file)
        data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        return Unusable(f"the file is larger than {MAX_DOCUMENT >> 20} MiB")
    try:
        return parsed(data.decode(encoding), "file")
    except UnicodeDecodeError:
        return Unusable("the file is not UTF-8 text")


def parsed(text: str, what: str) -> Any:
    """The value of a text of JSON, or Unusable."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return Unusable(f"the {what} is no valid JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a field that is there twice is Unusable, since either may be meant."""
    made = dict(pairs)
    if len(made) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        made |= {key: Unusable("is there twice") for key, count in counts.items() if count > 1}
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


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


def _starts_with_bracket(path: Path) -> bool:
    with _opened(path) as file:
        encoding = _encoding_of(file)
        return file.read(4096).decode(encoding, "replace").lstrip()[:1] == "["


class _Window:
    """A text of which only what is looked at next is in memory.

    text[at:] holds MAX_ROW characters at least once `fill` was called, or all that is left (whole).
    line counts up to `at`.
    """

    def __init__(self, file: BinaryIO):
        decoder = codecs.getincrementaldecoder(_encoding_of(file))()
        self._file, self._decoder = file, io.IncrementalNewlineDecoder(decoder, translate=True)
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
                pieces.append(error.object[: error.start].decode(error.encoding))
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


def _elements(path: Path) -> Iterator[NumberedRow]:
    """The elements of a JSON list with their lines, up to where the list is broken."""
    with _opened(path) as file:
        window, element = _Window(file), 0
        next_one = window.move(window.text.index("[") + 1)
        closed = next_one == "]"
        while not closed:
            try:
                value, end = _DECODER.raw_decode(window.text, window.at)
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
        return Unusable(f"the file is not UTF-8 text from here on; {_NO_MORE}")
    if window.whole:
        return Unusable("the JSON list is broken here; what follows can't be read")
    return Unusable(
        f"the JSON list is broken here, or an element is longer than {MAX_ROW >> 20} MiB; what "
        "follows can't be read"
    )
