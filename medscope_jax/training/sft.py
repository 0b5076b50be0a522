"""Stages 1 and 2, and the passive baseline: supervised fine-tuning on the suite's records."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from medscope_jax.data.batches import make_batches, mix
from medscope_jax.data.examples import (
    clip_example,
    clip_row,
    compact,
    dialogue_example,
    dialogue_row,
    measure_rows,
)
from medscope_jax.data.open_suite import Suite
from medscope_jax.dialogue import CompactRow, Role
from medscope_jax.distributed import on_mesh
from medscope_jax.distributed.multihost import local_rows, put_batch
from medscope_jax.errors import UserError
from medscope_jax.files import write_text
from medscope_jax.training.length_bucketing import LengthBuckets, plan_buckets, split_batch
from medscope_jax.training.make_steps import make_sft_step
from medscope_jax.training.run import Run, VideoSplit, load_records, suite_of
from medscope_jax.training.split_bank import split_bank
from medscope_jax.training.stage import Batches, Update
from medscope_jax.video import Video
from medscope_jax.visible import shown

# What each stage reads: parts of the suite, mixed in the proportion of their sizes.
PARTS = {
    "warm_up": ("cap", "qa"),
    "cold_start": ("vcot", "cot"),
    "passive": ("passive", "cot"),
}

# Two parts are two programs to compile, which so few steps don't earn back.
_STEPS_WORTH_A_SPLIT = 50


def parts_of(suite: Suite, stage: str) -> list[str]:
    """The PARTS of a stage that the suite has training records of."""
    return [part for part in PARTS[stage] if "train" in suite.splits(part)]


def prepare_clips(run: Run, split: VideoSplit, params: dict) -> tuple[Batches, Update]:
    """Stage 1: clips whose frames are encoded inside the step, so that the vision tower learns."""
    del params  # nothing is made in advance from the first parameters

    def lay_out(record: dict) -> tuple[CompactRow, np.ndarray]:
        row, shown = clip_row(record, _video(split, record), run.tokenizer, run.clip_layout)
        return compact(row), shown

    records, laid_out = _that_fit(run, "warm_up", lay_out)
    rows = [row for row, _ in laid_out]
    length, generated = measure_rows(rows)
    layout = dataclasses.replace(run.clip_layout, length=length)

    def example(index: int) -> dict:
        row, shown = laid_out[index]
        return clip_example(row, shown, _video(split, records[index]), layout)

    parts = _plan_split(run, "warm_up", rows, length)
    update = _update(run, "warm_up", generated, parts)
    return _batches(run, "warm_up", len(records), example), update


def prepare_dialogues(
    name: str, run: Run, split: VideoSplit, params: dict
) -> tuple[Batches, Update]:
    """Stage 2 and the passive baseline: conversations over a bank that is made once.

    The bank stays on the host; a batch brings the visual tokens that its rows show.
    """

    def lay_out(record: dict) -> CompactRow:
        video, tools = _video(split, record), name != "passive"
        return compact(dialogue_row(record, video, run.tokenizer, run.layout, tools))

    records, rows = _that_fit(run, name, lay_out)
    length, generated = measure_rows(rows)
    layout = dataclasses.replace(run.layout, length=length)
    bank = split_bank(run, params, split, name)
    seen = max(int(np.count_nonzero(row.visual_index >= 0)) for row in rows)

    def example(index: int) -> dict:
        visual_at = functools.partial(bank.visual, split.rows[records[index]["video"]])
        return dialogue_example(rows[index], visual_at, layout, seen)

    update = _update(run, name, generated, _plan_split(run, name, rows, length))
    return _batches(run, name, len(records), example), update


def _that_fit(run: Run, name: str, lay_out: Callable[[dict], Any]) -> tuple[list[dict], list]:
    """A stage's records, each laid out once; those that can't be are left out, and listed."""
    records, laid_out, left_out = [], [], []
    for record in _records(run, name):
        try:
            laid_out.append(lay_out(record))
        except UserError as error:
            left_out.append({"id": record["id"], "reason": str(error)})
            continue
        records.append(record)
    if left_out and jax.process_index() == 0:
        path = run.folder / f"left_out_{name}.json"
        write_text(path, json.dumps(left_out, indent=1) + "\n")
        total = len(left_out) + len(records)
        counts = f"{len(left_out)} of {total} records"
        print(shown(f"{name} leaves out {counts}, with reasons in {path}"))
    return records, laid_out


def _records(run: Run, name: str) -> list[dict]:
    parts = [load_records(run, part, "train") for part in parts_of(suite_of(run), name)]
    mixed = mix(parts)
    return [mixed[i] for i in range(len(mixed))]


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


def _plan_split(run: Run, name: str, rows: list[CompactRow], length: int) -> LengthBuckets | None:
    if jax.process_count() > 1:  # which rows are short is known of a process's own rows only
        return None
    if run.config[name].steps < _STEPS_WORTH_A_SPLIT:
        return None
    used = np.array([len(row.tokens) for row in rows])
    generated = np.array([np.count_nonzero(row.role == Role.GENERATED) for row in rows])
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    return plan_buckets(used, generated, run.config[name].batch_size, length, shards)


def _update(run: Run, name: str, generated: int, parts: LengthBuckets | None) -> Update:
    targets = (generated,) if parts is None else (parts.targets, generated)
    step = make_sft_step(run.config, name, run.model, run.mesh, run.layout, targets)
    compiled = on_mesh(run.mesh, step)
    size = run.config[name].batch_size

    def update(state, batch):
        batch = put_batch(split_batch(batch, parts), run.mesh, size)
        return compiled(state, batch)

    return update
