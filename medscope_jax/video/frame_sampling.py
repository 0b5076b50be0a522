"""Frames of a video as Qwen2.5-VL takes them: which ones, and how they fill temporal patches.

The vision tower reads patches two frames deep. A frame can stand alone as an image, filling both
slots: then its tokens depend on nothing else, and its time is told in words. Or two frames that
follow one another share a patch, as in Qwen's own video mode: half the tokens, and time is told by
positions, which need the seconds that a patch spans.
"""

import dataclasses
from typing import Any

import numpy as np

from medscope_jax.video.frames import Video
from medscope_jax.video.lazy_frames import PairedFrames


def temporal_patches(frames: np.ndarray, native: bool, temporal_patch_size: int = 2) -> np.ndarray:
    """Frames [T, H, W, 3] as temporal patches [N, t, H, W, 3], the vision tower's input.

    native False: each frame is an image, N = T and t = 1 (the tower fills all slots with it).
    native True: frames that follow one another share a patch, t = temporal_patch_size; the last
    frame is repeated where they do not come out even.

        frames a b c, native -> [a b] [c c]
    """
    if not native:
        return frames[:, None]
    missing = -len(frames) % temporal_patch_size
    whole = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    return whole.reshape(-1, temporal_patch_size, *frames.shape[1:])


def pair_frames(video: Video) -> Video:
    """The video with frames [ceil(T / 2), 2, H, W, 3]: a pair has the time of its first frame.

    Frames that are an array stay one; others stay unread.
    """
    frames: Any = PairedFrames(video.frames)  # read as an array is
    if isinstance(video.frames, np.ndarray):
        frames = np.asarray(frames)
    return dataclasses.replace(video, frames=frames, times=video.times[::2])
