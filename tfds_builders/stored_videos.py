"""Videos as clinvideo_frames stores them, and its listing: times and durations without the frames.

Beside its shards the dataset holds, in the order of its examples:

    videos.jsonl  a line a video: id, source, split, duration (seconds), num_frames, notes
    times.f64     the times of all videos' frames one after the other, little-endian float64 seconds

Records are made from these two; nothing reads the frames for it.
"""

import dataclasses
import json
import multiprocessing
import pathlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from medscope_jax.video.decode import iter_frames
from medscope_jax.video.frames import VideoError
from tfds_builders.built import check_seal
from tfds_builders.inside import recording_fault
from tfds_builders.manual import VideoSettings
from tfds_builders.plan import PlannedVideo
from tfds_builders.shard import Rejected

JPEG_QUALITY = 95
# How suite.json offers what read_video does about a fault.
_REMEDIES = {
    "frame_rate": '"frame_rate" of its source in suite.json',
    "partial": '"partial": true of its source in suite.json',
}
_LISTING, _TIMES = "videos.jsonl", "times.f64"


@dataclasses.dataclass(frozen=True)
class ListedVideo:
    """A stored video: its row within the split, seconds, and where its times are in times.f64."""

    split: str
    row: int
    duration: float
    first: int
    num_frames: int


def video_features() -> tfds.features.FeaturesDict:
    """The features of clinvideo_frames."""
    return tfds.features.FeaturesDict(
        {
            **dict.fromkeys(("id", "source", "split"), tfds.features.Text()),
            "duration": np.float64,
            "times": tfds.features.Tensor(shape=(None,), dtype=np.float64),
            "frames": tfds.features.Tensor(shape=(None,), dtype=np.object_),
            "notes": tfds.features.Sequence(tfds.features.Text()),
        }
    )


def make_videos(
    videos: tuple[PlannedVideo, ...], settings: VideoSettings, root: pathlib.Path, part: str
) -> Iterator[dict[str, Any] | Rejected]:
    """Decodes videos one after the other; writes their part of the listing beside `part`.

    Args:
      videos: which.
      settings: how they are stored.
      root: the manual folder.
      part: the shard's path.
    """
    listing, times = _parts(part)
    with open(listing, "w", encoding="utf-8") as lines, open(times, "wb") as seconds:
        for video in videos:
            # The plan has looked already, but a build takes hours.
            fault = recording_fault(video.path, root)
            decoded = f"not read: {fault}" if fault else _decode(video, settings)
            if isinstance(decoded, str):
                place = video.path.relative_to(root).as_posix()
                yield Rejected(video.source, place, decoded)
                continue
            stored = {key: decoded[key] for key in ("id", "source", "split", "duration", "notes")}
            lines.write(json.dumps(stored | {"num_frames": len(decoded["times"])}) + "\n")
            seconds.write(decoded["times"].astype("<f8").tobytes())
            yield decoded


def _decode(video: PlannedVideo, settings: VideoSettings) -> dict[str, Any] | str:
    """The example of a video, or why there is none; in words that do not name the file."""
    size = (settings.height, settings.width)
    times, jpegs = [], []
    try:
        stream = iter_frames(
            video.path,
            settings.fps,
            size,
            settings.max_frames,
            min_frames=settings.min_frames,
            partial=video.partial,
            frame_rate=video.frame_rate,
            resample=settings.resample,
            # A worker has a core of its own. With either number one thread decodes: what comes of
            # a damaged recording is the same, too.
            threads=2 if multiprocessing.parent_process() is None else 1,
        )
        for time, frame in stream:
            times.append(time)
            jpegs.append(_jpeg(frame))
    except VideoError as error:
        return error.advise(_REMEDIES)
    except Exception as error:  # whatever a broken file does to a decoder; its text may quote it
        return f"can't be decoded ({type(error).__name__})"
    frames = np.empty(len(jpegs), object)
    frames[:] = jpegs
    return {
        "id": video.id,
        "source": video.source,
        "split": video.split,
        "duration": float(stream.ending.duration),
        "notes": list(stream.ending.notes),
        "times": np.array(times, np.float64),
        "frames": frames,
    }


def _jpeg(frame: np.ndarray) -> bytes:
    """A frame uint8 [H, W, 3] RGB as JPEG."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _parts(part: str) -> tuple[pathlib.Path, pathlib.Path]:
    return pathlib.Path(f"{part}.{_LISTING}"), pathlib.Path(f"{part}.{_TIMES}")


def join_listing(folder: pathlib.Path, parts: list[str]) -> None:
    """Makes the dataset's listing of its shards' parts, which are removed."""
    with open(folder / _LISTING, "wb") as lines, open(folder / _TIMES, "wb") as seconds:
        for part in parts:
            for path, target in zip(_parts(part), (lines, seconds), strict=True):
                target.write(path.read_bytes())
                path.unlink()


def read_listing(folder: pathlib.Path) -> dict[str, ListedVideo]:
    """The videos of a built clinvideo_frames by id, in the order of its examples.

    Raises:
      UserError: its listing or its times are not what was built.
    """
    check_seal(folder, "build clinvideo_frames again with --overwrite", (_LISTING, _TIMES))
    videos, rows, first = {}, {}, 0
    with open(folder / _LISTING, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            split, count = line["split"], line["num_frames"]
            row = rows[split] = rows.get(split, -1) + 1
            videos[line["id"]] = ListedVideo(split, row, line["duration"], first, count)
            first += count
    return videos


def read_times(folder: pathlib.Path, video: ListedVideo) -> np.ndarray:
    """The times of a video's frames, float64 [T] seconds."""
    offset = video.first * 8
    times = np.fromfile(folder / _TIMES, "<f8", count=video.num_frames, offset=offset)
    return times.astype(np.float64, copy=False)
