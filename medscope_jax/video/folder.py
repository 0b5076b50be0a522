"""A folder of JPEG or PNG frames as one recording.

Frames come in the natural order of their names ("frame2" before "frame10"); files of other kinds
and hidden ones are no frames. Times come from `times.csv` in the folder, where it is there:

    file,time
    frame1.jpg,0.0
    frame2.jpg,0.04

seconds, one row a frame, rows in any order: then times decide the order. The header may be in
capitals, and tabs or semicolons may part the cells; beside semicolons, `0,04` is a time. Without
the file, frames are spaced evenly at the rate that the caller gives. There a number missing among
the names is a frame missing from the folder: it is an error, or with partial the others keep their
places in time.
"""

import csv
import io
import itertools
import math
import os
import re
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin

from medscope_jax.video import size_limits as limits
from medscope_jax.video.frames import (
    Reading,
    VideoError,
    choose_frames,
    fit_frame,
    frame_size,
    letterbox_note,
)
from medscope_jax.video.stream import Ending, Frames, FrameStream

TIMES_FILE = "times.csv"
_FRAMES = (".jpg", ".jpeg", ".png")
# Pictures, too: a folder that holds some beside frames is not read by half.
_FOREIGN = (".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".ppm", ".dcm")
_MAX_PICTURE = 1 << 28  # bytes of a picture's file; the largest one that is read has fewer
_MAX_TIMES = 1 << 26  # bytes of times.csv
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?)\s*", re.ASCII)
_SAME_TIME = 1e-6  # seconds
# Numbers in names that leave out this many times what is there are dates or the like.
_MAX_LEAP = 1000


def iter_folder(path: str, reading: Reading) -> FrameStream:
    """A folder's frames at the bank rate, as decode.iter_frames.

    Raises:
      VideoError: no frames, pictures of other kinds, no times, times that do not fit the frames,
        an ambiguous order, numbers missing; while iterating: a picture that is broken or of another
        size. None names a file: names may name patients.
    """
    names = _names(path)
    if os.path.exists(os.path.join(path, TIMES_FILE)):
        names, times, notes = _stated_times(path, names)
    elif reading.frame_rate is None:
        raise VideoError(
            f"a folder of pictures without times (put a {TIMES_FILE} with the columns file,time "
            "into it)",
            path,
            remedy="frame_rate",
        )
    else:
        times, notes = _even_times(path, names, reading.frame_rate, reading.partial)
    steps = np.diff(times)
    interval = float(np.median(steps)) if len(steps) else 1 / (reading.frame_rate or reading.fps)
    end = float(times[-1] + interval)
    limits.check_seconds(end, path)
    chosen, rate_notes = choose_frames(times, end, reading)
    notes += rate_notes

    def frames() -> Frames:
        original = fitted = None
        broken = 0
        for index in chosen:
            what = f"picture {index + 1} of {len(names)}"
            picture = _picture(path, names[index])
            if picture is None and reading.partial:
                broken += 1
                continue
            if picture is None:
                raise VideoError(f"{what} is cut short or no picture", path, remedy="partial")
            original = original or picture.shape[:2]
            if picture.shape[:2] != original:
                shapes = "{}x{}, not {}x{} (height x width) like the first".format(
                    *picture.shape[:2], *original
                )
                raise VideoError(f"{what} is {shapes}; keep one recording a folder", path)
            fitted = fitted or frame_size(reading.size, original)
            yield float(times[index]), fit_frame(picture, fitted, reading.resample)
        if original is None or fitted is None:
            raise VideoError("none of its pictures can be decoded; copy them again", path)
        lost = [f"incomplete: {broken} of {len(chosen)} pictures are broken"] if broken else []
        shown = (*lost, *notes, *letterbox_note(original, fitted))
        return Ending(end, len(names), shown)

    return FrameStream(len(chosen), frames())


def _names(path: str) -> list[str]:
    """The frames' names, in natural order."""
    try:
        entries = [entry.name for entry in os.scandir(path) if entry.is_file()]
    except OSError as error:
        reason = f"a directory that cannot be read ({error.strerror}); check its permissions"
        raise VideoError(reason, path) from None
    visible = [name for name in entries if not name.startswith(".")]
    names = [name for name in visible if name.lower().endswith(_FRAMES)]
    foreign = sum(name.lower().endswith(_FOREIGN) for name in visible)
    if not names:
        raise VideoError(
            "a directory without JPEG or PNG frames, not a video; name one file in it, or a "
            "folder of frames",
            path,
        )
    if foreign:
        raise VideoError(
            f"a folder with {foreign} pictures that are neither JPEG nor PNG beside {len(names)} "
            "that are; convert or remove them",
            path,
        )
    return sorted(names, key=lambda name: (_key(name), name))


def _key(name: str) -> tuple:
    """A name for sorting: text and numbers in turn, each number by its value."""
    parts = re.split(r"([0-9]+)", Path(name).stem.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))


