"""Reads a prepared suite: records and frames by row, texts for a tokenizer."""

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from medscope_jax.errors import UserError
from medscope_jax.video.frames import preview_indices
from medscope_jax.video.phantom import SPLITS
from tfds_builders.phantom_suite.records import SPLITS_OF_PART, records
from tfds_builders.suite import PARTS, SuiteConfig, procedures, suite_config


def suite_dir(workdir: str | os.PathLike) -> pathlib.Path:
    """Where a workdir keeps its suite."""
    return pathlib.Path(workdir) / "suite"


class Rows(Sequence):
    """A TFDS split by row, examples decoded to the project's own types; picklable, thread-safe."""

    def __init__(self, folder: pathlib.Path, dataset: str, split: str):
        self._folder, self._dataset, self._split = folder, dataset, split
        versions = sorted((folder / "tfds" / dataset).iterdir())
        self._source = tfds.builder_from_directory(versions[-1]).as_data_source(split=split)
        self._decode = _frames_of if dataset == "phantom_frames" else record_of

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._decode(self._source[int(row) % len(self)])

    def __reduce__(self):
        return Rows, (self._folder, self._dataset, self._split)


def load_part(workdir: str | os.PathLike, part: str, split: str) -> Rows:
    """The records of one part and split, by row; see records.records for their fields.

    Raises:
      UserError: no such part or split, or the suite is not prepared.
    """
    if part not in PARTS or split not in SPLITS_OF_PART[part]:
        has = {name: list(splits) for name, splits in SPLITS_OF_PART.items()}
        raise UserError(f"the suite has no split {split!r} of a part {part!r}; it has {has}")
    return Rows(_prepared(workdir), f"phantom_suite/{part}", split)


def load_frames(workdir: str | os.PathLike, split: str) -> Rows:
    """The videos of a split, by row.

    Each is a dict of id, source (str), frames uint8 [T, H, W, 3] RGB, times float64 [T] seconds and
    duration float seconds. Row i is id i of video_ids.

    Raises:
      UserError: no such split, or the suite is not prepared.
    """
    if split not in SPLITS:
        raise UserError(f"the suite has no split {split!r}; it has {', '.join(SPLITS)}")
    return Rows(_prepared(workdir), "phantom_frames", split)


def video_rows(workdir: str | os.PathLike, split: str) -> dict[str, int]:
    """The row of each video id in load_frames(workdir, split)."""
    listing = json.loads((_prepared(workdir) / "videos" / "procedures.json").read_text())
    ids = [script["id"] for script in listing["procedures"] if script["split"] == split]
    return {name: row for row, name in enumerate(ids)}


def prepared_config(workdir: str | os.PathLike) -> SuiteConfig:
    """The configuration of a prepared suite."""
    return suite_config(json.loads((_prepared(workdir) / "suite.json").read_text())["config"])


def suite_corpus(
    config: SuiteConfig, parts: Sequence[str] = PARTS, max_procedures: int | None = None
) -> Iterator[str]:
    """Texts to train a tokenizer on: questions, answers and turns of training procedures.

    Made of the scripts alone, in a fixed order; the suite need not be prepared. Every procedure
    says much the same: max_procedures, spread over the sources, bounds the work.
    """
    train = [p for p in procedures(config) if p.split == "train"]
    if max_procedures is not None:
        train = [train[i] for i in preview_indices(len(train), max_procedures)]
    for procedure in train:
        for part in (part for part in parts if "train" in SPLITS_OF_PART[part]):
            for record in records(procedure, part, config):
                yield record["question"]
                yield record["answer"]
                yield from record["turns"]


def _prepared(workdir: str | os.PathLike) -> pathlib.Path:
    folder = suite_dir(workdir)
    if not (folder / "done.json").exists():
        raise UserError(
            f"{folder} holds no finished suite; "
            f"run python -m tfds_builders.prepare --workdir {workdir}"
        )
    return folder


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


def _frames_of(example: dict[str, Any]) -> dict[str, Any]:
    """A stored video with its frames decoded."""
    frames = [
        cv2.cvtColor(
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )
        for jpeg in example["frames"]
    ]
    return {
        "id": example["id"].decode(),
        "source": example["source"].decode(),
        "frames": np.stack(frames),
        "times": np.asarray(example["times"]),
        "duration": float(example["duration"]),
    }
