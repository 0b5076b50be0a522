"""How soon a run of very many records has its first batch, and how much memory that takes.

    python -m benchmarks.scale_start FOLDER [--videos 55803] [--records 889000]

A small suite is built (clips of ten seconds, tiny frames) and multiplied shard by shard, its ids
renumbered, in FOLDER. Stage 1 of the CPU config is then started on it twice, each time in a fresh
process: at the first start rows are measured, at the second their lengths are there. A line of JSON
each: seconds of every part, the peak resident memory of the process, and its processor seconds
(without those of workers that measure) to the first batch.
"""

import json
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from array_record.python import array_record_module as array_record

from medscope_jax.arguments import Parser
from medscope_jax.config import load_config
from medscope_jax.data.built import SEAL, newest, seal
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.listing import LISTING, TIMES
from medscope_jax.dialogue import save_tokenizer, train_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import run_main
from medscope_jax.training.run import load_split, make_run
from medscope_jax.training.sft import prepare_clips
from medscope_jax.training.workdir import Workdir
from tfds_builders import stored_videos
from tfds_builders.build import build

SMALL, FRAMES, HEIGHT, WIDTH = 100, 10, 28, 56
# Data sets and rows of their files, as the builders write them: a read takes the longer, the more
# rows a file has.
DATA_SETS = {"clinvideo_frames": 64, "clinvideo_suite/cap": 4096, "clinvideo_suite/qa": 4096}
WORDS = [
    "the",
    "lens",
    "capsule",
    "is",
    "opened",
    "with",
    "forceps",
    "while",
    "fluid",
    "is",
    "aspirated",
    "and",
    "the",
    "instrument",
    "retracts",
    "tissue",
    "near",
    "the",
    "wall",
    "of",
    "duct",
    "after",
    "which",
    "surgeon",
    "clips",
    "artery",
    "then",
    "divides",
    "it",
]


def rows(records: int, draw: random.Random):
    """Captions and questions, 5 to 2 as in the paper, of the small suite's videos."""

    def say(count: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(count))

    for number in range(records):
        start = round(draw.uniform(0, 5), 1)
        row = {"video": f"v{number % SMALL:05d}.mp4", "split": "train"}
        row |= {"window": [start, start + 4.0], "answer": say(draw.randint(20, 90))}
        if number % 7 < 5:
            yield row | {"part": "cap"}
        else:
            yield row | {"part": "qa", "question": say(12), "task": "vqa", "answer": say(4)}


def build_small(folder: Path, records: int) -> None:
    """A suite of SMALL videos that are not decoded."""
    manual = folder / "manual"
    (manual / "videos").mkdir(parents=True)
    for number in range(SMALL):
        (manual / "videos" / f"v{number:05d}.mp4").write_bytes(b"video %d" % number)
    lines = [json.dumps(row) for row in rows(records, random.Random(0))]
    (manual / "rows.jsonl").write_text("\n".join(lines) + "\n")
    video = {"fps": 1.0, "height": HEIGHT, "width": WIDTH, "max_frames": 240}
    source = {"name": "own", "reader": "plain", "annotations": "rows.jsonl", "videos": "videos"}
    (manual / "suite.json").write_text(json.dumps({"video": video, "sources": [source]}))
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()

    def decode(video, settings):
        frames = np.empty(FRAMES, object)
        frames[:] = [jpeg] * FRAMES
        kept = {"id": video.id, "source": video.source, "split": video.split, "notes": []}
        times = np.arange(FRAMES, dtype=np.float64)
        return kept | {"duration": float(FRAMES), "times": times, "frames": frames}

    stored_videos._decode = decode
    build("clinvideo_suite", manual, folder / "data", spread=map, quiet=True)


