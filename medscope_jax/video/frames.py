"""What a decoded recording is, which native frames enter the bank, and how a frame is fitted.

Everything here is NumPy on the host and knows nothing of file formats, so that OpenCV's and
DICOM's readers cannot disagree on it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

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


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a recording is read: the arguments of decode.read_video, which says what they mean.

    Raises:
      ValueError: one of them is out of range.
    """

    fps: float
    size: FrameSize
    max_frames: int | None = None
    min_frames: int = 1
    partial: bool = False
    frame_rate: float | None = None
    resample: str = "area"
    threads: int = 0

    def __post_init__(self):
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number, got {self.fps}")
        if not callable(self.size) and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size must be (H, W) in pixels, got {self.size}")
        for name in ("max_frames", "min_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        rate = self.frame_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"frame_rate must be a positive number, got {rate}")
        if self.resample not in RESAMPLES:
            raise ValueError(
                f"resample must be one of {', '.join(RESAMPLES)}, got {self.resample!r}"
            )


# What a reader may do about a fault by an argument of read_video, and how Python writes that;
# a command that reads recordings has words of its own (VideoError.advise).
REMEDIES = {
    "frame_rate": "give its frame rate with {}",
    "partial": "copy it again, or read what is there with {}",
}
_IN_PYTHON = {"frame_rate": "frame_rate=RATE", "partial": "partial=True"}


class VideoError(UserError):
    """A recording that cannot be used: one line naming the file, what is wrong and what to do.

    Attributes:
      reason: what is wrong and what to do. It quotes neither names nor header values, so a log or
        a data set may hold it.
      path: the file, as whoever asked for it named it; it may name a patient.
      remedy: the argument of read_video that helps, one of REMEDIES; "" where none does.
    """

    def __init__(self, reason: str, path: str = "", remedy: str = ""):
        self.reason, self.path, self.remedy = reason, path, remedy
        told = self.advise(_IN_PYTHON)
        super().__init__(f"{path}: {told}" if path else told)

    def advise(self, options: Mapping[str, str]) -> str:
        """The reason, with the remedy in a command's own words.

        options: remedy -> the command's option, {"frame_rate": "--fps RATE"}; a remedy that it
        does not offer is left out.
        """
        if self.remedy not in options:
            return self.reason
        return f"{self.reason}; {REMEDIES[self.remedy].format(options[self.remedy])}"

    def __reduce__(self):
        # Exceptions are pickled by their text, which would make the path a part of the reason.
        return VideoError, (self.reason, self.path, self.remedy)


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
      content: of a stored video, a hash that another one would not have; "" where none was noted.
    """

    frames: np.ndarray
    times: np.ndarray
    duration: float
    native_frames: int = 0
    notes: tuple[str, ...] = ()
    content: str = ""


def preview_indices(length: int, count: int) -> np.ndarray:
    """Frames of an even preview: int32 [min(count, length)], first and last frame included.

    length 9, count 3 -> [0, 4, 8];  length 2, count 12 -> [0, 1].
    """
    if length < 0 or count < 0:
        raise ValueError(f"length and count must not be negative, got {length} and {count}")
    return np.round(np.linspace(0, length - 1, min(count, length))).astype(np.int32)


def tick_frames(
    times: np.ndarray,
    duration: float,
    fps: float,
    max_frames: int | None = None,
    min_frames: int = 1,
) -> np.ndarray:
    """Chooses native frames for the bank: the one nearest to each tick k / fps before the end.

    A tie goes to the earlier frame. A frame that is nearest to several ticks (a recording slower
    than the bank) is chosen once, so the chosen times increase strictly. Where fewer than
    min_frames come out, the rate rises until it makes that many ticks. Beyond max_frames the ticks
    are thinned evenly, first and last kept.

        times 0 .3 .8 1.1 1.9 2.0, duration 2.4, fps 1: ticks 0 1 2 -> frames [0, 3, 5]

    Memory is that of times, however many ticks there are.

    Args:
      times: float64 [N] seconds, strictly increasing.
      duration: seconds, the end of the last frame.
      fps: ticks a second.
      max_frames: most frames to choose, or None.
      min_frames: fewest frames to choose, where there are as many.

    Returns:
      int64 [T] indices into times, strictly increasing.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps}")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    chosen = _nearest_to_ticks(times, duration, fps)
    if len(chosen) < min(min_frames, len(times)) and duration > 0:
        chosen = _nearest_to_ticks(times, duration, max(fps, min_frames / duration))
    if max_frames is not None:
        chosen = chosen[preview_indices(len(chosen), max_frames)]
    return chosen


def _nearest_to_ticks(times: np.ndarray, duration: float, fps: float) -> np.ndarray:
    """Indices of the frames that are nearest to a tick, int64, increasing."""
    # 1e-6 of a tick: a duration of 9.999999999 or 10.000000001 s at 1 fps is ten ticks either way.
    count = max(1.0, math.ceil(duration * fps - 1e-6))
    # Frame i is nearest to the ticks up to the middle between it and the next frame; 1 ns:
    # floating point noise must not decide a tie.
    middles = (times[:-1] + times[1:]) / 2 + 0.5e-9
    until = np.append(np.clip(np.floor(middles * fps) + 1, 0, count), count)
    return np.flatnonzero(np.diff(until, prepend=0) > 0)


def choose_frames(
    times: np.ndarray, duration: float, reading: Reading
) -> tuple[np.ndarray, list[str]]:
    """Native frames for the bank, as tick_frames, and no or one note where not every tick has one.

    Args:
      times: float64 [N] seconds, strictly increasing.
      duration: seconds, the end of the last frame.
      reading: its fps, max_frames and min_frames.

    Returns:
      int64 [T] indices into times, and a note that ticks were thinned, or made more of.
    """
    fps, fewest = reading.fps, reading.min_frames
    wanted = len(tick_frames(times, duration, fps))
    chosen = tick_frames(times, duration, fps, reading.max_frames, fewest)
    if len(chosen) > wanted:
        notes = [
            f"{wanted} at {fps:g} fps of {duration:.3g} s is too little to see: {len(chosen)} "
            f"frames at {fewest / duration:.3g} fps; times stay exact"
        ]
    elif len(chosen) < wanted:
        notes = [
            f"{wanted} frames at {fps:g} fps were thinned evenly to {len(chosen)}; times stay exact"
        ]
    else:
        notes = []
    return chosen, notes


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
