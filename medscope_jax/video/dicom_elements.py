"""The data elements of DICOM's binary format (PS3.5, chapter 7), and only those that are asked for.

A header is walked without recursion into what is not wanted: everything else, however deeply nested
or long, is stepped over and never held. So no identifier enters memory, and a hostile header costs
neither a stack nor gigabytes.
"""

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
# Value representations whose length takes four bytes, after two reserved ones (PS3.5, 7.1.2).
_LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8", "UV": "u8"}
_BINARY |= {"OW": "u2", "OV": "u8"}
# Bounds of what is walked and kept; so many headers take a few seconds.
_MAX_HEADERS = 1 << 20
_MAX_ITEMS = 1 << 18
_MAX_VALUE = 1 << 24  # bytes

# What is wanted of a data set: tag -> value representation, or, of a sequence's items, the same.
Wanted = Mapping[int, "str | Wanted"]


class BrokenElements(ValueError):
    """The bytes are no data elements, or are cut short. It quotes nothing."""


class Encoding(NamedTuple):
    """How elements are written: with their value representations or not, and in which order."""

    explicit: bool = True
    little: bool = True


class Element(NamedTuple):
    """One element's header: its tag, representation ("" in implicit files), and where its value is.

    length: bytes, or UNDEFINED. at: the value's position in the file.
    """

    tag: int
    vr: str
    length: int
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Elements:
    """The wanted elements of one data set.

    Attributes:
      values: tag -> (representation, bytes).
      items: tag -> the data sets of a sequence.
      little: the bytes' order.
    """

    values: Mapping[int, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    items: Mapping[int, "list[Elements]"] = dataclasses.field(default_factory=dict)
    little: bool = True

    def text(self, tag: int) -> str:
        """A value as text without its padding; "" where there is none."""
        return self._bytes(tag).decode("latin-1").strip(" \0")

    def numbers(self, tag: int) -> np.ndarray:
        """A value's numbers, text or binary: float64 [N], N = 0 where there is none.

        Raises ValueError where they are no numbers.
        """
        vr, value = self.values.get(tag, ("", b""))
        if vr in _BINARY:
            return self.words(tag, _BINARY[vr]).astype(np.float64)
        text = value.decode("latin-1").strip(" \0")
        return np.array([float(part) for part in text.split("\\")] if text else [], np.float64)

    def number(self, tag: int, absent: float = 0.0) -> float:
        """The first of a value's numbers; `absent` where there is none."""
        numbers = self.numbers(tag)
        return float(numbers[0]) if len(numbers) else absent

    def words(self, tag: int, kind: str) -> np.ndarray:
        """A value's bytes as numbers of this NumPy kind ("u2"), [N]; a remainder is left out."""
        value, dtype = self._bytes(tag), np.dtype(("<" if self.little else ">") + kind)
        return np.frombuffer(value[: len(value) // dtype.itemsize * dtype.itemsize], dtype)

    def tags(self, tag: int) -> list[int]:
        """The tags that a value of representation AT names."""
        groups = self.words(tag, "u2").astype(int).reshape(-1, 2)
        return [int(group) << 16 | int(element) for group, element in groups]

    def first(self, tag: int) -> "Elements":
        """A sequence's first item; an empty data set where there is none."""
        return next(iter(self.items.get(tag, ())), _NOTHING)

    def _bytes(self, tag: int) -> bytes:
        return self.values.get(tag, ("", b""))[1]


_NOTHING = Elements()


class Walker:
    """Reads elements of a file from its current position on; `end`, a position, is the file's."""

    def __init__(self, file: BinaryIO, end: int):
        self.file, self.end = file, end
        self._headers = self._items = 0

    def read(self, wanted: Wanted, encoding: Encoding, stop: frozenset[int]) -> tuple:
        """The wanted elements up to one of the tags in `stop`, and that one (None: the end came).

        Raises:
          BrokenElements: what is there is no data set, or it is cut short.
        """
        found: tuple[dict, dict] = ({}, {})
        while (element := self._next(encoding, self.end)) is not None:
            if element.tag in stop:
                return Elements(*found, encoding.little), element
            self._take(element, wanted, encoding, found)
        return Elements(*found, encoding.little), None

    def read_one(self, wanted: Wanted, encoding: Encoding) -> Elements:
        """The next element, if it is wanted."""
        found: tuple[dict, dict] = ({}, {})
        element = self._next(encoding, self.end)
        if element is not None:
            self._take(element, wanted, encoding, found)
        return Elements(*found, encoding.little)

    def _next(self, encoding: Encoding, end: int) -> Element | None:
        """The header at the current position, None at `end`."""
        position = self.file.tell()
        if position >= end:
            return None
        self._headers += 1
        head = self.file.read(8)
        if len(head) < 8 or self._headers > _MAX_HEADERS:
            raise BrokenElements
        order = "<" if encoding.little else ">"
        group, number, length = struct.unpack(f"{order}HHI", head)
        tag, vr = group << 16 | number, ""
        if group != 0xFFFE and encoding.explicit:
            vr = head[4:6].decode("latin-1")
            if vr in _LONG:
                rest = self.file.read(4)
                if len(rest) < 4:
                    raise BrokenElements
                (length,) = struct.unpack(f"{order}I", rest)
            elif vr.isascii() and vr.isalpha() and vr.isupper():
                (length,) = struct.unpack(f"{order}H", head[6:])
            else:
                raise BrokenElements
        return Element(tag, vr, length, self.file.tell())

    def _take(self, element: Element, wanted: Wanted, encoding: Encoding, found: tuple) -> None:
        """Keeps an element where it is wanted, and leaves the file behind it."""
        want = wanted.get(element.tag)
        if isinstance(want, Mapping) and element.vr in ("", "SQ", "UN"):
            inside = Encoding(explicit=False) if element.vr == "UN" else encoding
            found[1][element.tag] = list(self._sequence(element, want, inside))
        elif isinstance(want, str) and element.length != UNDEFINED:
            if element.length > min(_MAX_VALUE, self.end - element.at):
                raise BrokenElements
            vr = want if element.vr in ("", "UN") else element.vr
            found[0][element.tag] = vr, self.file.read(element.length)
        else:
            self._skip(element, encoding)

    def _sequence(self, element: Element, wanted: Wanted, encoding: Encoding) -> Iterator[Elements]:
        """The items of a wanted sequence."""
        end = self._end_of(element)
        while (item := self._next(encoding, end)) is not None and item.tag != SEQUENCE_END:
            self._items += 1
            if item.tag != ITEM or self._items > _MAX_ITEMS:
                raise BrokenElements
            found: tuple[dict, dict] = ({}, {})
            item_end = self._end_of(item)
            while (inner := self._next(encoding, item_end)) is not None and inner.tag != ITEM_END:
                self._take(inner, wanted, encoding, found)
            yield Elements(*found, encoding.little)

    def _end_of(self, element: Element) -> int:
        """Where a sequence or item ends at the latest."""
        if element.length == UNDEFINED:
            return self.end
        if element.length > self.end - element.at:
            raise BrokenElements
        return element.at + element.length

    def _skip(self, element: Element, encoding: Encoding) -> None:
        """Steps over a value; one of undefined length by its delimiters, at any depth."""
        if element.length != UNDEFINED:
            self.file.seek(self._end_of(element))
            return
        # The encodings of the sequences and items that are open, the innermost last.
        open_ = [Encoding(explicit=False) if element.vr == "UN" else encoding]
        while open_:
            inner = self._next(open_[-1], self.end)
            if inner is None:
                raise BrokenElements
            if inner.tag in (ITEM_END, SEQUENCE_END):
                open_.pop()
            elif inner.length == UNDEFINED:
                open_.append(Encoding(explicit=False) if inner.vr == "UN" else open_[-1])
            else:
                self.file.seek(self._end_of(inner))
