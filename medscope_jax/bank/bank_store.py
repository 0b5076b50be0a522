"""Frame banks on disk: videos tokenized once by a frozen vision tower, and read back as a bank.

    FOLDER/ID.array_record   one video's tokens, times and duration, and what they were made of
    FOLDER/index.json        the videos, their hashes, sizes and rounding errors; for people

Each file stands for itself, so some videos are read without the others. bank_build.py makes them.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from medscope_jax.bank.bank_codec import RoundingError
from medscope_jax.bank.bank_file import FORMAT, SUFFIX, DamagedBank, opened
from medscope_jax.bank.bank_key import BankKey, differences
from medscope_jax.bank.host_bank import HostBank, StampIds, stack_bank
from medscope_jax.errors import UserError
from medscope_jax.files import write_text
from medscope_jax.video.frames import Video

INDEX = "index.json"
_AGAIN = "make it again by python -m medscope_jax.encode"


@dataclasses.dataclass(frozen=True)
class FrameSource:
    """A video whose frames are read where they are needed.

    Attributes:
      id: letters, digits, ".", "_" and "-": the file's name.
      times: float64 [T] seconds; duration: seconds.
      read: (start, stop) -> uint8 [stop - start, H, W, 3], the same at every call; of pairs, see
        pair_frames, [stop - start, 2, H, W, 3].
    """

    id: str
    times: np.ndarray
    duration: float
    read: Callable[[int, int], np.ndarray]


def source_of(name: str, video: Video) -> FrameSource:
    """A video as a FrameSource."""
    return FrameSource(
        name, video.times, video.duration, lambda start, stop: video.frames[start:stop]
    )


def load_bank(
    folder: Path,
    key: BankKey,
    video_ids: Sequence[str],
    stamp_ids: StampIds,
    max_frames: int | None = None,
    stamp_width: int | None = None,
    dtype: str | None = None,
) -> HostBank:
    """The bank of chosen videos; no other video's file is opened.

    Args:
      folder: of build_bank.
      key: what the videos must have been made of.
      video_ids: among key.videos, in the order of the bank's rows.
      stamp_ids, max_frames, stamp_width: as in make_bank.
      dtype: float32 or bfloat16: of the bank's tokens; as stored if None, int8 as bfloat16.

    Raises:
      UserError: a video is not there, is damaged, or was made of something else than the key says.
    """
    tokens, times, durations = [], [], []
    for name in video_ids:
        path = bank_path(folder, name)
        if not path.exists():
            raise UserError(f"{folder} holds no bank of video {name}; {_AGAIN}")
        try:
            with opened(path) as (description, blocks):
                different = differences(description, key, key.videos[name])
                if different:
                    made_of = " and ".join(different)
                    raise UserError(f"the bank of video {name} was made of {made_of}; {_AGAIN}")
                stored = description["dtype"]
                wanted = dtype or ("bfloat16" if stored == "int8" else stored)
                video, at = np.empty(description["shape"], jnp.dtype(wanted)), 0
                for block in blocks:
                    video[at : at + len(block)] = block
                    at += len(block)
        except DamagedBank as error:
            raise UserError(f"the bank of video {name} is damaged ({error}); {_AGAIN}") from error
        tokens.append(video)
        times.append(np.array(description["times"]))
        durations.append(description["duration"])
    if len({video.dtype for video in tokens}) > 1:
        raise UserError(f"{folder} holds banks of several types: choose one, or {_AGAIN}")
    return stack_bank(tokens, times, durations, stamp_ids, max_frames, stamp_width)


def bank_path(folder: Path, name: str) -> Path:
    """The file of a video; UserError where its id can't be a file's name."""
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise UserError(f"{name!r} is no id of a video: use letters, digits, '.', '_' and '-'")
    return folder / f"{name}{SUFFIX}"


def write_index(
    folder: Path, settings: BankKey, dtype: str, names: set[str]
) -> tuple[RoundingError, str]:
    """Lists the videos stored as `dtype` under the settings' preprocessing and weights.

    It is made of what the files say of themselves, so the same files give the same index.

    Returns:
      The error of the videos `names`, and which of them has the worst token ("": nothing rounded).
    """
    videos, total, worst = {}, RoundingError(), ""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(DamagedBank), opened(path) as (found, _):
            if found["dtype"] != dtype or differences(found, settings, None):
                continue
            error = RoundingError(*found["squares"], *found["worst"])
            videos[found["id"]] = {
                "content": found["content"],
                "shape": found["shape"],
                "computed": found["computed"],
                "factors": sorted({factors for _, factors, _ in found["records"]} - {""}),
                "relative_rms": error.relative_rms,
                "worst_token": {"error": error.worst, "frame": error.frame, "token": error.token},
            }
            if found["id"] in names:
                worst = found["id"] if error.worst > total.worst else worst
                total = total.plus(error)
    index = {
        "format": FORMAT,
        "dtype": dtype,
        "preprocessing": settings.preprocessing.to_json(),
        "weights": settings.weights,
        "videos": videos,
    }
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    return total, worst
