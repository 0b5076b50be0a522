"""The listing of a built clinvideo_frames: its videos and their times, without the frames.

Beside its shards the data set holds, in the order of its examples:

    videos.jsonl  a line a video: id, source, split, duration (seconds), num_frames, notes
    times.f64     the times of all videos' frames one after the other, little-endian float64 seconds

Records are made from these two; nothing reads the frames for it.
"""

import dataclasses
import json
import pathlib

import numpy as np

from medscope_jax.data.built import check_seal

LISTING, TIMES = "videos.jsonl", "times.f64"


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
    """A stored video: its row within the split, seconds, and where its times are in times.f64."""

    source: str
    split: str
    row: int
    duration: float
    first: int
    num_frames: int
    notes: tuple[str, ...]


def read_listing(folder: pathlib.Path) -> dict[str, ListedVideo]:
    """The videos of a built clinvideo_frames by id, in the order of its examples.

    Raises:
      UserError: its listing or its times are not what was built.
    """
    check_seal(folder, "build clinvideo_frames again with --overwrite", (LISTING, TIMES))
    videos: dict[str, ListedVideo] = {}
    rows: dict[str, int] = {}
    first = 0
    with open(folder / LISTING, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            split, count = line["split"], line["num_frames"]
            row = rows[split] = rows.get(split, -1) + 1
            place = (line["source"], split, row, line["duration"], first, count)
            videos[line["id"]] = ListedVideo(*place, tuple(line["notes"]))
            first += count
    return videos


def read_times(folder: pathlib.Path) -> np.ndarray:
    """The times of all videos' frames, float64 [N] seconds; see times_of."""
    return np.fromfile(folder / TIMES, "<f8").astype(np.float64, copy=False)


def times_of(video: ListedVideo, times: np.ndarray) -> np.ndarray:
    """A video's own of read_times, [T]."""
    return times[video.first : video.first + video.num_frames]
