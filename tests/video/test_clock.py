"""The clock that is made of stamps, against recordings whose true times are known."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medscope_jax.video.clock import has_stamps, lacks_stamps, stamped_clock, steady_clock
from medscope_jax.video.demux import MISSING, Packets

UNIT = Fraction(1, 90_000)
STEP = 3600  # units of a picture at 25 a second


def packets_of(pts, dts=None, duration=STEP, hidden=None) -> Packets:
    """Packets of these stamps, None where one is missing."""
    count = len(pts)
    columns = [
        np.array([MISSING if x is None else x for x in stamps], np.int64)
        for stamps in (pts, dts or [None] * count)
    ]
    no = np.zeros(count, bool)
    hidden = no if hidden is None else np.array(hidden, bool)
    return Packets(*columns, np.full(count, duration), no, hidden, no, no)


def stored(count: int, between: int) -> list[int]:
    """Pictures in the order in which they are stored: each one ahead of those shown before it.

    count 7, between 2 -> [0, 3, 1, 2, 6, 4, 5]
    """
    order = [0]
    for first in range(1, count, between + 1):
        last = min(first + between, count - 1)
        order += [last, *range(first, last)]
    return order


@given(
    lengths=st.lists(st.integers(4, 40), min_size=1, max_size=5),
    starts=st.lists(st.integers(0, 1 << 32), min_size=5, max_size=5),
    between=st.integers(0, 3),
    wrap=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_parts_follow_one_another(lengths, starts, between, wrap):
    """Whatever clocks the parts have: no picture is lost, and each is one step from the next."""
    pts, dts, numbers, begin = [], [], [], 0
    for length, start in zip(lengths, starts, strict=False):
        # A part that happens to go on where the last one ends is no other part.
        for place, number in enumerate(stored(length, between)):
            pts.append(start + (number + between) * STEP)
            dts.append(start + place * STEP)
            numbers.append(begin + number)
        begin += length
    joins = np.diff(dts)[np.cumsum(lengths)[:-1] - 1]
    assume((np.abs(joins) > STEP).all())  # else it is one clock that stumbles
    if wrap and len(lengths) == 1:  # it runs over its counter in its middle
        turn = pts[0] + lengths[0] // 2 * STEP
        pts, dts = ([(x - turn) % (1 << 33) for x in stamps] for stamps in (pts, dts))
    clock = stamped_clock(packets_of(pts, dts), UNIT, 0.0, wraps=True)
    shown = np.argsort(clock.times, kind="stable")
    np.testing.assert_array_equal(np.array(numbers)[shown], np.arange(len(pts)))
    steps = np.diff(clock.times[shown]) * 25
    ends = np.cumsum(lengths)[:-1] - 1
    inside = np.ones(len(steps), bool)
    inside[ends] = False
    np.testing.assert_allclose(steps[inside], 1, atol=1e-6)
    # Of clocks that lie ahead by less than a jump, the distance is the container's own.
    jumps = np.array(
        [dts[sum(lengths[: k + 1])] - dts[sum(lengths[: k + 1]) - 1] for k in range(len(ends))]
    )
    new = (jumps < 0) | (jumps > 10 / UNIT)
    np.testing.assert_allclose(steps[ends][new], 1, atol=1e-6)
    assert clock.parts.sum() == new.sum()
    assert any("starts again" in note for note in clock.notes) == bool(new.any())


@given(
    count=st.integers(8, 60),
    between=st.integers(0, 3),
    known=st.integers(1, 12),
    phase=st.integers(0, 11),
)
@settings(deadline=None, max_examples=100)
def test_packs_of_several_pictures(count, between, known, phase):
    """One stamp for several pictures: the others are counted on from it, in the order shown."""
    order = stored(count, between)
    pts = [n * STEP if k % known == phase % known else None for k, n in enumerate(order)]
    if all(stamp is None for stamp in pts):
        return
    packets = packets_of(pts)
    assert lacks_stamps(packets) == (None in pts) and has_stamps(packets)
    came = np.argsort(order)  # packets in the order in which their pictures are shown
    clock = stamped_clock(packets, UNIT, 0.0, order=came)
    np.testing.assert_allclose(clock.times, np.array(order) / 25, atol=1e-6)
    assert clock.end == pytest.approx(count / 25) and not clock.parts.any()


@given(
    count=st.integers(12, 60),
    between=st.integers(0, 3),
    lost=st.sets(st.integers(0, 59), max_size=3),
)
@settings(deadline=None, max_examples=100)
def test_avi_counts_packets(count, between, lost):
    """Pictures take the places of the packets that they came in, in turn; none is shifted."""
    order = stored(count, between)
    packets = packets_of([None] * count, list(range(count)), duration=1)
    came = np.array([p for p in np.argsort(order) if p not in lost], np.int64)
    clock = stamped_clock(packets, Fraction(1, 25), 0.0, order=came, counts=True)
    shown = np.sort(clock.times[came])
    np.testing.assert_array_equal(clock.times[came], shown)  # as they are shown
    first = shown[0]
    np.testing.assert_allclose((shown - first) * 25, np.sort(came) - came.min(), atol=1e-6)
    assert np.isnan(clock.times[list(lost & set(range(count)))]).all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 2, 1, 4, 3]])
def test_bare_streams_by_a_rate(order):
    packets = packets_of([None] * 5)
    clock = steady_clock(packets, np.array(order), 10.0)
    np.testing.assert_allclose(clock.times[order], np.arange(5) / 10)
    assert clock.end == pytest.approx(0.5) and not has_stamps(packets)
    pairs = steady_clock(packets_of([None] * 10), np.arange(0, 10, 2), 10.0, paired=True)
    np.testing.assert_allclose(pairs.times[::2], np.arange(5) / 10)
    assert np.isnan(pairs.times[1::2]).all() and pairs.end == pytest.approx(0.5)


@given(at=st.integers(1, 38), by=st.integers(-(1 << 40), 1 << 40), both=st.booleans())
@settings(deadline=None, max_examples=100)
def test_a_single_damaged_stamp_moves_nothing_else(at, by, both):
    """A flipped bit in one stamp: the others keep their times, and a note says so."""
    true = np.arange(40) * STEP
    pts, dts = true.tolist(), true.tolist()
    pts[at] += by
    if both:
        dts[at] += by
    clock = stamped_clock(packets_of(pts, dts), UNIT, 0.0)
    off = np.abs(clock.times - true / 90_000)
    if abs(by) > 2 * 90_000 + STEP:  # farther than two seconds from both neighbours
        assert off.max() < 0.5 / 25 and any("damaged time stamp" in n for n in clock.notes)
    elif abs(by) > STEP and not clock.parts.any():
        assert np.delete(off, at).max() < abs(by) / 90_000 + 1e-6


def test_stamps_that_come_twice():
    """Where one is left out shortly before, it was a pack's that went to the next picture."""
    late = [0, 1, 2, 4, 5, 5, 6, 7]
    clock = stamped_clock(packets_of([STEP * n for n in late]), UNIT, 0.0)
    np.testing.assert_allclose(clock.times * 25, np.arange(8), atol=1e-6)
    twice = [0, 1, 2, 3, 3, 4, 5]
    clock = stamped_clock(packets_of([STEP * n for n in twice]), UNIT, 0.0)
    np.testing.assert_allclose(clock.times * 25, [0, 1, 2, 3, 3.5, 4, 5], atol=1e-6)
    assert any("the time of another" in note for note in clock.notes)


def test_gaps_are_told_unless_a_table_fills_them():
    stamps = [0, STEP, 2 * STEP, 50 * STEP, 51 * STEP]
    clock = stamped_clock(packets_of(stamps), UNIT, 0.0)
    assert "1.92 s from 0.08 s" in clock.notes[0] and clock.end == pytest.approx(52 / 25)
    packets = packets_of(stamps)
    packets.duration[2] = 48 * STEP
    packets.duration[4] = 10 * STEP
    clock = stamped_clock(packets, UNIT, 0.0, tabled=True)
    assert clock.notes == () and clock.end == pytest.approx(61 / 25)


def test_what_is_hidden_has_no_time_and_the_rest_starts_with_its_container():
    stamps = [-2 * STEP, -STEP, 0, STEP, 2 * STEP]
    packets = packets_of(stamps, stamps, hidden=[True, True, False, False, False])
    clock = stamped_clock(packets, UNIT, 1.5)
    assert np.isnan(clock.times[:2]).all()
    np.testing.assert_allclose(clock.times[2:], 1.5 + np.arange(3) / 25)
