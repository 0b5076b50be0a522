"""A suite of many videos for benchmarks/scale.py, written without decoding or encoding anything.

Every frame is one of a few pictures, every token of the stored bank a zero; all else (files, rows,
listings, descriptions, checksums) is what the builders and medscope_jax.encode would write.
"""

import dataclasses
import json
import os
import random
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank.bank_build import build_bank
from medscope_jax.config import load_config
from medscope_jax.data.open_suite import open_suite
from medscope_jax.dialogue import protocol, save_tokenizer, train_tokenizer
from medscope_jax.encode import suite_sources
from medscope_jax.models import init_params
from medscope_jax.training.from_config import make_layout, with_vocabulary
from medscope_jax.training.run import ENCODE_FRAMES
from medscope_jax.training.split_bank import bank_folder, preprocessing, tower_hash
from tfds_builders import stored_videos
from tfds_builders.build import build

CPU = Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py"
HOUR = 3600  # frames of one video in a thousand; the others have 10 to 40
_WORDS = ["lens", "capsule", "forceps", "fluid", "duct", "clipped", "divided", "smoke", "bleeds"]


def config_of(folder: Path):
    """The config of whoever reads the suite in a folder."""
    changes = [
        f"suite.data_dir={folder / 'data'}",
        f"video.max_frames={HOUR}",
        "video.stored_bank=bfloat16",
        "dialogue.vocab_size=8192",
        "warm_up.batch_size=32",
        "cold_start.batch_size=32",
    ]
    return load_config(f"{CPU}:smoke", changes)


def first_params(config, model) -> dict:
    """The parameters whose tower made the stored bank."""
    return init_params(model, jax.random.key(config.seed))


def frames_of(video: int) -> int:
    """Frames of the suite's video of this number."""
    return HOUR if video % 1000 == 99 else 10 + video * 7 % 31


def write_suite(folder: Path, videos: int) -> None:
    """A data folder of so many training videos, each with a caption and a trajectory; its bank."""
    manual = folder / "manual"
    (manual / "videos").mkdir(parents=True)
    rng, config = random.Random(0), config_of(folder)
    size = config.video.height, config.video.width
    with open(manual / "rows.jsonl", "w") as lines:
        for video in range(videos + 1):
            name = f"v{video:06d}.mp4"
            (manual / "videos" / name).write_bytes(f"video {video}".encode())
            for row in _rows(rng, name, video, "train" if video < videos else "test"):
                lines.write(json.dumps(row) + "\n")
    section = {"fps": 1.0, "height": size[0], "width": size[1], "max_frames": HOUR}
    source = {"name": "own", "reader": "plain", "annotations": "rows.jsonl", "videos": "videos"}
    (manual / "suite.json").write_text(json.dumps({"video": section, "sources": [source]}))

    pictures = _pictures(size)

    def drawn(video, settings):
        count = frames_of(int(video.path.stem[1:]))
        frames = np.empty(count, object)
        frames[:] = [pictures[i % len(pictures)] for i in range(count)]
        told = {"id": video.id, "source": video.source, "split": video.split, "notes": []}
        times = np.arange(count, dtype=np.float64)
        return told | {"duration": float(count), "times": times, "frames": frames}

    stored_videos._decode = drawn
    for name in ("clinvideo_frames", "clinvideo_suite"):
        build(name, manual, folder / "data", spread=map, quiet=True)
    _write_bank(folder, config)


def _rows(rng: random.Random, video: str, number: int, split: str) -> list[dict]:
    def say(count: int) -> str:
        return " ".join(rng.choices(_WORDS, k=count))

    length = frames_of(number)
    start = rng.randrange(0, max(1, length - 8))
    window = [float(start), float(start + 5)]
    known = {"video": video, "split": split}
    asked = {"question": say(8) + "?", "task": "vqa", "answer": say(3), "spans": [window]}
    call = f"<think>{say(8)}</think>{protocol.crop_call(*window)}"
    answer = f"<think>{say(8)}</think><answer>{asked['answer']}</answer>"
    if split == "test":
        return [known | asked | {"part": "eval"}]
    return [
        known | {"part": "cap", "window": window, "answer": say(12)},
        known | asked | {"part": "vcot", "turns": [call, answer]},
        known | asked | {"part": "rl"},
    ]


def _pictures(size: tuple[int, int]) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    for _ in range(16):
        small = rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)
        picture = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
        found.append(cv2.imencode(".jpg", picture)[1].tobytes())
    return found


def _write_bank(folder: Path, config) -> None:
    """The stored bank of the training videos and the tokenizer, in the folder of a run."""
    tokenizer = train_tokenizer([" ".join(_WORDS) + "0123456789"] * 8, 8192, HOUR + 1)
    (folder / "run").mkdir()
    save_tokenizer(tokenizer, folder / "run" / "tokenizer.model")
    model = with_vocabulary(config.model, tokenizer.vocab_size)
    layout = make_layout(config, model)
    shape = (ENCODE_FRAMES, layout.tokens_per_frame, model.text.hidden_size)
    zeros, size = np.zeros(shape, jnp.bfloat16), (config.video.height, config.video.width, 3)

    def unseen(start: int, stop: int) -> np.ndarray:
        return np.zeros((stop - start, *size), np.uint8)

    os.fsync = lambda descriptor: None  # a benchmark's files may be lost
    sources = suite_sources(open_suite(config, folder), "train")
    build_bank(
        bank_folder(folder / "run", "bfloat16"),
        (dataclasses.replace(source, read=unseen) for source in sources),
        lambda frames: zeros,
        ENCODE_FRAMES,
        preprocessing(config.video),
        tower_hash(model, first_params(config, model)["vision"]),
    )


if __name__ == "__main__":
    write_suite(Path(sys.argv[1]), int(sys.argv[2]))
