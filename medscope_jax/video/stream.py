"""A recording's frames one at a time: what every reader of recordings gives."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator

import numpy as np

from medscope_jax.video.frames import Video


@dataclasses.dataclass(frozen=True)
class Ending:
    """What is known of a recording once its last frame has come; fields as Video has them."""

    duration: float
    native_frames: int
    notes: tuple[str, ...] = ()


# (time, frame) pairs, then an Ending: what a reader is, written as a generator.
Frames = Generator[tuple[float, np.ndarray], None, Ending]


class FrameStream:
    """The frames of one recording at the bank rate, one in memory at a time.

    Iterate over it once: items are (time, frame), as Video.times and Video.frames hold them. Some
    faults show only at the end (frames that were promised and did not come): a VideoError may be
    raised after frames were given, and then what was made of them is not to be kept.

    Attributes:
      planned: how many frames come; fewer where some are damaged, never more.
      ending: duration, native frames and notes; None until the last frame has come.
    """

    def __init__(self, planned: int, frames: Frames):
        self.planned = planned
        self.ending: Ending | None = None
        self._frames = frames

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        if self.ending is None:
            self.ending = yield from self._frames

    def collect(self) -> Video:
        """All that is left to come, in one array that is allocated once."""
        frames, times = np.empty((0, 1, 1, 3), np.uint8), []
        for time, frame in self:
            if not times:
                frames = np.empty((self.planned, *frame.shape), np.uint8)
            frames[len(times)] = frame
            times.append(time)
        end = self.ending
        times = np.array(times, np.float64)
        return Video(frames[: len(times)], times, end.duration, end.native_frames, end.notes)


def in_steps(frames: Frames, context: Callable[[], contextlib.AbstractContextManager]) -> Frames:
    """The same frames, each made inside a context that is left before the consumer gets it.

    A generator suspended inside `with` would keep a process-wide setting changed while others run.
    """
    with contextlib.closing(frames):
        while True:
            with context():
                try:
                    item = next(frames)
                except StopIteration as end:
                    return end.value
            yield item
