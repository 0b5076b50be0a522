"""A window of a recording, from its file: what the peers' crop_video does at every call."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from medscope_jax.video import VideoError, read_video
from medscope_jax.video.frames import fit_frame

_SAME_TIME = 1e-4  # seconds


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording as the peers know it: its file, and when its bank-rate frames are."""

    path: Path
    times: np.ndarray  # [T] seconds
    duration: float  # seconds


def crop_window(path: Path, times: np.ndarray, fps: float, size: tuple[int, int]) -> np.ndarray:
    """The frames at exactly these times (seconds, increasing) as read_video gives them.

    Decodes from the key frame before the first to the last; the rest of the file is not touched.

    Returns:
      uint8 [len(times), H, W, 3] RGB; size is (H, W). fps is not needed.
    """
    del fps
    frames = []
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * float(times[0]))
        for when in times:
            now = -np.inf
            while now < when - _SAME_TIME:
                if not capture.grab():
                    raise VideoError(f"{path}: no frame at {when:.3f} s")
                now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if now > when + _SAME_TIME:
                raise VideoError(f"{path}: seeking missed the frame at {when:.3f} s")
            frames.append(fit_frame(capture.retrieve()[1], size)[..., ::-1])
    finally:
        capture.release()
    return np.stack(frames)


def crop_whole(path: Path, times: np.ndarray, fps: float, size: tuple[int, int]) -> np.ndarray:
    """As crop_window, but the recording is decoded from end to end at the bank rate, fps."""
    video = read_video(path, fps, size)
    return video.frames[np.searchsorted(video.times, np.asarray(times) - _SAME_TIME)]
