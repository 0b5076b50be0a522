"""One reader for every recording: containers through OpenCV's FFmpeg, DICOM through pydicom.

How times are made. FFmpeg's presentation time stamp of each frame is read after it is grabbed
(CAP_PROP_POS_MSEC, which in the FFmpeg back end is the stamp less the stream's start, whatever the
nominal frame rate says). A first pass lists all packets' stamps without decoding anything; ticks
are assigned to frames from that list; the second pass decodes and converts only the chosen frames.
Memory holds the list, the result and one frame.
"""

import contextlib
import dataclasses
import math
import os
import stat

import cv2
import numpy as np

from medscope_jax.video import dicom
from medscope_jax.video.container import Container, inspect
from medscope_jax.video.frames import (
    FrameSize,
    Video,
    VideoError,
    fit_frame,
    frame_size,
    letterbox_note,
    thinning_note,
    tick_frames,
)

# FFmpeg's own messages would reach stderr beside our one line. OpenCV reads this variable when the
# process first touches a video, so it is set on import; a user's own value stays.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# Lost frames that are noted but tolerated in a complete file: encoders do leave an undecodable
# frame or two (an open group at the start, a last frame never flushed).
_TOLERATED_FRAMES = 2
_TOLERATED_SHARE = 0.01
# Two stamps this close (seconds) are one: containers count in 1/90000 s or coarser.
_SAME_TIME = 1e-6


def read_video(
    path: str | os.PathLike,
    fps: float,
    size: FrameSize,
    max_frames: int | None = None,
    partial: bool = False,
) -> Video:
    """Decodes a recording at the bank rate.

    The frame nearest to each tick k / fps is kept (once, if it is nearest to several), with its
    own exact time. Frames are stretched to size; see fit_frame for when they are letterboxed.

    Args:
      path: a video file, or a multi-frame DICOM file (known by its magic, not its name).
      fps: bank rate, ticks a second.
      size: (H, W) pixels of the result, or a function that gives them for the recording's own
        (h, w).
      max_frames: most frames to return; ticks beyond are thinned evenly and Video.notes says so.
      partial: accept a recording that is cut short or lacks frames; Video.notes then says how many
        were promised and how many came. By default that is an error.

    Returns:
      Video.

    Raises:
      VideoError: no such file, not a file, empty, unreadable, no video, sound only, cut short,
        nothing decodable.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps}")
    if not callable(size) and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (H, W) in pixels, got {size}")
    # Absolute: FFmpeg would take "a:b.mp4" for a network protocol.
    path = os.path.abspath(os.fspath(path))
    container = _inspect_file(path)
    if container.kind == "dicom":
        stream = dicom.read_stream(path)
        if stream is None:
            return dicom.read_dicom(path, fps, size, max_frames)
        # An MPEG recording inside DICOM: only the stream itself leaves the file.
        with stream as inner:
            video = _read_opencv(inner, Container("other"), fps, size, max_frames, partial, path)
        return dataclasses.replace(video, notes=(*dicom.header_notes(path), *video.notes))
    return _read_opencv(path, container, fps, size, max_frames, partial, path)


def _inspect_file(path: str) -> Container:
    """Refuses everything that is no readable recording before a decoder opens it."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoError(f"{path}: a directory, not a video; name one file in it")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(f"{path}: not a regular file; copy the video to a file first")
        if status.st_size == 0:
            raise VideoError(f"{path}: empty (0 bytes); copy or download the video again")
        container = inspect(path)
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file; check the path of the video") from None
    except PermissionError:
        raise VideoError(f"{path}: permission denied; make it readable for this user") from None
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not container.has_index:
        what = (
            "cut short: its end, where an mp4 keeps its index (moov), is missing"
            if container.missing_bytes
            else "an mp4 without an index (moov): cut short or never finished"
        )
        raise VideoError(f"{path}: {what}, so no frame can be decoded; copy or record it again")
    if not container.has_pictures:
        what = {"still": "a still image, not a video", "text": "text, not a video"}
        what = what.get(container.kind, "sound only, there is no video in it")
        raise VideoError(f"{path}: {what}; name a recording (mp4, avi, mkv, webm, DICOM)")
    return container


@contextlib.contextmanager
def _quiet():
    """Keeps OpenCV's own messages off stderr: each problem is one VideoError."""
    # OpenCV 5 moved the level from cv2 itself to cv2.utils.logging.
    logging = getattr(cv2.utils, "logging", cv2)
    level = logging.getLogLevel()
    logging.setLogLevel(0)  # silent
    try:
        yield
    finally:
        logging.setLogLevel(level)


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


def _stamps(path: str, packets_only: bool) -> tuple[np.ndarray, int]:
    """Distinct times of all frames, float64 [N] seconds, increasing; number of packets."""
    times = []
    with _capture(path, packets_only) as capture:
        while capture.isOpened() and capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    times = np.array(times, np.float64)
    stamps = np.sort(times[np.isfinite(times) & (times > -_SAME_TIME)])
    return stamps[np.diff(stamps, prepend=-np.inf) > _SAME_TIME], len(times)


