"""Reads what tfds_builders.build made: records and frames by row, from a data folder.

The same shapes as phantom_reader gives of a phantom suite, with a data folder in the place of a
workdir.
"""

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from medscope_jax.data.built import newest, open_dataset, stored_row
from medscope_jax.data.listing import VideoSettings, read_listing
from medscope_jax.data.phantom_reader import record_of, text_of
from medscope_jax.dialogue import question_text
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS

AGAIN = "build it again with --overwrite (python -m tfds_builders.build)"


class Rows(Sequence):
    """A split of a built dataset by row; picklable, read from several threads."""

    def __init__(self, folder: pathlib.Path, split: str, decode: Callable[[dict], dict]):
        self._arguments = (folder, split, decode)
        self._source = open_dataset(folder, AGAIN).as_data_source(split=split)
        self._decode = decode

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._decode(stored_row(self._source, int(row) % len(self), AGAIN))

    def __reduce__(self):
        return Rows, self._arguments


def load_part(data_dir: str | os.PathLike, part: str, split: str) -> Rows:
    """The records of one part and split, by row; see ClinvideoSuite for their fields.

    Raises:
      UserError: no such part or split, or it has not been built.
    """
    if part not in PARTS:
        raise UserError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
    dataset = f"clinvideo_suite/{part}"
    records, frames = built_folder(data_dir, dataset), built_folder(data_dir, "clinvideo_frames")
    if (
        len({open_dataset(folder, AGAIN).info.metadata.get("plan") for folder in (records, frames)})
        > 1
    ):
        raise UserError(f"{records} was built from other videos than {frames}: {AGAIN}")
    return _rows(data_dir, dataset, split, record_of)


class JpegFrames:
    """Frames uint8 [T, H, W, 3] RGB that are decoded when they are asked for.

    frames[3], frames[3:8] and frames[[3, 5, 9]] are arrays, and so is np.asarray(frames).
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, jpegs: Sequence[bytes]):
        self._jpegs = np.asarray(jpegs, object)
        self.shape = (len(self._jpegs), *_decode(self._jpegs[0]).shape)

    def __len__(self) -> int:
        return len(self._jpegs)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self._jpegs[index]
        if isinstance(chosen, bytes):
            return _decode(chosen)
        frames = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for frame, jpeg in zip(frames, chosen, strict=True):
            frame[:] = _decode(jpeg)
        return frames

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def load_frames(data_dir: str | os.PathLike, split: str, lazy: bool = False) -> Rows:
    """The videos of a split, by row.

    Each is a dict of id, source, split (str), frames uint8 [T, H, W, 3] RGB, times float64 [T]
    seconds, duration float seconds and notes, a list of str. Row i is id i of video_rows.

    Args:
      data_dir, split: which.
      lazy: frames are JpegFrames: whoever shows a window decodes no more than that.

    Raises:
      UserError: no such split, or no frames have been built.
    """
    return _rows(data_dir, "clinvideo_frames", split, _lazy_video if lazy else _video)


def video_settings(data_dir: str | os.PathLike) -> VideoSettings:
    """How the videos are stored: bank rate, pixels, most and fewest frames, resampling.

    Raises:
      UserError: no frames have been built.
    """
    folder = built_folder(data_dir, "clinvideo_frames")
    return VideoSettings(**open_dataset(folder, AGAIN).info.metadata["video"])


def video_rows(data_dir: str | os.PathLike, split: str) -> dict[str, int]:
    """The row of each video id in load_frames(data_dir, split)."""
    listing = read_listing(built_folder(data_dir, "clinvideo_frames"))
    return {name: video.row for name, video in listing.items() if video.split == split}


def splits_of(data_dir: str | os.PathLike, part: str) -> tuple[str, ...]:
    """The splits that a part has, in the order train, validation, test; none if it isn't built."""
    try:
        folder = built_folder(data_dir, f"clinvideo_suite/{part}")
    except UserError:
        return ()
    there = open_dataset(folder, AGAIN).info.splits
    return tuple(split for split in SPLITS if split in there)


def suite_texts(data_dir: str | os.PathLike, parts: Sequence[str] = PARTS) -> Iterator[str]:
    """Questions, answers and turns of the training records, to train a tokenizer on; in order."""
    for part in (part for part in parts if "train" in splits_of(data_dir, part)):
        for record in load_part(data_dir, part, "train"):
            yield from question_text(record).split("\n")
            yield record["answer"]
            yield from record["turns"]


def built_folder(data_dir: str | os.PathLike, dataset: str) -> pathlib.Path:
    """The folder of a built dataset, "clinvideo_suite/cap", in its newest version.

    Raises:
      UserError: it has not been built.
    """
    folder = newest(pathlib.Path(data_dir, dataset))
    if folder is None:
        name = dataset.split("/")[0]
        raise UserError(
            f"{data_dir} has no {dataset}; run python -m tfds_builders.build {name} "
            f"--manual_dir MANUAL --data_dir {data_dir}"
        )
    return folder


def _rows(data_dir: str | os.PathLike, dataset: str, split: str, decode: Callable) -> Rows:
    folder = built_folder(data_dir, dataset)
    there = tuple(open_dataset(folder, AGAIN).info.splits)
    if split not in there:
        raise UserError(f"{dataset} has no split {split!r}; it has {', '.join(there)}")
    return Rows(folder, split, decode)


def _video(example: dict[str, Any]) -> dict[str, Any]:
    """A stored video with its frames decoded."""
    video = _lazy_video(example)
    return video | {"frames": video["frames"][:]}


def _lazy_video(example: dict[str, Any]) -> dict[str, Any]:
    texts = {name: text_of(example[name]) for name in ("id", "source", "split", "notes")}
    return texts | {
        "frames": JpegFrames(example["frames"]),
        "times": np.asarray(example["times"]),
        "duration": float(example["duration"]),
    }


def _decode(jpeg: bytes) -> np.ndarray:
    """A JPEG as uint8 [H, W, 3] RGB."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
