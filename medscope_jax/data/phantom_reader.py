"""Reads a prepared phantom suite, or what its scripts tell before it is drawn, as a Suite.

See open_suite.py for what a Suite is, and tfds_builders/prepare.py for what lies in its folder.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from medscope_jax.copies import local_copy
from medscope_jax.data.built import file_hash, newest
from medscope_jax.data.stored_rows import (
    Item,
    Rows,
    StoredVideos,
    VideoOutline,
    jpegs_of,
    record_of,
)
from medscope_jax.errors import UserError
from medscope_jax.files import is_there
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from medscope_jax.paths import to_path
from medscope_jax.phantom.procedure import SPLITS, Procedure
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import SuiteConfig, fingerprint, procedures, suite_config
from medscope_jax.stored import read_json
from medscope_jax.video import preview_indices

PROCEDURES, DONE = "procedures.json", "done.json"
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
    return to_path(workdir) / "suite"


@dataclasses.dataclass(frozen=True)
class PhantomReader:
    """The phantom suite of a run's folder, as a Suite (see open_suite.py).

    What its scripts alone tell (outlines, texts, samples) is there before the suite is drawn.

    Attributes:
      workdir: the run's folder.
      section: the suite's configuration, as suite_config takes it.
    """

    workdir: pathlib.Path
    section: Mapping[str, Any]

    @property
    def config(self) -> SuiteConfig:
        """The suite's configuration.

        Raises:
          UserError: a value is out of range.
        """
        try:
            return suite_config(self.section)
        except UserError as error:
            raise UserError(f"config.suite: {error}") from error

    @property
    def lengths_folder(self) -> pathlib.Path:
        """Beside what was drawn."""
        return suite_dir(self.workdir) / "lengths"

    def fingerprint(self, part: str) -> str:
        """Of its configuration, of which all parts are drawn."""
        return f"{part} {_stamp(_prepared(self.workdir))['fingerprint']}"

    def splits(self, part: str) -> tuple[str, ...]:
        """The splits that a part has."""
        return SPLITS_OF_PART.get(part, ())

    def records(self, part: str, split: str, fields: tuple[str, ...] = ()) -> Rows[dict[str, Any]]:
        """The records of one part and split, by row; see phantom.records for their fields.

        Args:
          fields: those to read; all if none are named.

        Raises:
          UserError: no such part or split, or the suite is not prepared.
        """
        if split not in self.splits(part):
            has = {name: list(splits) for name, splits in SPLITS_OF_PART.items()}
            raise UserError(f"the suite has no split {split!r} of a part {part!r}; it has {has}")
        return _rows(_prepared(self.workdir), f"phantom_suite/{part}", split, _record_of, fields)

    def videos(self, split: str) -> StoredVideos:
        """The videos of a split, by row; each is one row of the data set.

        Raises:
          UserError: no such split, or the suite is not prepared.
        """
        if split not in SPLITS:
            raise UserError(f"the suite has no split {split!r}; it has {', '.join(SPLITS)}")
        rows = _rows(_prepared(self.workdir), "phantom_frames", split, jpegs_of, ("frames",))
        outlines = list(self.outlines(split).values())
        size = self.config.frame_height, self.config.frame_width
        longest = max(len(outline.times) for outline in outlines)
        return StoredVideos(rows, outlines, range(len(outlines)), longest, size)

    def outlines(self, split: str) -> dict[str, VideoOutline]:
        """The videos of a split by id, in the order of their rows, by their scripts."""
        return {script.id: _outline(script) for script in self._scripts_of(split)}

    def texts(self) -> Iterator[str]:
        """suite_corpus of forty procedures: every one says much the same."""
        return suite_corpus(self.config, max_procedures=40)

    def samples(self, part: str, count: int) -> Iterator[tuple[dict[str, Any], VideoOutline]]:
        """The records of so many training procedures, spread over the sources."""
        config, scripts = self.config, self._scripts_of("train")
        for script in (scripts[i] for i in preview_indices(len(scripts), count)):
            for record in records(script, part, config):
                yield record, _outline(script)

    def check(self, video: ConfigDict, needed: Sequence[tuple[str, Sequence[str]]] = ()) -> None:
        """Refuses a suite that can't be drawn, or has a video that does not fit the frame bank.

        Raises:
          UserError: one line that names the key.
        """
        if video.fps != 1:
            raise UserError(
                f"config.video.fps is {video.fps}, but phantom events lie on whole seconds: use 1.0"
            )
        for split in SPLITS:
            if not self._scripts_of(split):
                raise UserError(f"config.suite has no {split} procedures; every split needs one")
        longest = max(script.duration for script in self._scripts)
        frames = -(-longest // (2 if video.native_pairs else 1))
        if frames > video.max_frames:
            raise UserError(
                f"config.video.max_frames is {video.max_frames}, but the suite has a recording "
                f"of {longest} s, which is {frames} frames"
            )

    @functools.cached_property
    def _scripts(self) -> list[Procedure]:  # once: half a second of a full suite
        return procedures(self.config)

    def _scripts_of(self, split: str) -> list[Procedure]:
        return [script for script in self._scripts if script.split == split]


def prepared_suite(workdir: str | os.PathLike) -> PhantomReader:
    """The suite that lies prepared in a folder, of whatever configuration.

    Raises:
      UserError: none does.
    """
    return PhantomReader(to_path(workdir), _stamp(_prepared(workdir))["config"])


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
    if not (folder / DONE).exists():
        return False
    done = read_json(folder / DONE, _DONE, _again(folder))
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
    if is_there(folder / DONE):
        folder = local_copy(folder)
    if not is_done(folder):
        raise UserError(
            f"{folder} holds no finished suite; "
            f"run python -m tfds_builders.prepare --workdir {workdir}"
        )
    return folder


def _rows(
    folder: pathlib.Path,
    dataset: str,
    split: str,
    decode: Callable[[dict], Item],
    fields: tuple[str, ...] = (),
) -> Rows[Item]:
    built = newest(folder / "tfds" / dataset)
    if built is None:
        raise UserError(f"{folder} lacks {dataset}: {_again(folder)}")
    return Rows(built, split, decode, _again(folder), fields)


def _again(folder: pathlib.Path) -> str:
    """How to make a suite again, as an error ends."""
    return f"delete {folder} and prepare the suite again"


def _record_of(example: dict[str, Any]) -> dict[str, Any]:
    """A stored record of the phantom suite.

    Suites of before questions were asked with their options list the yes and no of questions that
    call for them by their words; asked with those, they would be other questions.
    """
    return record_of(example) | {"options": []}


def _outline(script: Procedure) -> VideoOutline:
    """A bank frame a second, as the recording of a script has them."""
    times = np.arange(script.duration, dtype=np.float64)
    return VideoOutline(script.source, times, float(script.duration))
