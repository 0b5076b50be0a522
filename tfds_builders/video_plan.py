"""Which videos a manual folder has, each one's id and split: made before anything is decoded.

A video is its bytes: the same file under two names, or in two sources, is one video with one id
and one split. Its id is its source and the whole hash of them (blake2b, 128 hexadecimal digits):
shorter ones can be made to collide, and then a row of one patient would show the other's frames.
Where its rows and sources name several splits, the most protected one is its split (test before
validation before train), and rows that name another are quarantined: what a model is tested on
never trains it. A line a video is kept in memory, nothing a row.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from medscope_jax.data.built import FORMAT, file_hash
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS
from medscope_jax.workers import Spread
from tfds_builders.inside import fault_of, recordings_below
from tfds_builders.locate import locator
from tfds_builders.manual import Manual, Source
from tfds_builders.quarantine import Counts, Quarantine, open_quarantine
from tfds_builders.record import Annotation, BadRow

# readers.read_source: (reader, path of the annotations, options) -> rows.
Read = Callable[[str, pathlib.Path, Mapping[str, Any]], Iterable[Annotation | BadRow]]

_SPLIT_DIGITS = 12  # of the hash: they decide its split
# What earlier versions remembered hashes in. Whoever made a folder could put any hash there, so
# every build hashes every video: at 0.5 GB/s or more, which decoding takes many times as long as.
_HASHES = "video_hashes.json"


@dataclasses.dataclass(frozen=True)
class PlannedVideo:
    """A video to store: its id, the first source that has it, its split and its file or folder.

    frame_rate: where it has no times of its own. partial: take what is there of a damaged one.
    """

    id: str
    source: str
    split: str
    path: pathlib.Path
    frame_rate: float | None
    partial: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to store.

    Attributes:
      bad_rows: the readers' bad rows, counted.
      videos: each once, in the order in which sources and rows first name them.
      ids: (source, video as its rows name it) -> id.
      missing: (source, video as its rows name it) -> why there is none.
      digest: a hash of the videos' ids, splits and how they are stored.
      rows: part -> a hash of the rows that its records are made of.
    """

    bad_rows: Counts
    videos: tuple[PlannedVideo, ...]
    ids: Mapping[tuple[str, str], str]
    missing: Mapping[tuple[str, str], str]
    digest: str
    rows: Mapping[str, str]


def source_rows(source: Source, read: Read, root: pathlib.Path) -> Iterator[Annotation | BadRow]:
    """A source's rows. What stops its reader midway becomes a BadRow and ends the source.

    Where a file that the reader would open is no regular file, or leads out of the manual folder
    (root), BadRows name these files and the source is not read.

    Raises:
      UserError: the reader's own, before its first row: it can't read such a source at all.
    """
    if not source.reader:
        return
    faults = [(path, fault_of(path, root)) for path in _annotation_files(source)]
    if refused := [(path, fault) for path, fault in faults if fault]:
        for path, fault in refused:
            place = pathlib.Path(os.path.relpath(path, source.annotations.parent)).as_posix()
            yield BadRow(place, f"annotations that are not read: {fault}")
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


def _annotation_files(source: Source) -> list[pathlib.Path]:
    """The files that the source's reader opens."""
    # Late, so that who brings readers of their own needs none of ours.
    from tfds_builders.readers import source_files

    return source_files(source.reader, source.annotations, source.options)


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
        claims, rows = _claims(manual, read, quarantine)
    sources = {source.name: source for source in manual.sources}
    found, missing = {}, {}
    locate = locator(manual.folder)
    for key in claims:
        path = locate(sources[key[0]].videos, key[1])
        if isinstance(path, str):
            missing[key] = path
        else:
            found[key] = path
    paths = list(dict.fromkeys(found.values()))
    hashes = dict(zip(paths, spread(content_hash, paths), strict=True))
    left = manual.folder / _HASHES
    if left.is_file() and not left.is_symlink():  # it may name recordings that are gone
        with contextlib.suppress(OSError):
            left.unlink()

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
        how = (source.frame_rate, source.partial)
        videos.append(PlannedVideo(name, source.name, split, found[keys[0]], *how))
        ids |= dict.fromkeys(keys, name)
    listing = [
        FORMAT,
        dataclasses.asdict(manual.video),
        [(video.id, video.split, video.frame_rate, video.partial) for video in videos],
    ]
    digest = hashlib.blake2b(json.dumps(listing).encode()).hexdigest()
    return Plan(quarantine.counts, tuple(videos), ids, missing, digest, rows)


def _claims(
    manual: Manual, read: Read, quarantine: Quarantine
) -> tuple[dict[tuple[str, str], set[str]], dict[str, str]]:
    """What the rows claim.

    Returns:
      (source, video as its rows name it) -> the splits that they name, in order of appearance; and
      part -> a hash of the rows that its records are made of.
    """
    claims: dict[tuple[str, str], set[str]] = {}
    hashes = {part: hashlib.blake2b(str(FORMAT).encode()) for part in PARTS}
    for source in manual.sources:
        if not source.reader:
            for path in recordings_below(source.videos, manual.folder):
                name = path.relative_to(source.videos).as_posix()
                claims[source.name, name] = {source.split} - {""}
        for row in source_rows(source, read, manual.folder):
            if isinstance(row, BadRow):
                quarantine.add(source.name, row.place, row.reason)
                continue
            named = claims.setdefault((source.name, row.video), set())
            named |= {row.split or source.split} - {""}
            text = repr((source.name, source.split, row)).encode()
            # A question for rl about a video that is tested on is one of eval.
            for part in {row.part, "eval"} if row.part == "rl" else {row.part}:
                hashes[part].update(text)
    return claims, {part: found.hexdigest() for part, found in hashes.items()}


def _split(digits: str, shares: tuple[float, ...]) -> str:
    """The split that a video's hash falls into."""
    place, end = int(digits[:_SPLIT_DIGITS], 16) / 16**_SPLIT_DIGITS, 0.0
    for split, share in zip(SPLITS, shares, strict=True):
        end += share
        if place < end:
            return split
    return SPLITS[-1]


def content_hash(path: pathlib.Path) -> str:
    """The hash of a file's bytes, or of a folder's: 128 hexadecimal digits; "" if unreadable."""
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file())
            parts = [f"{_quoted(p.name)} {file_hash(p)}" for p in files]  # names give the order
            # surrogateescape: a name need not be UTF-8.
            return hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
        return file_hash(path)
    except OSError:
        return ""


def _quoted(name: str) -> str:
    """The name; quoted where it could pass for several files of other names."""
    return json.dumps(name) if set(name) & set('\n"') else name
