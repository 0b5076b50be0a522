"""The frame bank: each frame of each video tokenized once.

A split's bank lies in the host's memory; a batch takes its own videos from there to the device,
where every gather of a window finds them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medscope_jax.distributed.multihost import put_rows
from medscope_jax.video.frames import Video


class FrameBank(flax.struct.PyTreeNode):
    """Visual tokens of V videos, padded to T frames each; an episode only holds indices into it.

    A visual index counts within one video: its frame t has tokens t * S ... t * S + S - 1.
    flat_index turns it into a row of flat_tokens.

        two videos of 3 and 1 frames, S = 2:      length [3, 1]
        times  [[0, 1, 2], [0, inf, inf]]         video 1, frame 0: visual indices 0 1, flat 6 7

    Attributes:
      tokens: [V, T, S, D], the vision tower's output; zeros where padded.
      times: [V, T] float32 seconds; +inf where padded, so a padded frame lies in no window.
      stamps: [V, T, W] int32 token ids of each frame's time text; -1 where padded.
      length: [V] int32, how many of the T frames are real.
      duration: [V] float32 seconds, the end of each video.
    """

    tokens: jax.Array | np.ndarray
    times: jax.Array | np.ndarray
    stamps: jax.Array | np.ndarray
    length: jax.Array | np.ndarray
    duration: jax.Array | np.ndarray


def stack_bank(
    tokens: Sequence[np.ndarray],
    times: Sequence[np.ndarray],
    stamps: Sequence[Sequence[Sequence[int]]],
    durations: Sequence[float],
    max_frames: int | None = None,
    stamp_width: int | None = None,
) -> FrameBank:
    """Pads per-video arrays into one bank.

    Args:
      tokens: V arrays [T_v, S, D].
      times: V arrays [T_v], seconds.
      stamps: V lists of T_v lists of token ids.
      durations: V numbers, seconds.
      max_frames: T of the bank; the longest video if None. Fix it for a stable compiled shape.
      stamp_width: W of the bank; the longest stamp if None.

    Returns:
      FrameBank on the host, tokens in the arrays' own dtype.

    Raises:
      ValueError: the lists disagree, or a video or stamp is longer than asked for.
    """
    if not tokens or not len(tokens) == len(times) == len(stamps) == len(durations):
        counts = [len(x) for x in (tokens, times, stamps, durations)]
        raise ValueError(f"a bank needs as many tokens, times, stamps and durations: got {counts}")
    length = np.array([len(t) for t in tokens], np.int32)
    num_frames = int(length.max()) if max_frames is None else max_frames
    longest_stamp = max((len(s) for video in stamps for s in video), default=0)
    width = max(1, longest_stamp) if stamp_width is None else stamp_width
    if length.max() > num_frames:
        raise ValueError(f"a video has {length.max()} frames, the bank holds {num_frames} a video")
    if longest_stamp > width:
        raise ValueError(f"a time stamp has {longest_stamp} tokens, the bank holds {width}")

    first = np.asarray(tokens[0])
    bank_tokens = np.zeros((len(tokens), num_frames, *first.shape[1:]), first.dtype)
    bank_times = np.full((len(tokens), num_frames), np.inf, np.float32)
    bank_stamps = np.full((len(tokens), num_frames, width), -1, np.int32)
    for v, n in enumerate(length):
        if not n == len(times[v]) == len(stamps[v]):
            raise ValueError(
                f"video {v} has {n} token blocks, {len(times[v])} times, {len(stamps[v])} stamps"
            )
        bank_tokens[v, :n] = tokens[v]
        bank_times[v, :n] = times[v]
        for t, ids in enumerate(stamps[v]):
            bank_stamps[v, t, : len(ids)] = ids
    return FrameBank(
        tokens=bank_tokens,
        times=bank_times,
        stamps=bank_stamps,
        length=length,
        duration=np.asarray(durations, np.float32),
    )


def make_bank(
    encode: Callable[[np.ndarray], jax.Array],
    videos: Sequence[Video],
    stamp_ids: Callable[[np.ndarray], list[list[int]]],
    batch_frames: int,
    max_frames: int | None = None,
    stamp_width: int | None = None,
) -> FrameBank:
    """Tokenizes every frame of every video once.

    Frames of all videos run through encode in chunks of exactly batch_frames, the last one padded
    with black, so encode compiles once whatever the videos' lengths.

    Args:
      encode: uint8 [batch_frames, H, W, 3] -> [batch_frames, S, D], each frame on its own; jitted.
      videos: V videos of one frame size.
      stamp_ids: times [T_v] seconds -> T_v lists of token ids.
      batch_frames: frames a call.
      max_frames, stamp_width: as in stack_bank.

    Raises:
      ValueError: no videos, frame sizes differ, or as stack_bank.
    """
    sizes = {video.frames.shape[1:] for video in videos}
    if len(sizes) != 1:
        raise ValueError(f"a bank needs videos of one frame size, got {sorted(sizes)}")
    if batch_frames < 1:
        raise ValueError(f"batch_frames must be at least 1, got {batch_frames}")
    chunks = [np.asarray(encode(chunk)) for chunk in _chunks(videos, batch_frames)]
    ends = np.cumsum([len(video.frames) for video in videos])
    tokens = np.split(np.concatenate(chunks)[: ends[-1]], ends[:-1])
    return stack_bank(
        tokens,
        [video.times for video in videos],
        [stamp_ids(video.times) for video in videos],
        [video.duration for video in videos],
        max_frames,
        stamp_width,
    )


def put_videos(
    bank: FrameBank, places: np.ndarray, mesh: Mesh, shardings_of: Callable[[Any, Mesh], Any]
) -> FrameBank:
    """Videos places [P] of a split's bank, from the host onto the mesh.

    shardings_of: batch_shardings or bank_shardings, which say where each video goes.
    """
    count = len(places)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), bank)
    return put_rows(bank, places, shardings_of(shapes, mesh))


def flat_tokens(bank: FrameBank) -> jax.Array | np.ndarray:
    """The bank's tokens as [V * T * S, D], for one gather over all videos; see flat_index."""
    return bank.tokens.reshape(-1, bank.tokens.shape[-1])


def flat_index(video: jax.Array, visual_index: jax.Array, tokens_per_video: int) -> jax.Array:
    """Where the visual tokens of rows stand in a flat bank [V * tokens_per_video, D].

        video [0, 2], 10 tokens a video:  visual_index  [[-1, 3], [3, -1]]
                                          result        [[-1, 3], [23, -1]]

    Args:
      video: [B] int, the video that each row sees.
      visual_index: [B, L] int, indices of that video's tokens; -1 where the position is text.
      tokens_per_video: T * S of a bank, or however many tokens the flat bank holds of each row.

    Returns:
      [B, L] rows of the flat bank; -1 where the position is text.
    """
    first = video[:, None] * tokens_per_video
    return jnp.where(visual_index >= 0, first + visual_index, -1)


def _chunks(videos: Sequence[Video], batch_frames: int) -> Iterator[np.ndarray]:
    """All frames in order, batch_frames at a time, without a second copy of the recordings."""
    chunk = np.zeros((batch_frames, *videos[0].frames.shape[1:]), np.uint8)
    filled = 0
    for video in videos:
        start = 0
        while start < len(video.frames):
            piece = video.frames[start : start + batch_frames - filled]
            chunk[filled : filled + len(piece)] = piece
            start, filled = start + len(piece), filled + len(piece)
            if filled == batch_frames:
                yield chunk
                chunk, filled = np.zeros_like(chunk), 0
    if filled:
        yield chunk
