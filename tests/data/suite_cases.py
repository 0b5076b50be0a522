"""A tiny suite of either kind: a phantom suite's configuration, and a manual folder to build."""

import json
from pathlib import Path

import cv2
import numpy as np

from medscope_jax.phantom.suite_config import SuiteConfig

TINY = SuiteConfig(
    train_ophthalmic=1,
    train_endoscopic=1,
    validation_ophthalmic=1,
    validation_endoscopic=1,
    test_ophthalmic=1,
    test_endoscopic=1,
    test_laparoscopic=1,
    captions_per_video=3,
)
VIDEO = {"fps": 2.0, "height": 28, "width": 56, "max_frames": 60}
CALL = (
    "<think>I look.</think><tool_call>"
    '{"name": "crop_video", "arguments": {"video_path": "video.mp4", "start_time": %.1f, '
    '"end_time": %.1f}}</tool_call>'
)
END = "<think>I see.</think><answer>[%.1f, %.1f]</answer>"


def rows():
    """Two videos to learn from and one to be asked about; no part cot, no part passive."""
    for video in ("a", "b"):
        for number in range(4):
            start, end = float(number), number + 1.5
            span = {"spans": [[start, end]]}
            question = f"When does change {number} of {video} take place?"
            known = {"video": f"{video}.mp4", "split": "train", "question": question}
            known |= {"task": "grounding", "answer": f"[{start}, {end}]"}
            turns = [CALL % (start, end), END % (start, end)]
            yield known | {"part": "qa", "window": [start, end]}
            yield known | {"part": "vcot", "turns": turns} | span
            yield known | {"part": "rl"} | span
    for number in range(2):
        span = {"spans": [[number, number + 2.0]], "answer": f"[{number}.0, {number + 2}.0]"}
        known = {"video": "c.mp4", "split": "test", "part": "eval", "task": "grounding"}
        yield known | {"question": f"When does change {number} of c take place?"} | span


def write_manual(manual: Path) -> None:
    """Three recordings, the rows about them, and suite.json."""
    (manual / "videos").mkdir(parents=True)
    for seed, name in enumerate("abc"):
        write_video(manual / "videos" / f"{name}.mp4", seed)
    lines = [json.dumps(row) for row in rows()]
    (manual / "rows.jsonl").write_text("\n".join(lines) + "\n")
    source = {"name": "own", "reader": "plain", "annotations": "rows.jsonl", "videos": "videos"}
    (manual / "suite.json").write_text(json.dumps({"video": VIDEO, "sources": [source]}))


def write_video(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 4.0, (112, 56))
    for _ in range(32):  # eight seconds
        small = random.integers(0, 255, (2, 4, 3), np.uint8)
        writer.write(cv2.resize(small, (112, 56), interpolation=cv2.INTER_NEAREST))
    writer.release()
