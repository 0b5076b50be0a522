"""Recordings on the way to the model: decoding with exact times, and the bank of frame tokens."""

from medscope_jax.video.bank import FrameBank, flat_tokens, make_bank, stack_bank, take_videos
from medscope_jax.video.decode import iter_frames, read_video
from medscope_jax.video.frames import FrameSize, Video, VideoError, preview_indices
from medscope_jax.video.resize import bucket_size, bucket_sizes, resize_frames, smart_resize
from medscope_jax.video.sampling import pair_frames, sample_video, temporal_patches

__all__ = [
    "FrameBank",
    "FrameSize",
    "Video",
    "VideoError",
    "bucket_size",
    "bucket_sizes",
    "flat_tokens",
    "iter_frames",
    "make_bank",
    "pair_frames",
    "preview_indices",
    "read_video",
    "resize_frames",
    "sample_video",
    "smart_resize",
    "stack_bank",
    "take_videos",
    "temporal_patches",
]
