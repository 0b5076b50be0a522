"""What sections of a config become: the model, the layouts, the rollout, the stages by name."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.dialogue import Layout
from medscope_jax.errors import UserError
from medscope_jax.models import ModelConfig, frame_grid, model_config
from medscope_jax.paths import to_path
from medscope_jax.rollout import RolloutConfig

STAGES = ("warm_up", "passive", "cold_start", "ga_grpo")
# The stage that each one learns from: the nearest of these that the run has.
BUILDS_ON = {"passive": "warm_up", "cold_start": "warm_up", "ga_grpo": "cold_start"}
# The name of each trained model in tables, and the stage that ends with it.
MODELS = {"passive": "passive", "sft": "cold_start", "rl": "ga_grpo"}


def chosen_stages(config: ConfigDict) -> tuple[str, ...]:
    """The stages that config.stages names, in the order in which they run.

    Raises:
        UserError: it names none, one twice, or something else.
    """
    names = config.stages.split(",")
    for name in names:
        if name not in STAGES or names.count(name) > 1:
            raise UserError(
                f"config.stages is {config.stages!r}; use some of {','.join(STAGES)}, each once, "
                "with commas between them"
            )
    return tuple(name for name in STAGES if name in names)


def before(stage: str) -> tuple[str, ...]:
    """The stages that one may learn from, the nearest first."""
    earlier = BUILDS_ON.get(stage)
    return (earlier, *before(earlier)) if earlier else ()


def check_start(config: ConfigDict, stage: str) -> None:
    """Refuses a stage after warm_up that nothing comes before: it can't learn from random weights.

    Raises:
        UserError: neither model.checkpoint nor start_from names weights.
    """
    if stage != "warm_up" and not config.model.checkpoint and not config.start_from:
        raise UserError(
            f"config.stages is {config.stages!r}, so {stage} has no model to start from: name one "
            "by --config.model.checkpoint=FOLDER or --config.start_from=WORKDIR:STAGE, or add "
            f"{' or '.join(reversed(before(stage)))} to the stages"
        )


def read_start(text: str) -> tuple[Path, str]:
    """The folder and the stage that config.start_from names.

    Raises:
        UserError: it is not WORKDIR:STAGE.
    """
    folder, _, stage = text.rpartition(":")
    if not folder or stage not in STAGES:
        raise UserError(
            f"config.start_from is {text!r}; use WORKDIR:STAGE, a folder of another run and one of "
            f"its stages: {', '.join(STAGES)}"
        )
    return to_path(folder, "config.start_from"), stage


def with_vocabulary(section: Mapping, size: int) -> ModelConfig:
    """The ModelConfig of a config's model section for a vocabulary of `size`, rounded up.

    A multiple of 128 lets every tensor axis divide it; the ids beyond `size` are never used.
    Imported weights have as many as they have.
    """
    values = {key: value for key, value in section.items() if key != "checkpoint"}
    values["text"] = {"vocab_size": -size // 128 * -128, **section["text"]}
    return model_config(values)


def make_layout(config: ConfigDict, model: ModelConfig) -> Layout:
    """The Layout of a config's conversations."""
    dialogue = config.dialogue
    return Layout(
        length=dialogue.length,
        preview_frames=dialogue.preview_frames,
        window_frames=dialogue.window_frames,
        grid=frame_grid(model, config.video.height, config.video.width),
        frame_format=dialogue.frame_format,
        response_format=dialogue.response_format,
        max_tool_turns=dialogue.max_tool_turns,
    )


def layouts(config: ConfigDict, model: ModelConfig) -> tuple[Layout, Layout]:
    """The Layouts of conversations about whole videos, and of stage 1's about clips."""
    layout = make_layout(config, model)
    return layout, dataclasses.replace(layout, length=config.dialogue.clip_length)


def require_split(name: str, rows: int, mesh: Mesh) -> None:
    """UserError where a batch's rows can't be shared out over the mesh's data and fsdp axes."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % shards:
        raise UserError(f"{name} {rows} does not split over data x fsdp = {shards} devices")


def rollout_config(
    config: ConfigDict, group: int, greedy: bool, weights_dtype: str = ""
) -> RolloutConfig:
    """The RolloutConfig of a config, for `group` rollouts a question; weights_dtype: as of it."""
    section = config.rollout
    return RolloutConfig(
        group=group,
        turn_tokens=section.turn_tokens,
        call_tokens=section.call_tokens,
        prefill_rows=section.prefill_rows,
        temperature=0.0 if greedy else section.temperature,
        top_p=1.0 if greedy else section.top_p,
        slots=section.slots,
        prefill_tokens=section.prefill_tokens,
        kv_dtype=section.kv_dtype,
        weights_dtype=weights_dtype,
        tensor=section.tensor,
    )
