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
# Where clocks may start again, one that jumps ahead by more than this does so, too; seconds. It is
# FFmpeg's own measure of it (ffmpeg's option dts_delta_threshold).
_JUMP = 10.0
_PACK = 32  # pictures that a stamp may be behind the one that was left out
_FEW = 0.01  # share of pictures that may lack a stamp and be placed by their neighbours
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


def steady_clock(packets: Packets, order: np.ndarray, rate: float, paired: bool = False) -> Clock:
    """The clock of a stream without stamps.

    Args:
      packets: of the stream.
      order: int64 [M] the packets whose pictures came, in the order in which they are shown.
      rate: frames a second.
      paired: a picture may be stored as two packets, a field each.
    """
    places = np.arange(len(order)) if paired else np.sort(order)
    times = np.full(len(packets), np.nan)
    times[order] = places / rate
    parts = np.zeros(len(packets), bool)
    count = len(order) if paired else len(packets)
    return Clock(times, count / rate, 1 / rate, parts)


def lacks_stamps(packets: Packets) -> bool:
    """Whether pictures lack a stamp of when they are shown, beyond a stray one."""
    shown = ~packets.hidden
    return bool(shown.any() and np.mean(packets.pts[shown] == MISSING) > _FEW)


def has_stamps(packets: Packets) -> bool:
    """Whether packets are stamped at all: one in 32 at least, for packs of several pictures."""
    shown = ~packets.hidden
    stamped = (packets.pts != MISSING) | (packets.dts != MISSING)
    return bool(shown.any() and stamped[shown].mean() > 1 / 32)


def stamped_clock(
    packets: Packets,
    unit: Fraction,
    delay: float,
    order: np.ndarray | None = None,
    counts: bool = False,
    wraps: bool = False,
    tabled: bool = False,
) -> Clock:
    """The clock of a stream whose packets are stamped.

    Args:
      packets: of the stream.
      unit: seconds of one unit of the stamps.
      delay: seconds from the container's start to the stream's.
      order: int64 [M] the packets whose pictures came, in the order in which they are shown; None
        where the stamps tell it.
      counts: stamps only count packets as they are stored (AVI).
      wraps: stamps count from 0 again after 2**33, and may start anywhere again (transport and
        program streams).
      tabled: the container has a table of how long each picture lasts (MP4); what others say of
        one is a guess.
    """
    second = 1 / float(unit)
    stamps, decoded = (
        np.where(x == MISSING, np.nan, x).astype(np.float64) for x in (packets.pts, packets.dts)
    )
    if np.isnan(decoded).mean() > 0.5:
        decoded, slack = stamps.copy(), _DECODED_AHEAD
    else:
        slack = 0
    if wraps:
        stamps, decoded = _unwrapped(stamps, decoded)
    stamps, decoded, mended = _without_strays(stamps, decoded, _STRAY * second)
    parts = _part_starts(decoded, slack, _JUMP * second if wraps else np.inf)
    in_order = np.flatnonzero(~packets.hidden) if order is None else order
    if counts:
        stamps = decoded
    lasting = packets.duration if tabled else np.zeros(len(packets), np.int64)
    part = np.cumsum(parts)
    interval = _usual_step(stamps[in_order], part[in_order], packets)
    times = np.full(len(packets), np.nan)
    begin, joins, again = delay, [], 0
    for number in range(part[-1] + 1 if len(part) else 0):
        inside = in_order[part[in_order] == number]
        if not len(inside):
            continue
        if not np.isnan(times).all():
            joins.append(begin)
        own = np.sort(stamps[inside]) if counts else stamps[inside]
        own = _counted_on(own, interval)
        again += len(own) - len(np.unique(own))
        own = _apart(own, interval)
        times[inside] = begin + (own - own.min()) / second
        final = inside[np.argmax(own)]
        begin = times[final] + (lasting[final] or interval) / second
    notes = _join_notes(joins)
    if mended:
        notes.append(f"{mended} damaged time stamps were mended by those beside them")
    if again:
        notes.append(f"{again} pictures have the time of another: a piece that is there twice?")
    notes += _gap_notes(times, lasting / second, interval / second)
    return Clock(times, float(begin), interval / second, parts, tuple(notes))


def _counted_on(stamps: np.ndarray, interval: float) -> np.ndarray:
    """Stamps of pictures as they are shown, [M]; those that are NaN lie evenly between the others.

    Before the first and behind the last that is known they go on by the usual step.
    """
    places = np.arange(len(stamps))
    known = places[~np.isnan(stamps)]
    if len(known) == len(stamps):
        return stamps
    if not len(known):
        return places * interval
    counted = np.interp(places, known, stamps[known])
    counted[: known[0]] -= (known[0] - places[: known[0]]) * interval
    counted[known[-1] :] += (places[known[-1] :] - known[-1]) * interval
    return counted


