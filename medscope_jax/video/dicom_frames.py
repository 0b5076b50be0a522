"""Where each frame's bytes are in a DICOM file's pixel data, and what is missing of them.

Nothing is decoded. What the header promises is held against what is there before anything is
allocated for it.
"""

import array
import dataclasses
import math
import os
import struct
from typing import BinaryIO

import numpy as np

from medscope_jax.video import size_limits as limits
from medscope_jax.video.dicom_elements import ITEM, SEQUENCE_END
from medscope_jax.video.dicom_header import Header
from medscope_jax.video.dicom_tags import EXTENDED_OFFSETS
from medscope_jax.video.frames import Reading, VideoError

_MAX_FRAGMENTS = 1 << 22  # listing them takes about four seconds
# What compressed pictures of the JPEG family start with, alone or in a JP2 file.
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


@dataclasses.dataclass(frozen=True)
class Fragments:
    """The fragments of encapsulated pixel data.

    Attributes:
      offsets: int64 [N] positions in the file of their bytes.
      lengths: int64 [N] bytes.
      table: int64 offsets that the basic offset table lists; most often none.
      first: the position that those count from.
      ended: whether the delimiter that the last fragment is followed by is there.
      rest: position and bytes of what is there instead, up to the file's end: a fragment that is
        cut short, or damage.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    table: np.ndarray
    first: int
    ended: bool
    rest: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Places:
    """Where frames are.

    Attributes:
      count: how many there are.
      fragments: their bytes; None where they lie uncompressed, one behind another.
      starts: int64 [count + 1], the first fragment of each frame, and one past the last's.
      notes: what a reader must know, as in Video.notes.
    """

    count: int
    fragments: Fragments | None
    starts: np.ndarray
    notes: tuple[str, ...]

    def read(self, file: BinaryIO, frame: int, most: int) -> bytes:
        """A compressed frame's bytes. Raises ValueError where there are more than `most`."""
        fragments = self.fragments
        assert fragments is not None  # the frame is a compressed one
        pieces = range(self.starts[frame], self.starts[frame + 1])
        if sum(int(fragments.lengths[i]) for i in pieces) > most:
            raise ValueError
        return b"".join(read_fragment(file, fragments, i) for i in pieces)


def read_fragment(file: BinaryIO, fragments: Fragments, index: int) -> bytes:
    """A fragment's bytes."""
    file.seek(int(fragments.offsets[index]))
    return file.read(int(fragments.lengths[index]))


def find_frames(
    header: Header, promised: int, frame_bits: int, reading: Reading, path: str
) -> Places:
    """The frames of a recording that is no MPEG stream.

    Args:
      header: the file's.
      promised: how many its header says there are.
      frame_bits: bits of an uncompressed frame.
      reading: its `partial` accepts fewer.
      path: what errors name.

    Raises:
      VideoError: fewer frames than promised, unless partial; pixel data that can't be divided.
    """
    if not header.encapsulated:
        return _native(header, promised, frame_bits, reading, path)
    fragments = find_fragments(header, path)
    starts, notes = _divide(header, fragments, promised, path)
    there = len(starts) - 1
    limits.check_count(there, path)
    if not fragments.ended and there >= promised:
        notes.append("its pixel data lacks its end")
    notes = [*_shortfall(promised, there, reading, path), *notes]
    return Places(there, fragments, starts, tuple(notes))


def _native(header: Header, promised: int, frame_bits: int, reading: Reading, path: str) -> Places:
    has = min(header.pixels.length, header.size - header.pixels.at)
    there = has * 8 // frame_bits
    limits.check_count(there, path)
    notes = _shortfall(promised, there, reading, path)
    spare = has - math.ceil(there * frame_bits / 8)
    if spare > 1 and there >= promised:  # one byte makes the length even
        notes.append(
            f"its pixel data holds {spare} bytes more than {there} frames of its size take: its "
            "header may be damaged"
        )
    if there >= promised and (has < header.pixels.length or not header.whole):
        notes.append("its pixel data lacks its end")
    return Places(there, None, np.zeros(0, np.int64), tuple(notes))


