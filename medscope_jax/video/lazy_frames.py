"""Frames that are read when they are asked for, and look like an array until then."""

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

Item = TypeVar("Item", covariant=True)


class Series(Protocol[Item]):
    """Things by row: a list, or what reads a row when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Item: ...

    def __iter__(self) -> Iterator[Item]: ...


class LazyFrames:
    """Frames uint8 [T, ...]: frames[3], frames[3:8], frames[[3, 5]] and np.asarray are arrays.

    A kind of them says what `shape` is and how chosen frames are read.
    """

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all frames; no frame is read for it where that can be helped."""
        raise NotImplementedError

    def read(self, frames: np.ndarray) -> np.ndarray:
        """The frames of numbers [n], all of them in range, as an array [n, ...]."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        return self.read(chosen) if chosen.ndim else self.read(chosen[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class PairedFrames(LazyFrames):
    """Frames [T, H, W, 3] in pairs, [ceil(T / 2), 2, H, W, 3], an odd last frame standing twice."""

    def __init__(self, frames: Any):
        """frames: an array, or like one."""
        self._frames = frames

    @property
    def shape(self) -> tuple[int, ...]:
        """(ceil(T / 2), 2, H, W, 3)."""
        return (-(-len(self._frames) // 2), 2, *self._frames.shape[1:])

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Pairs by their numbers [n], as [n, 2, H, W, 3]."""
        both = np.minimum(2 * frames[:, None] + np.arange(2), len(self._frames) - 1)
        return self._frames[both.reshape(-1)].reshape(len(frames), *self.shape[1:])
