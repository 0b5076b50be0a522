"""Frames of a video that stay JPEG until they are asked for, in memory or on the disk."""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from medscope_jax.video.lazy_frames import LazyFrames, Series


class JpegFrames(LazyFrames):
    """Frames uint8 [T, H, W, 3] RGB of JPEGs in memory."""

    def __init__(self, jpegs: Sequence[bytes]):
        self._jpegs = jpegs

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3), by the first frame."""
        return (len(self._jpegs), *_decode(self._jpegs[0]).shape)

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Frames by their numbers [n], as [n, H, W, 3]."""
        chosen = np.empty((len(frames), *self.shape[1:]), np.uint8)
        for place, frame in enumerate(frames):
            chosen[place] = _decode(self._jpegs[frame])
        return chosen


class StoredFrames(LazyFrames):
    """Frames uint8 [T, H, W, 3] RGB of a stored video: its rows are read when frames are asked for.

    Args:
      rows: the JPEGs of each row of a data set.
      first: the row where the video begins.
      block: frames of each of its rows but the last, which has the rest.
      shape: (T, H, W, 3).
    """

    def __init__(self, rows: Series[Any], first: int, block: int, shape: tuple[int, ...]):
        self._rows, self._first, self._block, self._shape = rows, first, block, shape

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3)."""
        return self._shape

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Frames by their numbers [n], as [n, H, W, 3]; no other rows are read than theirs."""
        chosen = np.empty((len(frames), *self._shape[1:]), np.uint8)
        blocks = frames // self._block
        for block in np.unique(blocks):
            jpegs = self._rows[self._first + int(block)]
            for place in np.flatnonzero(blocks == block):
                chosen[place] = _decode(jpegs[frames[place] - block * self._block])
        return chosen


def _decode(jpeg: bytes) -> np.ndarray:
    """A JPEG as uint8 [H, W, 3] RGB."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None  # records have checksums
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
