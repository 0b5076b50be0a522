"""A recording's frames one at a time: what every reader of recordings gives."""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

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
        frames = np.empty((0, 1, 1, 3), np.uint8)
        times: list[float] = []
        for time, frame in self:
            if not times:
                frames = np.empty((self.planned, *frame.shape), np.uint8)
            frames[len(times)] = frame
            times.append(time)
        end = self.ending
        assert end is not None  # the last frame has come
        shown = np.array(times, np.float64)
        return Video(frames[: len(times)], shown, end.duration, end.native_frames, end.notes)


_Item = TypeVar("_Item")


def ahead(items: Generator[_Item, None, None], depth: int = 2) -> Iterator[_Item]:
    """The same items, made in a thread of their own: the next ones while the consumer is at work.

    What they raise is raised here. A consumer that leaves early stops the thread.

    Args:
      items: a generator that nobody else reads; it is closed in that thread.
      depth: how many may be ready and not taken.
    """
    ready: queue.Queue = queue.Queue(depth)
    left, end = threading.Event(), object()

    def put(item: object, error: BaseException | None = None) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    def work() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    put(item)
                    if left.is_set():
                        return
            put(end)
        except BaseException as error:  # to be raised where the items are taken
            put(end, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        left.set()
        thread.join()
