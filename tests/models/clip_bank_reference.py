"""Images and videos of different sizes as rows of one flat bank of visual tokens.

The vision tower takes frames of one size a call. So pictures are encoded size by size, in calls of
one fixed batch: each size compiles once, whatever the number of pictures. Their tokens are
concatenated, and `embed` gathers them by row:

    clips    A (1x2 tokens), B (2x2), A'     bank   A A A' A' B B B B
    rows     [0 1], [4 5 6 7], [2 3]         frame  the 0 1 and 4 5 6 7 or 2 3   ("the" is -1)
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.positions_reference import Kind


def encode_clips(
    encode: Callable[[np.ndarray], jax.Array], clips: Sequence[np.ndarray], batch: int = 8
) -> tuple[jax.Array, list[np.ndarray]]:
    """Encodes clips of any sizes to one bank.

    Args:
        encode: uint8 [batch, t, H, W, 3] to visual tokens [batch, S, D], such as a jitted
            encode_frames with its parameters. Called with arrays of one shape for each (t, H, W).
        clips: uint8 [N, t, H, W, 3] each, at least one: an image or video as temporal patches, see
            video.temporal_patches (t is 1 for images and 2 for native video).
        batch: temporal patches a call; the last call of a size is filled up with empty ones.

    Returns:
        bank [R, D] and, for each clip, the int32 rows of its tokens in reading order.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, clip in enumerate(clips):
        by_shape.setdefault(clip.shape[1:], []).append(index)
    bank, rows, filled = [], [np.zeros(0, np.int32)] * len(clips), 0
    for shape, members in by_shape.items():
        todo = np.concatenate([clips[index] for index in members])
        empty = np.zeros((-len(todo) % batch, *shape), todo.dtype)
        calls = np.split(np.concatenate([todo, empty]), range(batch, len(todo), batch))
        tokens = jnp.concatenate([encode(call) for call in calls])[: len(todo)]
        bank.append(tokens.reshape(-1, tokens.shape[-1]))
        for index in members:
            size = len(clips[index]) * tokens.shape[1]
            rows[index] = np.arange(filled, filled + size, dtype=np.int32)
            filled += size
    return jnp.concatenate(bank), rows


def visual_rows(
    kinds: np.ndarray, image_rows: Sequence[np.ndarray], video_rows: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """The bank row of every slot, int32 [B, L], -1 for text: `embed`'s index.

    Args:
        kinds: [B, L] Kind of every slot, see conversation_positions.token_kinds.
        image_rows, video_rows: rows of every image and video shown, in reading order, row after
            row; what is shown twice is listed twice.

    Raises:
        ValueError: there are more or fewer tokens than slots.
    """
    frame = np.full(kinds.shape, -1, np.int32)
    for kind, rows in ((Kind.IMAGE, image_rows), (Kind.VIDEO, video_rows)):
        flat, slots = np.concatenate([np.zeros(0, np.int32), *rows]), kinds == kind
        if flat.size != slots.sum():
            raise ValueError(f"{flat.size} {kind.name.lower()} tokens for {slots.sum()} slots")
        frame[slots] = flat
    return frame
