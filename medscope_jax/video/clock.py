"""From packets' stamps to the times of their pictures, on one clock that never runs backward.

Everything here is NumPy on stamps and knows nothing of files. Each container has its own ways:

  - most stamp every packet with the time at which its picture is shown;
  - AVI (and Matroska's AVI mode) only counts packets as they are stored: the pictures, in the order
    in which the decoder gives them, take the packets' places in turn;
  - bare streams have no stamps at all: the same, at a rate that is stated or given;
  - recorders' parts on end, VOB files and broken transport streams start their clock again: each
    part then follows on the end of the one before it.
"""

import dataclasses
from fractions import Fraction

import numpy as np

from medscope_jax.video.demux import MISSING, Packets

_WRAP = 1 << 33  # units of 1/90000 s after which a transport or program stream counts from 0
# A single stamp off by more than this from both of its neighbours is damaged; seconds.
_STRAY = 2.0
# Steps between pictures this many times the usual one are told; less is the stamps' rounding.
_GAP = 1.6
_DECODED_AHEAD = 16  # frames that may be decoded before an earlier one is shown: H.264's most


@dataclasses.dataclass(frozen=True)
class Clock:
    """When the pictures are shown.

    Attributes:
      times: float64 [N] seconds of each packet's picture, from the container's start; NaN of those
        that show none.
      end: seconds, when the last picture ends.
      interval: seconds that a picture usually lasts.
      parts: bool [N], the clock starts again at this packet.
      notes: on joins, gaps and damaged stamps.
    """

    times: np.ndarray
    end: float
    interval: float
    parts: np.ndarray
    notes: tuple[str, ...] = ()


def steady_clock(packets: Packets, order: np.ndarray, rate: float) -> Clock:
    """The clock of a stream without stamps.

    Args:
      packets: of the stream.
      order: int64 [M] the packets whose pictures came, in the order in which they are shown.
      rate: frames a second.
    """
    times = np.full(len(packets), np.nan)
    times[order] = np.sort(order) / rate
    parts = np.zeros(len(packets), bool)
    return Clock(times, len(packets) / rate, 1 / rate, parts)


def needs_order(packets: Packets, reorders: bool, counts: bool) -> bool:
    """Whether only decoding tells which stamp is a picture's.

    Args:
      packets: of the stream.
      reorders: its pictures may be stored in another order than they are shown.
      counts: its container counts packets as they are stored (AVI).
    """
    shown = ~packets.hidden
    lacking = np.mean(packets.pts[shown] == MISSING) if shown.any() else 0.0
    return bool(reorders and (counts or lacking > 0.5))


def has_stamps(packets: Packets) -> bool:
    """Whether most packets carry a stamp of either kind."""
    shown = ~packets.hidden
    bare = (packets.pts == MISSING) & (packets.dts == MISSING)
    return bool(shown.any() and bare[shown].mean() < 0.5)


def stamped_clock(
    packets: Packets,
    unit: Fraction,
    delay: float,
    order: np.ndarray | None = None,
    wraps: bool = False,
    tabled: bool = False,
) -> Clock:
    """The clock of a stream whose packets are stamped.

    Args:
      packets: of the stream.
      unit: seconds of one unit of the stamps.
      delay: seconds from the container's start to the stream's.
      order: as steady_clock, where the packets' places in the file are all that there is.
      wraps: stamps count from 0 again after 2**33.
      tabled: the container has a table of how long each picture lasts (MP4); what others say of
        one is a guess.
    """
    shown = ~packets.hidden
    stamps, decoded = _filled(packets)
    if order is not None:
        shown = np.zeros(len(packets), bool)
        shown[order] = True
        stamps = decoded.copy()
        stamps[order] = np.sort(decoded[order])
    if wraps:
        stamps, decoded = _unwrapped(stamps, decoded)
    per_second = 1 / float(unit)
    stamps, decoded, mended = _without_strays(stamps, decoded, _STRAY * per_second)
    parts = _part_starts(decoded, packets.dts)
    times = np.full(len(packets), np.nan)
    lasting = packets.duration if tabled else np.zeros(len(packets), np.int64)
    starts = [0, *np.flatnonzero(parts), len(packets)]
    begin, joins = delay, []
    interval = _interval(stamps[shown]) or float(np.max(packets.duration, initial=1))
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        inside = np.arange(first, last)[shown[first:last]]
        if not len(inside):
            continue
        if first:
            joins.append(begin)
        own = stamps[inside]
        times[inside] = begin + (own - own.min()) / per_second
        final = inside[np.argmax(own)]
        begin = times[final] + (lasting[final] or interval) / per_second
    notes = _join_notes(joins)
    if mended:
        notes.append(f"{mended} damaged time stamps were mended by those beside them")
    notes += _gap_notes(times, lasting / per_second, interval / per_second)
    return Clock(times, float(begin), interval / per_second, parts, tuple(notes))


