"""A run's programs as shapes: what would be compiled, with nothing read, trained or allocated.

Each is made as its stage makes it: by the same functions, with the same static sizes, donated
arguments and shardings. What a stage leaves where it happens to be, unplaced, has no sharding here.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.bank import FrameBank
from medscope_jax.dialogue import (
    CallRecord,
    Episode,
    Layout,
    Tokenizer,
    load_qwen_tokenizer,
    pad_vocabulary,
    stamp_ids,
)
from medscope_jax.dialogue.qwen_tokenizer import SINGLE_TAGS
from medscope_jax.distributed import (
    abstract,
    bank_shardings,
    batch_shardings,
    replicated,
)
from medscope_jax.models import ModelConfig, encode_frames, for_mesh
from medscope_jax.models.presets import published_size
from medscope_jax.rl import LossConfig
from medscope_jax.rollout import Prompts, find_special_tokens, make_rollout, prompt_width
from medscope_jax.training.from_config import (
    make_layout,
    require_split,
    rollout_config,
    with_vocabulary,
)
from medscope_jax.training.packing import Packing
from medscope_jax.training.run import ENCODE_FRAMES
from medscope_jax.training.steps import ga_grpo_step, sft_step
from medscope_jax.training.train_state import TrainState, abstract_state, kl_reference, optimizer_of

# A plan reads no suite and trains no tokenizer. One whose ids mean nothing stands in for it, with
# one piece as long as the longest that there is.
_LONGEST_PIECE = 80  # bytes, of a suite's own tokenizer, which writes 16 characters a token or more
_LONGEST_QWEN_PIECE = 128  # bytes, of Qwen's, which writes tags whole and digits one by one
_QWEN_WORDS = re.compile("|".join(map(re.escape, SINGLE_TAGS)) + r"|\d|[^\d<]{1,3}|<")
_QUESTION = "x" * 160  # longer than the suite's longest question

# What a step's function takes apart from its state, and what it may overwrite.
_STATE = ("parameters", "optimizer", "counters")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile: arguments are trees of ShapeDtypeStruct with shardings, in order."""

    function: Callable
    arguments: Mapping[str, Any]
    donate: tuple[str, ...] = ()
    out_shardings: Any = None  # as of jax.jit
    attended: float = 0.5  # share of all pairs of slots in a row where one may look at the other
    pieces: tuple[int, int] = (1, 1)  # of a prompt, of the longest observation: see rollout.feed


def programs(config: ConfigDict, mesh: Mesh) -> dict[str, Program]:
    """The programs that a run of the config spends its time in, with the sizes it would use."""
    model = for_mesh(with_vocabulary(config.model, config.dialogue.vocab_size), mesh)
    layout = make_layout(config, model)
    tokenizer, times = _tokenizer(config, model.text.vocab_size), _times(config)
    width = prompt_width([{"question": _QUESTION}], [times], tokenizer, layout, tools=True)
    questions = config.ga_grpo.batch_size // config.rl.parts
    require_split("ga_grpo.batch_size // rl.parts", questions, mesh)
    require_split("cold_start.batch_size", config.cold_start.batch_size, mesh)
    params = abstract_state(config, model, mesh, "ga_grpo").params
    stamp = max(map(len, stamp_ids(tokenizer, layout, times[-1:])))
    special_tokens = find_special_tokens(tokenizer, layout)
    shown = layout.window_frames * (
        layout.tokens_per_frame + stamp + special_tokens.frame_text.size
    )
    piece = config.rollout.prefill_tokens or layout.length
    return {
        "encode": _encoding(config, model, params),
        "rollout": Program(
            make_rollout(
                mesh, model, layout, rollout_config(config, config.rl.group_size, greedy=False)
            ),
            {
                "parameters": params,
                "bank": _split(_bank(config, model, layout, questions, stamp), mesh),
                "prompts": _split(_prompts(width, questions, config.rl.group_size), mesh),
                "special_tokens": _whole(special_tokens, mesh),
            },
            pieces=(-(-width // piece), -(-shown // piece)),
        ),
        "ga_grpo": _policy_step(config, mesh, model, layout, width),
        "sft": _supervised_step(config, mesh, model, layout),
    }


def _encoding(config: ConfigDict, model: ModelConfig, params: dict) -> Program:
    """Tokens of as many frames as a bank is made of at a time; see run.make_split_bank."""
    size = config.video.height, config.video.width
    pair = (2,) if config.video.native_pairs else ()
    return Program(
        lambda vision, frames: encode_frames({"vision": vision}, model, frames),
        {
            "parameters": params["vision"],
            "frames": jax.ShapeDtypeStruct((ENCODE_FRAMES, *pair, *size, 3), jnp.uint8),
        },
    )


def _supervised_step(config, mesh, model, layout) -> Program:
    """One step of stage 2 on rows that fill their slots; see sft.prepare_dialogues."""
    section = config.cold_start
    step = functools.partial(
        sft_step,
        model=model,
        optimizer=optimizer_of(config, "cold_start"),
        grid=layout.grid,
        targets=_most_generated(config),
        train_vision=section.train_vision,
    )
    rows = section.batch_size, layout.length
    seen = layout.length // layout.tokens_per_frame * layout.tokens_per_frame
    visual = jax.ShapeDtypeStruct((rows[0], seen, model.text.hidden_size), jnp.dtype(model.dtype))
    batch = {name: _int(*rows) for name in ("tokens", "visual_index", "role")} | {"visual": visual}
    return _on_state(
        step,
        abstract_state(config, model, mesh, "cold_start"),
        {"episodes": _split(batch, mesh)},
    )


def _policy_step(config, mesh, model, layout, width) -> Program:
    """One optimizer step on the rollouts of a batch of questions; see ga_grpo.prepare_ga_grpo."""
    section = config.ga_grpo
    size = Packing(config.rl.group_size, width, layout.length - width)
    step = functools.partial(
        ga_grpo_step,
        model=model,
        optimizer=optimizer_of(config, "ga_grpo"),
        grid=layout.grid,
        size=size,
        targets=_most_generated(config),
        loss=LossConfig(**config.loss),
        temperature=config.rollout.temperature,
        kl_coefficient=config.rl.kl_coefficient,
        micro_batch=config.rl.micro_batch,
    )
    rows = section.batch_size * config.rl.group_size
    slots = section.batch_size * config.video.max_frames * layout.tokens_per_frame
    bank, state = _visual(slots, model), abstract_state(config, model, mesh, "ga_grpo")
    data = {
        "episodes": _split(_episode(rows, layout), mesh),
        "advantages": _split(_float(rows), mesh),
        "bank": abstract(bank, bank_shardings(bank, mesh)),
        "reference": kl_reference(state.params, config.rl),
    }
    return dataclasses.replace(_on_state(step, state, data), attended=_attended(size))


def _on_state(step: Callable, state: TrainState, arguments: dict) -> Program:
    """A step whose first argument, the state, is taken apart, so that each part's size is told."""

    def function(params, opt_state, counters, *others):
        return step(counters.replace(params=params, opt_state=opt_state), *others)

    parts = (state.params, state.opt_state, state.replace(params=None, opt_state=None))
    return Program(
        function,
        dict(zip(_STATE, parts, strict=True)) | arguments,
        donate=_STATE,
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, state), None),
    )


