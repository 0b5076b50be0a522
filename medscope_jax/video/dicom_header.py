"""What a DICOM file's header says that pictures and times need, and where its pixel data is.

Files come with a preamble or without, with a meta group or without, deflated or not, in either byte
order. Only the tags of WANTED are ever held; nothing else of the header leaves the file.
"""

import contextlib
import dataclasses
import os
import tempfile
import zlib
from typing import BinaryIO, Literal

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medscope_jax.video import size_limits as limits
from medscope_jax.video.dicom_elements import (
    UNDEFINED,
    BrokenElements,
    Element,
    Elements,
    Encoding,
    Walker,
)
from medscope_jax.video.dicom_tags import (
    DOUBLE_PIXELS,
    FLOAT_PIXELS,
    PIXEL_DATA,
    TRANSFER_SYNTAX,
    WANTED,
)
from medscope_jax.video.frames import VideoError

_STOP = frozenset((PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS))
_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_CHUNK = 1 << 20  # bytes inflated at a time
# A data set without a meta group begins with one of these tags, and goes on with one of a later
# place and before the pixels' own groups.
_FIRST = {
    0x00080000: b"UL",
    0x00080001: b"UL",
    0x00080005: b"CS",
    0x00080008: b"CS",
    0x00080012: b"DA",
    0x00080013: b"TM",
    0x00080014: b"UI",
    0x00080016: b"UI",
    0x00080018: b"UI",
}
_LATER = 0x00290000
_EXPLICIT, _IMPLICIT, _BIG = Encoding(), Encoding(explicit=False), Encoding(little=False)
_Order = Literal["little", "big"]


@dataclasses.dataclass(frozen=True)
class Header:
    """A DICOM file, open, with what is known of it.

    Attributes:
      file: holds the data set; the file itself, or what a deflated one inflates to.
      size: its bytes.
      syntax: UID of the transfer syntax.
      elements: the tags of WANTED.
      pixels: the pixel data's element; its value lies in `file`.
      whole: False where a deflated data set breaks off.
    """

    file: BinaryIO
    size: int
    syntax: str
    elements: Elements
    pixels: Element
    whole: bool = True

    @property
    def encapsulated(self) -> bool:
        """Whether the pixel data comes in fragments."""
        return self.syntax not in _NATIVE


def sniff(head: bytes) -> bool:
    """Whether a file that starts with these bytes, 512 of them, is DICOM, with preamble or without.

    Without one, it starts with its meta group or with the data set itself: then a first tag that
    data sets start with, and a second one behind it.
    """
    return head[128:132] == b"DICM" or _start(head) is not None


def _start(head: bytes) -> tuple[int, Encoding] | None:
    """Where the first element of a file is, and how it is written; None if the file is no DICOM."""
    for at in (132, 4, 0):
        if at and head[at - 4 : at] != b"DICM":
            continue
        if head[at : at + 2] == b"\x02\x00" and head[at + 3 : at + 4] in (b"\x00", b"\x01"):
            if head[at + 4 : at + 6] in (b"UL", b"OB", b"UI"):
                return at, _EXPLICIT
            # The standard has the meta group explicit; some writers have not.
            if at and int.from_bytes(head[at + 4 : at + 8], "little") <= 64:
                return at, _IMPLICIT
        encoding = _data_set_encoding(head[at:])
        if encoding is not None:
            return at, encoding
    return None


def _data_set_encoding(head: bytes) -> Encoding | None:
    """How a data set that starts so is written; None if it is none."""
    for encoding in (_EXPLICIT, _BIG, _IMPLICIT):
        order: _Order = "little" if encoding.little else "big"
        first = _tag(head, 0, order)
        value, length = 8, int.from_bytes(head[4:8], order)
        if encoding.explicit:
            length = int.from_bytes(head[6:8], order)
            if head[4:6] != _FIRST.get(first):
                continue
        following = _tag(head, value + length, order)
        if first in _FIRST and length % 2 == 0 and first < following < _LATER:
            return encoding
    return None


