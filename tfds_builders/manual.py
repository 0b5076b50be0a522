"""The manual folder of ClinvideoSuite and its suite.json, which says what lies where.

    MANUAL/suite.json
    MANUAL/...            videos and annotations, wherever suite.json says

suite.json, all paths relative to the folder:

    {"video": {"fps": 1.0, "height": 224, "width": 224, "max_frames": 3600,
               "resample": "area",            or "bicubic", as published weights saw frames
               "min_frames": 8},              a shorter recording is read at a higher rate
     "splits": {"train": 0.9, "validation": 0.05, "test": 0.05},
     "sources": [{"name": "cholec80",          lower-case letters, digits and _, at most 64
                  "reader": "cholec80",        a module of tfds_builders/readers
                  "annotations": "cholec80",   file or folder, as the reader wants it
                  "videos": "cholec80/videos",
                  "split": "train",            of rows that name none; "" or left out: the video's
                                               own hash decides, by the shares in "splits"
                  "frame_rate": 1.0,           of videos without times of their own, such as a
                                               folder of pictures without times.csv
                  "partial": false,            true: of a recording that is cut short or lacks
                                               pictures, what is there is stored, with a note
                  "options": {}}]}             the reader's

A source without reader and annotations is a folder of videos: all of them are stored, and no record
is made of them. A folder of pictures alone is one video; beside videos, a picture is none.

Links are followed inside the manual folder. What leads out of it, and pipes, sockets and devices,
are never opened: quarantine.jsonl, which a build writes beside suite.json, names them (see
quarantine.py).
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from medscope_jax.data.listing import VideoSettings
from medscope_jax.errors import UserError, closest, one_line
from medscope_jax.files import check_local, is_there, open_regular
from medscope_jax.parts import SPLITS
from medscope_jax.video.frames import RESAMPLES
from tfds_builders.inside import fault_of

_MAX_BYTES = 16 * 2**20  # of suite.json
_LONGEST_PATH = 4096  # characters
_MOST = 2.0**53  # numbers are below it: JSON's may be too large for a float
_DEFAULT_SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
# Files are named after a source and a hash of 128 digits, in at most 255 bytes.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of suite.json; see the module's words. annotations and videos are full paths."""

    name: str
    reader: str
    annotations: pathlib.Path
    videos: pathlib.Path
    split: str
    frame_rate: float | None
    partial: bool
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Manual:
    """A manual folder; shares are of SPLITS and sum to 1."""

    folder: pathlib.Path
    video: VideoSettings
    sources: tuple[Source, ...]
    shares: tuple[float, ...]


def read_manual(folder: str | os.PathLike) -> Manual:
    """Reads and checks FOLDER/suite.json.

    Raises:
      UserError: no such file, broken JSON, an unknown or missing key (names the closest), a value
        out of range, or a path that is not there.
    """
    folder = pathlib.Path(folder)
    path = folder / "suite.json"
    try:
        with open_regular(path) as file:
            listing = json.loads(file.read(_MAX_BYTES))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or one_line(error)}); a manual folder has "
            "one, see tfds_builders/manual.py"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {one_line(error)}") from None
    keys = _keys(listing, "suite.json", ("video", "sources"), ("splits",))
    sources = keys["sources"]
    if not isinstance(sources, list) or not sources:
        raise UserError('suite.json: "sources" must be a list of at least one source')
    made = tuple(_source(folder, value, f"sources[{i}]") for i, value in enumerate(sources))
    names = [source.name for source in made]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"suite.json: sources of one name: {', '.join(sorted(twice))}")
    return Manual(folder, _video(keys["video"]), made, _shares(keys.get("splits")))


