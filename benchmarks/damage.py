"""Damaged recordings read, and what came of each: python -m benchmarks.damage [--files N]

Makes small good recordings in every container, damages each in six ways by seeds (a row
"none" is the control), reads them in
processes that are watched, and counts what came of it: read whole; read with a note; refused in
one line; and what must not be: pictures lost or moved without a word, a hang, a crash, memory.
A flipped byte that changes only pixels, or a stamp by less than half a picture, is no loss; one
that makes a header say another rate ("other rate") can't be told from a recording at that rate.

    --files N        of each container and damage (default 100)
    --seconds S      stop after about S seconds (default: when all are read)
    --limit S        seconds that reading one file may take (default 10)
    --only NAME      one container alone, as the table names it; --damage NAME: one damage alone
    --first SEED     the first of the N seeds (default 0)
    --processes N    at a time (default: the machine's cores)
    --replay "CONTAINER:DAMAGE:SEED"   reads one again; --keep FILE leaves the damaged file there
    --json FILE      writes all numbers and the seeds of every failure
"""

import collections
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.damage_files import CONTAINERS, DAMAGES, damaged, good_recordings
from benchmarks.damage_read import FAILURES, OUTCOMES, judge, judge_undamaged, read_all
from medscope_jax.arguments import Parser
from medscope_jax.errors import run_main


def run(
    containers: Sequence[str],
    damages: Sequence[str],
    seeds: range,
    seconds: float,
    limit: float,
    processes: int,
) -> dict:
    """Counts of each container and damage, and the failures: task, outcome and details."""
    counts = {(c, d): collections.Counter() for c in containers for d in damages}
    failures, begin = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        goods = {c: good_recordings(c, Path(folder) / c) for c in containers}
        tasks = (
            (container, damage, seed)
            for seed, container, damage in itertools.product(seeds, containers, damages)
            if damage != "none" or seed < len(goods[container])
        )

        def late() -> bool:
            return time.monotonic() - begin > seconds

        for task, outcome, details in read_all(tasks, goods, Path(folder), processes, limit, late):
            counts[task[:2]][outcome] += 1
            if outcome in FAILURES:
                failures.append((*task, outcome, details))
    return {"counts": counts, "failures": failures, "seconds": time.monotonic() - begin}


def table(counts: dict) -> Table:
    """A row for each container and damage, and one of all."""
    told = Table("container", "damage", "tried", *OUTCOMES, title="Damaged recordings")
    for column in told.columns[2:]:
        column.justify = "right"
    whole = collections.Counter()
    for (container, damage), count in counts.items():
        whole += count
        told.add_row(container, damage, *_numbers(count))
    told.add_section()
    told.add_row("all", "", *_numbers(whole))
    return told


def _numbers(count: collections.Counter) -> list[str]:
    numbers = [count.total(), *(count[outcome] for outcome in OUTCOMES)]
    return [f"{number:,}" if number else "" for number in numbers]


def replay(task: str, keep: str | None) -> str:
    """Reads one damaged recording in this process; what came of it, in a line."""
    container, damage, seed = task.split(":")
    with tempfile.TemporaryDirectory() as folder:
        goods = good_recordings(container, Path(folder))
        good, data = damaged(goods, damage, int(seed))
        path = Path(keep) if keep else Path(folder) / f"damaged.{good.ending}"
        path.write_bytes(data)
        outcome, details = (judge if damage != "none" else judge_undamaged)(path, good.count)
    return f"{task}: {outcome}: {details}"


def main(arguments: list[str]) -> int:
    """The command line; exit status 1 where anything failed."""
    parser = Parser(description=__doc__)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--limit", type=float, default=10.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=CONTAINERS)
    parser.add_argument("--damage", choices=DAMAGES)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--replay")
    parser.add_argument("--keep")
    parser.add_argument("--json")
    given = parser.parse_args(arguments)
    console = Console(width=150 if not sys.stdout.isatty() else None)
    if given.replay:
        console.print(replay(given.replay, given.keep), markup=False)
        return 0
    containers = (given.only,) if given.only else CONTAINERS
    damages = ("none", given.damage) if given.damage else tuple(DAMAGES)
    seeds = range(given.first, given.first + given.files)
    result = run(containers, damages, seeds, given.seconds, given.limit, given.processes)
    console.print(table(result["counts"]))
    for container, damage, seed, outcome, details in result["failures"]:
        console.print(f"{outcome}: {container}:{damage}:{seed}: {details}", markup=False)
    if given.json:
        counts = [
            {"container": c, "damage": d, "tried": count.total(), **count}
            for (c, d), count in result["counts"].items()
        ]
        names = ("container", "damage", "seed", "outcome", "details")
        failures = [dict(zip(names, each, strict=True)) for each in result["failures"]]
        written = {"seconds": result["seconds"], "counts": counts, "failures": failures}
        Path(given.json).write_text(json.dumps(written, indent=1))
    return int(bool(result["failures"]))


if __name__ == "__main__":
    run_main(main)
