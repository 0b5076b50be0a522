"""A run of two stages of a tiny model, as train.py does: python -m ... FOLDER PAUSE [STEPS]

It logs, saves, stops at signals and goes on as the real program does, but starts in seconds. PAUSE
is what each step takes at least, in seconds. The last line that it prints is a digest of the final
state of both stages; FOLDER/final.npz holds the parameters. As one of several processes it trains
its rows of the batches.
"""

import functools
import hashlib
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


def mini_run(steps: int) -> Run:
    """Saves every 3 steps, logs every 2."""
    stage = {"steps": steps, "batch_size": 4, "learning_rate": 1e-2, "train_vision": False}
    stage |= {"warmup": 0.2, "weight_decay": 0.01, "clip_norm": 1.0, "final_scale": 0.1}
    config = ConfigDict({"seed": 3, "rl": {"updates": 1}} | dict.fromkeys(STAGES, stage))
    config.log = ConfigDict({"every": 2, "checkpoint_every": 3})
    mesh = make_mesh({"data": -1})
    return Run(config, Path("."), mesh, None, None, cases.MODEL, None, None)


def digest(state) -> str:
    """Of every bit of a state."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.update(gather(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return found.hexdigest()


def main(folder: Path, pause: float, steps: int = 6) -> None:
    run, examples, folder = mini_run(steps), cases.sft_batch(10), Path(folder)
    folder.mkdir(exist_ok=True)
    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=optimizer_of(run.config, "warm_up"),
        grid=cases.GRID,
        targets=10,
        train_vision=False,
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

    with StopSignals() as stop, Checkpoints(folder / "checkpoints") as checkpoints:
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
    join_processes(False)
    try:
        with leaving_at_once():
            main(Path(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:]))
    except Stopped as stopped:
        print(stopped, flush=True)
        sys.exit(EXIT_STOPPED)
