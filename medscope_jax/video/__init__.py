"""Recordings on the way to the model: decoding with exact times, and the bank of frame tokens."""

from medscope_jax.video.decode import read_video
from medscope_jax.video.frame_sampling import pair_frames, temporal_patches
from medscope_jax.video.frames import FrameSize, Video, VideoError, preview_indices
from medscope_jax.video.resize import bucket_size, resize_frames, smart_resize

__all__ = [
    "FrameSize",
    "Video",
    "VideoError",
    "bucket_size",
    "pair_frames",
    "preview_indices",
    "read_video",
    "resize_frames",
    "smart_resize",
    "temporal_patches",
]
