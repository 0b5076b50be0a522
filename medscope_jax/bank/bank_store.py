"""Frame banks on disk: videos tokenized once by a frozen vision tower, and read back as a bank.

    FOLDER/ID.array_record   one video's tokens, times and duration, and what they were made of
    FOLDER/index.json        the videos, their hashes, sizes and rounding errors; see bank_index.py

Each file stands for itself, so some videos are read without the others. bank_build.py makes them.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from medscope_jax.bank.bank_file import SUFFIX, BankFile, DamagedBank, opened
from medscope_jax.bank.bank_key import BankKey, differences, video_hash
from medscope_jax.bank.host_bank import HostBank, StampIds, join_videos
from medscope_jax.errors import UserError
from medscope_jax.video.frames import Video

_AGAIN = "make it again by python -m medscope_jax.encode"
_BLOCK = 256  # frames in memory while a video is only hashed


@dataclasses.dataclass(frozen=True)
class FrameSource:
    """A video whose frames are read where they are needed.

    Attributes:
      id: letters, digits, ".", "_" and "-": the file's name.
      times: float64 [T] seconds; duration: seconds.
      read: (start, stop) -> uint8 [stop - start, H, W, 3], the same at every call; of pairs, see
        pair_frames, [stop - start, 2, H, W, 3].
      content: as of Video.
    """

    id: str
    times: np.ndarray
    duration: float
    read: Callable[[int, int], np.ndarray]
    content: str = ""


def source_of(name: str, video: Video) -> FrameSource:
    """A video as a FrameSource."""

    def read(start: int, stop: int) -> np.ndarray:
        return video.frames[start:stop]

    return FrameSource(name, video.times, video.duration, read, video.content)


def content_of(source: FrameSource) -> str:
    """What BankKey.videos calls a video: its content, or else the hash of all its pixels."""
    if source.content:
        return source.content
    total = len(source.times)
    blocks = (source.read(at, min(at + _BLOCK, total)) for at in range(0, total, _BLOCK))
    return video_hash(source.times, source.duration, blocks)


class StoredTokens:
    """Tokens of stored videos, as HostBank takes them: every read opens its video's file.

    Nothing is kept of what was read.

    Args:
      folder: of build_bank.
      key: what the videos must have been made of.
      names: ids of the videos, in their order.
      dtype: float32 or bfloat16: of the tokens; as stored if None, int8 as bfloat16.

    Raises:
      UserError: here the first video, later the one that is read, is not there, is damaged, or was
        made of something else than the key says.
    """

    def __init__(self, folder: Path, key: BankKey, names: Sequence[str], dtype: str | None = None):
        self._folder, self._key, self._names = folder, key, names
        with self._opened(0) as file:
            self._stored = file.description["dtype"]
            self._shape = tuple(file.description["shape"][1:])
        plain = "bfloat16" if self._stored == "int8" else self._stored
        self._asked, self._dtype = dtype, jnp.dtype(dtype or plain)

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, D) of a frame."""
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens."""
        return self._dtype

    def read(self, video: int, frames: np.ndarray | slice) -> np.ndarray:
        """As FrameTokens; the records of these frames are read and no others."""
        with self._opened(video) as file:
            if self._asked is None and file.description["dtype"] != self._stored:
                raise UserError(
                    f"{self._folder} holds banks of several types: choose one, or {_AGAIN}"
                )
            wanted = np.arange(file.description["shape"][0])[frames]
            return file.read(wanted).astype(self._dtype, copy=False)

    @contextlib.contextmanager
    def _opened(self, video: int) -> Iterator[BankFile]:
        name = self._names[video]
        path = bank_path(self._folder, name)
        if not path.exists():
            raise UserError(f"{self._folder} holds no bank of video {name}; {_AGAIN}")
        try:
            with opened(path) as file:
                different = differences(file.description, self._key, self._key.videos[name])
                if different:
                    made_of = " and ".join(different)
                    raise UserError(f"the bank of video {name} was made of {made_of}; {_AGAIN}")
                yield file
        except DamagedBank as error:
            raise UserError(f"the bank of video {name} is damaged ({error}); {_AGAIN}") from error


def load_bank(
    folder: Path,
    key: BankKey,
    videos: Sequence[FrameSource],
    stamp_ids: StampIds,
    max_frames: int | None = None,
    stamp_width: int | None = None,
    dtype: str | None = None,
) -> HostBank:
    """The bank of chosen videos, whose tokens stay on the disk until they are asked for.

    Args:
      folder, key, dtype: as of StoredTokens.
      videos: among key.videos, in the order of the bank's; their frames are not read.
      stamp_ids, max_frames, stamp_width: as in join_videos.

    Raises:
      UserError: as StoredTokens.
    """
    tokens = StoredTokens(folder, key, [video.id for video in videos], dtype)
    times, durations = [video.times for video in videos], [video.duration for video in videos]
    return join_videos(tokens, times, durations, stamp_ids, max_frames, stamp_width)


def bank_path(folder: Path, name: str) -> Path:
    """The file of a video; UserError where its id can't be a file's name."""
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise UserError(f"{name!r} is no id of a video: use letters, digits, '.', '_' and '-'")
    return folder / f"{name}{SUFFIX}"
