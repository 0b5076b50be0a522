"""A perceptual hash of recordings: what changes from one second to the next, cell by cell.

A recording is looked at once a second, each frame shrunk to 8 x 9 cells of brightness. The hash of
two neighbouring frames is a difference hash over time: 72 bits that say which cells grew brighter.
A bit counts only where a cell changed by _FLOOR grey levels or more, in both recordings compared.
What recordings of one kind have in common (a scope's round mask, an instrument's overlay, anatomy)
does not move, so it makes no two of them alike; how camera and tissue move is the recording's own.
Re-encoding and rescaling change cells by a level or two and leave the bits as they are.

Two recordings are near-duplicates if they last as long, on the whole look alike, and at most
MOST_BITS of the bits that count differ. Measured on phantom procedures: re-encoded and rescaled
copies differ in at most 2% (stretches of 20 seconds: 4%), different recordings in 39% or more
(stretches around the answers to the same question: 12%). Copies that are cut, turned, mirrored or
recoloured are not found.
"""

import dataclasses
import math

import cv2
import numpy as np

# Share of differing bits up to which two recordings are one.
MOST_BITS = 0.1
# Mean difference of the time-averaged cells, in grey levels, up to which they look alike.
MOST_LEVELS = 6.0
# The same where too little moves for bits to say anything: then looks alone decide.
MOST_LEVELS_STILL = 3.0
_CELLS = (8, 9)  # rows, columns
_FLOOR = 3
_FEWEST_BITS = 100
# So much of a recording is looked at, seconds: a day. A time costs nothing to write; a second that
# is looked at costs 72 bytes.
LONGEST = 24 * 3600
# Durations of copies differ by a frame or two, or by what a container rounds.
_DURATION_SLACK = 1.0


@dataclasses.dataclass(frozen=True)
class Look:
    """A recording, or a stretch of one, shrunk for comparison.

    Attributes:
      cells: uint8 [n, 8, 9], brightness; cells[k] is at second k.
      duration: seconds.
    """

    cells: np.ndarray
    duration: float

    def part(self, start: int, length: int) -> "Look":
        """The `length` looks from second `start` on."""
        return Look(self.cells[start : start + length], float(length))


def look_at(frames: np.ndarray, times: np.ndarray, duration: float) -> Look:
    """Frames uint8 [T, H, W, 3] at times [T] seconds, shrunk: those nearest to each second.

    Of a recording that lasts longer, its first LONGEST seconds.
    """
    seconds = np.arange(max(1, int(np.ceil(min(duration, LONGEST) - 1e-6))))
    after = np.clip(np.searchsorted(times, seconds), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(seconds - times[before] <= times[after] - seconds, before, after)
    shrunk = {index: _shrink(frames[index]) for index in dict.fromkeys(nearest.tolist())}
    return Look(np.stack([shrunk[index] for index in nearest.tolist()]), float(duration))


def _shrink(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, _CELLS[::-1], interpolation=cv2.INTER_AREA)


@dataclasses.dataclass(frozen=True)
class Likeness:
    """How alike two looks are.

    Attributes:
      bits: share of the counted bits that differ; 1 where one moves and the other does not, NaN
        where neither does.
      counted: how many count.
      levels: mean difference of the time-averaged cells, grey levels.
    """

    bits: float
    counted: int
    levels: float

    @property
    def same(self) -> bool:
        """Whether the two are near-duplicates."""
        if np.isnan(self.bits):
            return self.levels <= MOST_LEVELS_STILL
        return self.bits <= MOST_BITS and self.levels <= MOST_LEVELS


def compare(a: Look, b: Look) -> Likeness:
    """Likeness of two looks from their first second on, as far as both last."""
    length = min(len(a.cells), len(b.cells))
    if not length:  # a stretch of what is not looked at
        return Likeness(1.0, 0, math.inf)
    first, second = (look.cells[:length].astype(np.int16) for look in (a, b))
    levels = float(np.abs(first.mean(axis=0) - second.mean(axis=0)).mean())
    change_a, change_b = np.diff(first, axis=0), np.diff(second, axis=0)
    moves_a, moves_b = np.abs(change_a) >= _FLOOR, np.abs(change_b) >= _FLOOR
    counts = moves_a & moves_b
    counted = int(counts.sum())
    if counted < _FEWEST_BITS:
        still = max(moves_a.sum(), moves_b.sum()) < 2 * _FEWEST_BITS
        return Likeness(float("nan") if still else 1.0, counted, levels)
    differ = ((change_a > 0) != (change_b > 0)) & counts
    return Likeness(float(differ.sum() / counted), counted, levels)


def last_alike(a: Look, b: Look) -> bool:
    """Whether two looks could be of one recording by their durations."""
    return abs(a.duration - b.duration) <= _DURATION_SLACK
