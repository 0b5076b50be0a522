"""Stages 1 and 2, and the passive baseline: supervised fine-tuning on the suite's records."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from medscope_jax.data.batches import make_batches
from medscope_jax.data.examples import clip_example, dialogue_example
from medscope_jax.data.row_lengths import RowLengths, padded_sizes
from medscope_jax.data.row_packing import (
    PackedRows,
    frames_of_rows,
    join_examples,
    pack_records,
)
from medscope_jax.dialogue import Layout
from medscope_jax.distributed import on_mesh
from medscope_jax.distributed.multihost import is_first, local_rows, put_batch, row_blocks
from medscope_jax.training.length_bucketing import (
    FITS,
    LengthBuckets,
    fits,
    plan_buckets,
    split_batch,
)
from medscope_jax.training.make_steps import make_sft_step
from medscope_jax.training.run import Run, VideoSplit, suite_of
from medscope_jax.training.split_bank import split_bank
from medscope_jax.training.stage import Batches, Update
from medscope_jax.training.stage_rows import rows_of, stage_lengths, stage_rows
from medscope_jax.video import Video
from medscope_jax.visible import shown

# Two parts are two programs to compile, which so few steps don't earn back.
_STEPS_WORTH_A_SPLIT = 50


def prepare_clips(run: Run, split: VideoSplit, params: dict) -> tuple[Batches, Update]:
    """Stage 1: clips whose frames are encoded inside the step, so that the vision tower learns."""
    del params  # nothing is made in advance from the first parameters
    found, layout = stage_rows(run, "warm_up", split), run.clip_layout

    def example(number: int, length: int, frames: int) -> dict:
        record, row = found.row(number)
        own = dataclasses.replace(layout, length=length)
        arrays = clip_example(row, record, _video(split, record), own)
        return {**arrays, "frames": arrays["frames"][:frames]}

    return _batches_of(run, "warm_up", found.lengths, layout, layout.window_frames, example)


def prepare_dialogues(
    name: str, run: Run, split: VideoSplit, params: dict
) -> tuple[Batches, Update]:
    """Stage 2 and the passive baseline: conversations over a bank that is made once.

    The bank stays on the host; a batch brings the visual tokens that its rows show.
    """
    found, layout = stage_rows(run, name, split), run.layout
    bank = split_bank(run, params, split, name)

    def example(number: int, length: int, frames: int) -> dict:
        record, row = found.row(number)
        visual_at = functools.partial(bank.visual, split.rows[record["video"]])
        own = dataclasses.replace(layout, length=length)
        return dialogue_example(row, visual_at, own, frames * layout.tokens_per_frame)

    most = int(found.lengths.frames.max(initial=0))
    return _batches_of(run, name, found.lengths, layout, most, example)


def _batches_of(
    run: Run,
    name: str,
    lengths: RowLengths,
    layout: Layout,
    most_frames: int,
    example: Callable[[int, int, int], dict],
) -> tuple[Batches, Update]:
    """A stage's batches and update, with a conversation a row or, packed, several.

    Args:
        lengths: of the conversations.
        most_frames: that a row of one conversation has room for.
        example: (number of a conversation, positions, frames) -> its arrays, padded to so many.
    """
    length, generated = padded_sizes(lengths)
    count = len(lengths.positions)
    if not run.config.dialogue.packed:
        parts = _plan_split(run, name, lengths, length)
        beside = _beside(run, name, lengths, parts)
        update = _update(run, name, generated, parts)
        return _batches(run, name, count, lambda i: example(i, length, most_frames), beside), update
    rows, room = _packed(run, lengths, layout)
    if is_first():
        kept = rows.sums(lengths.positions).mean() / layout.length
        words = f"{count} conversations into {len(rows)} rows, whose positions are used to"
        print(shown(f"{name} packs {words} {kept:.1%}"))

    def several(row: int) -> dict:
        parts = [
            example(i, int(lengths.positions[i]), int(lengths.frames[i]))
            for i in rows[row].tolist()
        ]
        return join_examples(parts, layout.length, room, layout.tokens_per_frame)

    most = int(rows.sums(lengths.generated).max())
    return _batches(run, name, len(rows), several), _update(run, name, most + -most % 8, None)


def rows_an_epoch(run: Run, name: str) -> int:
    """How many rows a stage's batches are drawn from: its records, or those that they share."""
    if name == "ga_grpo" or not run.config.dialogue.packed:
        return rows_of(suite_of(run), name)
    layout = run.clip_layout if name == "warm_up" else run.layout
    return len(_packed(run, stage_lengths(run, name), layout)[0])


def _packed(run: Run, lengths: RowLengths, layout: Layout) -> tuple[PackedRows, int]:
    """Which conversations share a row, and for how many frames each row has room."""
    room = frames_of_rows(lengths.positions, lengths.frames, layout.length)
    seed = run.config.seed
    return pack_records(lengths.positions, lengths.frames, layout.length, room, seed), room


def _video(split: VideoSplit, record: dict) -> Video:
    return split.videos[split.rows[record["video"]]]


def _batches(
    run: Run,
    name: str,
    count: int,
    example: Callable[[int], dict],
    beside: Callable[[list[int]], dict] | None = None,
) -> Batches:
    size = run.config[name].batch_size
    rows = local_rows(run.mesh, size)
    return make_batches(range(count), example, size, seed=run.config.seed, rows=rows, beside=beside)


def _beside(
    run: Run, name: str, lengths: RowLengths, parts: LengthBuckets | None
) -> Callable[[list[int]], dict] | None:
    """What tells every process of each whole batch, where a batch is cut on several of them."""
    blocks = row_blocks(run.mesh, run.config[name].batch_size)
    if parts is None or blocks is None or blocks == 1:
        return None
    return functools.partial(_told, lengths.positions, parts, blocks)


def _told(positions: np.ndarray, parts: LengthBuckets, blocks: int, numbers: list[int]) -> dict:
    """What every process must know of a whole batch: its rows are those of these numbers."""
    return {FITS: fits(positions[numbers], parts, blocks)}


def _plan_split(run: Run, name: str, lengths: RowLengths, length: int) -> LengthBuckets | None:
    section = run.config[name]
    batch_size = section.batch_size
    blocks = row_blocks(run.mesh, batch_size)
    if section.steps < _STEPS_WORTH_A_SPLIT or section.micro_batch or blocks is None:
        return None
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    return plan_buckets(lengths.positions, lengths.generated, batch_size, length, shards, blocks)


def _update(run: Run, name: str, generated: int, parts: LengthBuckets | None) -> Update:
    targets = (generated,) if parts is None else (parts.targets, generated)
    step = make_sft_step(run.config, name, run.model, run.mesh, run.layout, targets)
    compiled = on_mesh(run.mesh, step)
    size = run.config[name].batch_size
    blocks = row_blocks(run.mesh, size) or 1

    def update(state, batch):
        cut = split_batch(batch, parts, blocks)
        if parts is None or not isinstance(cut, tuple):
            return compiled(state, put_batch(cut, run.mesh, size))
        short, long = cut
        placed = (
            put_batch(short, run.mesh, parts.rows),
            put_batch(long, run.mesh, size - parts.rows),
        )
        return compiled(state, placed)

    return update
