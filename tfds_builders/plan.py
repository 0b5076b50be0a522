"""Which videos a manual folder has, each one's id and split: made before anything is decoded.

A video is its bytes: the same file under two names, or in two sources, is one video with one id
and one split. Where its rows and sources name several splits, the most protected one is its split
(test before validation before train), and rows that name another are quarantined: what a model is
tested on never trains it. A line a video is kept in memory, nothing a row.
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from medscope_jax.errors import UserError
from medscope_jax.files import write_text
from tfds_builders.manual import SPLITS, Manual, Source
from tfds_builders.quarantine import Counts, Quarantine, open_quarantine
from tfds_builders.record import Annotation, BadRow
from tfds_builders.spread import Spread
from tfds_builders.suite import PARTS

# readers.read_source: (reader, path of the annotations, options) -> rows.
Read = Callable[[str, pathlib.Path, Mapping[str, Any]], Iterable[Annotation | BadRow]]

_HASH_DIGITS = 12
_HASHES = "video_hashes.json"
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class PlannedVideo:
    """A video to store: its id, the first source that has it, its split and its file or folder.

    frame_rate: where it has no times of its own.
    """

    id: str
    source: str
    split: str
    path: pathlib.Path
    frame_rate: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to store.

    Attributes:
      bad_rows: the readers' bad rows, counted.
      videos: each once, in the order in which sources and rows first name them.
      ids: (source, video as its rows name it) -> id.
      missing: (source, video as its rows name it) -> why there is none.
      digest: a hash of the videos' ids, splits and how they are stored.
    """

    bad_rows: Counts
    videos: tuple[PlannedVideo, ...]
    ids: Mapping[tuple[str, str], str]
    missing: Mapping[tuple[str, str], str]
    digest: str


def source_rows(source: Source, read: Read) -> Iterator[Annotation | BadRow]:
    """A source's rows. What stops its reader midway becomes a BadRow and ends the source.

    Raises:
      UserError: the reader's own, before its first row: it can't read such a source at all.
    """
    if not source.reader:
        return
    begun = False
    try:
        for row in read(source.reader, source.annotations, source.options):
            begun = True
            yield _checked(row)
    except Exception as error:  # a reader may meet anything; its text might quote the source
        if isinstance(error, UserError) and not begun:
            raise
        reason = f"the reader stops here ({type(error).__name__}); later rows are not read"
        yield BadRow(source.annotations.name, reason)


def _checked(row: Annotation | BadRow) -> Annotation | BadRow:
    """The row; a BadRow where it is of no part or split that there is."""
    if isinstance(row, Annotation):
        for what, value, known in (("part", row.part, PARTS), ("split", row.split, ("", *SPLITS))):
            if value not in known:
                return BadRow(row.place, f"names a {what} that there is not")
    return row


def make_plan(manual: Manual, read: Read, spread: Spread, reports: pathlib.Path) -> Plan:
    """Reads every source once and hashes every video that it names.

    Args:
      manual: the folder.
      read: gives rows, as readers.read_source.
      spread: hashes several videos at once.
      reports: the folder whose quarantine.jsonl takes the readers' bad rows.
    """
    with open_quarantine(reports, "annotations") as quarantine:
        claims = _claims(manual, read, quarantine)
    sources = {source.name: source for source in manual.sources}
    found, missing = {}, {}
    for key in claims:
        path = _locate(sources[key[0]].videos, key[1])
        if isinstance(path, str):
            missing[key] = path
        else:
            found[key] = path
    hashes = _hash_all(manual.folder, list(dict.fromkeys(found.values())), spread)

    by_hash: dict[str, list[tuple[str, str]]] = {}
    for key, path in found.items():
        if hashes[path]:
            by_hash.setdefault(hashes[path], []).append(key)
        else:
            missing[key] = "the video's file can't be read"
    videos, ids = [], {}
    for digits, keys in by_hash.items():
        claimed = set().union(*(claims[key] for key in keys))
        split = max(claimed, key=SPLITS.index) if claimed else _split(digits, manual.shares)
        source, name = sources[keys[0][0]], f"{keys[0][0]}-{digits}"
        path = found[keys[0]]
        videos.append(PlannedVideo(name, source.name, split, path, source.frame_rate))
        ids |= dict.fromkeys(keys, name)
    listing = [
        dataclasses.asdict(manual.video),
        [(video.id, video.split, video.frame_rate) for video in videos],
    ]
    digest = hashlib.blake2b(json.dumps(listing).encode(), digest_size=16).hexdigest()
    return Plan(quarantine.counts, tuple(videos), ids, missing, digest)