def _keys(value: Any, where: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be an object of {', '.join(needed)}")
    known = (*needed, *optional)
    for key in value:
        if key not in known:
            raise UserError(f"{where}: unknown key {key[:60]!r}{closest(key[:60], known)}")
    if missing := [key for key in needed if key not in value]:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    return value


def _video(value: Any) -> VideoSettings:
    names = ("fps", "height", "width", "max_frames")
    keys = _keys(value, "suite.json: video", names, ("resample", "min_frames"))
    if keys.get("resample", "area") not in RESAMPLES:
        raise UserError(f"suite.json: video.resample must be one of {', '.join(RESAMPLES)}")
    for name in (*names, *({"min_frames"} & keys.keys())):
        whole = name != "fps"
        if not _positive(keys[name]) or (whole and not isinstance(keys[name], int)):
            what = "whole number above 0" if whole else "number above 0"
            raise UserError(
                f"suite.json: video.{name} must be a {what}, got {repr(keys[name])[:60]}"
            )
    settings = VideoSettings(**{**keys, "fps": float(keys["fps"])})
    if settings.min_frames <= settings.max_frames:
        return settings
    if "min_frames" in keys:
        raise UserError("suite.json: video.min_frames must be at most video.max_frames")
    return dataclasses.replace(settings, min_frames=settings.max_frames)


def _positive(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < _MOST


def _source(folder: pathlib.Path, value: Any, where: str) -> Source:
    where = f"suite.json: {where}"
    optional = ("reader", "annotations", "split", "frame_rate", "partial", "options")
    keys = {"reader": "", "annotations": "", "split": "", "frame_rate": None, "options": {}}
    keys |= {"partial": False}
    keys |= _keys(value, where, ("name", "videos"), optional)
    for key in ("name", "videos", "reader", "annotations", "split"):
        if not isinstance(keys[key], str):
            raise UserError(f"{where}.{key} must be a text")
    if not _NAME.fullmatch(keys["name"]):
        raise UserError(
            f"{where}.name must be lower-case letters, digits and _, a letter first, and at "
            "most 64 of them"
        )
    if keys["split"] not in ("", *SPLITS):
        raise UserError(f"{where}.split must be one of {', '.join(SPLITS)} or be left out")
    shown = repr(keys["frame_rate"])[:60]
    if keys["frame_rate"] is not None and not _positive(keys["frame_rate"]):
        raise UserError(f"{where}.frame_rate must be a number above 0, got {shown}")
    shown = repr(keys["partial"])[:60]
    if not isinstance(keys["partial"], bool):
        raise UserError(f"{where}.partial must be true or false, got {shown}")
    if not isinstance(keys["options"], dict):
        raise UserError(f"{where}.options must be an object")
    if bool(keys["reader"]) != bool(keys["annotations"]):
        raise UserError(f"{where} needs both reader and annotations, or neither for videos alone")
    for key in ("videos", "annotations"):
        keys[key] = _path(folder, keys[key], f"{where}.{key}")
    if not keys["videos"].is_dir():
        raise UserError(f"{where}.videos must be a folder")
    return Source(**keys)


def _path(folder: pathlib.Path, text: str, where: str) -> pathlib.Path:
    check_local(text, where)
    if len(text) > _LONGEST_PATH:
        raise UserError(f"{where} is longer than any path, {_LONGEST_PATH:,} characters")
    relative = pathlib.PurePath(text)
    if relative.is_absolute() or ".." in relative.parts or "\0" in text:
        raise UserError(f"{where} must be a path inside the manual folder")
    path = folder / relative
    if not is_there(path):
        raise UserError(f"{where}: there is no {path}")
    if fault := fault_of(path, folder):
        raise UserError(f"{where}: {path} is not read: {fault}")
    return path


def _shares(value: Any) -> tuple[float, ...]:
    shares = _DEFAULT_SHARES if value is None else _keys(value, "suite.json: splits", (), SPLITS)
    numbers = [shares.get(split, 0) for split in SPLITS]
    if not all(isinstance(n, (int, float)) and 0 <= n < _MOST for n in numbers):
        raise UserError("suite.json: splits must be shares of 0 or more")
    if not sum(numbers):
        raise UserError("suite.json: splits must not all be 0")
    return tuple(number / sum(numbers) for number in numbers)
