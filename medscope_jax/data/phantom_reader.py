"""Reads a prepared suite: records and frames by row, texts for a tokenizer."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from medscope_jax.data.built import file_hash, newest, open_dataset, stored_row
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from medscope_jax.phantom.procedure import SPLITS
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import SuiteConfig, fingerprint, procedures, suite_config
from medscope_jax.stored import read_json
from medscope_jax.video.frames import preview_indices

PROCEDURES = "procedures.json"
# phantom.to_json's of a script.
_PHASE = {"kind": str, **dict.fromkeys(("start", "end", "first_seen", "last_seen"), int)}
_EVENT = {"start": int, "end": int, **dict.fromkeys(("kind", "side", "colour", "count"), str)}
_SCRIPT = {
    **{"id": str, "split": set(SPLITS), "source": str, "duration": int},
    **{"preview": [int], "phases": [_PHASE], "events": [_EVENT], "entropy": [int]},
}
_PROCEDURES = {"config": {...: object}, "procedures": [_SCRIPT]}
_DONE = {"fingerprint": str, "procedures": str}


def suite_dir(workdir: str | os.PathLike) -> pathlib.Path:
    """Where a workdir keeps its suite."""
    return pathlib.Path(workdir) / "suite"


class Rows(Sequence):
    """A TFDS split by row, examples decoded to the project's own types; picklable, thread-safe."""

    def __init__(self, folder: pathlib.Path, dataset: str, split: str):
        self._folder, self._dataset, self._split = folder, dataset, split
        self._again = _again(folder)
        built = open_dataset(built_folder(folder, dataset), self._again)
        self._source = built.as_data_source(split=split)
        self._decode = _frames_of if dataset == "phantom_frames" else _record_of

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._decode(stored_row(self._source, int(row) % len(self), self._again))

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
    listing = read_procedures(_prepared(workdir) / "videos")
    ids = [script["id"] for script in listing["procedures"] if script["split"] == split]
    return {name: row for row, name in enumerate(ids)}


def prepared_config(workdir: str | os.PathLike) -> SuiteConfig:
    """The configuration of a prepared suite."""
    return suite_config(_stamp(_prepared(workdir))["config"])


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


def read_procedures(videos: pathlib.Path) -> dict[str, Any]:
    """What lies in the folder of recordings: {"config": the suite's, "procedures": scripts}.

    Raises:
      UserError: the listing was damaged or edited.
    """
    return read_json(videos / PROCEDURES, _PROCEDURES, _again(videos.parent))


def is_done(folder: pathlib.Path, config: SuiteConfig | None = None) -> bool:
    """Whether a suite's folder holds a finished suite.

    Raises:
      UserError: it is of another configuration than the given one, or of another version; or
        its listings were damaged or edited.
    """
    if not (folder / "suite.json").exists():
        return False
    stamp = _stamp(folder)
    if config is not None and stamp["fingerprint"] != fingerprint(config):
        raise UserError(
            f"{folder} holds the suite of another configuration or version; "
            "choose another workdir or delete that folder"
        )
    if not (folder / "done.json").exists():
        return False
    done = read_json(folder / "done.json", _DONE, _again(folder))
    listing = folder / "videos" / PROCEDURES
    if done["fingerprint"] != stamp["fingerprint"]:
        raise UserError(f"{folder / 'done.json'} is of another suite: {_again(folder)}")
    if not listing.is_file() or file_hash(listing) != done["procedures"]:
        raise UserError(f"{listing} is not what was written: {_again(folder)}")
    return True


def _stamp(folder: pathlib.Path) -> dict[str, Any]:
    """suite.json: the configuration and its fingerprint, which must be its own."""
    path = folder / "suite.json"
    stamp = read_json(path, {"fingerprint": str, "config": {...: object}}, _again(folder))
    if stamp["fingerprint"] != fingerprint(stamp["config"]):
        raise UserError(f"{path} is of another version, damaged or edited: {_again(folder)}")
    return stamp


def _prepared(workdir: str | os.PathLike) -> pathlib.Path:
    folder = suite_dir(workdir)
    if not is_done(folder):
        raise UserError(
            f"{folder} holds no finished suite; "
            f"run python -m tfds_builders.prepare --workdir {workdir}"
        )
    return folder


def built_folder(folder: pathlib.Path, dataset: str) -> pathlib.Path:
    """The folder of a built dataset of a suite's folder.

    Raises:
      UserError: it is not there.
    """
    found = newest(folder / "tfds" / dataset)
    if found is None:
        raise UserError(f"{folder} lacks {dataset}: {_again(folder)}")
    return found


def _again(folder: pathlib.Path) -> str:
    """How to make a suite again, as an error ends."""
    return f"delete {folder} and prepare the suite again"


def _record_of(example: dict[str, Any]) -> dict[str, Any]:
    """A stored record of the phantom suite.

    Suites of before questions were asked with their options list the yes and no of questions that
    call for them by their words; asked with those, they would be other questions.
    """
    return record_of(example) | {"options": []}


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
