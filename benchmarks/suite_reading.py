"""How long a training batch takes to read from a built suite, beside the step that it feeds."""

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from medscope_jax.config import load_config
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.examples import clip_example, clip_row, compact
from medscope_jax.data.row_lengths import RowLengths, needs, padded_sizes
from medscope_jax.dialogue import train_tokenizer
from medscope_jax.models import init_params
from medscope_jax.training.from_config import layouts, with_vocabulary
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import init_state, make_optimizer
from medscope_jax.video import Video

CONFIG = Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py"


def measure_reading(data_dir: str | os.PathLike, batches: int) -> dict:
    """Median seconds of reading a batch of stage 1 from the cap part, and of its step.

    Args:
      data_dir: with clinvideo_frames and clinvideo_suite/cap, frames of the config's size.
      batches: how many of each are timed.
    """
    config = load_config(str(CONFIG))
    suite = ClinvideoReader(data_dir)
    texts = [*suite.texts()] * 8  # SentencePiece wants more than a few lines
    tokenizer = train_tokenizer(texts, config.dialogue.vocab_size, config.video.max_frames + 1)
    model = with_vocabulary(config.model, tokenizer.vocab_size)
    _, layout = layouts(config, model)
    records, stored = suite.records("cap", "train"), suite.videos("train")
    rows = {name: row for row, name in enumerate(suite.outlines("train"))}
    kept = {name: _decoded(stored[row]) for name, row in rows.items()}
    names = [record["video"] for record in records]
    asked = list(records)
    # Once, as training does with a small stage: it has to know how long the longest row is.
    laid_out = [
        compact(clip_row(record, kept[name], tokenizer, layout))
        for record, name in zip(asked, names, strict=True)
    ]
    sizes = [needs(row, layout.tokens_per_frame) for row in laid_out]
    slots, targets = padded_sizes(RowLengths(*np.transpose(sizes)))
    layout = dataclasses.replace(layout, length=slots)
    order = np.random.default_rng(0).integers(len(records), size=(batches, _rows(config)))

    def from_disk(index: int) -> dict:
        return clip_example(laid_out[index], asked[index], stored[rows[names[index]]], layout)

    def from_kept(index: int) -> dict:
        return clip_example(laid_out[index], asked[index], kept[names[index]], layout)

    found = {"records": len(records), "rows": _rows(config)}
    for name, example in (("disk", from_disk), ("kept", from_kept)):
        found[f"{name}_batch_seconds"], batch = _timed(_read(order, example))
    found["step_seconds"] = _step_seconds(config, model, layout.grid, batch, targets)
    for name in ("disk", "kept"):
        found[f"{name}_to_step"] = found[f"{name}_batch_seconds"] / found["step_seconds"]
    return found


def _decoded(video: Video) -> Video:
    return dataclasses.replace(video, frames=np.asarray(video.frames))


def _rows(config: ConfigDict) -> int:
    return config.warm_up.batch_size


def _read(order: np.ndarray, example: Callable[[int], dict]) -> Iterator[dict]:
    """Batches, made by one thread."""
    for rows in order:
        yield jax.tree.map(lambda *arrays: np.stack(arrays), *map(example, rows))


def _timed(batches: Iterator[dict]) -> tuple[float, dict]:
    """Median seconds of a batch, and the last one."""
    seconds, batch = [], {}
    while True:
        begin = time.perf_counter()
        made = next(batches, None)
        if made is None:
            return statistics.median(seconds), batch
        seconds.append(time.perf_counter() - begin)
        batch = made


def _step_seconds(config: ConfigDict, model, grid, batch: dict, targets: int) -> float:
    """Median seconds of a stage-1 step on the batch, compiled before."""
    optimizer = make_optimizer(config.warm_up, config.warm_up.steps)
    params = init_params(model, jax.random.key(0))
    state = init_state(params, optimizer, jax.random.key(1), config.warm_up.train_vision)
    step = functools.partial(
        sft_step,
        model=model,
        optimizer=optimizer,
        grid=grid,
        targets=targets,
        train_vision=config.warm_up.train_vision,
    )
    compiled = jax.jit(step, donate_argnums=0)
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(compiled(state, batch))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])
