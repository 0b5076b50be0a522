"""Builds frame banks on disk: resumable, the same bytes whatever happened on the way.

Each frame goes through the tower in the same batch and at the same place as in make_bank, even
where only some of the batch's videos are still to be stored: on no back end is a frame's result
promised to be the same to the bit at another place.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medscope_jax.bank.bank_codec import RoundingError, check_dtype
from medscope_jax.bank.bank_file import PARTIAL, DamagedBank, TokenWriter, opened
from medscope_jax.bank.bank_index import INDEX, write_index
from medscope_jax.bank.bank_key import BankKey, Preprocessing, differences, video_hasher
from medscope_jax.bank.bank_store import FrameSource, bank_path, content_of
from medscope_jax.bank.host_bank import make_bank
from medscope_jax.errors import UserError, is_disk_full
from medscope_jax.locks import alone
from medscope_jax.video.frames import Video

LOCK = ".lock"  # in a folder of banks, held by who writes there


@dataclasses.dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
      key: reads what was built.
      made, kept: how many videos were encoded, and how many were there already.
      remade: why files that were there could not be kept, by id.
      error: of all these videos' rounding; its frame and token are of the video `worst`.
      worst: id of the video with the worst token; "" where nothing was rounded.
    """

    key: BankKey
    made: int
    kept: int
    remade: Mapping[str, str]
    error: RoundingError
    worst: str


@dataclasses.dataclass
class _Job:
    """One video on its way through the batches.

    Attributes:
      source: None once its last frame is through, so that it holds no memory.
      content: its hash; "" until all of its frames were read.
      reason: why it is encoded, "" if it is new; None if its file is kept.
      hasher, writer: while it is encoded.
    """

    name: str
    source: FrameSource | None
    content: str
    reason: str | None
    hasher: Any = None
    writer: TokenWriter | None = None


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Frames start .. stop - 1 of a video, as a part of a batch."""

    job: _Job
    start: int
    stop: int
    is_last: bool


def build_bank(
    folder: Path,
    sources: Iterable[FrameSource],
    encode: Callable[[np.ndarray], jax.Array],
    batch_frames: int,
    preprocessing: Preprocessing,
    weights: str,
    dtype: str = "bfloat16",
) -> Built:
    """Encodes the videos that the folder has not yet, or not intact, and writes index.json.

    Frames of all videos run through encode as in make_bank, batch_frames at a time across videos.
    Memory holds one batch of frames and of tokens, and the sources that it touches. A build that is
    killed has lost the one video whose file it was writing, and the batch in the tower. A second
    process waits for the first.

    Args:
      folder: made if it is missing.
      sources: the videos, always in the same order; taken one after another.
      encode, batch_frames: as in make_bank.
      preprocessing: what encode does with frames; they must have its size.
      weights: weights_hash of the tower in encode.
      dtype: bfloat16, int8 or float32.

    Raises:
      UserError: a source can't be used, the tower gives no finite values, or the disk is full.
    """
    check_dtype(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    settings = BankKey(preprocessing, weights, {})
    jobs: dict[str, _Job] = {}

    def entered() -> Iterator[_Job]:
        for source in _checked(sources):
            content, reason = _state(bank_path(folder, source.id), source, settings, dtype)
            jobs[source.id] = _Job(source.id, source, content, reason)
            yield jobs[source.id]

    with alone(folder / LOCK):
        remove_partials(folder)
        _run(folder, entered(), encode, batch_frames, settings, dtype)
        error, worst = write_index(folder, settings, dtype, jobs)
    return Built(
        BankKey(preprocessing, weights, {job.name: job.content for job in jobs.values()}),
        made=sum(job.reason is not None for job in jobs.values()),
        kept=sum(job.reason is None for job in jobs.values()),
        remade={job.name: job.reason for job in jobs.values() if job.reason},
        error=error,
        worst=worst,
    )


def build_videos(
    folder: Path,
    sources: Iterable[FrameSource],
    wanted: Collection[str],
    encode: Callable[[np.ndarray], jax.Array],
    batch_frames: int,
    key: BankKey,
    dtype: str,
) -> None:
    """Encodes and stores some of the sources' videos: one process's part of a build.

    The caller holds the folder's lock and writes its index. Frames go through encode at the places
    that they have among all sources; those of batches that hold nothing wanted are not read.

    Args:
      wanted: ids of the videos to store.
      key: preprocessing and weights of encode.
      sources, encode, batch_frames, dtype: as of build_bank.

    Raises:
      UserError: as build_bank.
    """
    jobs = (
        _Job(source.id, source, source.content, "" if source.id in wanted else None)
        for source in _checked(sources)
    )
    _run(folder, jobs, encode, batch_frames, key, dtype)


def remove_partials(folder: Path) -> None:
    """Removes what killed builds left half-written; for who holds the folder's lock."""
    for left in folder.glob(f"*{PARTIAL}"):
        left.unlink()


