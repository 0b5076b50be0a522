"""Reads stage 1's batches of a built suite: python -m ... DATA FOLDER STEPS PAUSE

Rows are read and laid out when a batch asks, as those of a large suite are; no step is computed.
A line a batch: "batch STEP", and a digest of each of this process's rows. Where the batches stand
is kept in FOLDER/run after each, and a program that is started again goes on from there. The last
line says how many records this process has read for batches.
"""

import dataclasses
import hashlib
import json
import sys
import time
from pathlib import Path

import jax

from medscope_jax.config import load_config
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.stored_rows import Mapped
from medscope_jax.dialogue import save_tokenizer, train_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.distributed.multihost import first_process_first, is_first, join_processes
from medscope_jax.files import write_text
from medscope_jax.training import stage_rows
from medscope_jax.training.run import load_split, make_run
from medscope_jax.training.sft import prepare_clips
from medscope_jax.training.workdir import Workdir
from tests.data.suite_cases import VIDEO

CONFIG = Path(__file__).resolve().parent.parent.parent / "tpu_configs" / "cpu.py"
BATCH = 4
READ: list[str] = []  # ids of the records, in the order in which they were read


@dataclasses.dataclass(frozen=True)
class Counting(ClinvideoReader):
    """A data folder that notes which records are read."""

    def records(self, part, split):
        return Mapped(super().records(part, split), noted)


def noted(record):
    READ.append(record["id"])
    return record


def digests(batch) -> list[str]:
    """One for each row, of all its arrays."""
    count = len(batch["tokens"])
    rows = ([batch[name][row].tobytes() for name in sorted(batch)] for row in range(count))
    return [hashlib.sha256(b"".join(row)).hexdigest()[:16] for row in rows]


def main(data: str, folder: str, steps: str, pause: str) -> None:
    """Reads up to STEPS batches, with a pause of so many seconds after each."""
    join_processes(False)
    stage_rows._KEPT_RECORDS = 0  # as of a suite that is not small
    changes = {"suite.data_dir": data, "mesh.data": -1, "warm_up.batch_size": BATCH}
    changes |= {f"video.{key}": value for key, value in VIDEO.items()}
    changes |= {"dialogue.clip_length": 1024, "device.count": len(jax.devices())}
    config = load_config(f"{CONFIG}:smoke", [f"{key}={value}" for key, value in changes.items()])
    workdir, suite = Workdir(Path(folder, "run")), Counting(data)
    with first_process_first("tokenizer"):
        if is_first() and not workdir.tokenizer.exists():
            texts = [*suite.texts(), "0123456789 .,:[]?"]
            save_tokenizer(train_tokenizer(texts, 2048, VIDEO["max_frames"] + 1), workdir.tokenizer)
    run = make_run(config, workdir, make_mesh(config.mesh), suite)
    batches, _ = prepare_clips(run, load_split(run, "train"), {})
    READ.clear()
    place, done = workdir.path / f"place{jax.process_index()}.json", 0
    if place.exists():
        done, state = json.loads(place.read_text())
        batches.set_state(state)
    for step in range(done, int(steps)):
        print("batch", step, *digests(next(batches)), flush=True)
        write_text(place, json.dumps([step + 1, batches.get_state()]))
        time.sleep(float(pause))
    print("read", len(READ), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
