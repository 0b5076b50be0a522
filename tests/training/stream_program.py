"""Reads a supervised stage's batches of a built suite:

python -m ... DATA FOLDER STEPS PAUSE STAGE [KEY=VALUE ...]

Rows are read and laid out when a batch asks, as those of a large suite are. In place of the
supervised step, all processes together add the batch up as it lies on their devices. Lines:

    epoch ROWS                      that batches are drawn from
    batch STEP ...                  a digest of each of this process's rows
    step STEP ROWS SUM              rows of the batch's first part, and of every token a number
    measured PART                   by this process, what was not kept
    read COUNT                      records that this process has read for batches

Process 0 keeps in FOLDER/run where the batches stand after each; a program that is started again
goes on from there.
"""

import dataclasses
import hashlib
import json
import sys
import time
from pathlib import Path

import jax

from medscope_jax.config import load_config
from medscope_jax.data import row_lengths
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.stored_rows import Mapped
from medscope_jax.dialogue import save_tokenizer, train_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.distributed.multihost import (
    first_process_first,
    gather,
    is_first,
    join_processes,
)
from medscope_jax.files import write_text
from medscope_jax.models import init_params
from medscope_jax.training import sft, stage_rows
from medscope_jax.training.length_bucketing import FITS
from medscope_jax.training.run import load_split, make_run
from medscope_jax.training.sft import prepare_clips, prepare_dialogues, rows_an_epoch
from medscope_jax.training.workdir import Workdir
from tests.data.suite_cases import VIDEO
from tests.training import bucket_program

CONFIG = Path(__file__).resolve().parent.parent.parent / "tpu_configs" / "cpu.py"
READ: list[str] = []  # ids of the records, in the order in which they were read


@dataclasses.dataclass(frozen=True)
class Counting(ClinvideoReader):
    """A data folder that notes which records are read."""

    def records(self, part, split, fields=()):
        return Mapped(super().records(part, split), noted)


def noted(record):
    READ.append(record["id"])
    return record


def digests(batch) -> list[str]:
    """One for each row, of all its arrays; what stands beside them tells of the whole batch."""
    count, names = len(batch["tokens"]), sorted(batch.keys() - {FITS})
    rows = ([batch[name][row].tobytes() for name in names] for row in range(count))
    return [hashlib.sha256(b"".join(row)).hexdigest()[:16] for row in rows]


def stand_in() -> None:
    """Has the program keep no rows, compute no step, and say what it measures."""
    stage_rows._KEPT_RECORDS = 0  # as of a suite that is not small
    sft.make_sft_step = lambda *_: bucket_program.step
    measure = row_lengths.measure

    def told(maker, count):
        print("measured", maker.part, flush=True)
        return measure(maker, count)

    row_lengths.measure = told


def main(data: str, folder: str, steps: str, pause: str, stage: str, *changed: str) -> None:
    """Reads up to STEPS batches, with a pause of so many seconds after each."""
    join_processes(False)
    stand_in()
    changes = {"suite.data_dir": data, "mesh.data": -1, "device.count": len(jax.devices())}
    changes |= {f"video.{key}": value for key, value in VIDEO.items()}
    changes |= {"dialogue.clip_length": 1024, "dialogue.length": 512, "dialogue.packed": False}
    given = [f"{key}={value}" for key, value in changes.items()]
    config = load_config(f"{CONFIG}:smoke", [*given, *changed])
    workdir, suite = Workdir(Path(folder, "run")), Counting(data)
    with first_process_first("tokenizer"):
        if is_first() and not workdir.tokenizer.exists():
            texts = [*suite.texts(), "0123456789 .,:[]?"]
            save_tokenizer(train_tokenizer(texts, 2048, VIDEO["max_frames"] + 1), workdir.tokenizer)
    run = make_run(config, workdir, make_mesh(config.mesh), suite)
    print("epoch", rows_an_epoch(run, stage), flush=True)
    split = load_split(run, "train")
    if stage == "warm_up":
        batches, update = prepare_clips(run, split, {})
    else:
        params = init_params(run.model, jax.random.key(0))
        batches, update = prepare_dialogues(stage, run, split, params)
    READ.clear()
    place, done = workdir.path / "place.json", 0
    if place.exists():
        done, state = json.loads(place.read_text())
        batches.set_state(state)
    for step in range(done, int(steps)):
        batch = next(batches)
        print("batch", step, *digests(batch), flush=True)
        print("step", step, *gather(update({}, batch)[1]).tolist(), flush=True)
        if is_first():
            write_text(place, json.dumps([step + 1, batches.get_state()]))
        time.sleep(float(pause))
    print("read", len(READ), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
