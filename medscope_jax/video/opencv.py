"""Containers through OpenCV's FFmpeg, with each frame's own time.

How times are made. FFmpeg's presentation time stamp of each frame is read after it is grabbed
(CAP_PROP_POS_MSEC, which in the FFmpeg back end is the stamp less the stream's start, whatever the
nominal frame rate says). A first pass lists all packets' stamps without decoding anything; ticks
are assigned to frames from that list; the second pass decodes and converts only the chosen frames.
Memory holds the list and one frame.
"""

import contextlib
import dataclasses
import math
import os

import cv2
import numpy as np

from medscope_jax.video.container import Container
from medscope_jax.video.frames import (
    Reading,
    VideoError,
    choose_frames,
    fit_frame,
    frame_size,
    letterbox_note,
)
from medscope_jax.video.stream import Ending, Frames, FrameStream, in_steps

# FFmpeg's own messages would reach stderr beside our one line. OpenCV reads this variable when the
# process first touches a video, so it is set on import; a user's own value stays.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# Lost frames that are noted but tolerated in a complete file: encoders do leave an undecodable
# frame or two (an open group at the start, a last frame never flushed).
_TOLERATED_FRAMES = 2
_TOLERATED_SHARE = 0.01
_TIMELESS = (
    "its frames carry no times, and it states no rate (a bare stream?); remux it into an mp4, or "
    "give its frame rate"
)
# Two stamps this close (seconds) are one: containers count in 1/90000 s or coarser.
_SAME_TIME = 1e-6


def iter_opencv(path: str, container: Container, reading: Reading, shown: str) -> FrameStream:
    """A container's frames at the bank rate; arguments and frames as decode.iter_frames.

    Args:
      path: what FFmpeg opens.
      container: what its bytes state.
      reading: as decode.iter_frames.
      shown: the path that errors name.

    Raises:
      VideoError: FFmpeg can't open it, it has no frames, or they carry no times and no rate is
        given; while iterating: nothing can be decoded, or frames that were promised did not come.
    """
    source = _Source(path, shown, container, reading.partial)
    with quiet():
        listing = _list(source, reading.frame_rate)
    chosen, notes = choose_frames(listing.times, listing.end, reading)
    chosen = listing.times[chosen]
    frames = _frames(source, listing, chosen, reading, notes)
    return FrameStream(len(chosen), in_steps(frames, quiet))


@contextlib.contextmanager
def quiet():
    """Keeps OpenCV's own messages off stderr: each problem is one VideoError."""
    # OpenCV 5 moved the level from cv2 itself to cv2.utils.logging.
    logging = getattr(cv2.utils, "logging", cv2)
    level = logging.getLogLevel()
    logging.setLogLevel(0)  # silent
    try:
        yield
    finally:
        logging.setLogLevel(level)


@dataclasses.dataclass(frozen=True)
class _Source:
    """A file, the path that errors name, what its bytes state, and whether it may lack frames."""

    path: str
    shown: str
    container: Container
    partial: bool


@dataclasses.dataclass(frozen=True)
class _Listing:
    """What the first pass found.

    Attributes:
      times: float64 [N] seconds, the distinct times of all packets, increasing.
      packets: how many frames there can be.
      promised: how many frames the container states; 0 if it does not say.
      interval: seconds that a frame usually lasts.
      counted: the times are those of a steady rate, since the frames carry none.
    """

    times: np.ndarray
    packets: int
    promised: int
    interval: float
    counted: bool = False

    @property
    def end(self) -> float:
        """Seconds, when the last frame ends."""
        return float(self.times[-1] + self.interval)


@contextlib.contextmanager
def _capture(path: str, packets_only: bool = False):
    """An open FFmpeg capture; packets_only lists packets (decoding order) and decodes nothing."""
    # Only FFmpeg: the other back ends would read "frame_001.jpg" as the start of a sequence.
    options = [cv2.CAP_PROP_FORMAT, -1] if packets_only else []
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, options)
    try:
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # upright, as the recorder meant it
        yield capture
    finally:
        capture.release()


