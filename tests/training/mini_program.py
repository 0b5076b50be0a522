"""A run of two stages of a tiny model, as train.py does: python -m ... FOLDER PAUSE [OPTIONS]

It logs, saves, stops at signals and goes on as the real program does, but starts in seconds. PAUSE
is what each step takes at least, in seconds; so does DELAY each save, beside the steps. MICRO is
the rows of a micro batch. With MINUTES, saves come by time alone. The last line that it prints is a
digest of the final state of both stages; FOLDER/final.npz holds the parameters. As one of several
processes it trains its rows of the batches.
"""

import argparse
import functools
import hashlib
import os
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from medscope_jax.data.batches import make_batches
from medscope_jax.distributed import make_mesh
from medscope_jax.distributed.multihost import (
    gather,
    is_first,
    join_processes,
    leaving_at_once,
    local_rows,
    put_batch,
    replicate,
)
from medscope_jax.errors import EXIT_STOPPED
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.checkpoint_arrays import named
from medscope_jax.training.metrics_log import MetricsWriter
from medscope_jax.training.preemption import Stopped, StopSignals
from medscope_jax.training.run import Run
from medscope_jax.training.stage import run_stage, state_of
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import optimizer_of
from tests.training import step_cases as cases

STAGES = ("warm_up", "cold_start")


def mini_run(steps: int, minutes: float) -> Run:
    """Logs every 2 steps, saves every 3, or every so many minutes."""
    stage = {"steps": steps, "batch_size": 4, "learning_rate": 1e-2, "train_vision": False}
    stage |= {"warmup": 0.2, "weight_decay": 0.01, "clip_norm": 1.0, "final_scale": 0.1}
    stage["epochs"] = 0.0
    config = ConfigDict({"seed": 3, "rl": {"updates": 1}} | dict.fromkeys(STAGES, stage))
    every = {"checkpoint_every": 1000 if minutes else 3, "checkpoint_minutes": minutes}
    config.log = ConfigDict({"every": 2, "profile": ""} | every)
    mesh = make_mesh({"data": -1})
    return Run(config, Path("."), mesh, None, None, cases.MODEL, None, None)


def delay_saves(seconds: float) -> None:
    """Has each checkpoint wait for so long before it is given its name, which makes it whole."""
    rename = os.rename

    def late(source, target, **options):
        if re.search(r"/checkpoints/\d{6}$", os.fspath(target)):
            time.sleep(seconds)
        return rename(source, target, **options)

    os.rename = late


def digest(state) -> str:
    """Of every bit of a state."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.update(gather(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return found.hexdigest()


def main(folder: Path, pause: float, steps: int, delay: float, minutes: float, micro: int) -> None:
    run, examples = mini_run(steps, minutes), cases.sft_batch(10)
    delay_saves(delay)
    folder.mkdir(exist_ok=True)
    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=optimizer_of(run.config, "warm_up"),
        grid=cases.GRID,
        targets=10,
        train_vision=False,
        micro_batch=micro,
    )
    compiled = jax.jit(step, donate_argnums=0)

    def prepare(params):
        print("preparing", flush=True)
        time.sleep(pause)

        def update(state, batch):
            print("step", flush=True)
            time.sleep(pause)
            return compiled(state, put_batch(batch, run.mesh, 4))

        def example(row):
            return {key: array[row] for key, array in examples.items()}

        rows = local_rows(run.mesh, 4)
        return make_batches(range(10), example, 4, seed=run.config.seed, rows=rows), update

    with (
        StopSignals() as stop,
        Checkpoints(folder / "checkpoints", asynchronous=True) as checkpoints,
    ):
        kept = max((meta["lines"] for meta in checkpoints.metas()), default=0)
        writer = MetricsWriter(folder / "metrics.jsonl" if is_first() else None, keep=kept)
        params = replicate(jax.tree.map(jnp.asarray, cases.params()), run.mesh)
        for name in STAGES:
            start = functools.partial(lambda params: params, params)
            params = run_stage(run, name, start, prepare, checkpoints, writer, stop)
        states = [checkpoints.restore(state_of(run, name), stage=name) for name in STAGES]
        digests = " ".join(digest(restored.state) for restored in states)
    if is_first():
        np.savez(folder / "final.npz", **gather(named(params)))
    print(digests, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("pause", type=float)
    for name, value in {"steps": 6, "delay": 0.0, "minutes": 0.0, "micro": 0}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    join_processes(False)
    try:
        with leaving_at_once():
            main(**vars(parser.parse_args()))
    except Stopped as stopped:
        print(stopped, flush=True)
        sys.exit(EXIT_STOPPED)
