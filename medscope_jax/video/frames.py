"""What a decoded recording is, which native frames enter the bank, and how a frame is fitted.

Everything here is NumPy on the host and knows nothing of file formats, so that OpenCV's and
DICOM's readers cannot disagree on it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.video.resize import resize_frames

# Beyond this ratio of aspect ratios a stretched frame no longer looks like anatomy (a portrait
# recording in a 2:1 frame is off by 3.6); 4:3 in 2:1 is off by 1.5 and is stretched.
LETTERBOX_RATIO = 2.0


# (H, W) in pixels, or a function that says so of a recording's own (h, w).
FrameSize = tuple[int, int] | Callable[[int, int], tuple[int, int]]
# "area" averages the pixels that a new one covers; "bicubic" gives the reference processor's.
RESAMPLES = ("area", "bicubic")


class Fit(NamedTuple):
    """How frames are brought to the bank's pixels: what size they get, and one of RESAMPLES."""

    size: FrameSize
    resample: str = "area"


class VideoError(UserError):
    """A recording that cannot be used: one line naming the file, what is wrong and what to do.

    Attributes:
      reason: what is wrong and what to do. It quotes neither names nor header values, so a log or
        a data set may hold it.
      path: the file, as whoever asked for it named it; it may name a patient.
    """

    def __init__(self, reason: str, path: str = ""):
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path

    def __reduce__(self):
        # Exceptions are pickled by their text, which would make the path a part of the reason.
        return VideoError, (self.reason, self.path)


@dataclasses.dataclass(frozen=True)
class Video:
    """A recording at the bank rate, on the host.

    Attributes:
      frames: uint8 [T, H, W, 3], RGB.
      times: float64 [T], seconds from the first frame, strictly increasing; the file's own times.
      duration: seconds, the end of the last native frame.
      native_frames: how many frames were decoded to choose these T from.
      notes: what a reader must know about this decoding, one sentence each: thinning, letterboxing,
        frames that the container promised and that did not come. Empty if all went by the book.
    """

    frames: np.ndarray
    times: np.ndarray
    duration: float
    native_frames: int = 0
    notes: tuple[str, ...] = ()


def preview_indices(length: int, count: int) -> np.ndarray:
    """Frames of an even preview: int32 [min(count, length)], first and last frame included.

    length 9, count 3 -> [0, 4, 8];  length 2, count 12 -> [0, 1].
    """
    if length < 0 or count < 0:
        raise ValueError(f"length and count must not be negative, got {length} and {count}")
    return np.round(np.linspace(0, length - 1, min(count, length))).astype(np.int32)


def tick_frames(
    times: np.ndarray, duration: float, fps: float, max_frames: int | None = None
) -> np.ndarray:
    """Chooses native frames for the bank: the one nearest to each tick k / fps before the end.

    A tie goes to the earlier frame. A frame that is nearest to several ticks (a recording slower
    than the bank) is chosen once, so the chosen times increase strictly. Beyond max_frames the
    ticks are thinned evenly, first and last kept.

        times 0 .3 .8 1.1 1.9 2.0, duration 2.4, fps 1: ticks 0 1 2 -> frames [0, 3, 5]

    Args:
      times: float64 [N] seconds, strictly increasing.
      duration: seconds, the end of the last frame.
      fps: ticks a second.
      max_frames: most frames to choose, or None.

    Returns:
      int64 [T] indices into times, strictly increasing.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps}")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    # 1e-6 of a tick: a duration of 9.999999999 or 10.000000001 s at 1 fps is ten ticks either way.
    ticks = np.arange(max(1, math.ceil(duration * fps - 1e-6))) / fps
    right = np.clip(np.searchsorted(times, ticks), 0, len(times) - 1)
    left = np.maximum(right - 1, 0)
    # 1 ns: floating point noise must not decide a tie.
    nearest = np.where(ticks - times[left] <= times[right] - ticks + 1e-9, left, right)
    chosen = np.unique(nearest)
    if max_frames is not None:
        chosen = chosen[preview_indices(len(chosen), max_frames)]
    return chosen


def thinning_note(
    native: np.ndarray, duration: float, fps: float, max_frames: int | None
) -> list[str]:
    """No or one note: that max_frames thinned the ticks of tick_frames(native, ...)."""
    wanted = len(tick_frames(native, duration, fps))
    if max_frames is None or wanted <= max_frames:
        return []
    return [f"{wanted} frames at {fps:g} fps were thinned evenly to {max_frames}; times stay exact"]


def frame_size(size: FrameSize, original: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) that frames of original (h, w) get, both in pixels."""
    return size(*original) if callable(size) else size


def letterbox_note(original: tuple[int, int], size: tuple[int, int]) -> list[str]:
    """No or one note: that fit_frame letterboxes frames of original (h, w) into size."""
    if not _letterboxed(original, size):
        return []
    return [
        f"frames of {original[0]}x{original[1]} (height x width) were letterboxed into "
        f"{size[0]}x{size[1]}: their aspect ratios differ too much to stretch them"
    ]


def fit_frame(frame: np.ndarray, size: tuple[int, int], resample: str = "area") -> np.ndarray:
    """Resizes one uint8 frame [h, w, 3] to size (H, W) by one of RESAMPLES.

    The frame is stretched to fill size, which keeps every pixel in use; where the aspect ratios
    differ by more than LETTERBOX_RATIO it keeps its own aspect, centred on black.
    """
    height, width = size
    if not _letterboxed(frame.shape[:2], size):
        return _resize(frame, height, width, resample)
    scale = min(height / frame.shape[0], width / frame.shape[1])
    inner = (max(1, round(frame.shape[0] * scale)), max(1, round(frame.shape[1] * scale)))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top : top + inner[0], left : left + inner[1]] = _resize(frame, *inner, resample)
    return canvas


def _letterboxed(original: tuple[int, int], size: tuple[int, int]) -> bool:
    ratio = (original[1] * size[0]) / (original[0] * size[1])
    return max(ratio, 1 / ratio) > LETTERBOX_RATIO


def _resize(frame: np.ndarray, height: int, width: int, resample: str) -> np.ndarray:
    if resample == "bicubic":
        return resize_frames(frame[None], (height, width))[0]
    # INTER_AREA averages; enlarging with it would only repeat pixels.
    grows = height > frame.shape[0] or width > frame.shape[1]
    return cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    )