def _filled(packets: Packets) -> tuple[np.ndarray, np.ndarray]:
    """Stamps of showing and of decoding, float64 [N], none missing."""
    pts, dts = (np.where(x == MISSING, np.nan, x).astype(float) for x in (packets.pts, packets.dts))
    if np.isnan(dts).mean() > 0.5:
        dts = pts.copy()
    dts = _between(dts)
    return _between(np.where(np.isnan(pts), dts, pts)), dts


def _between(stamps: np.ndarray) -> np.ndarray:
    """Stamps in which those that are NaN lie evenly between their neighbours."""
    gaps = np.isnan(stamps)
    places = np.arange(len(stamps))
    if gaps.any() and not gaps.all():
        stamps[gaps] = np.interp(places[gaps], places[~gaps], stamps[~gaps])
    return stamps


def _unwrapped(stamps: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stamps that go on where they count from 0 again."""
    turns = np.cumsum(np.diff(decoded, prepend=decoded[:1]) < -_WRAP / 2)
    turns -= np.cumsum(np.diff(decoded, prepend=decoded[:1]) > _WRAP / 2)
    decoded = decoded + turns * _WRAP
    stamps = stamps + turns * _WRAP
    # Of a picture that is shown on the other side of the turn than it is decoded.
    return stamps + _WRAP * np.round((decoded - stamps) / _WRAP), decoded


def _without_strays(
    stamps: np.ndarray, decoded: np.ndarray, most: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Stamps with single damaged ones mended, and how many those were; most is in their units."""
    stamps, decoded, count = stamps.copy(), decoded.copy(), 0
    if len(decoded) > 2:
        before, after = decoded[:-2], decoded[2:]
        near = (after >= before) & (after - before <= most)
        off = (decoded[1:-1] < before - most) | (decoded[1:-1] > after + most)
        stray = np.flatnonzero(near & off) + 1
        ahead = np.median(stamps - decoded)
        decoded[stray] = (decoded[stray - 1] + decoded[stray + 1]) / 2
        stamps[stray] = decoded[stray] + ahead
        count = len(stray)
    ahead = stamps - decoded
    usual = np.median(ahead)
    stray = np.flatnonzero(
        np.abs(ahead - usual) > max(most, 2 * _DECODED_AHEAD * _interval(decoded))
    )
    stamps[stray] = decoded[stray] + usual
    return stamps, decoded, count + len(stray)


def _part_starts(decoded: np.ndarray, dts: np.ndarray) -> np.ndarray:
    """Where the clock starts again, bool [N]: stamps of decoding never run backward otherwise.

    Where there are none, stamps of showing stand in for them, which run back by some frames.
    """
    slack = 1.5 if np.mean(dts == MISSING) < 0.5 else 1.5 * _DECODED_AHEAD
    steps = np.diff(decoded, prepend=decoded[:1])
    # From the highest so far: a part begins below it by more than frames are out of order.
    return steps < -slack * _interval(decoded)


def _interval(stamps: np.ndarray) -> float:
    """The usual step between stamps that follow one another, in their units; 0 if there is none."""
    steps = np.diff(np.unique(stamps))
    return float(np.median(steps)) if len(steps) else 0.0


def _join_notes(joins: list[float]) -> list[str]:
    if not joins:
        return []
    places = ", ".join(f"{time:.2f} s" for time in joins[:8]) + (", ..." if len(joins) > 8 else "")
    return [
        f"the clock starts again {len(joins)} times (at {places}): the parts follow one another"
        if len(joins) > 1
        else f"the clock starts again once (at {places}): the parts follow one another"
    ]


def _gap_notes(times: np.ndarray, lasting: np.ndarray, interval: float) -> list[str]:
    """No or one note on stretches without pictures that no picture before them is said to fill.

    Args:
      times: float64 [N] seconds of each packet's picture, or NaN.
      lasting: float64 [N] seconds that each is said to last.
      interval: seconds that a picture usually lasts.
    """
    there = np.flatnonzero(~np.isnan(times))
    there = there[np.argsort(times[there], kind="stable")]
    steps = np.diff(times[there])
    gaps = np.flatnonzero(steps > _GAP * np.maximum(interval, lasting[there[:-1]]))
    if not len(gaps):
        return []
    longest = gaps[np.argmax(steps[gaps])]
    what = "a stretch" if len(gaps) == 1 else f"{len(gaps)} stretches"
    return [
        f"{what} without pictures, the longest {steps[longest]:.2f} s from "
        f"{times[there[longest]]:.2f} s: a pause, or pictures are missing"
    ]
