"""The frame bank of a split on the host: each frame of each video tokenized once.

Videos of any length lie side by side. A batch takes what it shows from here: chosen frames of a
video, or whole videos, padded alike, onto the device.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from medscope_jax.bank.frame_bank import FrameBank
from medscope_jax.distributed.multihost import put_parts
from medscope_jax.video.frames import Video
from medscope_jax.video.lazy_frames import Series

# Bytes of a video's tokens up to which padding costs less than compiling for one more length.
_PADDED_FREELY = 4 * 2**20
_READERS = 8  # videos that are read at once


class FrameTokens(Protocol):
    """Visual tokens of videos, of which chosen frames are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, D) of a frame."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens."""
        ...

    def read(self, video: int, frames: np.ndarray | slice) -> np.ndarray:
        """The tokens [n, S, D] of frames, by their numbers [n] within the video or as a slice."""
        ...


@dataclasses.dataclass(frozen=True)
class HostBank:
    """The frame bank of V videos, of N frames in all.

        two videos of 3 and 1 frames:  first [0, 3, 4]    times [0, 1, 2, 0]

    Attributes:
      tokens: the vision tower's output of every frame, in memory or on the disk.
      first: int64 [V + 1], where each video's frames begin, and N.
      times: [N] float32 seconds.
      stamps: [N, W] int32 token ids of each frame's time text, -1 where it has fewer than W.
      duration: [V] float32 seconds, the end of each video.
      max_frames: most frames that a video has on the device.
    """

    tokens: FrameTokens
    first: np.ndarray
    times: np.ndarray
    stamps: np.ndarray
    duration: np.ndarray
    max_frames: int

    @property
    def length(self) -> np.ndarray:
        """[V] int32 frames of each video."""
        return np.diff(self.first).astype(np.int32)

    def frames_on_device(self, places: np.ndarray) -> int:
        """T of a FrameBank of these videos: one of few sizes, so that few programs are compiled.

        A power of two or max_frames, whichever is smaller; small videos all have one size.
        """
        longest = int(self.length[places].max(initial=1))
        frame_bytes = int(np.prod(self.tokens.shape)) * self.tokens.dtype.itemsize
        size = max(longest, _PADDED_FREELY // frame_bytes)
        return min(1 << (size - 1).bit_length(), self.max_frames)

    def visual(self, video: int, visual_index: np.ndarray) -> np.ndarray:
        """The visual tokens [n, D] at indices [n] of a video (see FrameBank).

        No other frames are read than those that hold them.
        """
        size = self.tokens.shape[0]
        frames, place = np.unique(visual_index // size, return_inverse=True)
        return self.tokens.read(video, frames)[place, visual_index % size]

    def padded(self, places: np.ndarray | None = None, frames: int | None = None) -> FrameBank:
        """Videos places [P] as a FrameBank of NumPy arrays; all of them if None.

        frames: its T; max_frames if None.
        """
        places = np.arange(len(self.duration)) if places is None else np.asarray(places)
        frames = self.max_frames if frames is None else frames
        times = np.full((len(places), frames), np.inf, np.float32)
        stamps = np.full((len(places), frames, self.stamps.shape[1]), -1, np.int32)
        for row, place in enumerate(places):
            begin, end = self.first[place], self.first[place + 1]
            times[row, : end - begin] = self.times[begin:end]
            stamps[row, : end - begin] = self.stamps[begin:end]
        tokens = self._padded_tokens(places, frames)
        return FrameBank(tokens, times, stamps, self.length[places], self.duration[places])

    def _padded_tokens(self, places: np.ndarray, frames: int) -> np.ndarray:
        """[P, T, S, D], zeros where padded."""
        tokens = np.zeros((len(places), frames, *self.tokens.shape), self.tokens.dtype)

        def read(row: int, place: int) -> None:
            count = self.length[place]
            tokens[row, :count] = self.tokens.read(place, slice(0, count))

        # An hour of video is most of a gigabyte, which one thread reads and checks in a second.
        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read, range(len(places)), places.tolist()))
        return tokens


def put_videos(
    bank: HostBank, places: np.ndarray, mesh: Mesh, shardings_of: Callable[[Any, Mesh], Any]
) -> FrameBank:
    """Videos places [P] of a split's bank, from the host onto the mesh, padded to one of few sizes.

    A process reads those videos alone that its devices take.

    shardings_of: batch_shardings or bank_shardings, which say where each video goes.
    """
    frames = bank.frames_on_device(places)

    def shape(*size: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((len(places), *size), dtype)

    shapes = FrameBank(
        tokens=shape(frames, *bank.tokens.shape, dtype=bank.tokens.dtype),
        times=shape(frames, dtype=np.float32),
        stamps=shape(frames, bank.stamps.shape[1], dtype=np.int32),
        length=shape(dtype=np.int32),
        duration=shape(dtype=np.float32),
    )
    return put_parts(
        lambda rows: bank.padded(places[rows], frames), shapes, shardings_of(shapes, mesh)
    )


class MemoryTokens:
    """Tokens of all videos in memory: one array [N, S, D], made as they come.

    Args:
      first: as of HostBank.
    """

    def __init__(self, first: np.ndarray):
        self._first, self._filled = first, 0
        self._tokens = np.empty((0, 0, 0))

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, D) of a frame."""
        return self._tokens.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens, as they came."""
        return self._tokens.dtype

    def add(self, tokens: np.ndarray) -> None:
        """The next frames' tokens [n, S, D]; the first ones say how many S, D and what type."""
        if not self._filled:
            self._tokens = np.empty((self._first[-1], *tokens.shape[1:]), tokens.dtype)
        self._tokens[self._filled : self._filled + len(tokens)] = tokens
        self._filled += len(tokens)

    def read(self, video: int, frames: np.ndarray | slice) -> np.ndarray:
        """As FrameTokens."""
        return self._tokens[self._first[video] : self._first[video + 1]][frames]


