"""Recordings in containers, through FFmpeg's own libraries (PyAV).

Two passes. The first demuxes the whole file and decodes next to nothing: it gives the packets of
the one picture stream that is read (streams.py) and so all pictures that there must be, with their
times (clock.py). Ticks are assigned to pictures from that list; the second pass decodes, converts
the chosen pictures alone, and in the end holds the pictures that came against the packets. Memory
holds the list of packets and a few pictures.
"""

import bisect
import dataclasses
from collections.abc import Iterator

import av
import numpy as np

from medscope_jax.video import clock, deinterlace, formats
from medscope_jax.video import size_limits as limits
from medscope_jax.video.clock import Clock
from medscope_jax.video.demux import MediaSource, Packets
from medscope_jax.video.frames import (
    Reading,
    VideoError,
    choose_frames,
    fit_frame,
    frame_size,
    letterbox_note,
)
from medscope_jax.video.missing import Account, judge
from medscope_jax.video.pictures import iter_pictures
from medscope_jax.video.rgb import display_matrix, to_rgb, upright
from medscope_jax.video.stream import Ending, Frames, FrameStream, ahead
from medscope_jax.video.streams import Stream, list_packets

UNUSED_RATE = "the given frame rate is not used: the recording has times of its own"
_TIMELESS = "its frames carry no times, and it states no rate (a bare stream?)"
# Two times this close (seconds) are one: containers count in 1/90000 s or coarser.
_SAME_TIME = 1e-6


def iter_container(
    path: str, reading: Reading, shown: str, promised: int | None = None
) -> FrameStream:
    """A container's frames at the bank rate, as decode.iter_frames.

    Args:
      path: what FFmpeg opens.
      reading: as decode.iter_frames.
      shown: the path that errors name.
      promised: how many pictures there are by the word of whoever holds the file (DICOM).

    Raises:
      VideoError: FFmpeg can't open it, it has no pictures, or they carry no times and no rate is
        given; while iterating: nothing can be decoded, or too many pictures did not come.
    """
    head = formats.read_head(path)
    source = MediaSource(path, shown, formats.forced_format(head))
    stream, packets = list_packets(source)
    if source.format and len(packets) == 1:
        raise VideoError("a still image, not a video; name a recording", shown)
    made = _clock(source, stream, packets, reading, formats.states_no_rate(head))
    times = np.unique(made.times[~np.isnan(made.times)])
    if not len(times):
        raise _nothing(packets, shown)
    times = times[np.diff(times, prepend=-np.inf) > _SAME_TIME]
    limits.check_seconds(made.end, shown)
    chosen, notes = choose_frames(times, made.end, reading)
    account = Account(packets, made, stream, shown, reading.partial, promised)
    frames = _frames(source, account, times[chosen], reading, notes)
    return FrameStream(len(chosen), frames)


def _clock(
    source: MediaSource, stream: Stream, packets: Packets, reading: Reading, no_rate: bool
) -> Clock:
    """The recording's clock, of its own stamps or of the rate that is stated or given."""
    bare = stream.format in formats.BARE or no_rate or not clock.has_stamps(packets)
    rate = reading.frame_rate or stream.rate
    if bare and not rate:
        raise VideoError(_TIMELESS, source.shown, "frame_rate")
    counts = stream.format == "avi"
    order = None
    if stream.paired or (stream.reorders and (bare or counts)) or clock.lacks_stamps(packets):
        # Only decoding tells which pictures there are, and in which order they are shown.
        nowhere = np.zeros(len(packets), bool)
        pictures = iter_pictures(source, stream, packets, nowhere, reading.threads)
        order = np.array([number for number, _ in pictures], np.int64)
    if bare:
        order = np.flatnonzero(~packets.hidden) if order is None else order
        return clock.steady_clock(packets, order, rate, stream.paired)
    wraps = stream.format in ("mpeg", "mpegts")
    tabled = stream.format in formats.TABLED
    made = clock.stamped_clock(
        packets, stream.time_base, stream.delay, order, counts, wraps, tabled
    )
    if reading.frame_rate:
        made = dataclasses.replace(made, notes=(UNUSED_RATE, *made.notes))
    return made


def _nothing(packets: Packets, shown: str) -> VideoError:
    return VideoError(
        f"nothing can be decoded (0 of {len(packets)} frames came): damaged, or pictures of over "
        f"{limits.MAX_PIXELS:,} pixels; copy or convert it again",
        shown,
    )


def _frames(
    source: MediaSource, account: Account, wanted: np.ndarray, reading: Reading, notes: list[str]
) -> Frames:
    """The second pass: decodes every picture, converts only those wanted ([T] seconds).

    Where a wanted picture does not come, the next one that does takes its place under its own time.
    """
    original = fitted = turn = None
    stream, made = account.stream, account.clock
    came, late = bytearray(len(account.packets)), 0
    interlaced = False

    def picked() -> Iterator[tuple[int, av.VideoFrame, bool]]:
        # Plain numbers: looked up for every picture, thousands of times a second.
        times, ticks = made.times.tolist(), [*wanted.tolist(), np.inf]
        following, last = 0, -np.inf
        nonlocal late
        highest = -np.inf
        pictures = iter_pictures(source, stream, account.packets, made.parts, reading.threads)
        for number, picture in pictures:
            time = times[number]
            if time != time:  # it came now and not when the order was asked for: none is its place
                continue
            came[number] = 1
            late += time < highest
            highest = max(time, highest)
            keep = time >= ticks[following] - _SAME_TIME and time > last + _SAME_TIME
            if keep:
                last = time
                following = bisect.bisect_right(ticks, time + _SAME_TIME)
            yield number, picture, keep

    pictures = deinterlace.deinterlaced(picked(), stream.woven)
    for number, picture, woven in pictures if reading.threads == 1 else ahead(pictures):
        interlaced |= woven
        if turn is None or turn[0] != picture.rotation:
            # PyAV ties a picture to its side data in a cycle: asked of each, all would pile up.
            turn = picture.rotation, display_matrix(picture)
        rgb = upright(to_rgb(picture), turn[1])
        original = original or rgb.shape[:2]
        fitted = fitted or frame_size(reading.size, original)
        yield float(made.times[number]), fit_frame(rgb, fitted, reading.resample)
    if original is None or fitted is None:
        raise _nothing(account.packets, source.shown)
    decoded = np.frombuffer(came, np.uint8).astype(bool)
    told = judge(account, decoded, interlaced)
    filtered = [deinterlace.NOTE] if interlaced else []
    if late:
        told.append(f"{late} pictures came behind later ones: damaged pictures or times")
    letterbox = letterbox_note(original, fitted)
    return Ending(made.end, int(decoded.sum()), (*told, *notes, *filtered, *letterbox))