def _apart(stamps: np.ndarray, interval: float) -> np.ndarray:
    """Stamps [M] of which no two are the same, in the same order.

    Where a stamp comes twice and one is left out shortly before, those in between are one picture
    late (a pack's stamp that was taken for the next picture's) and are moved back:

        0 1 2 4 5 5 6 -> 0 1 2 3 4 5 6

    Others that are the same lie evenly up to the next one.
    """
    by_time = np.argsort(stamps, kind="stable")
    own = stamps[by_time]
    for again in np.flatnonzero(np.diff(own) == 0):
        begin = max(0, again - _PACK)
        wide = np.flatnonzero(np.diff(own[begin : again + 1]) > 1.5 * interval)
        if len(wide):
            own[begin + wide[-1] + 1 : again + 1] -= interval
    distinct, first, counts = np.unique(own, return_inverse=True, return_counts=True)
    room = np.diff(distinct, append=distinct[-1] + interval)
    place = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
    apart = np.empty_like(stamps)
    apart[by_time] = own + place * room[first] / counts[first]
    return apart


def _unwrapped(stamps: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stamps that go on where they count from 0 again."""
    known = np.flatnonzero(~np.isnan(decoded))
    steps = np.diff(decoded[known], prepend=decoded[known[:1]])
    turns = np.zeros(len(decoded))
    turns[known] = np.cumsum(steps < -_WRAP / 2) - np.cumsum(steps > _WRAP / 2)
    decoded = decoded + turns * _WRAP
    # Of a picture that is shown on the other side of the turn than it is decoded.
    return stamps + _WRAP * np.round(np.nan_to_num((decoded - stamps) / _WRAP)), decoded


def _without_strays(
    stamps: np.ndarray, decoded: np.ndarray, most: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Stamps with single damaged ones mended, and how many those were; most is in their units."""
    stamps, decoded = stamps.copy(), decoded.copy()
    known = np.flatnonzero(~np.isnan(decoded))
    own, count = decoded[known], 0
    if len(known) > 2:
        before, after = own[:-2], own[2:]
        near = (after >= before) & (after - before <= most)
        off = (own[1:-1] < before - most) | (own[1:-1] > after + most)
        stray = np.flatnonzero(near & off) + 1
        own[stray] = (own[stray - 1] + own[stray + 1]) / 2
        decoded[known] = own
        count = len(stray)
    ahead = stamps - decoded
    both = ~np.isnan(ahead)
    if not both.any():
        return stamps, decoded, count
    usual = np.median(ahead[both])
    reach = max(most, 2 * _DECODED_AHEAD * _step(decoded))
    stray = both & (np.abs(np.where(both, ahead, usual) - usual) > reach)
    stamps[stray] = decoded[stray] + usual
    return stamps, decoded, max(count, int(stray.sum()))


def _part_starts(decoded: np.ndarray, slack: int, jump: float) -> np.ndarray:
    """Where the clock starts again, bool [N]: stamps of decoding never run backward otherwise.

    Args:
      decoded: float64 [N] stamps, NaN where there is none.
      slack: steps that they may run backward all the same.
      jump: units that they may run ahead.
    """
    known = np.flatnonzero(~np.isnan(decoded))
    steps = np.diff(decoded[known], prepend=decoded[known[:1]])
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
    parts = np.zeros(len(decoded), bool)
    parts[known[(steps < -(slack + 0.5) * usual) | (steps > jump)]] = True
    return parts


def _usual_step(stamps: np.ndarray, part: np.ndarray, packets: Packets) -> float:
    """How long a picture usually lasts, in units of the stamps; each is in the part beside it."""
    durations = packets.duration[packets.duration > 0]
    said = float(np.median(durations)) if len(durations) else 0.0
    by_part = np.lexsort((stamps, part))
    steps = np.diff(stamps[by_part])[np.diff(part[by_part]) == 0]
    steps = steps[steps > 0]
    step = float(np.median(steps)) if len(steps) else 0.0
    if np.isnan(stamps).mean() > _FEW and said:  # stamps of some pictures alone
        return said
    return step or said or 1.0


def _step(stamps: np.ndarray) -> float:
    """The usual step between stamps that follow one another, in their units; 0 if there is none."""
    steps = np.diff(np.unique(stamps[~np.isnan(stamps)]))
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
    what = "a gap" if len(gaps) == 1 else f"{len(gaps)} gaps"
    return [
        f"{what} between its pictures, the longest of {steps[longest]:.2f} s from "
        f"{times[there[longest]]:.2f} s: the recorder paused, or pictures did not arrive"
    ]
