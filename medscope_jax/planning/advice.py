"""Which keys of a config to change where a program does not fit its chip."""

import math
from collections.abc import Iterator

from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.distributed import GIB, Report
from medscope_jax.rollout import device_rollouts

_STAGES = {"warm_up": "warm_up", "sft": "cold_start", "ga_grpo": "ga_grpo"}  # of training programs
_LARGE = 0.25  # share of a chip from which one argument is worth a line


def advice(name: str, config: ConfigDict, mesh: Mesh, report: Report) -> str:
    """What a program needs of a chip, and the keys that lower it, each with a value that a run of
    this config takes; what lies on the chip all the time comes first, what is learned from last."""
    needs = f"{name} needs {report.total_bytes / GIB:.2f} GiB"
    if report.hbm_bytes:
        share = 100 * report.total_bytes / report.hbm_bytes
        needs += f", {share:.1f} % of a chip's {report.hbm_bytes / GIB:.2f}"
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    keys = list(_weights(name, config, shards, report))
    for key, now, value in _keys(name, config, mesh, shards):
        keys.append(f"--config.{key}={value} (now {now})")
    larger = "larger slice (device.topology)" if config.device.topology else "GPU with more memory"
    return f"{needs}: try {', '.join([*keys, f'or a {larger}'])}"


def _keys(
    name: str, config: ConfigDict, mesh: Mesh, shards: int
) -> Iterator[tuple[str, object, object]]:
    """(key, its value, a lower one) of what a program's temporaries grow with."""
    if name == "rollout":
        yield from _rollout_keys(config, mesh)
    elif name == "ga_grpo":
        least, now = shards * config.rl.group_size, config.rl.micro_batch
        if now > least:
            yield "rl.micro_batch", now, max(least, now // 2)
    elif name in _STAGES:
        section = config[_STAGES[name]]
        now = section.micro_batch or section.batch_size
        if now % (2 * shards) == 0 and section.batch_size % (now // 2) == 0:
            yield f"{_STAGES[name]}.micro_batch", now, now // 2
    if name in _STAGES:
        if not config.model.remat:
            yield "model.remat", False, True
        elif config.model.remat_policy != "full":
            yield "model.remat_policy", config.model.remat_policy, "full"
        if mesh.shape["fsdp"] % 2 == 0:  # a row's positions over more chips, weights over fewer
            now, fsdp = mesh.shape["context"], mesh.shape["fsdp"] // 2
            rest = "" if config.mesh.fsdp == -1 else f" --config.mesh.fsdp={fsdp}"
            yield "mesh.context", now, f"{2 * now}{rest}"
    if name in ("rollout", "ga_grpo", "sft"):
        yield "dialogue.length", config.dialogue.length, config.dialogue.length * 3 // 4
    elif name == "warm_up":
        yield "dialogue.clip_length", config.dialogue.clip_length, config.dialogue.clip_length // 2


def _rollout_keys(config: ConfigDict, mesh: Mesh) -> Iterator[tuple[str, object, object]]:
    section, questions = config.rollout, config.ga_grpo.batch_size // config.rl.parts
    rows = math.prod(device_rollouts(mesh, questions, config.rl.group_size))
    slots = min(section.slots or rows, rows)
    if slots > 1:
        yield "rollout.slots", section.slots, slots // 2
    if not section.kv_dtype:
        yield "rollout.kv_dtype", "''", "int8"
    if not section.prefill_tokens or section.prefill_tokens > 256:
        now = section.prefill_tokens
        yield "rollout.prefill_tokens", now, now // 2 if now else 512


def _weights(name: str, config: ConfigDict, shards: int, report: Report) -> Iterator[str]:
    """Keys that lower what lies on a chip before a program computes anything."""
    limit, sizes = report.hbm_bytes or math.inf, report.arguments_bytes
    if sizes.get("bank", 0) > _LARGE * limit:
        parts, frames = config.rl.parts, config.video.max_frames
        if name == "rollout" and config.ga_grpo.batch_size % (2 * parts * shards) == 0:
            yield f"--config.rl.parts={2 * parts} (now {parts})"
        yield f"--config.video.max_frames={frames // 2} (now {frames})"
    weights = sum(sizes.get(part, 0) for part in ("parameters", "optimizer"))
    if weights > 2 * _LARGE * limit:
        lora = config.model.lora
        if not lora.rank:
            yield "--config.model.lora.rank=64 (now 0: all weights train)"
        elif lora.base != "int8":
            yield f"--config.model.lora.base=int8 (now {lora.base})"
        if name == "warm_up" and config.warm_up.train_vision:
            yield "--config.warm_up.train_vision=False (now True)"
