"""A run's programs as shapes: what would be compiled, with nothing read, trained or allocated.

Each is the very jitted function that its stage runs (training/make_steps.py, rollout/engine.py),
with the same static sizes. What a stage leaves where it happens to be, unplaced, has no sharding
here.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.bank import FrameBank
from medscope_jax.copies import local_copy
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
    Report,
    abstract,
    bank_shardings,
    batch_shardings,
    compile_for,
    param_shardings,
    replicated,
)
from medscope_jax.distributed.topology import bytes_per_chip
from medscope_jax.models import ModelConfig, for_mesh
from medscope_jax.models.presets import published_size
from medscope_jax.paths import to_path
from medscope_jax.rollout import (
    Prompts,
    PromptWidth,
    find_special_tokens,
    prompt_width,
    rollout_mesh,
    rollout_model,
    weights_program,
)
from medscope_jax.rollout.engine import rollout_program
from medscope_jax.training.from_config import (
    layouts,
    require_split,
    rollout_config,
    with_vocabulary,
)
from medscope_jax.training.make_steps import make_encode, make_ga_grpo_step, make_sft_step
from medscope_jax.training.packing import Packing
from medscope_jax.training.run import ENCODE_FRAMES
from medscope_jax.training.train_state import TrainState, abstract_state, kl_reference

# A plan reads no suite and trains no tokenizer. One whose ids mean nothing stands in for it, with
# one piece as long as the longest that there is.
_LONGEST_PIECE = 80  # bytes, of a suite's own tokenizer, which writes 16 characters a token or more
_LONGEST_QWEN_PIECE = 128  # bytes, of Qwen's, which writes tags whole and digits one by one
_QWEN_WORDS = re.compile("|".join(map(re.escape, SINGLE_TAGS)) + r"|\d|[^\d<]{1,3}|<")
# Of a packed row of clips a third may be answers: of the paper's shortest ones a quarter is.
_WORDS = 3
_QUESTION = "x" * 160  # longer than the suite's longest question


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to compile: arguments are trees of ShapeDtypeStruct with shardings, in order."""

    function: Callable  # jitted, where a run has it
    arguments: Mapping[str, Any]
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # by the function's names
    agent_loop: bool = False  # whether the loop of rollout/loop.py is in it
    attended: float = 0.5  # share of all pairs of positions where one may attend to the other
    pieces: tuple[int, int] = (1, 1)  # of a prompt, of the longest observation: chunked_prefill

    @property
    def parts(self) -> dict[str, Any]:
        """The arguments, a step's state taken apart, so that each part's size is told."""
        parts: dict[str, Any] = {}
        for name, tree in self.arguments.items():
            if isinstance(tree, TrainState):
                counters = tree.replace(params=None, opt_state=None)
                trees = {"parameters": tree.params, "optimizer": tree.opt_state}
                parts |= trees | {"counters": counters}
            else:
                parts[name] = tree
        return parts


def compile_program(program: Program, stands_for: str = "") -> Report:
    """The Report of a program; its arguments_bytes are those of Program.parts.

    stands_for: as of compile_for.
    """
    report = compile_for(program.function, program.arguments, program.static, stands_for)
    sizes = {name: bytes_per_chip(tree) for name, tree in program.parts.items()}
    return dataclasses.replace(report, arguments_bytes=sizes)


