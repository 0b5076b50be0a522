"""Batches in a short and a long part, on any number of processes: python -m ... STEPS

A line a step: the rows of the first part (of all, where the batch stays whole), and a number made
of every token of the batch, by a program of the mesh that runs on all processes together.
"""

import functools
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from medscope_jax.data.row_lengths import RowLengths
from medscope_jax.dialogue import Role
from medscope_jax.distributed import make_mesh
from medscope_jax.distributed.multihost import gather, join_processes
from medscope_jax.training import sft
from medscope_jax.training.length_bucketing import LengthBuckets

BATCH, LONG, SHORT = 16, 184, 56
# One row in nine is long; so many short ones are sometimes not in each half of a batch.
PARTS = LengthBuckets(12, SHORT, 24)


def example(positions, number: int) -> dict:
    """A record's row: its tokens are made of its number."""
    there = np.arange(LONG) < positions[number]
    tokens = np.where(there, np.arange(LONG) * (number + 1) % 101, 0).astype(np.int32)
    role = np.where(there, int(Role.GENERATED), int(Role.PADDING)).astype(np.int32)
    return {"tokens": tokens, "visual_index": np.full(LONG, -1, np.int32), "role": role}


@jax.jit
def step(state, batch):
    """Stands in for the supervised step: (state, what to print)."""
    parts = batch if isinstance(batch, tuple) else (batch,)
    weighted = [part["tokens"] * (1 + jnp.arange(part["tokens"].shape[1])) for part in parts]
    total = sum(jnp.sum(each, dtype=jnp.int32) for each in weighted)
    return state, jnp.stack([jnp.int32(len(parts[0]["tokens"])), total])


def main(steps: str) -> None:
    """Reads so many batches of 90 records, cuts them and adds them up."""
    join_processes(False)
    sft.make_sft_step = lambda *_: step
    stage = {"steps": 1000, "batch_size": BATCH, "micro_batch": 0}
    config = ConfigDict({"seed": 3, "cold_start": stage})
    run = SimpleNamespace(config=config, mesh=make_mesh({"data": -1}), model=None, layout=None)
    numbers = np.arange(90)
    positions = np.where(numbers % 9, 40 + numbers * 7 % 17, 180).astype(np.int32)
    lengths = RowLengths(positions, positions // 3, 0 * positions)
    print("planned", sft._plan_split(run, "cold_start", lengths, LONG), flush=True)
    update = sft._update(run, "cold_start", 64, PARTS)
    beside = sft._beside(run, "cold_start", lengths, PARTS)
    batches = sft._batches(
        run, "cold_start", len(positions), functools.partial(example, positions), beside
    )
    for number in range(int(steps)):
        _, found = update({}, next(batches))
        print("step", number, *gather(found).tolist(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
