"""Building and reading a suite of recordings: python -m benchmarks.suite [--json FILE]

Draws recordings (mp4, MPEG-4, one scene a second), and then, in one run on the same files:

  opencv      OpenCV alone: grab every frame, retrieve and resize those at the bank rate
  build       clinvideo_frames in this process: hash, decode, JPEG, ArrayRecord
  workers     the same in one and in two processes that have been started before
  reading     training batches of stage 1 made of the built suite, one thread: "kept" with the
              videos' frames in memory, as training keeps those of a small suite, "disk" with each
              window read and decoded anew, as those of others; beside them the step that a batch
              feeds (tpu_configs/cpu.py's, this machine)

FFmpeg decodes in one thread everywhere, so that processes are compared and not its threads; in this
process, "build" converts pictures in another thread, a worker does both in one. The first two
alternate, so that a slow moment of the machine hits both; medians are reported. Run it on an
otherwise idle machine.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.suite_reading import CONFIG, measure_reading
from benchmarks.trained import machine
from medscope_jax.config import ConfigError, load_config, parse_arguments, run_main
from medscope_jax.data.listing import read_listing
from medscope_jax.distributed import check_device
from medscope_jax.metrics import write_results
from medscope_jax.workers import Spread, workers
from tfds_builders.build import build

FPS = 25
BANK = {"fps": 1.0, "height": 28, "width": 56, "max_frames": 3600}
# Each bound with what must hold of the number.
BOUNDS = {
    "build_to_opencv": (1.0, "at least"),
    "two_processes_to_one": (1.7, "at least"),
    "kept_to_step": (0.05, "at most"),
}


def draw(manual: Path, videos: int, seconds: int, size: tuple[int, int]) -> list[Path]:
    """Writes a manual folder: recordings of height x width pixels, and a caption a 10 seconds."""
    folder = manual / "videos"
    folder.mkdir(parents=True)
    paths, rows = [], []
    for number in range(videos):
        rng = np.random.default_rng(number)
        paths.append(folder / f"v{number}.mp4")
        writer = cv2.VideoWriter(str(paths[-1]), cv2.VideoWriter_fourcc(*"mp4v"), FPS, size[::-1])
        for _ in range(seconds):
            scene = cv2.resize(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8), size[::-1])
            for shift in range(FPS):
                writer.write(np.roll(scene, 2 * shift, axis=1))
        writer.release()
        for start in range(0, seconds - 10, 10):
            row = {"video": paths[-1].name, "part": "cap", "split": "train"}
            row |= {"window": [start, start + 10], "answer": f"Scene {start // 10} of the case."}
            rows.append(json.dumps(row))
    (manual / "rows.jsonl").write_text("\n".join(rows))
    source = {"name": "drawn", "reader": "plain", "annotations": "rows.jsonl", "videos": "videos"}
    (manual / "suite.json").write_text(json.dumps({"video": BANK, "sources": [source]}))
    return paths


def opencv_alone(paths: Sequence[Path]) -> int:
    """Decodes and resizes what the bank needs, in the shortest loop; native frames decoded."""
    decoded = 0
    for path in paths:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        while capture.grab():
            if decoded % FPS == 0:
                image = capture.retrieve()[1]
                cv2.resize(image, (BANK["width"], BANK["height"]), interpolation=cv2.INTER_AREA)
            decoded += 1
        capture.release()
    return decoded


def build_frames(manual: Path, spread: Spread) -> None:
    """Builds the frames of all recordings from nothing."""
    with tempfile.TemporaryDirectory() as data:
        build("clinvideo_frames", manual, data, spread=spread, quiet=True)


def seconds_of(function: Callable, *arguments) -> float:
    """Wall seconds of one call."""
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def measure(manual: Path, paths: Sequence[Path], repeats: int, batches: int) -> dict:
    """All numbers; see the module's words."""
    os.environ["OPENCV_FFMPEG_THREADS"] = "1"  # OpenCV reads it when the first video is opened
    native = opencv_alone(paths)
    build_frames(manual, map)  # imports and caches
    alone, built, spread_over = [], [], {1: [], 2: []}
    for _ in range(repeats):
        alone.append(seconds_of(opencv_alone, paths))
        built.append(seconds_of(build_frames, manual, map))
    for processes in spread_over:
        with workers(processes, here=False) as spread:
            list(spread(time.sleep, [1.0] * processes))  # every process is there
            build_frames(manual, spread)
            for _ in range(repeats):
                spread_over[processes].append(seconds_of(build_frames, manual, spread))
    seconds = {"opencv": alone, "build": built}
    seconds |= {f"workers_{processes}": times for processes, times in spread_over.items()}
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        "videos": len(paths),
        "native_frames": native,
        "repeats": repeats,
        "seconds": seconds,
        "native_frames_per_second": {name: native / time for name, time in middle.items()},
        "build_to_opencv": middle["opencv"] / middle["build"],
        "two_processes_to_one": middle["workers_1"] / middle["workers_2"],
    }
    with tempfile.TemporaryDirectory() as data:
        build("clinvideo_suite", manual, data, config="cap", spread=map, quiet=True)
        stored = read_listing(next(Path(data, "clinvideo_frames").glob("*/")))
        result["bank_frames"] = sum(video.num_frames for video in stored.values())
        result |= measure_reading(data, batches)
    return result


def print_report(result: dict) -> None:
    """Rates and bounds as tables."""
    rates = Table("side", "native frames a second")
    for name, rate in result["native_frames_per_second"].items():
        rates.add_row(name, f"{rate:,.0f}")
    bounds = Table("ratio", "measured", "bound", "")
    for name, (bound, how) in BOUNDS.items():
        holds = result[name] >= bound if how == "at least" else result[name] <= bound
        bounds.add_row(name, f"{result[name]:.3f}", f"{how} {bound}", "" if holds else "missed")
    for table in (rates, bounds):
        Console().print(table)


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--videos": {"type": int, "default": 8, "help": "recordings (8)"},
            "--seconds": {"type": int, "default": 60, "help": "seconds of each (60)"},
            "--height": {"type": int, "default": 480, "help": "pixels (480); 4:3"},
            "--repeats": {"type": int, "default": 5, "help": "timed runs of each (5)"},
            "--batches": {"type": int, "default": 10, "help": "batches to read and train on (10)"},
            "--json": {"metavar": "FILE", "help": "where to write all numbers"},
        },
    )
    if min(flags.videos, flags.repeats, flags.batches) < 1 or flags.seconds < 20:
        raise ConfigError("--videos, --repeats and --batches must be positive, --seconds over 19")
    check_device(load_config(str(CONFIG)).device)
    place = machine()
    with tempfile.TemporaryDirectory() as folder:
        manual = Path(folder, "manual")
        size = (flags.height, flags.height * 4 // 3)
        paths = draw(manual, flags.videos, flags.seconds, size)
        result = measure(manual, paths, flags.repeats, flags.batches)
    result = {"machine": place, "size": list(size), "seconds_each": flags.seconds} | result
    print_report(result)
    if flags.json:
        write_results(flags.json, result)
        print(f"written to {flags.json}")


if __name__ == "__main__":
    run_main(main)
