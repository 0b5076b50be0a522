"""Recordings on the way to the model: decoding with exact times, and the bank of frame tokens."""

from medscope_jax.video.bank import FrameBank, flat_tokens, make_bank, stack_bank, take_videos
from medscope_jax.video.decode import read_video
from medscope_jax.video.frames import Video, VideoError, preview_indices

__all__ = [
    "FrameBank",
    "Video",
    "VideoError",
    "flat_tokens",
    "make_bank",
    "preview_indices",
    "read_video",
    "stack_bank",
    "take_videos",
]