def _list(source: _Source, frame_rate: float | None) -> _Listing:
    """The first pass."""
    path, shown = source.path, source.shown
    with _capture(path) as capture:
        if not capture.isOpened():
            reason = "not a video that OpenCV's FFmpeg can open; convert it to mp4"
            raise VideoError(reason, shown)
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    frame_rate = frame_rate or source.container.rate
    promised = int(count) if 0 < count < 1e9 else 0
    times, packets = _stamps(path, packets_only=True)
    if len(times) < max(1, 0.5 * packets):
        # Stamps missing from the packets: FFmpeg makes some while decoding.
        times, packets = _stamps(path, packets_only=False)
    if not packets:
        came = f"its container promises {promised} frames, none came" if promised else "no frame"
        raise VideoError(f"nothing can be decoded ({came}); copy or convert it again", shown)
    if source.container.timeless or len(times) < 0.5 * packets:
        if not frame_rate:
            raise VideoError(_TIMELESS, shown)
        return _Listing(np.arange(packets) / frame_rate, packets, promised, 1 / frame_rate, True)
    # The median: a pause or a missing stretch does not change it.
    steps = np.diff(times)
    interval = float(np.median(steps)) if len(steps) else 1 / (rate if rate > 0 else 1)
    return _Listing(times, packets, promised, interval)


def _stamps(path: str, packets_only: bool) -> tuple[np.ndarray, int]:
    """Distinct times of all frames, float64 [N] seconds, increasing; number of packets."""
    times = []
    with _capture(path, packets_only) as capture:
        while capture.isOpened() and capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    times = np.array(times, np.float64)
    stamps = np.sort(times[np.isfinite(times) & (times > -_SAME_TIME)])
    return stamps[np.diff(stamps, prepend=-np.inf) > _SAME_TIME], len(times)


def _frames(
    source: _Source, listing: _Listing, wanted: np.ndarray, fit: Reading, notes: list[str]
) -> Frames:
    """The second pass: decodes every frame, converts only those wanted ([T] seconds).

    Where a wanted frame does not come, the next one that does takes its place under its own time.
    """
    original = fitted = None
    next_wanted, decoded, failed, last, end = 0, 0, 0, -math.inf, 0.0
    with _capture(source.path) as capture:
        # A damaged frame makes one grab fail, exactly as the end does; those behind it still come.
        while True:
            if not capture.grab():
                failed += 1
                if decoded + failed > listing.packets:
                    break
                continue
            last = _time(capture, listing, last, decoded + failed)
            keep = next_wanted < len(wanted) and last >= wanted[next_wanted] - _SAME_TIME
            came, image = capture.retrieve() if keep else (True, None)
            if not came:
                failed += 1
                continue
            decoded, end = decoded + 1, last + listing.interval
            if not keep:
                continue
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
            original = image.shape[:2]
            fitted = fitted or frame_size(fit.size, original)
            next_wanted = int(np.searchsorted(wanted, last + _SAME_TIME, side="right"))
            yield last, cv2.cvtColor(fit_frame(image, fitted, fit.resample), cv2.COLOR_BGR2RGB)
    if original is None:
        promised = max(listing.promised, len(listing.times))
        reason = f"nothing can be decoded (0 of {promised} frames came); copy or convert it again"
        raise VideoError(reason, source.shown)
    container = source.container
    complete = decoded == listing.promised and not container.edited
    if complete and container.track_seconds >= end - listing.interval:
        # Exact also where the last frame is long; both are counted from the first frame.
        end = container.track_seconds
    shortfall = _shortfall(source, listing, decoded)
    letterbox = letterbox_note(original, fitted)
    return Ending(end, decoded, (*shortfall, *notes, *letterbox))


def _time(capture: cv2.VideoCapture, listing: _Listing, last: float, place: int) -> float:
    """Seconds of the frame just grabbed, after `place` others, the last of them at `last`."""
    if listing.counted:
        return place * listing.interval
    time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if time > last + _SAME_TIME:
        return float(time)
    # No stamp (reported as 0), or NaN: the next one listed, or an interval on.
    later = np.searchsorted(listing.times, last + _SAME_TIME, side="right")
    return float(listing.times[later] if later < len(listing.times) else last + listing.interval)


def _shortfall(source: _Source, listing: _Listing, decoded: int) -> list[str]:
    """Notes on frames that did not come; VideoError where too many to overlook.

    What was promised is the container's frame count where it states one, and never less than the
    packets that were found.
    """
    container, listed = source.container, len(listing.times)
    promised = max(listing.promised, listed) if container.counts_frames else listed
    lost = promised - decoded
    cut = f" ({container.missing_bytes} bytes are missing at its end)"
    cut = cut if container.missing_bytes else ""
    if lost <= 0 and not cut:
        return []
    if container.edited and not cut:
        return [f"the file's edit list shows {decoded} of the {promised} frames stored"]
    account = f"{promised} frames promised, {decoded} decoded{cut}"
    many = lost > max(_TOLERATED_FRAMES, _TOLERATED_SHARE * promised)
    if (cut or many) and not source.partial:
        reason = f"incomplete: {account}; copy it again, or read it with partial=True"
        raise VideoError(reason, source.shown)
    return [f"incomplete: {account}"]
