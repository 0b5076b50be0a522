"""Stores a bank and puts a batch of it on the mesh, as one of several processes.

python -m tests.distributed.bank_program FOLDER DELAY; prints what this process encoded and read.
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from medscope_jax.bank import put_videos
from medscope_jax.bank.bank_store import StoredTokens
from medscope_jax.config import load_config
from medscope_jax.dialogue import train_tokenizer
from medscope_jax.distributed import batch_shardings, make_mesh
from medscope_jax.distributed.multihost import join_processes
from medscope_jax.models import init_params
from medscope_jax.training import split_bank as bank_room
from medscope_jax.training.from_config import make_layout, with_vocabulary
from medscope_jax.training.run import VideoSplit
from medscope_jax.video import Video

CPU = Path(__file__).resolve().parent.parent.parent / "tpu_configs" / "cpu.py"
LENGTHS = (200, 30, 90, 1, 150, 60, 77, 201)
PLACES = (2, 5, 7, 0)


def main(folder: str, delay: str) -> None:
    join_processes(False)
    config = load_config(f"{CPU}:smoke", ["video.stored_bank=float32"])
    model = with_vocabulary(config.model, 512)
    tokenizer, mesh = train_tokenizer(["where?"] * 5, 600, 10), make_mesh({"data": -1})
    run = SimpleNamespace(config=config, folder=Path(folder), mesh=mesh, model=model)
    run.tokenizer, run.layout = tokenizer, make_layout(config, model)
    rng, videos = np.random.default_rng(0), []
    for length in LENGTHS:
        frames = rng.integers(0, 256, (length, 28, 56, 3), np.uint8)
        videos.append(Video(frames, np.arange(float(length)), float(length)))
    split = VideoSplit(videos, {f"v{place}": place for place in range(len(videos))})
    encoded, build = [], bank_room.build_videos

    def build_late(folder, sources, wanted, *rest):
        encoded.extend(sorted(wanted))
        time.sleep(float(delay) * jax.process_index())  # the others wait for the last one
        build(folder, sources, wanted, *rest)

    bank_room.build_videos = build_late
    bank = bank_room.split_bank(run, init_params(model, jax.random.key(0)), split, "test")
    read, read_tokens = [], StoredTokens.read
    StoredTokens.read = lambda self, video, *a: read.append(video) or read_tokens(self, video, *a)
    batch = put_videos(bank, np.array(PLACES), mesh, batch_shardings)
    pieces = [np.asarray(shard.data) for shard in batch.tokens.addressable_shards]
    sums = [float(piece.astype(np.float64).sum()) for piece in pieces]
    print(json.dumps({"encoded": encoded, "read": sorted(set(read)), "sums": sums}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
