"""What every stage of a run shares: config, mesh, tokenizer, model and the suite's videos."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.bank import HostBank, make_bank
from medscope_jax.copies import local_copy
from medscope_jax.data.open_suite import Suite
from medscope_jax.data.stored_rows import Mapped
from medscope_jax.dialogue import (
    Layout,
    Tokenizer,
    load_qwen_tokenizer,
    load_tokenizer,
    pad_vocabulary,
    stamp_ids,
    train_tokenizer,
)
from medscope_jax.distributed import check_device, make_mesh, on_mesh
from medscope_jax.distributed.multihost import gather
from medscope_jax.errors import UserError
from medscope_jax.models import ModelConfig, for_mesh
from medscope_jax.paths import to_path
from medscope_jax.rollout import (
    RolloutEngine,
    SpecialTokens,
    VideoQuestion,
    find_special_tokens,
)
from medscope_jax.training.from_config import layouts, rollout_config, with_vocabulary
from medscope_jax.training.imported import read_companions
from medscope_jax.training.make_steps import make_encode
from medscope_jax.training.origin import origin_tokenizer
from medscope_jax.training.workdir import Workdir
from medscope_jax.video import Video, pair_frames
from medscope_jax.video.lazy_frames import Series

MANY = 20_000  # more records than this are not all read at a start
ENCODE_FRAMES = 512  # frames of one call of the vision tower when a bank is made
_KEPT_BYTES = 2**29  # of a split's decoded frames, up to which they are kept in memory


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's fixed things. Nothing here changes from step to step."""

    config: ConfigDict
    folder: Path  # the workdir
    mesh: Mesh
    tokenizer: Tokenizer
    special_tokens: SpecialTokens
    model: ModelConfig
    layout: Layout  # of conversations about whole videos
    clip_layout: Layout  # of stage 1's conversations about clips
    suite: Suite | None = None  # None: nothing of it is read, as by whoever asks about a recording


def run_mesh(config: ConfigDict) -> Mesh:
    """The mesh of a config's devices; UserError where they are not here or do not make it."""
    devices, kv_heads = check_device(config.device), config.model.text.num_key_value_heads
    return make_mesh(config.mesh, devices, kv_heads=kv_heads, slices=config.device.slices)


def make_run(config: ConfigDict, workdir: Workdir, mesh: Mesh, suite: Suite | None = None) -> Run:
    """The Run of a workdir whose tokenizer is there; suite: where its data is read."""
    if config.model.checkpoint:
        folder = read_companions(workdir)
        tokenizer = load_qwen_tokenizer(folder, config.model.text.vocab_size)
    else:
        tokenizer = load_tokenizer(workdir.tokenizer)
    model = for_mesh(with_vocabulary(config.model, tokenizer.vocab_size), mesh)
    tokenizer = pad_vocabulary(tokenizer, model.text.vocab_size)
    layout, clip_layout = layouts(config, model)
    special_tokens = find_special_tokens(tokenizer, layout)
    return Run(
        config, workdir.path, mesh, tokenizer, special_tokens, model, layout, clip_layout, suite
    )


def suite_tokenizer(config: ConfigDict, suite: Suite) -> Tokenizer:
    """Trains the tokenizer of a run's suite; a phantom suite need not be drawn.

    Raises:
      UserError: dialogue.vocab_size is too small for what a tokenizer must hold.
    """
    corpus = itertools.chain(suite.texts(), ["0123456789 .,:[]{}\"'<>/?!-+"])
    size, ticks = config.dialogue.vocab_size, config.video.max_frames + 1
    try:
        return train_tokenizer(corpus, size, ticks)
    except RuntimeError as error:  # SentencePiece's; its only complaint about a size
        needed = re.search(rf"\b{size} vs (\d+)", str(error))
        if needed is None:
            raise
        raise UserError(
            f"config.dialogue.vocab_size is {size}; the protocol, {ticks} ticks of the clock and "
            f"the suite's letters need at least {needed[1]}"
        ) from error


def run_tokenizer(config: ConfigDict, suite: Suite) -> Tokenizer:
    """The tokenizer that a run of this config will have; reads and writes nothing of the run."""
    if config.start_from:
        return origin_tokenizer(config)
    if config.model.checkpoint:
        folder = local_copy(to_path(config.model.checkpoint))
        return load_qwen_tokenizer(folder, config.model.text.vocab_size)
    return suite_tokenizer(config, suite)


def rollout_engine(run: Run, group: int, greedy: bool, weights_dtype: str = "") -> RolloutEngine:
    """The engine of a run's conversations about whole videos; `group` rollouts a question.

    weights_dtype: as of RolloutConfig. Only stage 3 corrects for what it changes.
    """
    config = rollout_config(run.config, group, greedy, weights_dtype)
    return RolloutEngine(run.mesh, run.model, run.tokenizer, run.special_tokens, run.layout, config)


@dataclasses.dataclass(frozen=True)
class VideoSplit:
    """A split's videos; of all but small splits, frames are read when they are asked for."""

    videos: Series[Video]
    rows: dict[str, int]  # video id -> place in videos, and in the bank made of them


def video_questions(records: Sequence[Mapping], split: VideoSplit) -> list[VideoQuestion]:
    """Records about videos of the split as questions, numbered in their order."""
    places = [split.rows[record["video"]] for record in records]
    return [
        VideoQuestion(record, place, split.videos[place].times, number)
        for number, (record, place) in enumerate(zip(records, places, strict=True))
    ]


def load_split(run: Run, split: str) -> VideoSplit:
    """The videos of a split of the run's suite, in pairs where the config says so.

    Frames of a small split, as that of phantom procedures, are decoded here and kept: they are
    shown again and again. All others stay JPEG until they are asked for.
    """
    suite = suite_of(run)
    videos: Series[Video] = suite.videos(split)
    if run.config.video.native_pairs:
        videos = Mapped(videos, pair_frames)
    if sum(math.prod(video.frames.shape) for video in videos) <= _KEPT_BYTES:
        videos = [dataclasses.replace(v, frames=np.asarray(v.frames)) for v in videos]
    return VideoSplit(videos, {name: row for row, name in enumerate(suite.outlines(split))})


def load_records(run: Run, part: str, split: str) -> Series[dict]:
    """The records of a part and split: if they are MANY, each is read when it is asked for."""
    records = suite_of(run).records(part, split)
    return records if len(records) > MANY else list(records)


def suite_of(run: Run) -> Suite:
    """The suite of a run that was made with one."""
    if run.suite is None:
        raise ValueError("this Run was made without a suite: give make_run one of open_suite")
    return run.suite


def make_split_bank(run: Run, params: dict, split: VideoSplit) -> HostBank:
    """The frame bank of a split under the given parameters: each frame encoded once."""
    encode = on_mesh(run.mesh, make_encode(run.model))
    return make_bank(
        lambda frames: gather(encode({"vision": params["vision"]}, frames)),
        split.videos,
        functools.partial(stamp_ids, run.tokenizer, run.layout),
        batch_frames=ENCODE_FRAMES,
        max_frames=run.config.video.max_frames,
    )


def model_key(config: ConfigDict, name: str) -> jax.Array:
    """The random key of one purpose, from the run's seed; names are fixed, so keys never shift."""
    number = int.from_bytes(name.encode()[:8].ljust(8), "little") % 2**31
    return jax.random.fold_in(jax.random.key(config.seed), np.uint32(number))