def _tag(head: bytes, at: int, order: _Order) -> int:
    """The tag at an offset; one that no data set holds where nothing is left."""
    group, element = head[at : at + 2], head[at + 2 : at + 4]
    return int.from_bytes(group, order) << 16 | int.from_bytes(element, order)


def open_header(file: BinaryIO, path: str, cleanup: contextlib.ExitStack) -> Header:
    """Reads the header of an open DICOM file.

    Args:
      file: at any position.
      path: what errors name.
      cleanup: closes what a deflated file inflates to.

    Raises:
      VideoError: broken, too large once inflated, or without images.
    """
    try:
        return _open(file, path, cleanup)
    except BrokenElements:
        reason = "DICOM, but its header is broken; export the recording again"
        raise VideoError(reason, path) from None


def _open(file: BinaryIO, path: str, cleanup: contextlib.ExitStack) -> Header:
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    start = _start(file.read(512))
    if start is None:
        # "DICM" stands where it should, and nothing that is known follows.
        raise BrokenElements
    at, encoding = start
    file.seek(at)
    walker = Walker(file, size)
    syntax = ""
    # One element at a time: what follows the group may be written otherwise, or be deflated.
    while _peek(file, 2) == b"\x02\x00":
        meta = walker.read_one({TRANSFER_SYNTAX: "UI"}, encoding)
        syntax = meta.text(TRANSFER_SYNTAX) or syntax
    whole = True
    if syntax == DeflatedExplicitVRLittleEndian:
        # It has no name, so nobody else sees it and nothing stays.
        plain = cleanup.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        whole = _inflate(file, plain, path)
        file, size = plain, plain.tell()
        file.seek(0)
    encoding = _stated_encoding(syntax, _peek(file, 512))
    syntax = syntax or {_IMPLICIT: ImplicitVRLittleEndian, _BIG: ExplicitVRBigEndian}.get(
        encoding, ExplicitVRLittleEndian
    )
    elements, pixels = Walker(file, size).read(WANTED, encoding, _STOP)
    if pixels is None or pixels.tag != PIXEL_DATA:
        if not whole:
            raise BrokenElements
        raise VideoError("DICOM without images (a report or a plan?); name a recording", path)
    if syntax in _NATIVE and pixels.length == UNDEFINED:
        reason = "DICOM whose pixel data is compressed in a way that it does not name"
        raise VideoError(f"{reason}; export the recording again", path)
    return Header(file, size, syntax, elements, pixels, whole)


def _peek(file: BinaryIO, count: int) -> bytes:
    """The next bytes, without moving."""
    found = file.read(count)
    file.seek(-len(found), os.SEEK_CUR)
    return found


def _stated_encoding(syntax: str, head: bytes) -> Encoding:
    """How a data set that starts so is written: as its transfer syntax says, where it can be so."""
    seen = _data_set_encoding(head)
    if not syntax:
        if seen is None:
            raise BrokenElements
        return seen
    encodings: dict[str, Encoding] = {ImplicitVRLittleEndian: _IMPLICIT, ExplicitVRBigEndian: _BIG}
    stated = encodings.get(syntax, _EXPLICIT)
    # Some writers state one and write the other; the bytes themselves are what is there.
    return stated if seen is None else seen


def _inflate(file: BinaryIO, plain: BinaryIO, path: str) -> bool:
    """Inflates the rest of a file into another; whether it came to its end."""
    first = _peek(file, 2)
    # PS3.5 A.5 has no zlib header; some writers have.
    zlib_header = first[:1] == b"\x78" and int.from_bytes(first, "big") % 31 == 0
    machine = zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)
    unpacked = 0
    try:
        while not machine.eof:
            packed = machine.unconsumed_tail or file.read(_CHUNK)
            if not packed:
                return False
            piece = machine.decompress(packed, _CHUNK)
            unpacked += len(piece)
            if unpacked > limits.MAX_UNPACKED:
                raise VideoError(
                    f"a deflated DICOM of more than {limits.MAX_UNPACKED >> 20} MiB once inflated: "
                    "that is the most that is read; export it with another compression",
                    path,
                )
            plain.write(piece)
    except zlib.error:
        return False
    except OSError:
        raise VideoError("no room to inflate it; free some temporary space", path) from None
    return True
