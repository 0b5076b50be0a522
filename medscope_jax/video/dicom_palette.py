"""DICOM's lookup tables: colour palettes, plain or in segments, and tables of grey values."""

import dataclasses

import numpy as np

from medscope_jax.video.dicom_elements import Elements
from medscope_jax.video.dicom_tags import (
    PALETTE_DESCRIPTORS,
    PALETTES,
    SEGMENTED_PALETTES,
    TABLE_DATA,
    TABLE_DESCRIPTOR,
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A lookup table: the first entry stands for `first` and all below, the last for all above.

    entries: [N], or [N, 3] in RGB. bits: of an entry, as its descriptor says.
    """

    entries: np.ndarray
    first: int
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The entries that stand for values, of any shape."""
        return self.entries[np.clip(values.astype(np.int64) - self.first, 0, len(self.entries) - 1)]


def read_palette(elements: Elements, signed: bool) -> Table:
    """A file's colour palette, uint8 RGB. Raises ValueError where it is none.

    Many writers keep entries of 8 bits in words of 16, whatever the descriptor says of them: what
    no entry exceeds decides for all three colours.
    """
    channels, firsts = [], []
    for descriptor, plain, segmented in zip(
        PALETTE_DESCRIPTORS, PALETTES, SEGMENTED_PALETTES, strict=True
    ):
        length, first, bits = _descriptor(elements, descriptor, signed)
        tag = plain if plain in elements.values else segmented
        words = _words(elements, tag, length, bits, tag == segmented)
        channels.append(_expand(words, length) if tag == segmented else words)
        firsts.append(first)
    if len(set(firsts)) != 1 or len({len(channel) for channel in channels}) != 1:
        raise ValueError
    entries = np.stack(channels, axis=-1)
    if entries.max() > 255:
        entries = entries >> 8
    return Table(entries.astype(np.uint8), firsts[0], 8)


def read_table(item: Elements, signed: bool) -> Table:
    """A table of a modality or VOI LUT sequence's item. Raises ValueError where it is none."""
    length, first, bits = _descriptor(item, TABLE_DESCRIPTOR, signed)
    return Table(_words(item, TABLE_DATA, length, bits, False), first, bits)


def _descriptor(elements: Elements, tag: int, signed: bool) -> tuple[int, int, int]:
    """Entries, the value that the first stands for, bits of an entry (PS3.3 C.7.6.3.1.5)."""
    words = elements.words(tag, "u2")
    if len(words) != 3:
        raise ValueError
    length, first, bits = (int(word) for word in words)
    if not 1 <= bits <= 16:
        raise ValueError
    if signed and first >= 1 << 15:
        first -= 1 << 16
    return length or 1 << 16, first, bits


def _words(elements: Elements, tag: int, length: int, bits: int, segmented: bool) -> np.ndarray:
    """A table's numbers, uint16: words, or bytes where there are too few bytes for words."""
    if bits <= 8 and (segmented or len(elements.words(tag, "u1")) < 2 * length):
        words = elements.words(tag, "u1")
        # Bytes come two to a word, and words in the file's order.
        words = words if elements.little else words.reshape(-1, 2)[:, ::-1].ravel()
    else:
        words = elements.words(tag, "u2")
    if len(words) < (1 if segmented else length):
        raise ValueError
    return (words if segmented else words[:length]).astype(np.uint16)


def _expand(segments: np.ndarray, length: int) -> np.ndarray:
    """A segmented palette's entries, uint16 [length] (PS3.3 C.7.9.2); never more than that.

    Discrete and linear segments; ValueError at an indirect one, which nobody is known to write.
    """
    entries = np.zeros(length, np.uint16)
    at = filled = 0
    while filled < length:
        if at + 2 > len(segments):
            raise ValueError
        kind, count = int(segments[at]), int(segments[at + 1])
        if kind == 0:
            values, at = segments[at + 2 : at + 2 + count], at + 2 + count
        elif kind == 1 and filled and at + 2 < len(segments):
            start, end = float(entries[filled - 1]), float(segments[at + 2])
            steps = np.arange(1, count + 1) / max(1, count)
            values, at = np.round(start + (end - start) * steps), at + 3
        else:
            raise ValueError
        values = values[: length - filled]
        entries[filled : filled + len(values)] = values
        filled += len(values)
    return entries