def _shortfall(promised: int, there: int, reading: Reading, path: str) -> list[str]:
    """Notes on frames that are missing, or more than were promised."""
    if there > promised:
        return [f"its header promises {promised} frames and {there} are there: all are read"]
    if there == promised:
        return []
    account = f"incomplete: {promised} frames promised, {there} there"
    if there < 1 or not reading.partial:
        raise VideoError(account, path, remedy="partial" if there else "")
    return [account]


def find_fragments(header: Header, path: str) -> Fragments:
    """Lists the fragments of encapsulated pixel data (PS3.5 A.4), as far as they are whole.

    Raises:
      VideoError: there is none.
    """
    file = header.file
    file.seek(header.pixels.at)
    kind, at, length = _item(file)
    if kind != ITEM or length > header.size - at:
        raise VideoError("DICOM, but its pixel data is cut short or broken", path)
    listed = np.frombuffer(file.read(min(length, 4 * limits.MAX_FRAMES) // 4 * 4), "<u4")
    first = at + length
    file.seek(first)
    offsets, lengths = array.array("q"), array.array("q")
    while True:
        kind, at, length = _item(file)
        if kind != ITEM or length > header.size - at:
            break
        if len(offsets) >= _MAX_FRAGMENTS:
            raise VideoError(
                f"DICOM with more than {_MAX_FRAGMENTS:,} fragments; export it again", path
            )
        offsets.append(at)
        lengths.append(length)
        file.seek(length, os.SEEK_CUR)
    # Behind an item's header; or from what should have been one.
    behind = min(at if kind == ITEM else at - 8, header.size)
    return Fragments(
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        listed.astype(np.int64),
        first,
        ended=kind == SEQUENCE_END and length == 0,
        rest=(behind, header.size - behind),
    )


def _item(file: BinaryIO) -> tuple[int, int, int]:
    """The next item's tag, its value's position, and its length; tag 0 at the file's end."""
    position = file.tell()
    head = file.read(8)
    group, element, length = struct.unpack("<HHI", head) if len(head) == 8 else (0, 0, 0)
    return group << 16 | element, position + 8, length


def _divide(
    header: Header, fragments: Fragments, promised: int, path: str
) -> tuple[np.ndarray, list[str]]:
    """Which fragments are whose: the first of each frame and one past the last, and notes."""
    count = len(fragments.offsets)
    table = header.elements.words(EXTENDED_OFFSETS, "u8")
    # In files of more than 4 GiB the basic table's offsets wrap around.
    table, wrap = (table.astype(np.int64), 1 << 62) if len(table) else (fragments.table, 1 << 32)
    notes = []
    if len(table):
        # Offsets are those of the items' own headers, 8 bytes before their bytes.
        items = (fragments.offsets - 8 - fragments.first) % wrap
        starts = np.flatnonzero(np.isin(items, table))
        fits = len(starts) <= len(table) and (items[starts] == table[: len(starts)]).all()
        # Where the end is missing, so are frames that the table lists.
        full = len(starts) == len(table) >= promised or not fragments.ended
        if fits and full and len(starts) and starts[0] == 0:
            return np.append(starts, count), []
        notes = ["its offset table does not fit its fragments and was put aside"]
    if count == promised:
        return np.arange(count + 1), notes
    heads = (_head(header.file, fragments, i) for i in range(count))
    begins = [i for i, head in enumerate(heads) if head.startswith(_PICTURE_STARTS)]
    if not begins:
        # Run lengths: a frame is a fragment (PS3.5 A.4.2).
        return np.arange(count + 1), notes
    if begins[0] == 0:
        return np.array([*begins, count], np.int64), notes
    raise VideoError(
        f"DICOM whose header promises {promised} frames, with {count} fragments that tell no "
        "frames apart; export the recording again",
        path,
    )


def _head(file: BinaryIO, fragments: Fragments, index: int) -> bytes:
    file.seek(int(fragments.offsets[index]))
    return file.read(min(12, int(fragments.lengths[index])))
