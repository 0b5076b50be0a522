"""One reader for every recording: containers, DICOM, and folders of pictures.

What a file is, its own bytes say (formats.py); containers are decoded in container.py, DICOM in
dicom.py, folders in folder.py. Memory holds the list of times, the result and one frame.
"""

import os

from medscope_jax.video import dicom, formats
from medscope_jax.video.container import iter_container
from medscope_jax.video.folder import iter_folder
from medscope_jax.video.frames import FrameSize, Reading, Video
from medscope_jax.video.stream import FrameStream


def read_video(
    path: str | os.PathLike,
    fps: float,
    size: FrameSize,
    max_frames: int | None = None,
    partial: bool = False,
    frame_rate: float | None = None,
    resample: str = "area",
    min_frames: int = 1,
    threads: int = 0,
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
      threads: that work on one recording: one that converts pictures, the others decode them; 1 for
        one that does both, 0 for one a core. Whatever is intact comes out the same.

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
    threads: int = 0,
) -> FrameStream:
    """The frames that read_video collects, one in memory at a time; arguments as there.

    Returns:
      FrameStream of (time in seconds, uint8 [H, W, 3] RGB); its `ending` says the rest.

    Raises:
      VideoError: as read_video. Frames that are missing at the end show only while iterating.
    """
    reading = Reading(fps, size, max_frames, min_frames, partial, frame_rate, resample, threads)
    # Absolute: FFmpeg would take "a:b.mp4" for a network protocol.
    path = os.path.abspath(os.fspath(path))
    if os.path.isdir(path):
        return iter_folder(path, reading)
    head = formats.read_head(path)
    if not dicom.sniff(head):
        formats.refuse_foreign(head, path)
        return iter_container(path, reading, path)
    return dicom.iter_dicom(path, reading)
