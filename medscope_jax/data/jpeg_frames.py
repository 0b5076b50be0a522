"""Frames of a video that stay JPEG until they are asked for."""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np


class JpegFrames:
    """Frames uint8 [T, H, W, 3] RGB that are decoded when they are asked for.

    frames[3], frames[3:8] and frames[[3, 5, 9]] are arrays, and so is np.asarray(frames).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, jpegs: Sequence[bytes]):
        self._jpegs = np.asarray(jpegs, object)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3), by the first frame."""
        return (len(self._jpegs), *_decode(self._jpegs[0]).shape)

    def __len__(self) -> int:
        return len(self._jpegs)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self._jpegs[index]
        if isinstance(chosen, bytes):
            return _decode(chosen)
        frames = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for frame, jpeg in zip(frames, chosen, strict=True):
            frame[:] = _decode(jpeg)
        return frames

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def _decode(jpeg: bytes) -> np.ndarray:
    """A JPEG as uint8 [H, W, 3] RGB."""
    bgr: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