def _claims(manual: Manual, read: Read, quarantine: Quarantine) -> dict[tuple[str, str], set[str]]:
    """(source, video as its rows name it) -> the splits that they name, in order of appearance."""
    claims: dict[tuple[str, str], set[str]] = {}
    for source in manual.sources:
        if not source.reader:
            for name in _all_videos(source.videos):
                claims[source.name, name] = {source.split} - {""}
        for row in source_rows(source, read):
            if isinstance(row, BadRow):
                quarantine.add(source.name, row.place, row.reason)
                continue
            named = claims.setdefault((source.name, row.video), set())
            named |= {row.split or source.split} - {""}
    return claims


def _all_videos(folder: pathlib.Path) -> list[str]:
    """Every file below a folder, or the folder that it is in where that is a folder of pictures."""
    files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    pictures = {path.parent for path in files if path.suffix.lower() in _PICTURES}
    found = {path.parent if path.parent in pictures else path for path in files}
    return sorted(path.as_posix() for path in found)


def _locate(folder: pathlib.Path, name: str) -> pathlib.Path | str:
    """The file that a row names, or why there is none. An ending may be left out."""
    relative = pathlib.PurePosixPath(name)
    if not relative.name or relative.is_absolute() or ".." in relative.parts:
        return "names a video outside its source's folder"
    path = folder / relative
    if path.exists():
        return path
    others = sorted(glob.glob(f"{glob.escape(str(path))}.*"))
    if len(others) > 1:
        return "names a video without its ending, and several files begin so"
    return pathlib.Path(others[0]) if others else "names a video that is not there"


def _split(digits: str, shares: tuple[float, ...]) -> str:
    """The split that a video's hash falls into."""
    place, end = int(digits, 16) / 16 ** len(digits), 0.0
    for split, share in zip(SPLITS, shares, strict=True):
        end += share
        if place < end:
            return split
    return SPLITS[-1]


def _hash_all(
    folder: pathlib.Path, paths: list[pathlib.Path], spread: Spread
) -> dict[pathlib.Path, str]:
    """Hashes of files; those unchanged since an earlier build are remembered in the folder."""
    cache = folder / _HASHES
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text(encoding="utf-8"))
    states = {path: _state(folder, path) for path in paths}
    hashes, todo = {}, []
    for path, (name, state) in states.items():
        if state and known.get(name, [])[:-1] == state:
            hashes[path] = known[name][-1]
        else:
            todo.append(path)
    hashes.update(zip(todo, spread(content_hash, todo), strict=True))
    kept = {
        name: [*state, hashes[path]]
        for path, (name, state) in states.items()
        if state and hashes[path]
    }
    if todo:
        with contextlib.suppress(OSError):  # a read-only folder: hashed again next time
            write_text(cache, json.dumps(known | kept))
    return hashes


def _state(folder: pathlib.Path, path: pathlib.Path) -> tuple[str, list[int]]:
    """What tells whether a file has changed; nothing for a folder of frames."""
    name = path.relative_to(folder).as_posix()
    with contextlib.suppress(OSError):
        status = path.stat()
        if path.is_file():
            return name, [status.st_size, status.st_mtime_ns]
    return name, []


def content_hash(path: pathlib.Path) -> str:
    """The first digits of the hash of a file's bytes, or of a folder's; "" if unreadable."""
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file())
            parts = [f"{p.name} {_file_hash(p)}" for p in files]  # names give the order
            return hashlib.blake2b("\n".join(parts).encode()).hexdigest()[:_HASH_DIGITS]
        return _file_hash(path)[:_HASH_DIGITS]
    except OSError:
        return ""


def _file_hash(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
