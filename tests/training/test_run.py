"""What a run shares with its plan."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.config import load_config
from medscope_jax.dialogue import train_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.training import run as run_room
from medscope_jax.training.programs import programs
from medscope_jax.training.run import Split, make_split_bank
from medscope_jax.video import Video

CPU = Path(__file__).resolve().parent.parent.parent / "tpu_configs" / "cpu.py"


def test_a_bank_is_encoded_by_the_planned_program(monkeypatch):
    """So many frames a call: what is planned is what runs."""
    config = load_config(f"{CPU}:smoke")
    planned = programs(config, make_mesh({}, jax.devices()[:1]))["encode"].arguments["frames"]
    calls = []

    def encode_frames(params, model, frames):
        calls.append(frames.shape)
        return jnp.zeros((frames.shape[0], 2, 4))

    monkeypatch.setattr(run_room, "encode_frames", encode_frames)
    layout = SimpleNamespace(frame_format="{frame}{time:.1f}", stamp_first=False)
    tokenizer = train_tokenizer(["where?"] * 5, 600, 10)
    run = SimpleNamespace(config=config, model=None, layout=layout, tokenizer=tokenizer)
    video = Video(np.zeros((5, 28, 56, 3), np.uint8), np.arange(5.0), 5.0)
    make_split_bank(run, {"vision": {}}, Split([video], {}))
    assert calls == [planned.shape] and planned.dtype == jnp.uint8
