"""What a run shares with its plan."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.config import load_config
from medscope_jax.dialogue import train_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.models import encode_frames, init_params
from medscope_jax.planning.programs import programs
from medscope_jax.training import run as run_room
from medscope_jax.training.from_config import make_layout, with_vocabulary
from medscope_jax.training.run import VideoSplit, load_split, make_split_bank
from medscope_jax.video import Video

CPU = Path(__file__).resolve().parent.parent.parent / "tpu_configs" / "cpu.py"


def test_a_bank_is_encoded_by_the_planned_program(monkeypatch):
    """So many frames a call: what is planned is what runs."""
    config = load_config(f"{CPU}:smoke")
    planned = programs(config, make_mesh({}, jax.devices()[:1]))["encode"].arguments["frames"]
    calls = []

    def encode(params, frames):
        calls.append(frames.shape)
        return jnp.zeros((frames.shape[0], 2, 4))

    monkeypatch.setattr(run_room, "make_encode", lambda model: encode)
    layout = SimpleNamespace(frame_format="{frame}{time:.1f}", stamp_first=False)
    tokenizer = train_tokenizer(["where?"] * 5, 600, 10)
    run = SimpleNamespace(config=config, mesh=None, model=None, layout=layout, tokenizer=tokenizer)
    video = Video(np.zeros((5, 28, 56, 3), np.uint8), np.arange(5.0), 5.0)
    make_split_bank(run, {"vision": {}}, VideoSplit([video], {}))
    assert calls == [planned.shape] and planned.dtype == jnp.uint8


def test_native_pairs_share_a_bank_frame(monkeypatch):
    """Half as many bank frames, each as the vision tower reads two frames; planned alike."""
    config = load_config(f"{CPU}:smoke", ["video.native_pairs=true"])
    frames = np.random.default_rng(0).integers(0, 255, (5, 28, 56, 3), np.uint8)
    video = Video(frames, np.arange(5.0), 5.0)
    monkeypatch.setattr(run_room, "ENCODE_FRAMES", 4)
    model = with_vocabulary(config.model, 512)
    layout = make_layout(config, model)
    tokenizer = train_tokenizer(["where?"] * 5, 600, 10)
    run = SimpleNamespace(
        config=config,
        mesh=None,
        model=model,
        layout=layout,
        tokenizer=tokenizer,
        suite=SimpleNamespace(videos=lambda _: [video], outlines=lambda _: {"a": None}),
    )
    params = init_params(model, jax.random.key(0))
    bank = make_split_bank(run, params, load_split(run, "train")).padded()
    assert bank.length.tolist() == [3] and bank.times[0, :3].tolist() == [0, 2, 4]
    pairs = np.stack([frames[0:2], frames[2:4], frames[[4, 4]]])
    whole = encode_frames(params, model, pairs)  # as clips of two frames, all at once
    np.testing.assert_allclose(bank.tokens[0, :3], whole, atol=1e-5)
    alone = encode_frames(params, model, frames[::2])
    assert np.abs(np.asarray(whole - alone))[:2].max() > 1e-3
    planned = programs(config, make_mesh({}, jax.devices()[:1]))["encode"].arguments["frames"]
    assert planned.shape[1:] == (2, 28, 56, 3)
