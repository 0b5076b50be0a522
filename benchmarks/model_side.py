"""What both sides of benchmarks/model.py do with their three jobs."""

import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def run_side(
    folder: Path,
    side: str,
    jobs: Mapping[str, Callable[[], None]],
    repeats: int,
    outputs: Callable[[], Mapping[str, np.ndarray]],
) -> None:
    """Times each job: its first call, which compiles, and the median of `repeats` further ones.

    Writes FOLDER/SIDE.json and, from outputs() afterwards, FOLDER/SIDE.npz. Peak memory is the
    process's largest so far, in bytes, so a later job's figure holds the earlier ones'.
    """
    result = {}
    for name, job in jobs.items():
        first = _seconds(job)
        times = [_seconds(job) for _ in range(repeats)]
        middle = statistics.median(times)
        result[name] = {
            "seconds": middle,
            "seconds_range": [min(times), max(times)],
            "first_call_extra_seconds": first - middle,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    (folder / f"{side}.json").write_text(json.dumps(result))
    np.savez(folder / f"{side}.npz", **outputs())


def _seconds(job: Callable[[], None]) -> float:
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin
