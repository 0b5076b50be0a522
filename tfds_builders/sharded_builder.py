"""Datasets whose shards are written by workers, each on its own: what clinvideo builders share.

TFDS's GeneratorBasedBuilder passes all examples through one process, holds a split in memory (or,
beyond 1 GB, asks for TensorFlow), and fails on an empty split. Here a shard is a job: what goes
into it is decided before, so the bytes are the same whatever the number of workers, and a worker
writes it example by example. A shard that comes out empty is dropped, and so is an empty split.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder

from medscope_jax.data.built import (
    new_of,
    old_of,
    open_dataset,
    put_away,
    put_in_place,
    recover,
    seal,
)
from medscope_jax.errors import UserError, one_line
from medscope_jax.files import NOT_REGULAR, make_folder
from medscope_jax.locks import alone
from medscope_jax.parts import SPLITS
from medscope_jax.paths import to_path
from medscope_jax.workers import Spread, available_processes, workers
from tfds_builders.beam import beam_workers
from tfds_builders.manual import Manual, read_manual
from tfds_builders.quarantine import (
    NAME,
    Counts,
    Quarantine,
    counts_from_json,
    counts_to_json,
    open_quarantine,
    print_counts,
)
from tfds_builders.shard import Shard, Written, write_shard
from tfds_builders.video_plan import Plan, Read, make_plan

AGAIN = "build it again with --overwrite"
# What differs where a data set was made of something else, by the key of its metadata.
_CHANGED = {
    "plan": "other videos, splits or settings than the manual folder now has",
    "rows": "other annotations than the manual folder now has",
}


class EmptyDatasetError(UserError):
    """Not one example came out: says why, and where to look.

    Attributes:
      counts: what could not be used, stage -> counts.
    """

    def __init__(self, name: str, counts: dict[str, Counts]):
        reasons: collections.Counter[str] = collections.Counter()
        for found in counts.values():
            for (_, reason), count in found.items():
                reasons[reason] += count
        why = "no source of suite.json has anything for it"
        if reasons:
            ((reason, most),) = reasons.most_common(1)
            why = (
                f"{reasons.total()} rows or videos were quarantined, {most} of them because: "
                f"{reason}. {NAME} says where each stands"
            )
        super().__init__(f"{name}: not one example; {why}")
        self.counts = counts


class ShardedBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
    """A dataset of a manual folder, written shard by shard.

    Args:
      spread: the map over workers that write (spread.py); None for a Beam runner where the download
        config names one, else for one process a processor. The bytes do not depend on it.
      read: gives the rows of a source, as readers.read_source, which is the default.
      plan: of the same manual folder, where it has been made already.
      locked: whether whoever makes it holds the data folder's lock (data_lock).
      kwargs: as of every TFDS builder (data_dir, config, ...).
    """

    def __init__(
        self,
        *,
        spread: Spread | None = None,
        read: Read | None = None,
        plan: Plan | None = None,
        locked: bool = False,
        file_format: Any = "array_record",
        **kwargs: Any,
    ):
        self._spread, self._read, self._plan, self._locked = spread, read, plan, locked
        for path in pathlib.Path(kwargs.get("data_dir") or os.devnull, self.name).rglob("*"):
            if path.exists() and not (path.is_file() or path.is_dir()):  # TFDS would wait for it
                raise UserError(f"{path} is {NOT_REGULAR}: move it away")
        try:
            super().__init__(file_format=file_format, **kwargs)
        except Exception as error:  # TFDS reads what is there at once, and has many kinds of errors
            folder = getattr(self, "_data_dir", None)
            if folder is None or not os.path.exists(folder):
                raise
            raise UserError(
                f"{folder} is damaged or edited ({one_line(error)[:120]}): delete that folder, a "
                "build writes it again"
            ) from error

    # Whether the data set that is there is removed where a newer one would be empty.
    _goes_if_empty = False

    def _stage(self) -> str:
        """The stage's name in quarantine.jsonl."""
        raise NotImplementedError

    def _shards(self, manual: Manual, plan: Plan, quarantine: Quarantine) -> Iterator[Shard]:
        """The shards, in any order that is always the same."""
        raise NotImplementedError

    def _finish(self, written: list[Written]) -> None:
        """What is left to do once a split's files, in their order, are there."""

    def _made_of(self, plan: Plan) -> dict[str, str]:
        """What the data set is made of, as its metadata say it."""
        return {"plan": plan.digest}

    def sizes(self) -> dict[str, int]:
        """How much each split of the data set that is there holds, as people count it."""
        return {name: split.num_examples for name, split in self.info.splits.items()}

    def fault(self, plan: Plan) -> str:
        """Why the data set that is there is not the one of this plan; "" if it is."""
        try:
            made_of = open_dataset(pathlib.Path(self.data_dir), AGAIN).info.metadata or {}
        except UserError as error:
            return str(error)
        for key, digest in self._made_of(plan).items():
            if made_of.get(key) != digest:
                return f"{self.data_dir} was built from {_CHANGED[key]}: {AGAIN}"
        return ""

    def download_and_prepare(
        self, *, download_config: tfds.download.DownloadConfig | None = None, **kwargs: Any
    ) -> None:
        """Builds the data set beside its place and puts it there when it is whole.

        One that is there is kept, unless the download config says to overwrite it.

        Raises:
          UserError: the one that is there is of something else, another build is running, or not
            one example came out.
        """
        config = download_config or tfds.download.DownloadConfig()
        if config.download_mode == tfds.GenerateMode.UPDATE_DATASET_INFO:
            raise UserError("metadata are never updated alone: build again with --overwrite")
        if config.manual_dir is None:
            raise UserError("name the manual folder: --manual_dir MANUAL")
        folder = pathlib.Path(self.data_dir)
        with contextlib.ExitStack() as stack:
            if not self._locked:
                stack.enter_context(data_lock(self.data_dir_root))
            recover(folder)
            manual, self._read = read_manual(config.manual_dir), self._read or read_source()
            self._spread = self._spread or _spread(stack, config, self.data_dir_root)
            reports = reports_folder(manual.folder, self.data_dir_root)
            self._plan = self._plan or make_plan(manual, self._read, self._spread, reports)
            if folder.exists() and not config.download_mode.overwrite_dataset:
                if fault := self.fault(self._plan):
                    raise UserError(fault)
                return
            self._data_dir = os.fspath(new_of(folder))
            try:
                super().download_and_prepare(download_config=config, **kwargs)
                seal(new_of(folder))
                put_in_place(folder)
            except EmptyDatasetError:
                if self._goes_if_empty:
                    put_away(folder)
                    shutil.rmtree(old_of(folder), ignore_errors=True)
                raise
            finally:
                self._data_dir = os.fspath(folder)
        self.info.update_data_dir(self._data_dir)

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> None:
        manual = read_manual(dl_manager.manual_dir)
        reports, plan = reports_folder(manual.folder, self.data_dir_root), self._plan
        with open_quarantine(reports, self._stage()) as quarantine:
            written = []
            for one in self._spread(write_shard, self._shards(manual, plan, quarantine)):
                for rejected in one.rejected:
                    quarantine.add(*dataclasses.astuple(rejected))
                written.append(dataclasses.replace(one, rejected=()))
        counts = {"annotations": plan.bad_rows, self._stage(): quarantine.counts}
        self._name_files(sorted(written, key=lambda w: (SPLITS.index(w.split), w.number)), counts)
        self.info.metadata.update(
            video=dataclasses.asdict(manual.video),
            quarantined={stage: counts_to_json(found) for stage, found in counts.items()},
            changed=counts_to_json(quarantine.changed),
            **self._made_of(plan),
        )

    def _name_files(self, written: list[Written], counts: dict[str, Counts]) -> None:
        """Gives the shards that hold something their names, and says so to TFDS."""
        self._finish(written)
        splits = []
        for split in SPLITS:
            kept = [one for one in written if one.split == split and one.num_examples]
            if not kept:
                continue
            template = self._get_filename_template(split)
            for index, one in enumerate(kept):
                name = template.sharded_filepath(shard_index=index, num_shards=len(kept))
                os.replace(one.path, name)
            splits.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[one.num_examples for one in kept],
                    num_bytes=sum(one.num_bytes for one in kept),
                    filename_template=template,
                )
            )
        for one in written:
            pathlib.Path(one.path).unlink(missing_ok=True)
        if not splits:
            raise EmptyDatasetError(self.info.full_name, counts)
        self.info.set_splits(tfds.core.SplitDict(splits))

    def _shard(self, split: str, number: int, features: Callable, make: Callable) -> Shard:
        """A Shard in the folder that the dataset is being built in."""
        path = self._part_path(split, number)
        return Shard(split, number, path, self.info.file_format.value, features, make)

    def _part_path(self, split: str, number: int) -> str:
        """The name that a shard's file has until all are written."""
        return os.fspath(self.data_path / f"{split}.{number:06d}.part")

    def _post_download_and_prepare_hook(self) -> None:
        print_counts(quarantined(self))


