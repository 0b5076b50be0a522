"""Reads what tfds_builders.build made, from a data folder, as a Suite (see open_suite.py)."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from medscope_jax.buckets import reaching
from medscope_jax.copies import local_copy
from medscope_jax.data.built import SEAL, file_hash, newest, open_dataset
from medscope_jax.data.listing import (
    BLOCK,
    ListedVideo,
    VideoSettings,
    read_listing,
    read_times,
    times_of,
)
from medscope_jax.data.stored_rows import (
    Item,
    Rows,
    StoredVideos,
    VideoOutline,
    jpegs_of,
    record_of,
)
from medscope_jax.dialogue import question_text
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS
from medscope_jax.paths import to_path
from medscope_jax.video import preview_indices

AGAIN = "build it again with --overwrite (python -m tfds_builders.build)"
_TEXTS = 20_000
# What the records of a split are for, by the first of the parts that may hold them.
_ABOUT = {
    "cap": "clips to train on",
    "vcot": "conversations to train on",
    "rl": "questions to train on",
    "eval": "questions to be tested with",
}


@dataclasses.dataclass(frozen=True)
class ClinvideoReader:
    """The suite of a data folder: clinvideo_frames and parts of clinvideo_suite.

    Attributes:
      data_dir: the folder.
    """

    data_dir: str | os.PathLike
    config = None  # nothing is to be drawn

    @property
    def lengths_folder(self) -> pathlib.Path:
        """Beside what was built."""
        return to_path(self.data_dir) / "lengths"

    def fingerprint(self, part: str) -> str:
        """Of the seals of the part and of its videos."""
        datasets = (f"clinvideo_suite/{part}", "clinvideo_frames")
        return " ".join(file_hash(built_folder(self.data_dir, name) / SEAL) for name in datasets)

    def splits(self, part: str) -> tuple[str, ...]:
        """The splits that a part has, in the order train, validation, test; none if not built."""
        try:
            folder = built_folder(self.data_dir, f"clinvideo_suite/{part}")
        except UserError:
            return ()
        there = open_dataset(folder, AGAIN).info.splits
        return tuple(split for split in SPLITS if split in there)

    def records(self, part: str, split: str, fields: tuple[str, ...] = ()) -> Rows[dict[str, Any]]:
        """The records of one part and split, by row; see ClinvideoSuite for their fields.

        Args:
          fields: those to read; all if none are named.

        Raises:
          UserError: no such part or split, or it has not been built.
        """
        if part not in PARTS:
            raise UserError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
        dataset = f"clinvideo_suite/{part}"
        records = built_folder(self.data_dir, dataset)
        frames = built_folder(self.data_dir, "clinvideo_frames")
        plans = [open_dataset(path, AGAIN).info.metadata.get("plan") for path in (records, frames)]
        if plans[0] != plans[1]:
            raise UserError(f"{records} was built from other videos than {frames}: {AGAIN}")
        return _rows(records, dataset, split, record_of, fields)

    def videos(self, split: str) -> StoredVideos:
        """The videos of a split, by row; their frames stay JPEG until they are asked for.

        Raises:
          UserError: no such split, or no frames have been built.
        """
        return built_videos(built_folder(self.data_dir, "clinvideo_frames"), split)

    def outlines(self, split: str) -> dict[str, VideoOutline]:
        """The videos of a split by id, in the order of their rows, without reading a frame."""
        return built_outlines(built_folder(self.data_dir, "clinvideo_frames"), split)

    def texts(self) -> Iterator[str]:
        """Questions, answers and turns of the training records, part after part.

        Of a part of very many, those of _TEXTS records, spread over it: they say much the same.
        """
        for part in PARTS:
            if "train" in self.splits(part):
                records = self.records(part, "train")
                for record in (records[int(r)] for r in preview_indices(len(records), _TEXTS)):
                    yield from question_text(record).split("\n")
                    yield record["answer"]
                    yield from record["turns"]

    def samples(self, part: str, count: int) -> Iterator[tuple[dict[str, Any], VideoOutline]]:
        """So many training records of a part, spread over it, each with its video's outline."""
        found, outlines = self.records(part, "train"), self.outlines("train")
        for row in preview_indices(len(found), count):
            record = found[int(row)]
            yield record, outlines[record["video"]]

    def check(self, video: ConfigDict, needed: Sequence[tuple[str, Sequence[str]]] = ()) -> None:
        """Refuses a data folder that a run can't be made of.

        Raises:
          UserError: a part or split is not built, its frame rate, size or fewest frames are not
            config.video's, or a video has more bank frames than it allows.
        """
        data_dir = self.data_dir
        built = self.video_settings()  # first: whether there is anything
        missing = [
            f"{_ABOUT[parts[0]]} (part {' or '.join(parts)}, split {split})"
            for split, parts in needed
            if not any(split in self.splits(part) for part in parts)
        ]
        if missing:
            raise UserError(
                f"config.suite.data_dir {data_dir} lacks {', '.join(missing)}: add rows of these "
                "to a source of suite.json and build again (docs/data.md has the least that trains)"
            )
        other = [
            key
            for key in ("fps", "height", "width", "min_frames")
            if getattr(built, key) != video[key]
        ]
        if other:
            asked = ", ".join(f"config.video.{key} is {video[key]}" for key in other)
            told = ", ".join(str(getattr(built, key)) for key in other)
            flags = " ".join(f"--config.video.{key}={getattr(built, key)}" for key in other)
            raise UserError(f"{asked}, but {data_dir} was built with {told}: set {flags}")
        share = 2 if video.native_pairs else 1
        listing = read_listing(built_folder(data_dir, "clinvideo_frames"))
        longest = -(-max(found.num_frames for found in listing.values()) // share)
        if longest > video.max_frames:
            raise UserError(
                f"config.video.max_frames is {video.max_frames}, but {data_dir} has a video of "
                f"{longest} bank frames"
            )

    def video_settings(self) -> VideoSettings:
        """How the videos are stored: bank rate, pixels, most and fewest frames, resampling.

        Raises:
          UserError: no frames have been built.
        """
        return _settings(built_folder(self.data_dir, "clinvideo_frames"))


def built_folder(data_dir: str | os.PathLike, dataset: str) -> pathlib.Path:
    """The folder of a built dataset, "clinvideo_suite/cap", in its newest version.

    Of one in a bucket it is the copy on this machine: ArrayRecord is read from files.

    Raises:
      UserError: it has not been built.
    """
    with reaching(data_dir):
        folder = newest(to_path(data_dir) / dataset)
    if folder is None:
        name = dataset.split("/")[0]
        raise UserError(
            f"{data_dir} has no {dataset}; run python -m tfds_builders.build {name} "
            f"--manual_dir MANUAL --data_dir {data_dir}"
        )
    return local_copy(folder)


def built_videos(folder: pathlib.Path, split: str) -> StoredVideos:
    """The videos of a split of a built clinvideo_frames, by row.

    Raises:
      UserError: it has no such split, or is not as it was written.
    """
    rows = _rows(folder, "clinvideo_frames", split, jpegs_of, ("frames",))
    settings = _settings(folder)
    listing, times = _listed(folder, split), read_times(folder)
    outlines = [_outline(found, times) for found in listing.values()]
    first = [found.first_block for found in listing.values()]
    return StoredVideos(rows, outlines, first, BLOCK, (settings.height, settings.width))


def built_outlines(folder: pathlib.Path, split: str) -> dict[str, VideoOutline]:
    """The videos of a split of a built clinvideo_frames by id, in the order of their rows."""
    listing, times = _listed(folder, split), read_times(folder)
    return {name: _outline(found, times) for name, found in listing.items()}


def _listed(folder: pathlib.Path, split: str) -> dict[str, ListedVideo]:
    return {name: found for name, found in read_listing(folder).items() if found.split == split}


def _outline(found: ListedVideo, times: np.ndarray) -> VideoOutline:
    own = times_of(found, times)
    return VideoOutline(found.source, own, found.duration, found.notes, found.content)


def _settings(folder: pathlib.Path) -> VideoSettings:
    return VideoSettings(**open_dataset(folder, AGAIN).info.metadata["video"])


def _rows(
    folder: pathlib.Path,
    dataset: str,
    split: str,
    decode: Callable[[dict], Item],
    fields: tuple[str, ...] = (),
) -> Rows[Item]:
    there = tuple(open_dataset(folder, AGAIN).info.splits)
    if split not in there:
        raise UserError(f"{dataset} has no split {split!r}; it has {', '.join(there)}")
    return Rows(folder, split, decode, AGAIN, fields)
