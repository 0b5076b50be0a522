"""Frames of a video as Qwen2.5-VL takes them: which ones, and how they fill temporal patches.

The vision tower reads patches two frames deep. A frame can stand alone as an image, filling both
slots: then its tokens depend on nothing else, and its time is told in words. Or two frames that
follow one another share a patch, as in Qwen's own video mode: half the tokens, and time is told by
positions, which need the seconds that a patch spans.
"""

import dataclasses
import math

import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.video.frames import Video


def sample_video(
    num_frames: int,
    native_fps: float,
    fps: float,
    min_frames: int = 4,
    max_frames: int = 768,
    temporal_patch_size: int = 2,
) -> tuple[np.ndarray, float]:
    """Which frames of a recording of constant rate show it at about `fps`, for video mode.

    As transformers' Qwen2-VL video processor samples (do_sample_frames with fps): the number of
    frames is a multiple of temporal_patch_size, and they are spread evenly from the first one on.
    In exact arithmetic, where the reference computes in float32: there a frame can be one off, and
    in one video of some 500 a last one is sampled too many.

        250 frames at 25 a second, fps 1 -> [0 25 50 .. 225], 2.0 seconds a patch

    Returns:
        indices int64 [n] into the recording's frames, and the seconds from one temporal patch to
        the next: transformers' second_per_grid_ts.

    Raises:
        UserError: rates that are not positive, or fewer frames than a temporal patch needs.
    """
    if not (native_fps > 0 and fps > 0):
        raise UserError(f"frame rates must be positive, got {native_fps} and {fps}")
    most = min(max_frames, num_frames) // temporal_patch_size * temporal_patch_size
    wanted = min(max(num_frames / native_fps * fps, min_frames), most)
    count = math.floor(wanted / temporal_patch_size) * temporal_patch_size
    if count < temporal_patch_size:
        raise UserError(
            f"a video of {num_frames} frames, {max_frames} at most, fills no temporal patch of "
            f"{temporal_patch_size}: show its frames as images"
        )
    sampled_fps = count / num_frames * native_fps
    return np.arange(count) * num_frames // count, temporal_patch_size / sampled_fps


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
    """The video with frames [ceil(T / 2), 2, H, W, 3]: a pair has the time of its first frame."""
    frames = temporal_patches(video.frames, native=True)
    return dataclasses.replace(video, frames=frames, times=video.times[::2])
