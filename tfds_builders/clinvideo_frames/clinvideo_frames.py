"""Frames of every video of a manual folder at the bank rate, stored once per video."""

import collections
import functools
import os
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from medscope_jax.data.listing import read_listing
from medscope_jax.parts import SPLITS
from tfds_builders.manual import Manual
from tfds_builders.quarantine import Quarantine
from tfds_builders.shard import Shard, Written
from tfds_builders.sharded_builder import ShardedBuilder
from tfds_builders.stored_videos import join_listing, make_videos, video_features
from tfds_builders.video_plan import Plan, PlannedVideo

# Files of a split: up to so many videos one each; beyond that, so many files or more, of at most
# so many videos. Few enough for a file system, enough for many workers.
_FILES = 64


class ClinvideoFrames(ShardedBuilder):
    """Frames of clinical videos, stored once, however many records are about them.

    What to get: the videos and annotations of one or several sources, in their original layout, in
    one folder, with a suite.json that says what lies where (tfds_builders/manual.py documents it,
    tfds_builders/readers/ the layouts). Videos are any container that OpenCV's FFmpeg reads, or
    multi-frame DICOM, or a folder of JPEG or PNG frames. Then

        python -m tfds_builders.build clinvideo_frames --manual_dir MANUAL --data_dir DATA

    tfds_builders/tfds.py is TFDS's `tfds build` for it; build.py beside it says how Beam does it.

    What comes out: splits train, validation, test, as far as they have videos; an example is a
    block of at most 16 frames of a video (so that a window of an hour is read without the hour),
    and a video's blocks follow one another:
      id: str, the source's name and the hash of the file; never the file's name
      source, split: str
      duration: float64 seconds, of the video
      first: int32, the number within the video of the block's first frame
      times: float64 [n] seconds, as the container has them
      frames: bytes [n], one JPEG (quality 95) a frame, RGB once decoded
      notes: str [n], what a reader of the frames must know: thinning, letterboxing, lost frames
    and beside the examples their listing (tfds_builders/stored_videos.py).

    Videos that can't be read never stop a build: it prints how many, by source and reason, and
    MANUAL/quarantine.jsonl names them. Of a DICOM header only pixel geometry and times are read.

    The same folder gives the same bytes, however many processes or machines build it. A worker
    holds one video's frames at a time (video.max_frames of them at most).

    Licence: that of each source; nothing is added. Frames of patients stay data of patients.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put videos, annotations and a suite.json into the folder; see tfds_builders/manual.py."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=video_features(),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _stage(self) -> str:
        return "videos"

    def _shards(self, manual: Manual, plan: Plan, quarantine: Quarantine) -> Iterator[Shard]:
        folders = {source.name: source.videos for source in manual.sources}
        for (source, name), reason in plan.missing.items():
            place = folders[source].relative_to(manual.folder) / name
            quarantine.add(source, place.as_posix(), reason)
        shards = []
        for split in SPLITS:
            videos = [video for video in plan.videos if video.split == split]
            for number, several in enumerate(_deal(videos)):
                path = self._part_path(split, number)
                make = functools.partial(make_videos, several, manual.video, manual.folder, path)
                shard = self._shard(split, number, video_features, make)
                shards.append((sum(map(_size, several)), shard))
        # The longest first, so that no worker idles at the end; sorting keeps the order of equals.
        return (shard for _, shard in sorted(shards, key=lambda pair: -pair[0]))

    def _finish(self, written: list[Written]) -> None:
        join_listing(self.data_path, [one.path for one in written])

    def sizes(self) -> dict[str, int]:
        """Videos of each split; its examples are their blocks."""
        listing = read_listing(pathlib.Path(self.data_dir))
        return dict(collections.Counter(found.split for found in listing.values()))


def _deal(videos: list[PlannedVideo]) -> Iterator[tuple[PlannedVideo, ...]]:
    """The videos of a split, in order, as the contents of its files."""
    files = min(len(videos), max(_FILES, -(-len(videos) // _FILES)))
    for i in range(files):
        begin, end = len(videos) * i // files, len(videos) * (i + 1) // files
        yield tuple(videos[begin:end])


def _size(video: PlannedVideo) -> int:
    """Bytes of the file: how long it will take, about."""
    try:
        return os.path.getsize(video.path)
    except OSError:
        return 0
