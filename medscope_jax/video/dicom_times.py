"""When each frame of a DICOM recording was taken, by its cine tags."""

import numpy as np
import pydicom

TIME_TAGS = [
    "FrameIncrementPointer",
    "FrameTime",
    "FrameTimeVector",
    "ActualFrameDuration",
    "RecommendedDisplayFrameRate",
    "CineRate",
]
_FRAME_TIME = 0x00181063


def frame_times(header: pydicom.Dataset, count: int) -> tuple[np.ndarray, float] | None:
    """Seconds of each frame [count], from the first frame, and the end of the last one.

    FrameTimeVector counts where it fits the frames and FrameIncrementPointer does not name
    FrameTime instead. None where the header says nothing of use; ValueError or the like where a
    value is no number.
    """
    vector = np.atleast_1d(np.asarray(header.get("FrameTimeVector") or [], np.float64))
    steady = steady_interval(header)
    points_at_steady = header.get("FrameIncrementPointer") == _FRAME_TIME and steady
    if len(vector) == count and not points_at_steady:
        # Increments in ms; the first, before the first frame, is 0 by the standard.
        times = np.cumsum(vector) / 1000
        times -= times[0]
        steps = np.diff(times)
        if np.isfinite(times).all() and (steps > 0).all():
            return times, float(times[-1] + np.median(steps))
    return (np.arange(count) * steady, count * steady) if steady else None


def steady_interval(header: pydicom.Dataset) -> float:
    """Seconds between frames where the header gives one number for all; 0 where it gives none."""
    for tag in ("FrameTime", "ActualFrameDuration"):  # ms
        value = float(header.get(tag) or 0)
        if np.isfinite(value) and value > 0:
            return value / 1000
    for tag in ("RecommendedDisplayFrameRate", "CineRate"):  # frames a second
        value = float(header.get(tag) or 0)
        if np.isfinite(value) and value > 0:
            return 1 / value
    return 0.0
