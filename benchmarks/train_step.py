"""GA-GRPO steps and rollouts, three programs side by side: python -m benchmarks.train_step

The same weights, questions and recordings, float32, the same cores, each side in a process of its
own, one after the other:

  ours               one compiled program over a frame bank (rollout.RolloutEngine), then the policy
                     step of stage 3 (training/steps.py)
  peers              a host-driven loop of ours in the peers' manner (benchmarks/peers.py), on the
                     same compiled model; its step ends with the same policy step as ours
  transformers       that loop around transformers' generate in PyTorch, then a policy step in
                     PyTorch on the same rows, same loss (benchmarks/transformers_loop.py)

The last two come in two forms: plain, decoding and encoding at every turn all that a row has been
shown, and with "_keep" at their best: nothing is encoded twice, previews are there before the
clock starts. So is our bank; making it costs once a video what the plain forms pay at every turn.

What the figures are of, and what not:
- The models are random but for a head that keeps to the protocol (benchmarks/chatter.py): their
  layers decide whether, where and how often to look. No trained model of these sizes is at hand,
  and plainly random weights call no tool. For trained weights, see benchmarks/rollouts.py.
- All rollouts are greedy, so that all sides must write the same tokens; rows that differ are
  counted. A question's rollouts are then alike, which helps no side but in that they end together.
- Advantages are drawn: what such a model says deserves no reward. Rewards, which every side would
  compute on the host alike, are not in the step. A step is the rollout and one policy step.
- PyTorch's policy step is not charged for encoding frames, nor for a pass to score the old policy.
- Peak memory is of the whole process: imports (the same on all sides), compiling and smaller jobs
  before this one included; bytes_before is what it was when the job began.

Then how the cost of 64 rollouts grows with turns, with window frames and, for ours, with the
length of the videos (60, 600 and 3600 bank frames, of which every prompt shows the same number) and
with the frames that a prompt shows, for 1 and for 8 rollouts a question.

--json FILE keeps all numbers; measurements that are in FILE already and are not done again stay, so
that sizes can be measured one at a time. Needs torch and transformers. Run it on an idle machine,
with JAX_PLATFORMS=cpu where JAX would look for something else.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.train_step_job import GROUP, SIZES, Job, write_recordings
from benchmarks.train_step_report import print_report
from benchmarks.trained import machine
from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.distributed import use_huge_pages
from medscope_jax.errors import UserError
from medscope_jax.metrics import write_results

KEPT = ("ours", "peers_keep", "transformers_keep")
PLAIN = ("peers", "transformers")
COUNTS = (8, 64, 256)
_PLAIN_COUNT = 64  # the plain forms are measured at this number of rollouts alone
_GROWTH = {
    "turns": [Job(turns=n, window=8, length=160 + 48 * n, always=True) for n in (1, 2, 4, 8)],
    "window": [Job(turns=2, window=n, length=224 + 6 * n, always=True) for n in (8, 16, 32)],
    "video": [Job(turns=2, bank_seconds=n, length=320, always=True) for n in (60, 600, 3600)],
    "preview": [
        Job(turns=2, bank_seconds=600, length=320 + 5 * n, always=True, group=group, preview=n)
        for n in (16, 128, 512)
        for group in (1, 8)
    ],
}


def measure_sizes(
    folder: Path, sizes: Sequence[str], counts: Sequence[int], repeats: int
) -> Iterator[tuple[str, str, dict]]:
    """(size, rollouts, result of every side) of each cell."""
    for size in sizes:
        jobs = [Job(size=size, rollouts=count) for count in sorted(counts)]
        found = {side: run_side(folder, side, jobs, repeats, True) for side in KEPT}
        plain = [job for job in jobs if job.rollouts == _PLAIN_COUNT]
        for side in PLAIN if plain else ():
            found[side] = run_side(folder, side, plain, 1, False)
        for job in jobs:
            sides = {side: found[side][job] for side in found if job in found[side]}
            yield size, str(job.rollouts), compare(folder, job, sides)


def measure_growth(folder: Path, rollouts: int, quick: bool) -> dict:
    """What grows -> its values -> results of the sides."""
    grown = {
        what: [dataclasses.replace(job, rollouts=rollouts) for job in jobs]
        for what, jobs in _GROWTH.items()
    }
    if quick:
        grown = {"video": [grown["video"][0], grown["video"][-1]]}
    result = {what: {} for what in grown}
    for side in ("ours",) if quick else KEPT:
        jobs = [j for what, several in grown.items() for j in several if _can(side, what)]
        found = run_side(folder, side, jobs, 1, False)
        for what, several in grown.items():
            for job in several if _can(side, what) else ():
                value = {
                    "turns": job.turns,
                    "window": job.window,
                    "video": job.bank_seconds,
                    "preview": f"{job.preview} x {job.group}",
                }[what]
                result[what].setdefault(str(value), {})[side] = found[job]
    return result


def _can(side: str, what: str) -> bool:
    return side == "ours" or what not in ("video", "preview")


def run_side(
    folder: Path, side: str, jobs: Sequence[Job], repeats: int, update: bool
) -> dict[Job, dict]:
    """The results of one process that does these jobs."""
    items = [
        {
            "job": dataclasses.asdict(job),
            "repeats": repeats if job.rollouts <= _PLAIN_COUNT else 1,
            "update": update,
        }
        for job in jobs
    ]
    command = [sys.executable, "-m", "benchmarks.train_step_side"]
    command += [str(folder), side, json.dumps(items)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(f"the {side} side failed: {' '.join(last)}")
    return {job: json.loads((folder / f"{side}-{job.name}.json").read_text()) for job in jobs}


def compare(folder: Path, job: Job, sides: dict[str, dict]) -> dict:
    """The sides of one cell, with their steps' seconds, and how they stand to ours."""
    update, mine = sides["ours"]["update_seconds"], sides["ours"]
    rows = {side: np.load(folder / f"{side}-{job.name}.npz")["rows"] for side in sides}
    for side, result in sides.items():
        if side.startswith("peers"):
            result["update_seconds"] = update
        if side == "transformers":
            result["update_seconds"] = sides["transformers_keep"]["update_seconds"]
        result["step_seconds"] = result["seconds"] + result["update_seconds"]
        if side != "ours":
            result["rows_differing"] = int(np.sum((rows[side] != rows["ours"]).any(axis=1)))
            result["ours_times_as_fast"] = {
                "rollouts": result["seconds"] / mine["seconds"],
                "update": result["update_seconds"] / update,
                "step": result["step_seconds"] / (mine["seconds"] + update),
            }
    return sides


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--sizes": {"default": ",".join(SIZES), "metavar": "LIST", "help": "1m,5m,20m"},
            "--counts": {"default": "8,64,256", "metavar": "LIST", "help": "rollouts (8,64,256)"},
            "--repeats": {"type": int, "default": 2, "help": "timed runs of each (2)"},
            "--no-growth": {"action": "store_true", "help": "sizes and counts alone"},
            "--quick": {"action": "store_true", "help": "8 rollouts of 1m, in two minutes"},
            "--json": {"metavar": "FILE", "help": "where to write all numbers"},
        },
    )
    sizes, counts = flags.sizes.split(","), [int(n) for n in flags.counts.split(",") if n.isdigit()]
    if unknown := [size for size in sizes if size not in SIZES]:
        raise ConfigError(f"unknown size {unknown[0]!r}; choose from {', '.join(SIZES)}")
    if not counts or any(count < GROUP or count % GROUP for count in counts):
        raise ConfigError(f"--counts must be multiples of {GROUP}, such as 8,64,256")
    if flags.repeats < 1:
        raise ConfigError("--repeats must be positive")
    if flags.quick:
        sizes, counts, flags.repeats = ["1m"], [GROUP], 1
    file = Path(flags.json) if flags.json else None
    result = json.loads(file.read_text()) if file and file.exists() else {"sizes": {}}
    result["machine"] = machine()

    def keep():
        if file:
            write_results(flags.json, result)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recordings(folder)
        for size, count, sides in measure_sizes(folder, sizes, counts, flags.repeats):
            result["sizes"].setdefault(size, {})[count] = sides
            keep()
        if not flags.no_growth:
            rollouts = GROUP if flags.quick else _PLAIN_COUNT
            result["growth"] = measure_growth(folder, rollouts, flags.quick)
            keep()
    print_report(result)
    if file:
        print(f"written to {file}")


if __name__ == "__main__":
    use_huge_pages()
    run_main(main)
