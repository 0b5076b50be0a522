"""Reading suites of any number of videos: python -m benchmarks.scale [--videos N ...] [--json FILE]

For each number of videos a suite is written (benchmarks/scale_suite.py: short clips, one video in a
thousand an hour long, and their stored bank), and then, each in a process of its own, opened and
read by the stages that do so in training:

  warm_up      clips of stage 1, frames read and decoded as they are shown
  cold_start   conversations of stage 2, visual tokens read from the stored bank

The table says what must not grow with the videos: seconds from the process's start to its first
batch, resident memory at most, bytes read a batch. Frames and model are those of
tpu_configs/cpu.py:smoke.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.trained import machine
from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.metrics import write_results
from medscope_jax.visible import shown

STAGES = ("warm_up", "cold_start")
BATCHES = 40  # after the first
# Each bound with what must hold of every number of videos.
BOUNDS = {"seconds_to_first_batch": 60.0, "resident_mb": 4096.0}


def measure(videos: int, folder: Path) -> list[dict]:
    """A row for each stage, on a suite of so many videos that is written into the folder."""
    _python("benchmarks.scale_suite", folder, videos)
    rows = []
    for stage in STAGES:
        found = _python("benchmarks.scale_job", folder, stage, BATCHES, time.time())
        rows.append({"videos": videos, "stage": stage} | json.loads(found.splitlines()[-1]))
    return rows


def _python(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def print_report(rows: Sequence[dict]) -> None:
    """The rows as a table, and which of BOUNDS do not hold."""
    names = list(rows[0])
    table = Table(*names, title=f"{BATCHES} batches after the first")
    for row in rows:
        values = (row[name] for name in names)
        table.add_row(
            *(f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in values)
        )
    Console().print(table)
    for name, most in BOUNDS.items():
        worst = max(row[name] for row in rows)
        verdict = "holds" if worst <= most else "DOES NOT HOLD"
        print(f"{name} at most {most:g}: {worst:.4g}, {verdict}")


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--videos": {"default": "100,1000,10000,56000", "help": "numbers of videos"},
            "--folder": {"default": "", "help": "where suites are written; default: temporary"},
            "--json": {"metavar": "FILE", "help": "where to write all numbers"},
        },
    )
    try:
        counts = [int(count) for count in flags.videos.split(",")]
    except ValueError as error:
        raise ConfigError(f"--videos {flags.videos!r} are no numbers: 100,1000") from error
    rows: list[dict] = []
    for videos in counts:
        folder = Path(tempfile.mkdtemp(prefix="scale-", dir=flags.folder or None))
        try:
            rows += measure(videos, folder)
        finally:
            shutil.rmtree(folder)
    print_report(rows)
    if flags.json:
        write_results(flags.json, {"rows": rows, "bounds": BOUNDS, "machine": machine()})
        print(shown(f"written to {flags.json}"))


if __name__ == "__main__":
    run_main(main)
