"""Our model beside transformers' in PyTorch: python -m benchmarks.model [--sizes 5m,100m]

The same weights, the same conversations (frames and words), float32, the same cores, each side in
a process of its own, one after the other:

  prefill  frames encoded, conversation read into a key-value cache, scores of the last token
  sample   prefill and 32 greedy tokens
  train    forward, backward and update of every parameter, vision tower included

A ratio above 1 means that ours is faster. Beside it: how far the results differ, what the first
call costs more (compilation, here), peak memory of the process. Both sides take large buffers in
huge pages, as medscope_jax.train does: without them XLA faults its pages in at every step. Needs
torch and transformers (tests/requirements.txt says which). Run it on an otherwise idle machine.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.model_job import SIZES, write_job
from benchmarks.trained import machine
from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.distributed import use_huge_pages
from medscope_jax.errors import UserError
from medscope_jax.metrics import write_results

JOBS = ("prefill", "sample", "train")


def measure(size: str, repeats: int) -> dict:
    """Both sides on one size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {"parameters": write_job(folder, size)}
        for side in ("ours", "torch"):
            command = [sys.executable, "-m", f"benchmarks.model_{side}", name, str(repeats)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:]
                raise UserError(f"the {side} side failed: {' '.join(last)}")
            result[side] = json.loads((folder / f"{side}.json").read_text())
        ours, theirs = (np.load(folder / f"{side}.npz") for side in ("ours", "torch"))
        result["ratio"] = {
            job: result["torch"][job]["seconds"] / result["ours"][job]["seconds"] for job in JOBS
        }
        result["difference"] = {
            "prefill_scores_max": float(np.abs(ours["prefill"] - theirs["prefill"]).max()),
            "sampled_tokens_differing": int(np.sum(ours["sample"] != theirs["sample"])),
            "first_loss": float(abs(ours["losses"][0] - theirs["losses"][0])),
            "last_loss": float(abs(ours["losses"][-1] - theirs["losses"][-1])),
        }
    return result


def print_report(results: dict[str, dict]) -> None:
    """One row a size and job."""
    table = Table(title="Ours beside transformers in PyTorch")
    heads = ("size", "job", "ours s", "PyTorch s", "ratio", "compile s", "ours GiB", "PyTorch GiB")
    for head in heads:
        table.add_column(head, justify="right")
    for size, result in results.items():
        for job in JOBS:
            ours, theirs = result["ours"][job], result["torch"][job]
            table.add_row(
                f"{size} ({result['parameters'] / 1e6:.1f} M)",
                job,
                f"{ours['seconds']:.3f}",
                f"{theirs['seconds']:.3f}",
                f"{result['ratio'][job]:.2f}",
                f"{ours['first_call_extra_seconds']:.1f}",
                f"{ours['peak_bytes'] / 2**30:.2f}",
                f"{theirs['peak_bytes'] / 2**30:.2f}",
            )
    console = Console()
    console.print(table)
    for size, result in results.items():
        console.print(f"{size} differences: {result['difference']}")


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--sizes": {"default": ",".join(SIZES), "metavar": "LIST", "help": "5m,100m"},
            "--repeats": {"type": int, "default": 5, "help": "timed calls of each job (5)"},
            "--json": {"metavar": "FILE", "help": "where to write all numbers"},
        },
    )
    sizes = flags.sizes.split(",")
    if unknown := [size for size in sizes if size not in SIZES]:
        raise ConfigError(f"unknown size {unknown[0]!r}; choose from {', '.join(SIZES)}")
    if flags.repeats < 1:
        raise ConfigError("--repeats must be positive")
    place = machine()
    results = {size: measure(size, flags.repeats) for size in sizes}
    print_report(results)
    if flags.json:
        write_results(flags.json, {"machine": place, **results})
        print(f"written to {flags.json}")


if __name__ == "__main__":
    use_huge_pages()
    run_main(main)