def _attended(size: Packing) -> float:
    """Program.attended of packed rows: a rest sees the prompt and, causally, itself."""
    prompt, rest = size.prompt, size.rest
    pairs = prompt**2 / 2 + size.group * (rest * prompt + rest**2 / 2)
    return pairs / (prompt + size.group * rest) ** 2


def _most_generated(config: ConfigDict) -> int:
    """Generated tokens of a row whose every turn is as long as it may be."""
    turns = config.dialogue.max_tool_turns + 1
    return min(turns * config.rollout.turn_tokens, config.dialogue.length)


def _bank(
    config: ConfigDict, model: ModelConfig, layout: Layout, videos: int, stamp: int
) -> FrameBank:
    """A FrameBank of so many videos, each with its most frames; stamp: tokens of a frame's time."""
    frames = config.video.max_frames
    size = (videos, frames, layout.tokens_per_frame, model.text.hidden_size)
    return FrameBank(
        tokens=jax.ShapeDtypeStruct(size, jnp.dtype(model.dtype)),
        times=_float(videos, frames),
        stamps=_int(videos, frames, stamp),
        length=_int(videos),
        duration=_float(videos),
    )


def _tokenizer(config: ConfigDict, vocab_size: int) -> Tokenizer:
    """The imported weights' own tokenizer where there are some, else one of the same sizes."""
    if config.model.checkpoint:
        tokenizer = load_qwen_tokenizer(config.model.checkpoint, vocab_size)
        return pad_vocabulary(tokenizer, vocab_size)
    if published_size(config.model):
        longest, count = _LONGEST_QWEN_PIECE, lambda text: len(_QWEN_WORDS.findall(text))
        ends = (0, 0)  # <|im_end|> and <|endoftext|>
    else:
        longest, count = _LONGEST_PIECE, lambda text: -(-len(text) // 16)
        ends = (0,)
    pieces = (b"x" * longest,) + (b"x" * 8,) * (vocab_size - 1)
    return Tokenizer(lambda text: [0] * count(text), pieces, b"", ends)


def _times(config: ConfigDict) -> np.ndarray:
    """Times in seconds of the bank frames of the longest video."""
    seconds = (2 if config.video.native_pairs else 1) / config.video.fps
    return np.arange(config.video.max_frames) * seconds


def _prompts(width: int, questions: int, group: int) -> Prompts:
    return Prompts(
        tokens=_int(questions, width),
        visual_index=_int(questions, width),
        length=_int(questions),
        video=_int(questions),
        keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (questions, group))),
    )


def _episode(rows: int, layout: Layout) -> Episode:
    size, calls = (rows, layout.length), (rows, layout.max_tool_turns)
    return Episode(
        tokens=_int(*size),
        visual_index=_int(*size),
        role=_int(*size),
        positions=_int(3, *size),
        logprobs=_float(*size),
        calls=CallRecord(_int(*calls), _float(*calls), _float(*calls), _int(*calls), _int(*calls)),
    )


def _visual(slots: int, model: ModelConfig) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((slots, model.text.hidden_size), jnp.dtype(model.dtype))


def _int(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _float(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _split(tree: Any, mesh: Mesh) -> Any:
    return abstract(tree, batch_shardings(tree, mesh))


def _whole(tree: Any, mesh: Mesh) -> Any:
    return abstract(tree, jax.tree.map(lambda _: replicated(mesh), tree))
