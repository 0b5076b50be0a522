"""Stages 1 and 2, and the passive baseline: supervised fine-tuning on the suite's records."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from medscope_jax.data.batches import make_batches
from medscope_jax.data.examples import clip_example, dialogue_example
from medscope_jax.data.row_lengths import RowLengths, padded_sizes
from medscope_jax.distributed import on_mesh
from medscope_jax.distributed.multihost import local_rows, put_batch
from medscope_jax.training.length_bucketing import LengthBuckets, plan_buckets, split_batch
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

    update = _update(run, "warm_up", generated, _plan_split(run, "warm_up", found.lengths, length))
    return _batches(run, "warm_up", len(found.lengths.positions), example), update


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

    update = _update(run, name, generated, _plan_split(run, name, found.lengths, length))
    return _batches(run, name, len(found.lengths.positions), example), update


def _video(split: VideoSplit, record: dict) -> Video:
    return split.videos[split.rows[record["video"]]]


def _batches(run: Run, name: str, count: int, example: Callable[[int], dict]) -> Batches:
    return make_batches(
        range(count),
        example,
        run.config[name].batch_size,
        seed=run.config.seed,
        rows=local_rows(run.mesh, run.config[name].batch_size),
    )


def _plan_split(run: Run, name: str, lengths: RowLengths, length: int) -> LengthBuckets | None:
    if jax.process_count() > 1:  # which rows are short is known of a process's own rows only
        return None
    if run.config[name].steps < _STEPS_WORTH_A_SPLIT:
        return None
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    batch_size = run.config[name].batch_size
    return plan_buckets(lengths.positions, lengths.generated, batch_size, length, shards)


def _update(run: Run, name: str, generated: int, parts: LengthBuckets | None) -> Update:
    targets = (generated,) if parts is None else (parts.targets, generated)
    step = make_sft_step(run.config, name, run.model, run.mesh, run.layout, targets)
    compiled = on_mesh(run.mesh, step)
    size = run.config[name].batch_size

    def update(state, batch):
        batch = put_batch(split_batch(batch, parts), run.mesh, size)
        return compiled(state, batch)

    return update
