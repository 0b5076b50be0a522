"""M-RoPE positions of any conversation, on the host: words, images and videos of any sizes.

rope.mrope_positions does the same on the device for frames of one size, each an image of its own.

Drawn example: a video of two temporal patches of 1 x 2 tokens between words, three steps of time
a patch. Where the words go on afterwards is a convention, see conversation_positions:

    slot              the  v0  v1  v2  v3  cut
    time               0    1   1   4   4   3 ("extent") or 5 ("last")
    height             0    1   1   1   1   the same
    width              0    1   2   1   2   the same
"""

import enum
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

Grid = tuple[int, int, int]  # temporal patches, rows and columns of merged tokens


class Kind(enum.IntEnum):
    """What a slot holds: the values of the reference's mm_token_type_ids."""

    TEXT = 0
    IMAGE = 1
    VIDEO = 2


def token_kinds(
    tokens: np.ndarray, valid: np.ndarray, image_token: int, video_token: int
) -> np.ndarray:
    """Kind (int8) of every slot of tokens [B, L]; invalid slots count as text."""
    kinds = np.where(tokens == image_token, Kind.IMAGE, Kind.TEXT)
    kinds = np.where(tokens == video_token, Kind.VIDEO, kinds)
    return np.where(valid, kinds, Kind.TEXT).astype(np.int8)


def conversation_positions(
    kinds: np.ndarray,
    valid: np.ndarray,
    image_grids: Sequence[Grid] = (),
    video_grids: Sequence[Grid] = (),
    seconds_per_patch: Sequence[float] | None = None,
    tokens_per_second: int = 2,
    after_video: Literal["extent", "last"] = "extent",
) -> tuple[np.ndarray, np.ndarray]:
    """M-RoPE positions of conversations, and the position of what each would generate next.

    A word advances all three axes by one. Token (i, row, column) of an image or video stands at
    (base + floor(i * step), base + row, base + column), where step is 1 in an image and
    seconds_per_patch * tokens_per_second, in float32, in a video. The words after an image of
    h x w go on at base + max(h, w).

    Args:
        kinds: [B, L] Kind of every slot, see token_kinds.
        valid: bool [B, L]; padding may stand anywhere, advances nothing and gets position 0.
        image_grids, video_grids: (t, h, w) in merged tokens of all images and of all videos, in
            reading order, row after row. (The reference's grid_thw has patches for h and w.)
        seconds_per_patch: of each video, the reference's second_per_grid_ts; None: 1 second.
            (Before 5.23 transformers cut them to whole seconds.)
        tokens_per_second: steps of the time axis a second: the vision config's.
        after_video: where the words after a video go on. "extent": at base + max(h, w), as after
            an image, which may lie before the video's own last time: transformers since 5.3.
            "last": after the largest position so far: transformers up to 5.2 and vLLM, which is
            what Qwen2.5-VL was published with. They differ for videos whose time is longer than
            their sides only.

    Returns:
        positions int32 [3, B, L], and following int32 [B]: where the next word of a row stands, on
        all axes (0 where the row is empty). (The reference's rope_deltas tell of the largest
        position instead; since 5.3 its `generate` goes on from the last slot, as this does.)

    Raises:
        ValueError: the grids are not those of the visual slots.
    """
    positions = np.zeros((3, *kinds.shape), np.int32)
    following = np.zeros(len(kinds), np.int32)
    seconds = [1.0] * len(video_grids) if seconds_per_patch is None else seconds_per_patch
    if len(seconds) != len(video_grids):
        raise ValueError(f"{len(video_grids)} videos, but {len(seconds)} seconds_per_patch")
    steps = [np.float32(second) * np.float32(tokens_per_second) for second in seconds]
    blocks = {
        Kind.IMAGE: iter([visual_block(grid) for grid in image_grids]),
        Kind.VIDEO: iter([visual_block(*video) for video in zip(video_grids, steps, strict=True)]),
    }
    for row, (row_kinds, real) in enumerate(zip(kinds, valid, strict=True)):
        if real.any():
            places, following[row] = _place_row(row_kinds[real], blocks, after_video == "last")
            positions[:, row, real] = places
    if any(next(left, None) is not None for left in blocks.values()):
        raise ValueError("there are more image or video grids than visual slots")
    return positions, following


def visual_block(grid: Grid, step: float = 1.0) -> np.ndarray:
    """Positions [3, t * h * w] of an image's or video's tokens, from 0; step: time of a patch."""
    times, rows, columns = (np.arange(size) for size in grid)
    times = (times.astype(np.float32) * np.float32(step)).astype(np.int64)
    return np.stack(np.meshgrid(times, rows, columns, indexing="ij")).reshape(3, -1)


def _place_row(
    kinds: np.ndarray, blocks: dict[Kind, Iterator], last: bool
) -> tuple[np.ndarray, int]:
    """Positions [3, L] of a row without padding, and the next; takes visuals from blocks."""
    parts, base = [], 0
    for run in np.split(kinds, np.flatnonzero(np.diff(kinds)) + 1):
        if run[0] == Kind.TEXT:
            parts.append(np.broadcast_to(base + np.arange(run.size), (3, run.size)))
            base += run.size
            continue
        room = run.size
        while room:  # images that touch make one run
            block = next(blocks[Kind(run[0])], None)
            if block is None or block.shape[1] > room:
                size = "no grid is left" if block is None else f"a grid has {block.shape[1]}"
                raise ValueError(f"{room} visual tokens stand in a row where {size}")
            parts.append(base + block)
            room -= block.shape[1]
            base += 1 + int((block if last else block[1:]).max())
    return np.concatenate(parts, axis=1), base