def _run(
    folder: Path,
    jobs: Iterable[_Job],
    encode: Callable[[np.ndarray], jax.Array],
    batch_frames: int,
    settings: BankKey,
    dtype: str,
) -> None:
    """Runs jobs, batch after batch; the index goes before anything is written that it knows not."""
    if batch_frames < 1:
        raise ValueError(f"batch_frames must be at least 1, got {batch_frames}")
    batch: list[_Piece] = []
    try:
        for batch in _batches(jobs, batch_frames):
            if any(piece.job.reason is not None for piece in batch):
                (folder / INDEX).unlink(missing_ok=True)
                _encode(folder, batch, encode, batch_frames, settings, dtype)
            for piece in batch:
                if piece.is_last:
                    piece.job.source = None
    finally:
        for piece in batch:  # a video that goes on after it is in the next one, too
            if piece.job.writer is not None:
                piece.job.writer.abandon()


def _checked(sources: Iterable[FrameSource]) -> Iterator[FrameSource]:
    """The sources; UserError for one that can't be stored."""
    names = set()
    for source in sources:
        if source.id in names:
            raise UserError(f"two videos have the id {source.id}")
        if not len(source.times):
            raise UserError(f"video {source.id} has no frames")
        names.add(source.id)
        yield source


def _state(
    path: Path, source: FrameSource, settings: BankKey, dtype: str
) -> tuple[str, str | None]:
    """(hash or "", why the video must be encoded or None) of a video."""
    if not path.exists():
        return "", ""
    try:
        with opened(path) as file:
            found = file.description
            if found["dtype"] != dtype:
                return "", f"it was stored as {found['dtype']}"
            different = differences(found, settings, None)
            content = "" if different else content_of(source)
            different = different or differences(found, settings, content)
            if different:
                return "", f"it was made of {' and '.join(different)}"
            for _ in file.blocks():
                pass
    except DamagedBank as error:
        return "", f"it is damaged: {error}"
    return content, None


def _batches(jobs: Iterable[_Job], batch_frames: int) -> Iterator[list[_Piece]]:
    """All frames in order, cut into batches; the last one may be shorter."""
    batch: list[_Piece] = []
    room = batch_frames
    for job in jobs:
        assert job.source is not None  # its last frame is still to come
        start, total = 0, len(job.source.times)
        while start < total:
            stop = min(start + room, total)
            batch.append(_Piece(job, start, stop, stop == total))
            room -= stop - start
            start = stop
            if not room:
                yield batch
                batch, room = [], batch_frames
    if batch:
        yield batch


def _encode(
    folder: Path,
    batch: list[_Piece],
    encode: Callable[[np.ndarray], jax.Array],
    batch_frames: int,
    settings: BankKey,
    dtype: str,
) -> None:
    """Encodes a batch and hands its tokens to the videos that want them."""
    size = settings.preprocessing.shape
    pieces = []
    for piece in batch:
        source = piece.job.source
        assert source is not None  # it is let go once this batch is through
        frames = source.read(piece.start, piece.stop)
        if frames.shape != (piece.stop - piece.start, *size) or frames.dtype != np.uint8:
            raise UserError(
                f"video {piece.job.name}: frames {piece.start} to {piece.stop - 1} are "
                f"{frames.dtype}{list(frames.shape)}, must be uint8 and each {list(size)}"
            )
        pieces.append(frames)
    # To make_bank the batch is one video: it fills up the last batch and calls encode.
    frames = np.concatenate(pieces)
    whole = Video(frames, np.arange(len(frames), dtype=np.float64), float(len(frames)))
    bank = make_bank(encode, [whole], lambda times: [[] for _ in times], batch_frames)
    tokens, at = bank.tokens.read(0, slice(None)), 0
    for piece, frames in zip(batch, pieces, strict=True):
        if piece.job.reason is not None:
            _store(folder, piece, frames, tokens[at : at + len(frames)], settings, dtype)
        at += len(frames)


def _store(
    folder: Path,
    piece: _Piece,
    frames: np.ndarray,
    tokens: np.ndarray,
    settings: BankKey,
    dtype: str,
) -> None:
    """Adds a piece's tokens to its video's file, and finishes the file at the video's end."""
    job, source = piece.job, piece.job.source
    assert source is not None
    try:
        if job.writer is None:
            job.writer = TokenWriter(bank_path(folder, job.name), dtype)
            job.hasher = video_hasher(source.times, source.duration)
        if not source.content:
            job.hasher.update(np.ascontiguousarray(frames).reshape(-1))
        job.writer.add(tokens)
        if piece.is_last:
            job.content = source.content or job.hasher.hexdigest()
            job.writer.finish(
                id=job.name,
                times=np.asarray(source.times, np.float64).tolist(),
                duration=float(source.duration),
                content=job.content,
                preprocessing=settings.preprocessing.to_json(),
                weights=settings.weights,
            )
            job.writer = job.hasher = None
    except UserError as error:
        raise UserError(f"video {job.name}: {error}") from error
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise UserError(
            f"disk full while storing the bank of video {job.name}; finished videos are kept; "
            "free some space and run again"
        ) from error
