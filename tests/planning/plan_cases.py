"""Configs to plan, and what tests of plans share."""

import importlib.util
from pathlib import Path

import pytest

V5E = str(Path(__file__).resolve().parent.parent.parent / "tpu_configs" / "v5e.py")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
# The v5e config, made small enough to compile in seconds.
SMALL = (
    "model.text.num_hidden_layers=2",
    "model.text.hidden_size=128",
    "model.text.mrope_section=(4, 2, 2)",
    "model.vision.depth=1",
    "model.vision.fullatt_block_indexes=(0,)",
    "video.height=28",
    "video.width=56",
    "video.max_frames=8",
    "dialogue.preview_frames=2",
    "dialogue.window_frames=2",
    "dialogue.length=192",
    "rollout.call_tokens=8",
    "rollout.turn_tokens=8",
    "rollout.prefill_rows=2",
    "rl.group_size=2",
    "rl.micro_batch=8",
    "ga_grpo.batch_size=8",
)
