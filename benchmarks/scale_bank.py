"""Bytes that one host reads for the 7B's batches: python -m benchmarks.scale_bank [--hosts N]

[--step SECONDS] [--batches N] [--folder DIR] [--json FILE]

Stage 2 at the size of the paper's: 128 conversations a step, drawn after its lengths
(benchmarks/paper_lengths.py), each about a video of its own, with 64 visual tokens of 3,584
bfloat16 a pair of frames. Their bank is written to DIR, about 4 GB, and taken out of the
page cache; then one host of N reads its share of each batch, as training does and no video twice,
first as fast as it can and then beside a stand-in for the step, which sleeps. Beside it stands how
fast the same files are read from the disk by nothing but read().

A host that reads its share within the step waits for nothing.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.input_wait import UNTIMED, waited
from benchmarks.paper_lengths import EPISODE_LENGTH, draw_conversations
from benchmarks.trained import machine
from medscope_jax.bank import HostBank
from medscope_jax.bank.bank_build import build_bank
from medscope_jax.bank.bank_key import Preprocessing
from medscope_jax.bank.bank_store import FrameSource, load_bank
from medscope_jax.config import parse_arguments, run_main
from medscope_jax.data.batches import make_batches
from medscope_jax.data.examples import dialogue_example
from medscope_jax.dialogue import CompactRow, Layout, Role
from medscope_jax.metrics import write_results
from medscope_jax.video import preview_indices
from medscope_jax.visible import shown

CONVERSATIONS = 128  # of a step, over all hosts
TOKENS, WIDTH = 64, 3584  # of a pair of frames at 7b
_SIZE = (14, 14, 3)  # of the frames, which nobody looks at
_ENCODED = 64  # pairs at a time


def write_bank(folder: Path, frames: np.ndarray) -> HostBank:
    """A stored bank of videos that have so many pairs each; noise, the same in every pair."""
    noise = np.random.default_rng(0).normal(size=(_ENCODED, TOKENS, WIDTH))
    tokens = noise.astype(ml_dtypes.bfloat16)

    def source(video: int, pairs: int) -> FrameSource:
        def read(start: int, stop: int) -> np.ndarray:
            return np.zeros((stop - start, *_SIZE), np.uint8)

        name = f"v{video:03d}"
        return FrameSource(name, 2.0 * np.arange(pairs), 2.0 * pairs, read, content=name)

    sources = [source(video, pairs) for video, pairs in enumerate(frames.tolist())]
    made_of = Preprocessing(*_SIZE[:2], (0.5,) * 3, (0.5,) * 3)
    key = build_bank(folder, sources, lambda _: tokens, _ENCODED, made_of, "noise").key
    return load_bank(folder, key, sources, lambda times: [[0]] * len(times))


def conversation(pairs: int, length: int) -> CompactRow:
    """One of `length` positions that shows so many pairs of its video, all that there are."""
    index = np.full(length, -1, np.int32)
    shown = preview_indices(pairs, pairs)[:, None] * TOKENS + np.arange(TOKENS)
    index[1 : 1 + shown.size] = shown.reshape(-1)
    role = np.where(np.arange(length) < length - 100, Role.PROMPT, Role.GENERATED)
    return CompactRow(np.ones(length, np.int32), index, role.astype(np.int8))


def measure(folder: Path, hosts: int, step: float, batches: int) -> dict[str, float]:
    """What the module says, of a host's `batches` timed batches."""
    rows = CONVERSATIONS // hosts
    count = rows * (UNTIMED + batches)
    drawn = draw_conversations("stage 2", 2 * count)
    frames, lengths = drawn.frames[:count], drawn.lengths[:count]
    bank = write_bank(folder, frames)
    layout = Layout(EPISODE_LENGTH, 256, 64, (8, 8), "{frame}{time:.1f}", 5)
    seen = int(frames.max()) * TOKENS

    def example(video: int) -> dict:
        row = conversation(int(frames[video]), int(lengths[video]))
        return dialogue_example(row, lambda index: bank.visual(video, index), layout, seen)

    needed = frames.mean() * rows * TOKENS * WIDTH * 2 / 2**20
    files, begin = _forgotten(folder), time.monotonic()
    disk = sum(map(_read_all, files)) / 2**20 / (time.monotonic() - begin)
    found = {"hosts": hosts, "rows": rows, "mb_a_batch": needed, "disk_mb_per_second": disk}
    for name, seconds in (("alone", 0.0), ("beside_step", step)):
        _forgotten(folder)
        stream = make_batches(range(count), example, rows, seed=0)
        timed = waited(stream, lambda _, seconds=seconds: time.sleep(seconds), batches)
        whole = timed["seconds"]
        found |= {f"{name}_mb_per_second": needed * batches / whole}
        found |= {f"{name}_{key}": value for key, value in timed.items()}
    return found


def _forgotten(folder: Path) -> list[Path]:
    """The folder's files, of which the page cache holds nothing any more."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return files


def _read_all(path: Path) -> int:
    total = 0
    with open(path, "rb", buffering=0) as file:
        while data := file.read(2**22):
            total += len(data)
    return total


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--hosts": {"default": 16, "type": int, "help": "that share a batch"},
            "--step": {"default": 1.0, "type": float, "help": "seconds of the stand-in step"},
            "--batches": {"default": 12, "type": int, "help": "timed batches"},
            "--folder": {"default": "", "help": "where the bank is written; default: temporary"},
            "--json": {"metavar": "FILE", "help": "where to write all numbers"},
        },
    )
    with tempfile.TemporaryDirectory(prefix="scale-", dir=flags.folder or None) as folder:
        found = measure(Path(folder), flags.hosts, flags.step, flags.batches)
    for name, value in found.items():
        print(f"{name} {value:.4g}")
    if flags.json:
        write_results(flags.json, {"bank": found, "machine": machine()})
        print(shown(f"written to {flags.json}"))


if __name__ == "__main__":
    run_main(main)