def multiply(folder: Path, times: int, rows_a_file: int) -> int:
    """Writes a data set's only split `times` times over, each time about other videos.

    A stored record stays as long as it is. Returns how many rows there are then.
    """
    info = json.loads((folder / "dataset_info.json").read_text())
    (split,) = info["splits"]
    found = []
    for path in sorted(folder.glob("*.array_record*")):
        reader = array_record.ArrayRecordReader(str(path))
        found += reader.read_all()
        reader.close()
        path.unlink()
    total, size = times * len(found), 0
    starts = range(0, total, rows_a_file)
    for file, start in enumerate(starts):
        name = f"{info['name']}-{split['name']}.array_record-{file:05d}-of-{len(starts):05d}"
        writer = array_record.ArrayRecordWriter(str(folder / name), "group_size:1")
        for number in range(start, min(start + rows_a_file, total)):
            copy, record = divmod(number, len(found))
            writer.write(_renumbered(found[record], copy))
        writer.close()
        size += (folder / name).stat().st_size
    lengths = [str(min(rows_a_file, total - start)) for start in starts]
    split |= {"shardLengths": lengths, "numBytes": str(size)}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    if (folder / LISTING).exists():
        lines, seconds = (folder / LISTING).read_bytes(), (folder / TIMES).read_bytes()
        copies = (_renumbered(lines, copy) for copy in range(times))
        (folder / LISTING).write_bytes(b"".join(copies))
        (folder / TIMES).write_bytes(seconds * times)
    (folder / SEAL).unlink()
    seal(folder)
    return total


def _renumbered(data: bytes, copy: int) -> bytes:
    """With the copy's number in place of the first digits of each video's id, which is a hash."""
    return re.sub(rb"own-[0-9a-f]{6}", b"own-%06x" % copy, data)


def start(folder: Path, workdir: Path) -> dict:
    """What the first batch of stage 1 takes, part by part: seconds, and MiB of this process."""
    begin = last = time.monotonic()
    told = {}

    def note(name: str) -> None:
        nonlocal last
        told[f"seconds_{name}"] = round(time.monotonic() - last, 2)
        last = time.monotonic()

    overrides = [f"suite.data_dir={folder / 'data'}", "video.max_frames=240"]
    overrides += ["dialogue.clip_length=1024"]
    config = load_config("tpu_configs/cpu.py", overrides)
    suite, place = ClinvideoReader(folder / "data"), Workdir(workdir)
    if not place.tokenizer.exists():
        texts = [text for _, text in zip(range(2000), suite.texts(), strict=False)]
        save_tokenizer(train_tokenizer(texts, config.dialogue.vocab_size, 241), place.tokenizer)
    run = make_run(config, place, make_mesh({}, jax.devices()[:1]), suite)
    note("run")
    split = load_split(run, "train")
    note("videos")
    batches, _ = prepare_clips(run, split, {})
    note("rows")
    told["shape"] = list(next(batches)["tokens"].shape)
    note("batch")
    count, worked = 50, time.process_time()
    told["processor_seconds_to_it"] = round(worked, 1)
    for _ in range(count):
        next(batches)
    told["ms_a_batch"] = round((time.monotonic() - last) / count * 1e3, 1)
    told["processor_ms_a_batch"] = round((time.process_time() - worked) / count * 1e3, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return told | {"seconds": round(time.monotonic() - begin, 2), "peak_mib": round(peak)}


def main(arguments: Sequence[str]) -> None:
    """Builds the suite, unless it is there, and starts on it twice."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=55_803)
    parser.add_argument("--records", type=int, default=889_000)
    parser.add_argument("--start", metavar="WORKDIR", type=Path, help="start alone, here")
    flags = parser.parse_args(arguments)
    if flags.start is not None:
        print(json.dumps(start(flags.folder, flags.start)))
        return
    if not (flags.folder / "multiplied").exists():
        times = -(-flags.videos // SMALL)
        build_small(flags.folder, -(-flags.records // times))
        for name, rows_a_file in DATA_SETS.items():
            found = multiply(newest(flags.folder / "data" / name), times, rows_a_file)
            print(name, found, flush=True)
        (flags.folder / "multiplied").touch()
    for number in range(2):
        begin = time.monotonic()
        program = [sys.executable, "-m", "benchmarks.scale_start", str(flags.folder)]
        subprocess.run([*program, "--start", str(flags.folder / "run")], check=True)
        print(f"start {number + 1}: {time.monotonic() - begin:.1f} s in all", flush=True)


if __name__ == "__main__":
    run_main(main)
