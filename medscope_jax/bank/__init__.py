"""The frame bank: visual tokens of sampled frames, in memory and on disk."""

from medscope_jax.bank.frame_bank import FrameBank, flat_index, flat_tokens
from medscope_jax.bank.host_bank import (
    HostBank,
    join_videos,
    make_bank,
    put_videos,
    stack_bank,
)

__all__ = [
    "FrameBank",
    "HostBank",
    "flat_index",
    "flat_tokens",
    "join_videos",
    "make_bank",
    "put_videos",
    "stack_bank",
]
