"""Frames that are read when they are asked for are what an array of them is."""

import dataclasses

import numpy as np
import pytest

from medscope_jax.video import Video, pair_frames, temporal_patches
from medscope_jax.video.lazy_frames import LazyFrames


class Counted(LazyFrames):
    """Frames of an array, and which were read."""

    def __init__(self, frames):
        self._frames, self.seen = frames, []

    @property
    def shape(self):
        return self._frames.shape

    def read(self, frames):
        self.seen.append(frames.tolist())
        return self._frames[frames]


INDICES = (0, 2, -1, slice(1, 3), slice(None, None, 2), slice(9, 3), [2, 0, 0], np.array([1]))


@pytest.mark.parametrize("length", [1, 6, 7])
def test_pairs_are_those_of_the_whole_video(length):
    """An odd last frame stands twice; no other frames are read than a pair's own."""
    frames = np.random.default_rng(0).integers(0, 256, (length, 2, 3, 3), dtype=np.uint8)
    video, lazy = Video(frames, np.arange(float(length)), float(length)), Counted(frames)
    whole = temporal_patches(frames, native=True)
    at_once, later = pair_frames(video), pair_frames(dataclasses.replace(video, frames=lazy))
    assert isinstance(at_once.frames, np.ndarray) and not lazy.seen
    assert len(later.frames) == len(whole) and later.frames.shape == whole.shape and not lazy.seen
    for found in (at_once, later):
        np.testing.assert_array_equal(found.times, video.times[::2])
        np.testing.assert_array_equal(np.asarray(found.frames), whole)
        for index in INDICES if length > 4 else (0, -1, slice(None)):
            np.testing.assert_array_equal(found.frames[index], whole[index])
    lazy.seen.clear()
    later.frames[len(whole) - 1]
    assert lazy.seen == [[2 * len(whole) - 2, min(2 * len(whole) - 1, length - 1)]]


def test_they_are_read_as_an_array_is():
    frames = np.random.default_rng(1).integers(0, 256, (5, 2, 3, 3), dtype=np.uint8)
    lazy = Counted(frames)
    assert lazy.dtype == np.uint8 and len(lazy) == 5
    for index in INDICES:
        np.testing.assert_array_equal(lazy[index], frames[index])
    assert np.asarray(lazy, float).dtype == float
    with pytest.raises(IndexError):
        lazy[5]
