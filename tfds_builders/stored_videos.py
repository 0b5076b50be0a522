"""Makes the videos of clinvideo_frames and their listing (see medscope_jax.data.listing)."""

import json
import multiprocessing
import pathlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from medscope_jax.data.listing import BLOCK, LISTING, TIMES, VideoSettings, content_hash
from medscope_jax.video.decode import iter_frames
from medscope_jax.video.frames import VideoError
from tfds_builders.inside import recording_fault
from tfds_builders.shard import Rejected
from tfds_builders.video_plan import PlannedVideo

JPEG_QUALITY = 95
# How suite.json offers what read_video does about a fault.
_REMEDIES = {
    "frame_rate": '"frame_rate" of its source in suite.json',
    "partial": '"partial": true of its source in suite.json',
}


def video_features() -> tfds.features.FeaturesDict:
    """The features of clinvideo_frames."""
    return tfds.features.FeaturesDict(
        {
            **dict.fromkeys(("id", "source", "split"), tfds.features.Text()),
            "duration": np.float64,
            "first": np.int32,
            "times": tfds.features.Tensor(shape=(None,), dtype=np.float64),
            "frames": tfds.features.Tensor(shape=(None,), dtype=np.object_),
            "notes": tfds.features.Sequence(tfds.features.Text()),
        }
    )


def make_videos(
    videos: tuple[PlannedVideo, ...], settings: VideoSettings, root: pathlib.Path, part: str
) -> Iterator[dict[str, Any] | Rejected]:
    """Decodes videos one after the other, and gives each as blocks of at most BLOCK frames.

    Their part of the listing is written beside `part`.

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
            frame_times, jpegs = decoded["times"], decoded["frames"]
            content = content_hash(frame_times, decoded["duration"], jpegs)
            told = {"num_frames": len(frame_times), "content": content}
            lines.write(json.dumps(stored | told) + "\n")
            seconds.write(frame_times.astype("<f8").tobytes())
            for first in range(0, len(frame_times), BLOCK):
                own = slice(first, first + BLOCK)
                yield stored | {"first": first, "times": frame_times[own], "frames": jpegs[own]}


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
    return pathlib.Path(f"{part}.{LISTING}"), pathlib.Path(f"{part}.{TIMES}")


def join_listing(folder: pathlib.Path, parts: list[str]) -> None:
    """Makes the dataset's listing of its shards' parts, which are removed."""
    with open(folder / LISTING, "wb") as lines, open(folder / TIMES, "wb") as seconds:
        for part in parts:
            for path, target in zip(_parts(part), (lines, seconds), strict=True):
                target.write(path.read_bytes())
                path.unlink()
