"""Keys to lower: of the right program, and with values that a run takes."""

import dataclasses
import re

import jax
import pytest

from medscope_jax.config import load_config
from medscope_jax.distributed import GIB, Report, make_mesh
from medscope_jax.planning import advice
from medscope_jax.planning.programs import programs
from medscope_jax.training.config_checks import check_config
from tests.planning.plan_cases import SMALL, V5E

LARGE = [
    *SMALL,
    "dialogue.preview_frames=8",
    "dialogue.length=512",
    "rollout.slots=2",
    "mesh.fsdp=4",
]
REPORT = Report(
    chips=8,
    device_kind="v5e",
    arguments_bytes={"parameters": GIB},
    outputs_bytes=0,
    aliased_bytes=0,
    temporaries_bytes=9 * GIB,
    code_bytes=0,
    total_bytes=int(16.2 * GIB),
    hbm_bytes=int(15.75 * GIB),
    fits=False,
    estimated=False,
    compile_seconds=1.0,
    message="",
    trace=None,
    text="",
    assignment="",
)


def config_and_mesh(*changes):
    config = load_config(f"{V5E}:topology=2x4", [*LARGE, *changes])
    return config, make_mesh(config.mesh, jax.devices()[:8], kv_heads=4)


def told(name, *changes, **sizes):
    config, mesh = config_and_mesh(*changes)
    return advice(name, config, mesh, dataclasses.replace(REPORT, **sizes))


@pytest.mark.parametrize(
    "name, keys",
    [
        (
            "rollout",
            "rollout.slots=1 rollout.kv_dtype=int8 rollout.prefill_tokens=512 dialogue.length=384",
        ),
        ("ga_grpo", "mesh.context=2 mesh.fsdp=2 dialogue.length=384"),
        (
            "warm_up",
            "warm_up.micro_batch=64 mesh.context=2 mesh.fsdp=2 dialogue.clip_length=192",
        ),
        ("sft", "cold_start.micro_batch=64 mesh.context=2 mesh.fsdp=2 dialogue.length=384"),
    ],
)
def test_each_program_s_own_keys(name, keys):
    line = told(name)
    assert line.startswith(f"{name} needs 16.20 GiB, 102.9 % of a chip's 15.75: try ")
    assert re.findall(r"--config\.(\S+=\S+)", line) == keys.split() and "\n" not in line
    assert "device.topology" in line


@pytest.mark.parametrize("name", ["rollout", "ga_grpo", "warm_up", "sft"])
def test_a_run_takes_each_of_the_values(name):
    for changes in re.findall(r"(?:--config\.\S+ ?)+", told(name)):
        config, mesh = config_and_mesh(*changes.replace("--config.", "").split())
        check_config(config, mesh, None)
        programs(config, mesh)


def test_what_is_as_low_as_it_can_be_is_not_named():
    line = told("sft", "cold_start.batch_size=8", "mesh.fsdp=1", "mesh.data=8")
    assert "micro_batch" not in line and "mesh.context" not in line
    assert "slots" not in told("rollout", "rollout.slots=1")
    assert "micro_batch" not in told("ga_grpo", "rl.micro_batch=16")


def test_weights_and_videos_that_fill_a_chip_come_first():
    heavy = {"arguments_bytes": {"parameters": 9 * GIB, "optimizer": GIB}}
    assert "try --config.model.lora.base=int8 (now bfloat16)" in told("sft", **heavy)
    assert "lora.rank=64" in told("sft", "model.lora.rank=0", **heavy)
    assert "warm_up.train_vision=False" in told("warm_up", **heavy)
    videos = {"arguments_bytes": {"bank": 5 * GIB}}
    assert "try --config.rl.parts=2 (now 1)" not in told("rollout", **videos)  # 4 do not split
    assert "try --config.video.max_frames=4 (now 8)" in told("ga_grpo", **videos)
