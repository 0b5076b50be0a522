"""One measurement of benchmarks/scale.py: opens a suite and reads batches of a stage.

python -m benchmarks.scale_job FOLDER STAGE BATCHES BEGIN   prints a line of JSON
"""

import json
import resource
import sys
import time
from pathlib import Path

import jax

from benchmarks.scale_suite import config_of, first_params
from medscope_jax.data.open_suite import open_suite
from medscope_jax.dialogue import load_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.models import for_mesh
from medscope_jax.rollout import find_special_tokens
from medscope_jax.training.from_config import layouts, with_vocabulary
from medscope_jax.training.run import Run, load_split
from medscope_jax.training.sft import prepare_clips, prepare_dialogues


def measure(folder: Path, stage: str, batches: int, begin: float) -> dict:
    """What it takes to open a suite and to read the stage's first batches.

    begin: seconds since the epoch when the process was started.

    Returns:
      seconds to the first batch (from `begin`) and of each later one, processor seconds of both,
      resident megabytes at most, megabytes read to the first batch and for each later one.
    """
    config, mesh = config_of(folder), make_mesh({}, jax.devices()[:1])
    suite = open_suite(config, folder / "run")
    tokenizer = load_tokenizer(folder / "run" / "tokenizer.model")
    model = for_mesh(with_vocabulary(config.model, tokenizer.vocab_size), mesh)
    layout, clips = layouts(config, model)
    special_tokens = find_special_tokens(tokenizer, layout)
    run = Run(config, folder / "run", mesh, tokenizer, special_tokens, model, layout, clips, suite)
    split, params = load_split(run, "train"), first_params(config, model)
    if stage == "warm_up":
        stream, _ = prepare_clips(run, split, params)
    else:
        stream, _ = prepare_dialogues(stage, run, split, params)
    next(stream)
    first, opened, worked = time.time(), _bytes_read(), time.process_time()
    for _ in range(batches):
        next(stream)
    return {
        "seconds_to_first_batch": first - begin,
        "processor_seconds_to_it": worked,
        "seconds_a_batch": (time.time() - first) / batches,
        "processor_seconds_a_batch": (time.process_time() - worked) / batches,
        "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mb_to_first_batch": opened / 2**20,
        "mb_a_batch": (_bytes_read() - opened) / batches / 2**20,
    }


def _bytes_read() -> int:
    """Bytes that this process has read from files so far, cached or not."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
