"""Evidence-bound records about clinical videos, one builder config a part."""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from medscope_jax.data.built import open_dataset
from medscope_jax.data.clinvideo_reader import built_folder
from medscope_jax.data.listing import ListedVideo, read_listing
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from tfds_builders.manual import Manual, Source
from tfds_builders.quarantine import Quarantine
from tfds_builders.record import Annotation, BadRow
from tfds_builders.shard import Shard
from tfds_builders.sharded_builder import ShardedBuilder
from tfds_builders.stored_records import PlacedRow, make_records, record_features
from tfds_builders.video_plan import Plan, source_rows

# Rows of a shard: what a worker is handed, and what several of which wait in memory.
_ROWS = 4096
_FRAMES_AGAIN = "build clinvideo_frames again with --overwrite, then the suite"


class ClinvideoSuite(ShardedBuilder):
    """Records about the videos of clinvideo_frames; builder configs are the suite's parts.

      cap      timestamped captions of clips
      qa       questions with the local window that holds their evidence
      cot      questions with a thought and an answer, no tool
      vcot     questions with tool trajectories
      passive  questions answered from the preview alone
      rl       questions of training videos, no turns
      eval     questions of validation and test videos, no turns

    What to get: the manual folder that clinvideo_frames was built from. Then

        python -m tfds_builders.build clinvideo_suite --config vcot --manual_dir MANUAL \\
            --data_dir DATA

    which builds clinvideo_frames first where DATA has none; without --config it builds every part
    that has a row. tfds_builders/tfds.py is TFDS's `tfds build` for it.

    What comes out: splits as in medscope_jax.parts.SPLITS_OF_PART; the fields that its records
    documents, evidence in frames being the bank frames within each span (the nearest one where
    none is); and
      messages: str, JSON of the conversation in Hugging Face's form for records with turns, "" for
        others; see tfds_builders/messages.py
    Records name their video by id; its frames are in clinvideo_frames.

    A row's split is its video's (video_plan.py). An rl question about a validation or test
    video is a record of eval, so what a model is tested on never enters stage 3; other rows whose
    part has no such split are quarantined. So are rows that name another split, whose video is
    missing or can't be read, whose evidence is not a time of the video, or whose words hold tags of
    the protocol: a build prints how many, by source and reason, and MANUAL/quarantine.jsonl says
    where each stands.

    The same folder gives the same bytes, however many processes build it. Rows are streamed.

    Licence: that of each source; nothing is added.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=part) for part in PARTS]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put videos, annotations and a suite.json into the folder; see tfds_builders/manual.py."
    )

    _goes_if_empty = True  # rows that were withdrawn are not kept

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=record_features(),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _stage(self) -> str:
        return self.builder_config.name

    def _made_of(self, plan: Plan) -> dict[str, str]:
        return super()._made_of(plan) | {"rows": plan.rows[self.builder_config.name]}

    def _shards(self, manual: Manual, plan: Plan, quarantine: Quarantine) -> Iterator[Shard]:
        frames = built_folder(self.data_dir_root, "clinvideo_frames")
        _check_frames(frames, plan)
        listing = read_listing(frames)
        part = self.builder_config.name
        waiting = collections.defaultdict(list)
        files: collections.Counter[str] = collections.Counter()
        counts: collections.Counter[str] = collections.Counter()

        def shard(split: str) -> Shard:
            rows, number = tuple(waiting.pop(split)), files[split]
            files[split] += 1
            make = functools.partial(make_records, rows, frames)
            return self._shard(split, number, record_features, make)

        for source in manual.sources:
            folder = source.videos.relative_to(manual.folder)
            for row in source_rows(source, self._read, manual.folder):
                if isinstance(row, BadRow):
                    continue  # the plan has counted it
                video = plan.ids.get((source.name, row.video), "")
                listed = listing.get(video)
                if _part(row, listed) != part:
                    continue
                path = (folder / row.video).as_posix()
                if listed is None:
                    unread = "its video can't be read; see the stage videos"
                    reason = plan.missing.get((source.name, row.video), unread)
                else:
                    reason = _split_fault(row, source, part, listed)
                if reason:
                    quarantine.add(source.name, row.place, reason, path)
                    continue
                row = dataclasses.replace(row, part=part)
                name = f"{video}-{part}-{counts[video]:04d}"
                counts[video] += 1
                placed = PlacedRow(row, name, source.name, listed.split, video, listed, path)
                waiting[listed.split].append(placed)
                if len(waiting[listed.split]) == _ROWS:
                    yield shard(listed.split)
        for split in list(waiting):
            yield shard(split)


def _part(row: Annotation, listed: ListedVideo | None) -> str:
    """The part that a row is of: questions of what is tested on are never trained on."""
    tested = listed is not None and listed.split in SPLITS_OF_PART["eval"]
    return "eval" if row.part == "rl" and tested else row.part


def _split_fault(row: Annotation, source: Source, part: str, listed: ListedVideo) -> str:
    """Why a row can't be a record of its video's split; "" if it can."""
    split = listed.split
    if (row.split or source.split or split) != split:
        return f"names another split than {split}, which its video is in by another row or source"
    if split not in SPLITS_OF_PART[part]:
        return f"{part} has no {split} split, which its video is in"
    return ""


def _check_frames(frames: pathlib.Path, plan: Plan) -> None:
    """Refuses frames that were built from other videos, splits or settings than planned."""
    metadata = open_dataset(frames, _FRAMES_AGAIN).info.metadata or {}
    if metadata.get("plan") != plan.digest:
        raise UserError(
            f"{frames} was built from other videos, splits or settings than the manual folder now "
            f"has: {_FRAMES_AGAIN}"
        )
