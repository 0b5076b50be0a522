"""One reader for every recording: containers, DICOM, and folders of pictures.

What a file is, its own bytes say (container.inspect); containers are decoded in opencv.py, DICOM in
dicom.py, folders in folder.py. Memory holds the list of times, the result and one frame.
"""

import contextlib
import dataclasses
import os
import stat

from medscope_jax.video import dicom
from medscope_jax.video.container import Container, inspect
from medscope_jax.video.folder import iter_folder
from medscope_jax.video.frames import FrameSize, Reading, Video, VideoError
from medscope_jax.video.opencv import iter_opencv
from medscope_jax.video.stream import Ending, Frames, FrameStream


def read_video(
    path: str | os.PathLike,
    fps: float,
    size: FrameSize,
    max_frames: int | None = None,
    partial: bool = False,
    frame_rate: float | None = None,
    resample: str = "area",
    min_frames: int = 1,
) -> Video:
    """Decodes a recording at the bank rate.

    The frame nearest to each tick k / fps is kept (once, if it is nearest to several), with its
    own exact time. Frames are stretched to size; see fit_frame for when they are letterboxed.

    Args:
      path: a video file, a multi-frame DICOM file (known by its magic, not its name), or a folder
        of JPEG or PNG frames (see folder.py).
      fps: bank rate, ticks a second.
      size: (H, W) pixels of the result, or a function that gives them for the recording's own
        (h, w).
      max_frames: most frames to return; ticks beyond are thinned evenly and Video.notes says so.
      partial: accept a recording that is cut short or lacks frames; Video.notes then says how many
        were promised and how many came. By default that is an error.
      frame_rate: frames a second of what has no times of its own: a folder of pictures, a bare
        stream, an AVI without a rate. Whatever has times keeps them.
      resample: how frames are resized, one of frames.RESAMPLES; published weights were trained on
        "bicubic" ones.
      min_frames: fewest frames to return of a recording that has as many: the bank rate rises until
        it makes them, and Video.notes says so.

    Returns:
      Video.

    Raises:
      VideoError: no such file, empty, unreadable, no video, sound only, cut short, nothing
        decodable, no times.
    """
    return iter_frames(
        path, fps, size, max_frames, partial, frame_rate, resample, min_frames
    ).collect()


def iter_frames(
    path: str | os.PathLike,
    fps: float,
    size: FrameSize,
    max_frames: int | None = None,
    partial: bool = False,
    frame_rate: float | None = None,
    resample: str = "area",
    min_frames: int = 1,
) -> FrameStream:
    """The frames that read_video collects, one in memory at a time; arguments as there.

    Returns:
      FrameStream of (time in seconds, uint8 [H, W, 3] RGB); its `ending` says the rest.

    Raises:
      VideoError: as read_video. Frames that are missing at the end show only while iterating.
    """
    reading = Reading(fps, size, max_frames, min_frames, partial, frame_rate, resample)
    # Absolute: FFmpeg would take "a:b.mp4" for a network protocol.
    path = os.path.abspath(os.fspath(path))
    if os.path.isdir(path):
        return iter_folder(path, reading)
    container = _inspect_file(path)
    if container.kind != "dicom":
        return iter_opencv(path, container, reading, path)
    unpacked = dicom.read_stream(path)
    if unpacked is None:
        return dicom.iter_dicom(path, reading)
    # An MPEG recording inside DICOM: only the stream itself leaves the file.
    with contextlib.ExitStack() as cleanup:
        inner = cleanup.enter_context(unpacked)
        rate = dicom.stream_rate(path) or frame_rate
        found = inspect(inner)
        container = Container("other", timeless=found.timeless, rate=found.rate)
        stream = iter_opencv(inner, container, dataclasses.replace(reading, frame_rate=rate), path)
        notes = dicom.header_notes(path)
        return FrameStream(stream.planned, _noted(stream, notes, cleanup.pop_all()))


def _noted(
    stream: FrameStream, notes: tuple[str, ...], cleanup: contextlib.AbstractContextManager
) -> Frames:
    """The same frames, with more notes at the end and something to clean up after it."""
    with cleanup:
        yield from stream
    end = stream.ending
    return Ending(end.duration, end.native_frames, (*notes, *end.notes))


def _inspect_file(path: str) -> Container:
    """Refuses everything that is no readable recording before a decoder opens it."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("not a regular file; copy the video to a file first", path)
        if status.st_size == 0:
            raise VideoError("empty (0 bytes); copy or download the video again", path)
        container = inspect(path)
    except FileNotFoundError:
        raise VideoError("no such file; check the path of the video", path) from None
    except PermissionError:
        raise VideoError("permission denied; make it readable for this user", path) from None
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror}); check the path", path) from None
    if not container.has_index:
        what = (
            "cut short: its end, where an mp4 keeps its index (moov), is missing"
            if container.missing_bytes
            else "an mp4 without an index (moov): cut short or never finished"
        )
        raise VideoError(f"{what}, so no frame can be decoded; copy or record it again", path)
    if not container.has_pictures:
        what = {"still": "a still image, not a video", "text": "text, not a video"}
        what = what.get(container.kind, "sound only, there is no video in it")
        raise VideoError(f"{what}; name a recording (mp4, avi, mkv, webm, DICOM)", path)
    return container
