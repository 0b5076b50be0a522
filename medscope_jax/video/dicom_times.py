"""When each frame of a DICOM recording was taken, by its cine tags."""

import dataclasses

import numpy as np

from medscope_jax.video import size_limits as limits
from medscope_jax.video.dicom_elements import Elements
from medscope_jax.video.dicom_tags import (
    CINE_RATE,
    DISPLAY_RATE,
    FRAME_DURATION,
    FRAME_TIME,
    FRAME_TIME_VECTOR,
    INCREMENT_POINTER,
)
from medscope_jax.video.frames import Reading, VideoError

# In order: milliseconds of each frame, then frames a second.
_STEADY = {
    FRAME_TIME: "FrameTime",
    FRAME_DURATION: "ActualFrameDuration",
    DISPLAY_RATE: "RecommendedDisplayFrameRate",
    CINE_RATE: "CineRate",
}
_NAMES = {FRAME_TIME_VECTOR: "FrameTimeVector", **_STEADY}
_RATES = (DISPLAY_RATE, CINE_RATE)
_LEAST_INTERVAL = 1e-6  # seconds: beyond a million frames a second a number is no rate


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each frame [N] from the first one, the end of the last, and notes for readers."""

    times: np.ndarray
    end: float
    notes: tuple[str, ...] = ()


def frame_times(
    elements: Elements, count: int, promised: int, reading: Reading, path: str
) -> Times:
    """When the frames of a recording were taken.

    FrameIncrementPointer says what parts frames: FrameTimeVector, FrameTime, or, where it is slices
    or pages or the like, no time at all. Where it says nothing, a vector that fits the frames
    counts, then FrameTime, ActualFrameDuration, RecommendedDisplayFrameRate, CineRate.

    Args:
      elements: the header's.
      count: how many frames there are.
      promised: how many the header says there are.
      reading: its frame_rate stands in where there are no times.
      path: what errors name.

    Raises:
      VideoError: no times and no frame_rate, or longer than a week.
    """
    try:
        found = _stated(elements, count, promised)
    except ValueError:
        found = "those in its header are no numbers"
    if isinstance(found, Times):
        limits.check_seconds(found.end, path)
        return found
    if reading.frame_rate is None:
        raise VideoError(f"DICOM without frame times ({found})", path, remedy="frame_rate")
    end = count / reading.frame_rate
    limits.check_seconds(end, path)
    note = f"without frame times of its own ({found}): they are those of the given frame rate"
    return Times(np.arange(count) / reading.frame_rate, end, (note,))


def stated_rate(elements: Elements) -> float | None:
    """Frames a second that a header states for all its frames alike; None where it states none."""
    try:
        if not _parted_by_time(elements):
            return None
        steady, _, _ = _steady(elements)
        steps = elements.numbers(FRAME_TIME_VECTOR)[1:] / 1000
    except ValueError:
        return None
    if len(steps) and not (steady and FRAME_TIME in elements.tags(INCREMENT_POINTER)):
        mean = float(steps.mean())
        if mean >= _LEAST_INTERVAL and np.ptp(steps) <= 1e-3 * mean:
            return 1 / mean
        return None
    return 1 / steady if steady else None


def _parted_by_time(elements: Elements) -> bool:
    pointers = elements.tags(INCREMENT_POINTER)
    return all(tag in _NAMES for tag in pointers)


def _stated(elements: Elements, count: int, promised: int) -> Times | str:
    """The times that a header states, or, in words, why it states none."""
    if not _parted_by_time(elements):
        return "its frames are parted by something else than time: slices, pages or the like"
    pointers = elements.tags(INCREMENT_POINTER)
    steady, name, passed = _steady(elements)
    vector = elements.numbers(FRAME_TIME_VECTOR)
    notes = []
    if passed and steady:
        notes.append(f"{passed} is no time between frames: {name} stands for it")
    if len(vector) and not (FRAME_TIME in pointers and name == "FrameTime"):
        times, fault = _from_vector(vector, max(count, promised))
        if times is not None:
            usual = float(np.median(np.diff(times)))
            end = times[count] if count < len(times) else times[-1] + usual
            return Times(times[:count], float(end), tuple(fault))
        if not steady:
            return f"FrameTimeVector does not fit: {fault[0]}"
        notes = [f"FrameTimeVector does not fit ({fault[0]}): {name} stands for it"]
    elif steady and pointers and all(tag not in elements.values for tag in pointers):
        pointed = " and ".join(_NAMES[tag] for tag in pointers)
        notes = [f"its header points to {pointed} and has none: {name} stands for it"]
    if not steady:
        tags = ", ".join(_NAMES.values())
        return f"none of {tags}; export it with its cine module"
    return Times(np.arange(count) * steady, count * steady, tuple(notes))


def _from_vector(vector: np.ndarray, count: int) -> tuple[np.ndarray | None, list[str]]:
    """Seconds of `count` frames by FrameTimeVector's milliseconds, and notes; or None, and why not.

    The vector has a value for each frame, the first one that before the first frame; or only those
    between frames.
    """
    if len(vector) not in (count, count - 1) or count < 2:
        return None, [f"{len(vector)} values for {count} frames"]
    steps = vector[1:] if len(vector) == count else vector
    backward = np.count_nonzero(~(steps >= 0))
    if backward or not np.isfinite(steps).all():
        return None, [f"{max(1, backward)} of its steps are no step forward"]
    # What is far beyond any limit must not overflow.
    steps = np.where(steps < 1e3 * _LEAST_INTERVAL, 0.0, np.minimum(steps, 1e15))
    times = np.append(0.0, np.cumsum(steps)) / 1000
    standing = np.count_nonzero(steps == 0)
    if standing * 2 > len(steps):
        return None, [f"{standing} of {len(steps)} steps are zero"]
    if not standing:
        return times, []
    # Frames at one time: the smallest step stands for none, where there is room for it.
    moments, first, alike = np.unique(times, return_index=True, return_counts=True)
    following = np.append(moments[1:], moments[-1] + np.median(np.diff(moments)))
    step = np.minimum((following - moments) / alike, np.diff(moments).min())
    spread = times + (np.arange(count) - np.repeat(first, alike)) * np.repeat(step, alike)
    note = (
        f"FrameTimeVector does not fit ({standing} of {len(steps)} steps are zero): the smallest "
        "other step stands for them, or less where there is no room"
    )
    return spread, [note]


def _steady(elements: Elements) -> tuple[float, str, str]:
    """Seconds between frames, which tag says so, and which one before it is no such number.

    0 and "" where none says so.
    """
    passed = ""
    for tag, name in _STEADY.items():
        numbers = elements.numbers(tag)
        if not len(numbers):
            continue
        value = float(numbers[0])
        if np.isfinite(value) and value > 0:
            interval = 1 / value if tag in _RATES else value / 1000
            if np.isfinite(interval) and interval >= _LEAST_INTERVAL:
                return interval, name, passed
        passed = passed or name
    return 0.0, "", passed