# times [n] seconds -> n sequences of token ids
StampIds = Callable[[np.ndarray], Sequence[Sequence[int]]]


def join_videos(
    tokens: FrameTokens,
    times: Sequence[np.ndarray],
    durations: Sequence[float],
    stamp_ids: StampIds,
    max_frames: int | None = None,
    stamp_width: int | None = None,
) -> HostBank:
    """The bank of videos whose tokens are there.

    Args:
      times: V arrays [T_v], seconds.
      durations: V numbers, seconds.
      stamp_ids: token ids of times' texts; equal times have one text, wherever they stand.
      max_frames: of the bank; the longest video's if None. Fix it for stable compiled shapes.
      stamp_width: W of the bank; the longest stamp if None.

    Raises:
      ValueError: a video or stamp is longer than asked for, or there are no videos.
    """
    if not len(times) == len(durations) > 0:
        counts = [len(times), len(durations)]
        raise ValueError(f"a bank needs as many times and durations, and some: got {counts}")
    first = offsets(times)
    longest = int(np.diff(first).max())
    most = longest if max_frames is None else max_frames
    if longest > most:
        raise ValueError(f"a video has {longest} frames, the bank holds {most} a video")
    seconds = np.concatenate([np.asarray(video, np.float64) for video in times])
    # A million frames have few thousand times between them.
    told, which = np.unique(seconds, return_inverse=True)
    ids = stamp_ids(told)
    needed = max(map(len, ids), default=0)
    width = max(1, needed) if stamp_width is None else stamp_width
    if needed > width:
        raise ValueError(f"a time stamp has {needed} tokens, the bank holds {width}")
    stamps = np.full((len(told), width), -1, np.int32)
    for row, stamp in zip(stamps, ids, strict=True):
        row[: len(stamp)] = stamp
    return HostBank(
        tokens,
        first,
        seconds.astype(np.float32),
        stamps[which],
        np.asarray(durations, np.float32),
        most,
    )


def offsets(times: Sequence[np.ndarray]) -> np.ndarray:
    """HostBank.first of videos with these times."""
    return np.cumsum([0, *map(len, times)], dtype=np.int64)


def stack_bank(
    tokens: Sequence[np.ndarray],
    times: Sequence[np.ndarray],
    durations: Sequence[float],
    stamp_ids: StampIds,
    max_frames: int | None = None,
    stamp_width: int | None = None,
) -> HostBank:
    """The bank of videos whose tokens [T_v, S, D] are arrays; see join_videos."""
    found = MemoryTokens(offsets(times))
    for video, own in zip(tokens, times, strict=True):
        if len(video) != len(own):
            raise ValueError(f"a video has {len(video)} token blocks and {len(own)} times")
        found.add(np.asarray(video))
    return join_videos(found, times, durations, stamp_ids, max_frames, stamp_width)


def make_bank(
    encode: Callable[[np.ndarray], jax.Array],
    videos: Series[Video],
    stamp_ids: StampIds,
    batch_frames: int,
    max_frames: int | None = None,
    stamp_width: int | None = None,
) -> HostBank:
    """Tokenizes every frame of every video once; see join_videos.

    Frames of all videos run through encode in chunks of exactly batch_frames, the last one padded
    with black, so encode compiles once whatever the videos' lengths. Beside the bank itself, memory
    holds one chunk of frames and of tokens, and one video at a time.

    Args:
      encode: uint8 [batch_frames, H, W, 3] -> [batch_frames, S, D], each frame on its own; jitted.
      videos: V videos of one frame size; their times are read first, then, one by one, their
        frames.
      batch_frames: frames a call.

    Raises:
      ValueError: frame sizes differ, or as join_videos.
    """
    if batch_frames < 1:
        raise ValueError(f"batch_frames must be at least 1, got {batch_frames}")
    times, durations = [], []
    for video in videos:
        times.append(video.times)
        durations.append(video.duration)
    tokens = MemoryTokens(offsets(times))
    bank = join_videos(tokens, times, durations, stamp_ids, max_frames, stamp_width)
    for chunk, count in _chunks(videos, batch_frames):
        tokens.add(np.asarray(encode(chunk))[:count])
    return bank


def _chunks(videos: Series[Video], batch_frames: int) -> Iterator[tuple[np.ndarray, int]]:
    """All frames in order, batch_frames at a time, and how many of these are frames."""
    size = videos[0].frames.shape[1:]
    chunk, filled = np.zeros((batch_frames, *size), np.uint8), 0
    for video in videos:
        if video.frames.shape[1:] != size:
            found = sorted({size, video.frames.shape[1:]})
            raise ValueError(f"a bank needs videos of one frame size, got {found}")
        start, total = 0, len(video.frames)
        while start < total:
            stop = min(total, start + batch_frames - filled)
            chunk[filled : filled + stop - start] = video.frames[start:stop]
            start, filled = stop, filled + stop - start
            if filled == batch_frames:
                yield chunk, filled
                chunk, filled = np.zeros_like(chunk), 0
    if filled:
        yield chunk, filled
