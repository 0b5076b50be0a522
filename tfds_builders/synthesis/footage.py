"""Recordings as Footage, and which of its frames a request shows."""

import os
import pathlib
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.tools.grammar import Call, Tool
from medscope_jax.tools.windows import NEAREST, select_frames_host
from medscope_jax.video.decode import iter_frames
from medscope_jax.video.frames import VideoError, preview_indices
from medscope_jax.video.resize import bucket_size
from tfds_builders.inside import NO_VIDEO, recording_fault, recordings_below
from tfds_builders.synthesis.items import Dropped, Footage, Frame, Span
from tfds_builders.synthesis.settings import SynthesisConfig

# How the command offers what read_video does about a fault.
_REMEDIES = {"frame_rate": "--frame_rate RATE", "partial": "--partial"}
# A thumbnail of this many pixels a side tells a cut from noise.
_THUMBNAIL = 16


def find_videos(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Every file below a folder that may be a recording, in the order of their paths.

    What that is, and when a folder of pictures is one, inside.recordings_below says. Files with the
    ending of a text or table are passed over.

    Raises:
      UserError: no such folder, or nothing in it.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder of recordings")
    paths = recordings_below(folder, folder)
    found = [path for path in paths if path.suffix.lower() not in NO_VIDEO]
    if not found:
        raise UserError(f"{folder} holds no recordings")
    return found


def read_footage(
    path: str | os.PathLike,
    video: str,
    config: SynthesisConfig,
    split: str = "",
    root: str | os.PathLike | None = None,
) -> Footage:
    """Decodes a recording, one raw frame in memory at a time.

    Args:
      path: the file.
      video: what rows call it.
      config: rate, size and quality.
      split: the split that it is in, "" where nobody has said.
      root: the folder that no link may lead out of, if there is one.

    Raises:
      Dropped: it cannot be decoded, or its shape is no picture's; says why, and not which.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
    if root is not None and (fault := recording_fault(path, root)):
        raise Dropped(f"video: {fault}")
    frames, thumbnails = [], []
    try:
        stream = iter_frames(
            path,
            fps=config.fps,
            size=lambda height, width: bucket_size(height, width, config.max_pixels),
            max_frames=config.max_frames,
            min_frames=config.min_frames,
            partial=config.partial,
            frame_rate=config.frame_rate or None,
        )
        for time, picture in stream:
            jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1]
            frames.append(Frame(float(time), jpeg.tobytes()))
            small = cv2.resize(picture, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
            thumbnails.append(small.astype(np.float32))
    except VideoError as error:
        raise Dropped(
            f"video: {error.advise(_REMEDIES)}"
        ) from None  # without the name, maybe a patient's
    except UserError as error:
        raise Dropped(f"video: {error}") from None
    except Exception as error:  # whatever a broken file does to a decoder; its text may quote it
        raise Dropped(f"video: can't be decoded ({type(error).__name__})") from None
    steps = np.abs(np.diff(np.stack(thumbnails), axis=0)).mean((1, 2, 3))
    changes = np.concatenate([np.zeros(1), steps])
    return Footage(video, float(stream.ending.duration), tuple(frames), changes, split)


def frames_of_call(footage: Footage, call: Call, max_frames: int) -> tuple[Frame, ...]:
    """The frames that a valid call shows, as the tools show them in training."""
    most = max(max_frames, NEAREST) if call.tool == Tool.GET_FRAME else max_frames
    indices, count = select_frames_host(
        call.tool, call.start, call.end, footage.times, len(footage.frames), most
    )
    return tuple(footage.frames[i] for i in indices[:count])


def frames_inside(footage: Footage, spans: Iterable[Span], most: int) -> tuple[Frame, ...]:
    """The frames within the spans, thinned evenly; the nearest one where none is."""
    times, spans = footage.times, list(spans)
    inside = np.flatnonzero(_inside(times, spans))
    if not len(inside):
        inside = np.array([np.argmin(np.abs(times - (spans[0][0] + spans[0][1]) / 2))])
    return _thinned(footage, inside, most)


def frames_outside(footage: Footage, spans: Iterable[Span], most: int) -> tuple[Frame, ...]:
    """The frames outside of the spans, thinned evenly; none where the spans cover all."""
    return _thinned(footage, np.flatnonzero(~_inside(footage.times, spans)), most)


def preview(footage: Footage, most: int) -> tuple[Frame, ...]:
    """The even preview of a whole recording."""
    return _thinned(footage, np.arange(len(footage.frames)), most)


def local_window(footage: Footage, spans: Sequence[Span], context_s: float) -> Span:
    """The evidence with what comes before and after it: as long as itself, context_s at least.

    Where evidence alone is shown, its first and last time are the answer to when.
    """
    start, end = spans[0][0], spans[-1][1]
    margin = max(context_s, end - start)
    return max(0.0, start - margin), min(footage.duration, end + margin)


def _inside(times: np.ndarray, spans: Iterable[Span]) -> np.ndarray:
    inside = np.zeros(len(times), bool)
    for start, end in spans:
        # A microsecond: a time that went through a text may have lost its last digits.
        inside |= (times >= start - 1e-6) & (times <= end + 1e-6)
    return inside


def _thinned(footage: Footage, indices: np.ndarray, most: int) -> tuple[Frame, ...]:
    return tuple(footage.frames[indices[i]] for i in preview_indices(len(indices), most))
