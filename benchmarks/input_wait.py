"""How long the supervised steps wait for their batches: python -m benchmarks.input_wait

[--config FILE[:ARG]] [--workdir DIR] [--steps N] [--config.KEY=VALUE ...] [--json FILE]

The run's suite is drawn or opened as training does, and the first steps of stages 1 and 2 (those
that it has records of) are taken from random weights, each to its end before the next batch is
asked for. A step's wait is the time that the next batch is not there yet, of all the time from
batch to batch. Processor seconds of the whole process stand beside it: on a machine that others
use, too, they say whose time it was.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.trained import machine
from medscope_jax.config import load_config, parse_arguments, run_main
from medscope_jax.data.open_suite import open_suite
from medscope_jax.metrics import write_results
from medscope_jax.train import open_run
from medscope_jax.training.run import load_split, run_mesh
from medscope_jax.training.sft import prepare_clips, prepare_dialogues
from medscope_jax.training.stage import Batches, first_state, initial_params
from medscope_jax.training.stage_rows import parts_of
from medscope_jax.training.workdir import Workdir

CONFIG = Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py"
STAGES = {
    "warm_up": prepare_clips,
    "cold_start": functools.partial(prepare_dialogues, "cold_start"),
}
UNTIMED = 4  # steps, in which programs are compiled


def waited(batches: Batches, step: Callable[[Any], None], steps: int) -> dict[str, float]:
    """Takes a step on each of so many batches, after a few that are not timed.

    Returns:
      seconds in all, of a step and of the wait before it (medians), the share of the time that
      was waited, and processor seconds of the process a step.
    """
    for _ in range(UNTIMED):
        step(next(batches))
    waits, taken = [], []
    begun, worked = time.monotonic(), time.process_time()
    for _ in range(steps):
        asked = time.monotonic()
        batch = next(batches)
        there = time.monotonic()
        step(batch)
        waits.append(there - asked)
        taken.append(time.monotonic() - there)
    seconds = time.monotonic() - begun
    return {
        "seconds": seconds,
        "step_seconds": statistics.median(taken),
        "wait_seconds": statistics.median(waits),
        "longest_wait_seconds": max(waits),
        "wait_share": sum(waits) / seconds,
        "processor_seconds": (time.process_time() - worked) / steps,
    }


def measure(config_file: str, overrides: Sequence[str], folder: Path, steps: int) -> dict:
    """`waited` of each of STAGES of the run of a config in a folder."""
    config = load_config(config_file, overrides)
    mesh, workdir = run_mesh(config), Workdir(folder)
    suite = open_suite(config, folder)
    run = open_run(config, suite, workdir, mesh)
    split, found = load_split(run, "train"), {}
    for name, prepare in STAGES.items():
        if not parts_of(suite, name):
            continue
        params = initial_params(run)
        batches, update = prepare(run, split, params)
        state = first_state(run, name, params)

        def step(batch: Any, update: Any = update) -> None:
            nonlocal state
            state, metrics = update(state, batch)
            jax.block_until_ready(metrics)

        found[name] = waited(batches, step, steps)
    return found


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--config": {"default": str(CONFIG), "metavar": "FILE[:ARG]", "help": "a run's config"},
            "--workdir": {"default": "", "help": "where the suite is drawn; default: temporary"},
            "--steps": {"default": 40, "type": int, "help": "timed steps of each stage"},
            "--json": {"metavar": "FILE", "help": "where to write all numbers"},
        },
    )
    with tempfile.TemporaryDirectory(prefix="input-wait-") as temporary:
        folder = Path(flags.workdir or temporary)
        found = measure(flags.config, flags.overrides, folder, flags.steps)
    for name, row in found.items():
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
        print(f"{name}: {numbers}")
    if flags.json:
        write_results(flags.json, {"stages": found, "machine": machine()})


if __name__ == "__main__":
    run_main(main)