def _read_opencv(
    path: str,
    container: Container,
    fps: float,
    size: FrameSize,
    max_frames: int | None,
    partial: bool,
    shown: str,
) -> Video:
    """Decodes with FFmpeg; `shown` is the path that errors name."""
    with _quiet():
        with _capture(path) as capture:
            if not capture.isOpened():
                raise VideoError(
                    f"{shown}: not a video that OpenCV's FFmpeg can open; convert it to mp4"
                )
            rate = capture.get(cv2.CAP_PROP_FPS)
            count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        promised = int(count) if 0 < count < 1e9 else 0
        listed, packets = _stamps(path, packets_only=True)
        if len(listed) < max(1, 0.5 * packets):
            # Stamps missing from the packets: FFmpeg makes some while decoding.
            listed, packets = _stamps(path, packets_only=False)
            if len(listed) < 0.5 * packets:
                raise VideoError(
                    f"{shown}: a bare stream whose frames carry no times; remux it into an mp4"
                )
        if not len(listed):
            came = (
                f"its container promises {promised} frames, none came" if promised else "no frame"
            )
            raise VideoError(f"{shown}: nothing can be decoded ({came}); copy or convert it again")
        # The median: a pause or a missing stretch does not change it.
        interval = (
            float(np.median(np.diff(listed))) if len(listed) > 1 else 1 / (rate if rate > 0 else 1)
        )
        chosen = tick_frames(listed, listed[-1] + interval, fps, max_frames)
        frames, times, decoded, original = _decode(
            path, listed, listed[chosen], packets, interval, size
        )
    if not len(times):
        raise VideoError(
            f"{shown}: nothing can be decoded (0 of {max(promised, len(listed))} frames came); "
            "copy or convert it again"
        )

    end = decoded[-1] + interval
    complete = len(decoded) == promised and not container.edited
    if complete and container.track_seconds >= decoded[-1]:
        # Exact also where the last frame is long; both are counted from the first frame.
        end = container.track_seconds
    notes = _shortfall(shown, container, promised, len(listed), len(decoded), partial)
    notes += thinning_note(listed, listed[-1] + interval, fps, max_frames)
    notes += letterbox_note(original, frames.shape[1:3])
    return Video(frames, times, float(end), len(decoded), tuple(notes))


def _decode(
    path: str,
    listed: np.ndarray,
    wanted: np.ndarray,
    packets: int,
    interval: float,
    size: FrameSize,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Decodes every frame, converting only those wanted.

    Where a wanted frame does not come, the next one that does takes its place under its own time.

    Args:
      path: the file.
      listed: [N] seconds, times of all packets.
      wanted: [T] seconds, some of them.
      packets: how many frames there can be.
      interval: seconds, stands in for a stamp that the decoder does not give.
      size: (H, W), or a function of (h, w).

    Returns:
      frames [T', H, W, 3] and times [T'] (T' <= T), all decoded times, original (height, width).
    """
    frames = np.empty((0, 1, 1, 3), np.uint8)
    times, decoded, original = [], [], (1, 1)
    next_wanted, last, failed = 0, -math.inf, 0
    with _capture(path) as capture:
        # A damaged frame makes one grab fail, exactly as the end does; those behind it still come.
        while True:
            if not capture.grab():
                failed += 1
                if len(decoded) + failed > packets:
                    break
                continue
            time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not time > last + _SAME_TIME:  # no stamp (reported as 0), or NaN
                later = np.searchsorted(listed, last + _SAME_TIME, side="right")
                time = listed[later] if later < len(listed) else last + interval
            last = float(time)
            decoded.append(last)
            if next_wanted == len(wanted) or last < wanted[next_wanted] - _SAME_TIME:
                continue
            came, image = capture.retrieve()
            if not came:
                decoded.pop()
                failed += 1
                continue
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
            original = image.shape[:2]
            if not times:
                frames = np.empty((len(wanted), *frame_size(size, original), 3), np.uint8)
            frames[len(times)] = fit_frame(image, frames.shape[1:3])[..., ::-1]
            times.append(last)
            next_wanted = int(np.searchsorted(wanted, last + _SAME_TIME, side="right"))
    return frames[: len(times)], np.array(times), np.array(decoded), original


def _shortfall(
    shown: str, container: Container, promised: int, listed: int, decoded: int, partial: bool
) -> list[str]:
    """Notes on frames that did not come; VideoError where too many to overlook.

    What was promised is the container's frame count where it states one, and never less than the
    packets that were found.
    """
    promised = max(promised, listed) if container.counts_frames else listed
    lost = promised - decoded
    cut = f" ({container.missing_bytes} bytes are missing at its end)"
    cut = cut if container.missing_bytes else ""
    if lost <= 0 and not cut:
        return []
    if container.edited and not cut:
        return [f"the file's edit list shows {decoded} of the {promised} frames stored"]
    account = f"{promised} frames promised, {decoded} decoded{cut}"
    many = lost > max(_TOLERATED_FRAMES, _TOLERATED_SHARE * promised)
    if (cut or many) and not partial:
        raise VideoError(
            f"{shown}: incomplete: {account}; copy it again, or read it with partial=True"
        )
    return [f"incomplete: {account}"]