def _stated_times(path: str, names: list[str]) -> tuple[list[str], np.ndarray, list[str]]:
    """Names in the order of times.csv's times, seconds from the first, and notes."""
    stated = _read_times(path, frozenset(names))
    lacking = len(names) - len(stated)
    if lacking:
        raise VideoError(
            f"{TIMES_FILE} has no time for frames in the folder: {lacking} of them; mend it", path
        )
    order = sorted(names, key=lambda name: stated[name])
    limits.check_seconds(stated[order[-1]] - stated[order[0]], path)
    times = np.array([stated[name] for name in order])
    if not (np.diff(times) > _SAME_TIME).all():
        raise VideoError(f"{TIMES_FILE} gives two frames the same time; mend it", path)
    notes = []
    if times[0] != 0:
        notes.append(f"{TIMES_FILE} starts at {times[0]:g} s; times are counted from there")
    return order, times - times[0], notes


def _read_times(path: str, names: frozenset[str]) -> dict[str, float]:
    """The rows of times.csv: seconds by file name."""
    stated: dict[str, float] = {}
    table = os.path.join(path, TIMES_FILE)
    try:
        status = os.stat(table)
        # Anything else than a file may be waited for without end.
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_TIMES:
            raise VideoError(
                f"{TIMES_FILE} is no file of at most {_MAX_TIMES >> 20} MiB; write it again", path
            )
        with open(table, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            columns = [name.strip(' "\r\n').lower() for name in header.split(delimiter)]
            rows = csv.DictReader(file, columns, delimiter=delimiter)
            if sorted(columns) != ["file", "time"]:
                raise VideoError(f"{TIMES_FILE} must have the columns file,time; mend it", path)
            for row in rows:
                where = f"{TIMES_FILE}, line {rows.line_num + 1}"
                time = _number(row["time"], decimal_comma=delimiter == ";")
                if time is None:
                    raise VideoError(f"{where}: the time is no number of seconds; mend it", path)
                if row["file"] not in names:
                    raise VideoError(f"{where}: a frame that is not in the folder; mend it", path)
                if row["file"] in stated:
                    raise VideoError(f"{where}: a frame that was named before; mend it", path)
                stated[row["file"]] = time
    except (OSError, UnicodeDecodeError, csv.Error):
        raise VideoError(f"{TIMES_FILE} cannot be read; write it again, in UTF-8", path) from None
    return stated


def _number(text: str | None, decimal_comma: bool) -> float | None:
    found = _NUMBER.fullmatch((text or "").replace("," if decimal_comma else ".", "."))
    value = float(found[1]) if found else math.inf
    return value if math.isfinite(value) else None


def _even_times(
    path: str, names: list[str], frame_rate: float, partial: bool
) -> tuple[np.ndarray, list[str]]:
    """Seconds of frames that lie evenly, and notes; numbers in the names tell which are missing."""
    keys = [_key(name) for name in names]
    if len(set(keys)) < len(keys):
        raise VideoError(
            "a folder with two pictures of the same name or number, so that their order is open; "
            f"rename them, or put a {TIMES_FILE} into it",
            path,
        )
    places = _places(keys)
    if places[-1] >= _MAX_LEAP * len(places):
        raise VideoError(
            "a folder of pictures whose names' numbers leap too far to count frames; put a "
            f"{TIMES_FILE} into it",
            path,
        )
    times = np.array(places) / frame_rate
    missing = places[-1] + 1 - len(places)
    if not missing:
        return times, []
    account = f"{places[-1] + 1} frames promised by the numbers in their names, {len(places)} there"
    if not partial:
        raise VideoError(
            f"incomplete: {account} (add the missing ones, or put a {TIMES_FILE} into the folder)",
            path,
            remedy="partial",
        )
    return times, [f"incomplete: {account}"]


def _places(keys: list[tuple]) -> list[int]:
    """Which frame each is, from 0: by the one number that names differ in, else in turn.

    Names that count in steps count frames: 10, 20, 40 -> 0, 1, 3.
    """
    in_turn = list(range(len(keys)))
    if len({len(key) for key in keys}) > 1:
        return in_turn
    differing = [column for column in zip(*keys, strict=True) if len(set(column)) > 1]
    if len(differing) != 1 or isinstance(differing[0][0], str):
        return in_turn
    # Integers, since no float tells long numbers apart.
    counts = [number - differing[0][0] for number in differing[0]]
    step = min(after - before for before, after in itertools.pairwise(counts))
    # Numbers that no step explains are time stamps or the like, and no count.
    return [n // step for n in counts] if all(n % step == 0 for n in counts) else in_turn


def _picture(path: str, name: str) -> np.ndarray | None:
    """A picture of a folder as uint8 RGB [h, w, 3], upright; None if it is broken.

    Raises VideoError where it is too large to decode.
    """
    file = os.path.join(path, name)
    try:
        size = os.stat(file).st_size
        if size > _MAX_PICTURE:
            raise VideoError(
                f"pictures of more than {_MAX_PICTURE >> 20} MiB; write them anew", path
            )
        data = Path(file).read_bytes()
        # The plug-ins themselves: Image.open would judge a picture's size by limits of its own.
        png = data.startswith(b"\x89PNG\r\n\x1a\n")
        opened = PngImagePlugin.PngImageFile if png else JpegImagePlugin.JpegImageFile
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with opened(io.BytesIO(data)) as image:
                limits.check_pixels(image.height, image.width, path)
                if not png and limits.too_many_scans(data):
                    reason = f"a JPEG of more than {limits.MAX_SCANS} scans; write it anew"
                    raise VideoError(reason, path)
                return _upright_rgb(image)
    except (VideoError, MemoryError):
        raise
    except Exception:  # Pillow raises nearly every type on a broken picture
        return None


def _upright_rgb(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(image.convert("RGB"))
