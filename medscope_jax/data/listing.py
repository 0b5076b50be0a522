"""The listing of a built clinvideo_frames: its videos and their times, without the frames.

An example is a block of at most BLOCK frames of one video, so that a window of an hour reads its
own blocks alone; those of a video follow one another. Beside its shards the data set holds, in the
order of its examples:

    videos.jsonl  a line a video: id, source, split, duration (seconds), num_frames, notes, content
    times.f64     the times of all videos' frames one after the other, little-endian float64 seconds

Records are made from these two; nothing reads the frames for it.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import struct
from collections.abc import Iterable

import numpy as np

from medscope_jax.data.built import check_seal

LISTING, TIMES = "videos.jsonl", "times.f64"
BLOCK = 16  # frames of an example but the last of a video; to change it, raise built.FORMAT


@dataclasses.dataclass(frozen=True)
class VideoSettings:
    """How videos are stored: bank frames a second, their pixels, most and fewest frames a video.

    resample: how frames are resized, one of video.frames.RESAMPLES. min_frames: the rate of a
    recording that makes fewer at fps rises until it makes so many, if it has them.
    """

    fps: float
    height: int
    width: int
    max_frames: int
    resample: str = "area"
    min_frames: int = 8


@dataclasses.dataclass(frozen=True)
class ListedVideo:
    """A stored video.

    Attributes:
      row: its place among the split's videos.
      first_block: place of its first block among the split's examples.
      duration: seconds.
      first, num_frames: where its times are in times.f64.
      notes, content: as of Video.
    """

    source: str
    split: str
    row: int
    first_block: int
    duration: float
    first: int
    num_frames: int
    notes: tuple[str, ...]
    content: str


def read_listing(folder: pathlib.Path) -> dict[str, ListedVideo]:
    """The videos of a built clinvideo_frames by id, in the order of its examples.

    Raises:
      UserError: its listing or its times are not what was built.
    """
    check_seal(folder, "build clinvideo_frames again with --overwrite", (LISTING, TIMES))
    videos: dict[str, ListedVideo] = {}
    rows: collections.Counter[str] = collections.Counter()
    blocks: collections.Counter[str] = collections.Counter()
    first = 0
    with open(folder / LISTING, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            split, count = line["split"], line["num_frames"]
            place = (line["source"], split, rows[split], blocks[split], line["duration"])
            told = (first, count, tuple(line["notes"]), line["content"])
            videos[line["id"]] = ListedVideo(*place, *told)
            rows[split] += 1
            blocks[split] += -(-count // BLOCK)
            first += count
    return videos


def read_times(folder: pathlib.Path) -> np.ndarray:
    """The times of all videos' frames, float64 [N] seconds; see times_of."""
    return np.fromfile(folder / TIMES, "<f8").astype(np.float64, copy=False)


def times_of(video: ListedVideo, times: np.ndarray) -> np.ndarray:
    """A video's own of read_times, [T]."""
    return times[video.first : video.first + video.num_frames]


def content_hash(times: np.ndarray, duration: float, jpegs: Iterable[bytes]) -> str:
    """Video.content of a stored video: of its times [T] and duration, and its frames as JPEG."""
    hasher = hashlib.blake2b(np.ascontiguousarray(times, "<f8").tobytes(), digest_size=16)
    hasher.update(struct.pack("<d", duration))
    for jpeg in jpegs:
        hasher.update(struct.pack("<q", len(jpeg)) + jpeg)
    return hasher.hexdigest()
