"""The training records of a supervised stage as rows, each read and laid out when a batch asks."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from medscope_jax.copies import local_copy
from medscope_jax.data.batches import Mixture, mix
from medscope_jax.data.open_suite import Suite
from medscope_jax.data.row_lengths import RowLengths, RowMaker, lay_out, needs, row_lengths
from medscope_jax.dialogue import (
    CompactRow,
    Layout,
    Tokenizer,
    load_qwen_tokenizer,
    load_tokenizer,
)
from medscope_jax.distributed.multihost import first_process_first, is_first
from medscope_jax.errors import UserError
from medscope_jax.files import write_text
from medscope_jax.training.run import Run, VideoSplit, suite_of
from medscope_jax.training.workdir import Workdir
from medscope_jax.visible import shown

# What each stage reads: parts of the suite, mixed in the proportion of their sizes.
PARTS = {
    "warm_up": ("cap", "qa"),
    "cold_start": ("vcot", "cot"),
    "passive": ("passive", "cot"),
    "ga_grpo": ("rl",),
}
KINDS = {"warm_up": "clip", "cold_start": "dialogue", "passive": "passive"}  # of RowMaker

# A stage of so few records is laid out whole at its start and kept, as long as its rows have no
# more positions than this (9 bytes each): cheaper than to lay a record out whenever it is shown.
_KEPT_RECORDS, _KEPT_POSITIONS = 50_000, 2**24


class StageRows(NamedTuple):
    """The R rows that a stage's records make.

    Attributes:
        lengths: of each.
        row: the number of a row -> its record, and the row itself.
    """

    lengths: RowLengths
    row: Callable[[int], tuple[dict, CompactRow]]


def parts_of(suite: Suite, stage: str) -> list[str]:
    """The PARTS of a stage that the suite has training records of."""
    return [part for part in PARTS[stage] if "train" in suite.splits(part)]


def rows_of(suite: Suite, stage: str) -> int:
    """How many records a stage's batches are drawn from, each once an epoch."""
    return sum(len(suite.records(part, "train")) for part in parts_of(suite, stage))


def stage_rows(run: Run, name: str, split: VideoSplit) -> StageRows:
    """A stage's rows; records of which none can be made are left out, and listed in a file.

    Args:
        split: the videos of the training split.
    """
    records = _records(run, name)
    layout = run.clip_layout if name == "warm_up" else run.layout

    def laid_out(record: dict) -> CompactRow:
        video = split.videos[split.rows[record["video"]]]
        return lay_out(record, video, run.tokenizer, layout, KINDS[name])

    if len(records) <= _KEPT_RECORDS:
        found = _kept_rows(run, name, records, laid_out)
        if found is not None:
            return found
    whole = _measured(run, name, records, "rows")
    there = np.flatnonzero(whole.positions)
    _list_left_out(run, name, len(records), _reasons(records, whole, laid_out))

    def row(number: int) -> tuple[dict, CompactRow]:
        record = records[int(there[number])]
        return record, laid_out(record)

    return StageRows(RowLengths(*(column[there] for column in whole)), row)


def stage_lengths(run: Run, name: str) -> RowLengths:
    """StageRows.lengths alone: no row is laid out where they are known."""
    whole = _measured(run, name, _records(run, name), "epochs")
    return RowLengths(*(column[whole.positions > 0] for column in whole))


def _measured(run: Run, name: str, records: Mixture, purpose: str) -> RowLengths:
    """The lengths of all of a stage's records, in the order in which they are mixed.

    purpose: of the run's one call for it.
    """
    layouts = run.layout, run.clip_layout
    makers = row_makers(run.config, suite_of(run), name, layouts, tokenizer_loader(run))
    with first_process_first(f"lengths of {name} for its {purpose}"):
        parts = [row_lengths(maker, run.folder / "lengths") for maker in makers]
    return RowLengths(*(records.spread(columns) for columns in zip(*parts, strict=True)))


def row_makers(
    config: ConfigDict,
    suite: Suite,
    name: str,
    layouts: tuple[Layout, Layout],
    load: Callable[[], Tokenizer],
) -> list[RowMaker]:
    """How the rows of each part of a stage are made, by whichever process.

    Args:
        layouts: of conversations about whole videos, and about clips.
        load: reads the tokenizer, as RowMaker.load_tokenizer.
    """
    layout, pairs = layouts[name == "warm_up"], config.video.native_pairs
    parts = parts_of(suite, name)
    return [RowMaker(suite, part, KINDS[name], layout, pairs, load) for part in parts]


def tokenizer_loader(run: Run) -> Callable[[], Tokenizer]:
    """What reads the run's tokenizer in another process."""
    workdir, text = Workdir(run.folder), run.config.model.text
    if run.config.model.checkpoint:
        folder = local_copy(workdir.pretrained)
        return functools.partial(load_qwen_tokenizer, folder, text.vocab_size)
    return functools.partial(load_tokenizer, workdir.tokenizer)


def _records(run: Run, name: str) -> Mixture:
    suite = suite_of(run)
    return mix([suite.records(part, "train") for part in parts_of(suite, name)])


def _kept_rows(
    run: Run, name: str, records: Mixture, laid_out: Callable[[dict], CompactRow]
) -> StageRows | None:
    """The rows of a small stage, all of them in memory; None if they turn out not to be small."""
    kept, left_out, sizes, total = [], [], [], 0
    for number in range(len(records)):
        record = records[number]
        try:
            row = laid_out(record)
        except UserError as error:
            left_out.append((record["id"], str(error)))
            continue
        total += len(row.tokens)
        if total > _KEPT_POSITIONS:
            return None
        kept.append((record, row))
        sizes.append(needs(row, run.layout.tokens_per_frame))
    _list_left_out(run, name, len(records), left_out)
    lengths = RowLengths(*np.array(sizes, np.int32).reshape(-1, 3).T)
    return StageRows(lengths, kept.__getitem__)


def _reasons(
    records: Mixture, lengths: RowLengths, laid_out: Callable[[dict], CompactRow]
) -> list[tuple[str, str]]:
    """Id and reason of each record of which no row can be made."""
    found = []
    for number in np.flatnonzero(lengths.positions == 0):
        record = records[int(number)]
        try:
            laid_out(record)
        except UserError as error:
            found.append((record["id"], str(error)))
    return found


def _list_left_out(run: Run, name: str, total: int, reasons: Sequence[tuple[str, str]]) -> None:
    """Writes and says which records a stage does without."""
    if not reasons or not is_first():
        return
    path = run.folder / f"left_out_{name}.json"
    listing = [{"id": record, "reason": reason} for record, reason in reasons]
    write_text(path, json.dumps(listing, indent=1) + "\n")
    counts = f"{len(reasons)} of {total} records"
    print(shown(f"{name} leaves out {counts}, with reasons in {path}"))
