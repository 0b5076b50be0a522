"""A run's programs as shapes: what would be compiled, with nothing read, trained or allocated."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.dialogue import CallRecord, Episode, Layout, Tokenizer
from medscope_jax.distributed import (
    abstract,
    batch_shardings,
    param_shardings,
    replicated,
    state_shardings,
)
from medscope_jax.models import ModelConfig, encode_frames, init_params
from medscope_jax.rl import LossConfig
from medscope_jax.rollout import Prompts, make_rollout, prompt_width, vocabulary
from medscope_jax.training.packing import Packing
from medscope_jax.training.run import (
    ENCODE_FRAMES,
    make_layout,
    require_split,
    rollout_config,
    with_vocabulary,
)
from medscope_jax.training.state import (
    TrainState,
    init_state,
    kl_reference,
    make_optimizer,
    stage_params,
)
from medscope_jax.training.steps import ga_grpo_step
from medscope_jax.video import FrameBank, flat_tokens

# A plan reads no suite and trains no tokenizer. This one stands in for it: 16 characters a token,
# no id with a meaning, and one piece as long as the longest that training allows.
_LONGEST_PIECE = 80  # bytes
_QUESTION = "x" * 160  # longer than the suite's longest question


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile: arguments are trees of ShapeDtypeStruct with shardings, in order."""

    function: Callable
    arguments: Mapping[str, Any]
    donate: tuple[str, ...] = ()


def programs(config: ConfigDict, mesh: Mesh) -> dict[str, Program]:
    """The programs that a run of the config spends its time in, with the sizes it would use."""
    model = with_vocabulary(config.model, config.dialogue.vocab_size)
    layout = make_layout(config, model)
    tokenizer = _tokenizer(model.text.vocab_size)
    width = _prompt_width(tokenizer, layout)
    questions, group = config.ga_grpo.batch_size, config.rl.group_size
    require_split("ga_grpo.batch_size", questions, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # The parameters as stage 3 has them: with LoRA, adapters and a frozen base.
    shapes = jax.eval_shape(
        lambda key: stage_params(init_params(model, key), model, config.ga_grpo, key), key
    )
    params = abstract(shapes, param_shardings(shapes, mesh))
    bank = _split(_bank(config, model, layout, questions), mesh)
    height, width = config.video.height, config.video.width
    pair = (2,) if config.video.native_pairs else ()
    frames = jax.ShapeDtypeStruct((ENCODE_FRAMES, *pair, height, width, 3), jnp.uint8)
    roll = make_rollout(mesh, model, layout, rollout_config(config, group, greedy=False))
    return {
        "encode": Program(
            lambda vision, frames: encode_frames({"vision": vision}, model, frames),
            {"parameters": params["vision"], "frames": _split(frames, mesh)},
        ),
        "rollout": Program(
            roll,
            {
                "parameters": params,
                "bank": bank,
                "prompts": _split(_prompts(width, questions, group), mesh),
                "words": _whole(vocabulary(tokenizer, layout), mesh),
            },
        ),
        "ga_grpo": _policy_step(config, mesh, model, layout, shapes, bank, width),
    }


def _policy_step(config, mesh, model, layout, shapes, bank, width) -> Program:
    """One optimizer step on the rollouts of a batch of questions."""
    section = config.ga_grpo
    optimizer = make_optimizer(section, section.steps * config.rl.updates)
    state = jax.eval_shape(
        lambda params: init_state(params, optimizer, jax.random.key(0), section.train_vision),
        shapes,
    )
    rows = section.batch_size * config.rl.group_size
    turns = config.dialogue.max_tool_turns + 1
    step = functools.partial(
        ga_grpo_step,
        model=model,
        optimizer=optimizer,
        grid=layout.grid,
        size=Packing(config.rl.group_size, width, layout.length - width),
        targets=min(turns * config.rollout.turn_tokens, layout.length),
        loss=LossConfig(**config.loss),
        temperature=config.rollout.temperature,
        kl_coefficient=config.rl.kl_coefficient,
        micro_batch=config.rl.micro_batch,
    )

    def function(params, opt_state, step_and_key, episode, advantages, bank, reference):
        count, key = step_and_key
        state = TrainState(step=count, params=params, opt_state=opt_state, key=key)
        return step(state, episode, advantages, flat_tokens(bank), reference)

    state = abstract(state, state_shardings(state, mesh))
    episode = _split(_episode(rows, layout), mesh)
    return Program(
        function,
        {
            "parameters": state.params,
            "optimizer": state.opt_state,
            "step and key": (state.step, state.key),
            "episodes": episode,
            "advantages": _split(jax.ShapeDtypeStruct((rows,), jnp.float32), mesh),
            "bank": bank,
            "reference": kl_reference(state.params, config.rl),
        },
        donate=("parameters", "optimizer", "step and key"),
    )


def _bank(config: ConfigDict, model: ModelConfig, layout: Layout, videos: int) -> FrameBank:
    frames = config.video.max_frames
    size = (videos, frames, layout.tokens_per_frame, model.text.hidden_size)
    return FrameBank(
        tokens=jax.ShapeDtypeStruct(size, jnp.dtype(model.dtype)),
        times=_float(videos, frames),
        stamps=_int(videos, frames, 1),
        length=_int(videos),
        duration=_float(videos),
    )


def _tokenizer(vocab_size: int) -> Tokenizer:
    pieces = (b"x" * _LONGEST_PIECE,) + (b"x" * 8,) * (vocab_size - 1)
    return Tokenizer(lambda text: [0] * -(-len(text) // 16), pieces, b"")


def _prompt_width(tokenizer: Tokenizer, layout: Layout) -> int:
    ticks = np.arange(layout.preview_frames, dtype=np.float64)
    return prompt_width([_QUESTION], [ticks], tokenizer, layout, tools=True)


def _prompts(width: int, questions: int, group: int) -> Prompts:
    return Prompts(
        tokens=_int(questions, width),
        frame=_int(questions, width),
        length=_int(questions),
        video=_int(questions),
        keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (questions, group))),
    )


def _episode(rows: int, layout: Layout) -> Episode:
    size, calls = (rows, layout.length), (rows, layout.max_tool_turns)
    return Episode(
        tokens=_int(*size),
        frame=_int(*size),
        role=_int(*size),
        positions=_int(3, *size),
        logprobs=_float(*size),
        calls=CallRecord(_int(*calls), _float(*calls), _float(*calls), _int(*calls), _int(*calls)),
    )


def _int(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _float(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _split(tree: Any, mesh: Mesh) -> Any:
    return abstract(tree, batch_shardings(tree, mesh))


def _whole(tree: Any, mesh: Mesh) -> Any:
    return abstract(tree, jax.tree.map(lambda _: replicated(mesh), tree))
