"""Stages 1 and 2, and the passive baseline: supervised fine-tuning on the suite's records."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from medscope_jax.data.batches import make_batches
from medscope_jax.data.examples import clip_example, dialogue_example
from medscope_jax.data.row_lengths import RowLengths, padded_sizes
from medscope_jax.distributed import on_mesh
from medscope_jax.distributed.multihost import local_rows, put_batch, row_blocks
from medscope_jax.training.length_bucketing import (
    FITS,
    LengthBuckets,
    fits,
    plan_buckets,
    split_batch,
)
from medscope_jax.training.make_steps import make_sft_step
from medscope_jax.training.run import Run, VideoSplit
from medscope_jax.training.split_bank import split_bank
from medscope_jax.training.stage import Batches, Update
from medscope_jax.training.stage_rows import stage_rows
from medscope_jax.video import Video

# Two parts are two programs to compile, which so few steps don't earn back.
_STEPS_WORTH_A_SPLIT = 50


def prepare_clips(run: Run, split: VideoSplit, params: dict) -> tuple[Batches, Update]:
    """Stage 1: clips whose frames are encoded inside the step, so that the vision tower learns."""
    del params  # nothing is made in advance from the first parameters
    found = stage_rows(run, "warm_up", split)
    length, generated = padded_sizes(found.lengths)
    layout = dataclasses.replace(run.clip_layout, length=length)

    def example(number: int) -> dict:
        record, row = found.row(number)
        return clip_example(row, record, _video(split, record), layout)

    parts = _plan_split(run, "warm_up", found.lengths, length)
    update = _update(run, "warm_up", generated, parts)
    return _batches(run, "warm_up", found.lengths, example, parts), update


def prepare_dialogues(
    name: str, run: Run, split: VideoSplit, params: dict
) -> tuple[Batches, Update]:
    """Stage 2 and the passive baseline: conversations over a bank that is made once.

    The bank stays on the host; a batch brings the visual tokens that its rows show.
    """
    found = stage_rows(run, name, split)
    length, generated = padded_sizes(found.lengths)
    layout = dataclasses.replace(run.layout, length=length)
    bank = split_bank(run, params, split, name)
    seen = int(found.lengths.frames.max()) * layout.tokens_per_frame

    def example(number: int) -> dict:
        record, row = found.row(number)
        visual_at = functools.partial(bank.visual, split.rows[record["video"]])
        return dialogue_example(row, visual_at, layout, seen)

    parts = _plan_split(run, name, found.lengths, length)
    update = _update(run, name, generated, parts)
    return _batches(run, name, found.lengths, example, parts), update


def _video(split: VideoSplit, record: dict) -> Video:
    return split.videos[split.rows[record["video"]]]


def _batches(
    run: Run,
    name: str,
    lengths: RowLengths,
    example: Callable[[int], dict],
    parts: LengthBuckets | None,
) -> Batches:
    size = run.config[name].batch_size
    blocks = row_blocks(run.mesh, size)

    beside = None
    if parts is not None and blocks is not None and blocks > 1:
        beside = functools.partial(_told, lengths.positions, parts, blocks)

    return make_batches(
        range(len(lengths.positions)),
        example,
        size,
        seed=run.config.seed,
        rows=local_rows(run.mesh, size),
        beside=beside,
    )


def _told(positions: np.ndarray, parts: LengthBuckets, blocks: int, numbers: list[int]) -> dict:
    """What every process must know of a whole batch: its rows are those of these numbers."""
    return {FITS: fits(positions[numbers], parts, blocks)}


def _plan_split(run: Run, name: str, lengths: RowLengths, length: int) -> LengthBuckets | None:
    batch_size = run.config[name].batch_size
    blocks = row_blocks(run.mesh, batch_size)
    if run.config[name].steps < _STEPS_WORTH_A_SPLIT or blocks is None:
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