def quarantined(builder: tfds.core.DatasetBuilder) -> dict[str, Counts]:
    """What the build of a prepared dataset could not use: counts of each stage."""
    stages = (builder.info.metadata or {}).get("quarantined", {})
    return {stage: counts_from_json(found) for stage, found in stages.items()}


def changed(builder: tfds.core.DatasetBuilder) -> Counts:
    """What a prepared dataset holds with a change: counts of rows."""
    return counts_from_json((builder.info.metadata or {}).get("changed", []))


def reports_folder(manual: pathlib.Path, data_dir: str | os.PathLike) -> pathlib.Path:
    """Where quarantine.jsonl goes: the manual folder, or the data folder if that is read-only."""
    folder = manual if os.access(manual, os.W_OK) else pathlib.Path(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_source() -> Read:
    """The project's own function that reads a source, readers.read_source."""
    # Late, so that who brings readers of their own needs none of ours.
    from tfds_builders.readers import read_source

    return read_source


def data_lock(data_dir: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """Holds the data folder for one build alone; UserError while another process does."""
    make_folder(data_dir)
    busy = f"{data_dir} is in use by another build{{by}}: wait for it, or choose another --data_dir"
    return alone(to_path(data_dir) / ".lock", busy)


def _spread(
    stack: contextlib.ExitStack, config: tfds.download.DownloadConfig, data_dir: str
) -> Spread:
    if config.beam_runner or config.beam_options:
        return beam_workers(config.beam_options, config.beam_runner, data_dir)
    return stack.enter_context(workers(available_processes()))