def programs(config: ConfigDict, mesh: Mesh, stands_for: str = "") -> dict[str, Program]:
    """The programs that a run of the config spends its time in, with the sizes it would use.

    stands_for: a kind of GPU whose place the mesh's TPU chips take. Their kernel of self-attention
        is then taken for cuDNN's; a cache is attended to densely, as a GPU does.
    """
    model = for_mesh(with_vocabulary(config.model, config.dialogue.vocab_size), mesh)
    decoding = dataclasses.replace(model, attention="xla") if stands_for else model
    layout, clip_layout = layouts(config, model)
    tokenizer, times = _tokenizer(config, model.text.vocab_size), _times(config)
    width = prompt_width([{"question": _QUESTION}], [times], tokenizer, layout, tools=True)
    questions = config.ga_grpo.batch_size // config.rl.parts
    require_split("ga_grpo.batch_size // rl.parts", questions, mesh)
    for stage in ("warm_up", "cold_start"):
        require_split(f"{stage}.batch_size", config[stage].batch_size, mesh)
    params = abstract_state(config, model, mesh, "ga_grpo").params
    stamp = max(map(len, stamp_ids(tokenizer, layout, times[-1:])))
    special_tokens = find_special_tokens(tokenizer, layout)
    shown = layout.window_frames * (
        layout.tokens_per_frame + stamp + special_tokens.frame_text.size
    )
    piece = config.rollout.prefill_tokens or layout.length
    videos = _bank(config, model, layout, questions, stamp)
    rolled = rollout_config(
        config, config.rl.group_size, greedy=False, weights_dtype=config.rollout.weights_dtype
    )
    own, weights, placing = rollout_mesh(mesh, rolled.tensor), params, {}
    if own is not mesh or rolled.weights_dtype:
        placing = {"weights": _placing(params, model, own, rolled.weights_dtype)}
        weights = jax.eval_shape(placing["weights"].function, params)
        weights = abstract(weights, param_shardings(weights, own))
    return {
        "encode": _encoding(config, model, params),
        **placing,
        "rollout": Program(
            rollout_program(own, rollout_model(decoding, own), layout, rolled),
            {
                "parameters": weights,
                "bank": abstract(videos, bank_shardings(videos, own)),
                "prompts": _split(_prompts(width, questions, config.rl.group_size), own),
                "special_tokens": _whole(special_tokens, own),
            },
            agent_loop=True,
            pieces=(-(-width.most // piece), -(-shown // piece)),
        ),
        "ga_grpo": _policy_step(config, mesh, model, layout, width.most),
        "warm_up": _warm_up_step(config, mesh, model, clip_layout, special_tokens.frame_text.size),
        "sft": _cold_start_step(config, mesh, model, layout),
    }


def _encoding(config: ConfigDict, model: ModelConfig, params: dict) -> Program:
    """Tokens of as many frames as a bank is made of at a time; see run.make_split_bank."""
    return Program(
        make_encode(model),
        {"parameters": {"vision": params["vision"]}, "frames": _frames(config, ENCODE_FRAMES)},
    )


def _placing(params: dict, model: ModelConfig, mesh: Mesh, dtype: str) -> Program:
    """The weights on their way to where rollouts read them; see rollout.place_weights."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    leaves, tree = jax.tree.flatten(shapes)
    function = weights_program(tree, tuple(leaves), model, mesh, dtype)
    return Program(function, {"parameters": params})


def _warm_up_step(config, mesh, model, layout, frame_text) -> Program:
    """One step of stage 1: each row brings the frames of a clip, for the tower that trains with
    the decoder, and answers in one turn; see sft.prepare_clips. A packed row brings as many frames
    as fit, a frame's text being of `frame_text` tokens and its time, and answers as often."""
    most, answer = layout.window_frames, config.rollout.turn_tokens
    if config.dialogue.packed:
        most = layout.length // (layout.tokens_per_frame + frame_text + 1)
        most += -most % 8
        answer = max(answer, layout.length // _WORDS)
    frames = _frames(config, config.warm_up.batch_size, most)
    return _supervised_step(config, mesh, model, layout, "warm_up", answer, frames=frames)


def _cold_start_step(config, mesh, model, layout) -> Program:
    """One step of stage 2 on rows that show frames in all positions; see sft.prepare_dialogues."""
    seen = layout.length // layout.tokens_per_frame * layout.tokens_per_frame
    size = config.cold_start.batch_size, seen, model.text.hidden_size
    visual, most = _array(size, model.dtype), _most_generated(config)
    return _supervised_step(config, mesh, model, layout, "cold_start", most, visual=visual)


def _supervised_step(config, mesh, model, layout, stage, most, **seen) -> Program:
    """One supervised step of a stage; most: generated tokens of a row; seen: what its rows see."""
    rows = config[stage].batch_size, layout.length
    names = ("tokens", "visual_index", "role") + ("segment",) * config.dialogue.packed
    batch = {name: _int(*rows) for name in names} | seen
    return Program(
        make_sft_step(config, stage, model, mesh, layout, (most,)),
        {
            "state": abstract_state(config, model, mesh, stage),
            "episodes": _split(batch, mesh),
        },
    )


def _policy_step(config, mesh, model, layout, width) -> Program:
    """One optimizer step on the rollouts of a batch of questions; see ga_grpo.prepare_ga_grpo."""
    section = config.ga_grpo
    size = Packing(config.rl.group_size, width, layout.length - width)
    rows = section.batch_size * config.rl.group_size
    tokens = section.batch_size * config.video.max_frames * layout.tokens_per_frame
    bank, state = _visual(tokens, model), abstract_state(config, model, mesh, "ga_grpo")
    return Program(
        make_ga_grpo_step(config, model, mesh, layout),
        {
            "state": state,
            "episodes": _split(_episode(rows, layout), mesh),
            "advantages": _split(_float(rows), mesh),
            "bank": abstract(bank, bank_shardings(bank, mesh)),
            "reference": kl_reference(state.params, config.rl),
        },
        static={"size": size, "targets": _most_generated(config)},
        attended=_attended(size),
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
        tokens=_array(size, model.dtype),
        times=_float(videos, frames),
        stamps=_int(videos, frames, stamp),
        length=_int(videos),
        duration=_float(videos),
    )


def _tokenizer(config: ConfigDict, vocab_size: int) -> Tokenizer:
    """The imported weights' own tokenizer where there are some, else one of the same sizes."""
    if config.model.checkpoint:
        tokenizer = load_qwen_tokenizer(local_copy(to_path(config.model.checkpoint)), vocab_size)
        return pad_vocabulary(tokenizer, vocab_size)
    if published_size(config.model):
        ends: tuple[int, ...] = (0, 0)  # <|im_end|> and <|endoftext|>
        longest, count = _LONGEST_QWEN_PIECE, lambda text: len(_QWEN_WORDS.findall(text))
    else:
        longest, count = _LONGEST_PIECE, lambda text: -(-len(text) // 16)
        ends = (0,)
    pieces = (b"x" * longest,) + (b"x" * 8,) * (vocab_size - 1)
    return Tokenizer(lambda text: [0] * count(text), pieces, b"", ends)


def _times(config: ConfigDict) -> np.ndarray:
    """Times in seconds of the bank frames of the longest video."""
    seconds = (2 if config.video.native_pairs else 1) / config.video.fps
    return np.arange(config.video.max_frames) * seconds


def _prompts(width: PromptWidth, questions: int, group: int) -> Prompts:
    return Prompts(
        tokens=_int(questions, width.most),
        visual_index=_int(questions, width.most),
        length=_int(questions),
        video=_int(questions),
        keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (questions, group))),
        least=width.least,
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


def _frames(config: ConfigDict, *count: int) -> Any:
    """Frames of the config's videos, or pairs of them."""
    pair = (2,) if config.video.native_pairs else ()
    size = config.video.height, config.video.width
    return _array((*count, *pair, *size, 3), jnp.uint8)


def _visual(tokens: int, model: ModelConfig) -> Any:
    return _array((tokens, model.text.hidden_size), model.dtype)


def _int(*shape: int) -> Any:
    return _array(shape, jnp.int32)


def _float(*shape: int) -> Any:
    return _array(shape, jnp.float32)


def _array(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> Any:
    """What stands in an array's place: its shape and dtype."""
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _split(tree: Any, mesh: Mesh) -> Any:
    return abstract(tree, batch_shardings(tree, mesh))


def _whole(tree: Any, mesh: Mesh) -> Any:
    return abstract(tree, jax.tree.map(lambda _: replicated(mesh), tree))
