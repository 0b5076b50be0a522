"""A split of a built data set by row, videos without their frames, and with frames still stored."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from medscope_jax.data.built import open_dataset, stored_row
from medscope_jax.data.jpeg_frames import StoredFrames
from medscope_jax.video import Video
from medscope_jax.video.lazy_frames import Series

Item = TypeVar("Item")
_OPEN_FILES = 2**16  # of a process, at most


class Rows(Generic[Item]):
    """A split of a built data set by row: a row is read when it is asked for.

    Picklable, and read from several threads. rows[-1] is the last one.

    Args:
      folder: the data set's.
      split: which.
      decode: makes an item of a stored row; a function of a module, so that it can be pickled.
      again: how to build the data set again, as an error ends.
      fields: of a row that decode is given; all if none are named. To read one of many is cheaper.

    Raises:
      UserError: the data set, or the row that is asked for, is not as it was written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        split: str,
        decode: Callable[[dict], Item],
        again: str,
        fields: tuple[str, ...] = (),
    ):
        self._arguments = (folder, split, decode, again, fields)
        _allow_open_files()
        builder = open_dataset(folder, again)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._source = builder.as_data_source(split=split, deserialize_method=raw)
        every = builder.info.features
        chosen = {name: every[name] for name in fields}
        self._features = tfds.features.FeaturesDict(chosen) if fields else every

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> Item:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        _, _, decode, again, _ = self._arguments
        stored = stored_row(self._source, int(row) % len(self), again)
        return decode(self._features.deserialize_example_np(stored))

    def __iter__(self) -> Iterator[Item]:
        return (self[row] for row in range(len(self)))

    def __reduce__(self):
        return Rows, self._arguments


def _allow_open_files() -> None:
    """Raises this process's limit of open files, as far as it may do so by itself.

    A file of rows stays open once it is read, and the paper's suite has more of them than the 1,024
    that a shell often allows.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):  # where there is no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        if 0 <= soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclasses.dataclass(frozen=True)
class VideoOutline:
    """A video without its frames: what laying out a conversation about it needs.

    Attributes:
      source: where it comes from, as its records say.
      times: float64 [T], the seconds of its bank frames.
      duration: seconds.
      notes, content: as of Video.
    """

    source: str
    times: np.ndarray
    duration: float
    notes: tuple[str, ...] = ()
    content: str = ""


@dataclasses.dataclass(frozen=True)
class StoredVideos:
    """The videos of a split by row; nothing of a video is read before its frames are asked for.

    Attributes:
      rows: JPEGs of each row of the data set.
      outlines: of the videos.
      first: the row where each video begins; the next ones are its, too.
      block: frames of each row of a video but its last one.
      size: (H, W) of all frames.
    """

    rows: Rows[np.ndarray]
    outlines: Sequence[VideoOutline]
    first: Sequence[int]
    block: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.outlines)

    def __getitem__(self, row: int) -> Video:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        outline = self.outlines[row]
        shape = (len(outline.times), *self.size, 3)
        frames: Any = StoredFrames(self.rows, self.first[row], self.block, shape)
        notes, content = outline.notes, outline.content
        return Video(frames, outline.times, outline.duration, notes=notes, content=content)

    def __iter__(self) -> Iterator[Video]:
        return (self[row] for row in range(len(self)))


class Mapped(Generic[Item]):
    """A sequence whose items are made of another's when they are asked for."""

    def __init__(self, items: Series[Any], function: Callable[[Any], Item]):
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> Item:
        return self._function(self._items[row])

    def __iter__(self) -> Iterator[Item]:
        return map(self._function, self._items)


def jpegs_of(example: dict[str, Any]) -> np.ndarray:
    """The JPEGs of a row of frames."""
    return example["frames"]


def record_of(example: dict[str, Any]) -> dict[str, Any]:
    """A stored record with text as str and scalars as NumPy scalars."""
    return {name: text_of(value) for name, value in example.items()}


def text_of(value: Any) -> Any:
    """A stored value with bytes as str, in lists too."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)) or (
        isinstance(value, np.ndarray) and value.dtype.hasobject
    ):
        return [text_of(item) for item in value]
    return value
