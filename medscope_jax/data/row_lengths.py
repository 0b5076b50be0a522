"""How long the rows are that records make, found before they are trained on, or asked.

Padding, length buckets, packing and prompts need it of every record, and laying all of them out
takes hours of one core at the paper's size. So it is done once, over all cores, and kept beside the
suite:

    SUITE/lengths/KEY.lengths   a checksum, then int32 [3, N]: RowLengths of a part's records

KEY is a hash of all that the numbers depend on: what was built, the tokenizer, the layout. A file
of something else is thus never found, and a damaged one is made again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from medscope_jax.data.examples import clip_row, compact, dialogue_row, question_row
from medscope_jax.data.open_suite import Suite
from medscope_jax.dialogue import CompactRow, Layout, Role, Tokenizer
from medscope_jax.errors import UserError
from medscope_jax.files import make_folder, write_bytes
from medscope_jax.video import Video, pair_frames
from medscope_jax.visible import shown
from medscope_jax.workers import available_processes, workers

_FORMAT = 1  # raised whenever the same records make other rows
_DIGEST = 32  # bytes of the checksum
# Records of one job: what a worker needs to begin (tokenizer, times) is little beside them.
_JOB = 20_000
# Of a record, what lay_out and naming its video need.
_FIELDS = ("id", "video", "window", "question", "options", "turns")


class RowLengths(NamedTuple):
    """What the rows of N records need; 0 positions where no row can be made of the record."""

    positions: np.ndarray  # int32 [N]
    generated: np.ndarray  # int32 [N], positions that are generated
    frames: np.ndarray  # int32 [N], frames that the row shows


@dataclasses.dataclass(frozen=True)
class RowMaker:
    """How the records of a part become rows; picklable, so that workers can make them.

    Attributes:
        suite: where the records are.
        part: of the suite.
        kind: clip (stage 1), dialogue (with tools), passive (without), or prompt (with tools, and
            no turns yet).
        layout: of the rows.
        pairs: whether frames come in pairs, as native video mode has them.
        load_tokenizer: reads the tokenizer; a function of a module, or a partial of one.
        split: of the part.
    """

    suite: Suite
    part: str
    kind: str
    layout: Layout
    pairs: bool
    load_tokenizer: Callable[[], Tokenizer]
    split: str = "train"


def lay_out(
    record: dict, video: Video, tokenizer: Tokenizer, layout: Layout, kind: str
) -> CompactRow:
    """A record's row, as RowMaker says; UserError where it can't be made."""
    if kind == "clip":
        return compact(clip_row(record, video, tokenizer, layout))
    if kind == "prompt":
        return compact(question_row(record, video, tokenizer, layout))
    return compact(dialogue_row(record, video, tokenizer, layout, tools=kind == "dialogue"))


def needs(row: CompactRow, tokens_per_frame: int) -> tuple[int, int, int]:
    """A row's RowLengths."""
    seen = int(np.count_nonzero(row.visual_index >= 0))
    generated = int(np.count_nonzero(row.role == Role.GENERATED))
    return len(row.tokens), generated, seen // tokens_per_frame


def without_pixels(times: np.ndarray, duration: float, pairs: bool) -> Video:
    """A video whose frames are empty: how a row is laid out depends on its times alone."""
    video = Video(np.zeros((len(times), 0, 0, 3), np.uint8), times, duration)
    return pair_frames(video) if pairs else video


def padded_sizes(lengths: RowLengths, multiple: int = 8) -> tuple[int, int]:
    """(positions, generated tokens) that hold every row, each rounded up to a multiple.

    Raises:
        UserError: there are no rows.
    """
    if not len(lengths.positions):
        raise UserError("the suite has no records for this stage")
    most = int(lengths.positions.max()), int(lengths.generated.max())
    return most[0] + -most[0] % multiple, most[1] + -most[1] % multiple


def row_lengths(maker: RowMaker, kept: Path) -> RowLengths:
    """The lengths of a part's rows, from where they are kept; else measured, and kept there.

    Args:
        kept: a folder of the run, where the suite's can't be written to.
    """
    count = len(maker.suite.records(maker.part, maker.split))
    name = f"{_key(maker)}.lengths"
    for folder in (maker.suite.lengths_folder, kept):
        found = _read(folder / name, count)
        if found is not None:
            return found
    found = measure(maker, count)
    data = np.stack(found).astype("<i4").tobytes()
    try:
        _write(maker.suite.lengths_folder / name, data)
    except (UserError, OSError):  # a data set that is only to be read
        _write(kept / name, data)
    return found


def measure(maker: RowMaker, count: int) -> RowLengths:
    """Lays all `count` records out, over all cores where there are many; shows its progress."""
    starts = range(0, count, _JOB)
    jobs = [(maker, start, min(start + _JOB, count)) for start in starts]
    bar = tqdm(total=count, desc=f"measuring {maker.part}", unit="row", disable=None, leave=False)
    with bar, workers(min(len(jobs), available_processes())) as spread:
        found = []
        for part in spread(_measure, jobs):
            found.append(part)
            bar.update(part.shape[1])
    return RowLengths(*np.concatenate([np.zeros((3, 0), np.int32), *found], axis=1))


def _measure(job: tuple[RowMaker, int, int]) -> np.ndarray:
    """int32 [3, n] of the records from the job's first number to before its last."""
    maker, start, stop = job
    records = maker.suite.records(maker.part, maker.split, _FIELDS)
    outlines = maker.suite.outlines(maker.split)
    tokenizer, size = maker.load_tokenizer(), maker.layout.tokens_per_frame
    found = np.zeros((3, stop - start), np.int32)
    for number in range(start, stop):
        record = records[number]
        outline = outlines[record["video"]]
        video = without_pixels(outline.times, outline.duration, maker.pairs)
        try:
            row = lay_out(record, video, tokenizer, maker.layout, maker.kind)
        except UserError:
            continue
        found[:, number - start] = needs(row, size)
    return found


def _key(maker: RowMaker) -> str:
    tokenizer = maker.load_tokenizer()
    made_of = {
        "format": _FORMAT,
        "suite": maker.suite.fingerprint(maker.part),
        "split": maker.split,
        "kind": maker.kind,
        "pairs": maker.pairs,
        "layout": dataclasses.asdict(maker.layout),
        "tokenizer": hashlib.blake2b(tokenizer.serialized).hexdigest(),
        "ends": tokenizer.ends,
    }
    text = json.dumps(made_of, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _write(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    write_bytes(path, hashlib.blake2b(data, digest_size=_DIGEST).digest() + data)


def _read(path: Path, count: int) -> RowLengths | None:
    """What a file holds of so many records; None if it is not there, or not as it was written."""
    if not path.is_file():
        return None
    stored = path.read_bytes()
    data = stored[_DIGEST:]
    whole = hashlib.blake2b(data, digest_size=_DIGEST).digest() == stored[:_DIGEST]
    if not whole or len(data) != 3 * 4 * count:
        print(shown(f"{path} is damaged: the rows are measured again"))
        return None
    return RowLengths(*np.frombuffer(data, "<i4").reshape(3, count))
