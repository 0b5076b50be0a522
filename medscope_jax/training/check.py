"""A config's values, checked before a run claims its folder.

A bad value then costs one line. Found later it would cost the minutes in which the suite is drawn
or a stage trained, and leave behind a folder that belongs to a config that can't be run.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.dialogue import Layout, Tokenizer, protocol
from medscope_jax.errors import UserError
from medscope_jax.rl import UNSCORED, AdvantageConfig, LossConfig, RewardConfig, make_judge
from medscope_jax.rollout import prompt_width
from medscope_jax.training.examples import clip_row, dialogue_row
from medscope_jax.training.rolling import check_parts
from medscope_jax.training.run import (
    layouts,
    require_split,
    run_tokenizer,
    with_vocabulary,
)
from medscope_jax.training.sft import parts_of
from medscope_jax.training.stage import STAGES
from medscope_jax.training.suite import (
    check_data_dir,
    suite_of,
    suite_records,
    times_only,
    unseen,
)
from medscope_jax.video import Video, pair_frames, preview_indices
from medscope_jax.video.bank_codec import check_dtype
from medscope_jax.video.frames import RESAMPLES
from medscope_jax.video.phantom import SPLITS, Procedure
from tfds_builders.phantom_suite.records import records
from tfds_builders.suite import procedures

# Keys by the least value that they may have; {stage} stands for each of STAGES.
_AT_LEAST = {
    0: """
        seed evaluation.traces rl.kl_coefficient rl.resample rollout.slots
        rollout.prefill_tokens reward.h0 reward.eta reward.alpha reward.answer_weight
        reward.format_weight reward.evidence_weight advantage.good_scale advantage.bad_scale
        advantage.alpha advantage.clip advantage.min_scale loss.clip_low loss.clip_high
        judge.max_failed
        {stage}.learning_rate {stage}.warmup {stage}.weight_decay {stage}.final_scale""",
    1: """
        video.height video.width video.max_frames video.min_frames dialogue.vocab_size
        dialogue.length dialogue.clip_length dialogue.max_tool_turns model.vision.depth
        model.vision.hidden_size
        model.vision.intermediate_size model.vision.num_heads model.vision.patch_size
        model.vision.spatial_merge_size model.vision.temporal_patch_size model.vision.window_size
        model.text.hidden_size model.text.intermediate_size model.text.num_hidden_layers
        model.text.num_attention_heads model.text.num_key_value_heads {stage}.steps
        {stage}.batch_size rl.updates rl.parts rl.micro_batch rollout.turn_tokens
        rollout.call_tokens rollout.prefill_rows judge.concurrency evaluation.samples
        evaluation.rollouts log.every log.checkpoint_every""",
    2: "dialogue.window_frames rl.group_size",  # a group of one has no advantage
    8: "dialogue.preview_frames",  # phantom procedures are written for as many
}
_ABOVE_ZERO = """
    video.fps model.vision.initializer_range model.text.initializer_range model.text.rope_theta
    {stage}.clip_norm rollout.temperature rollout.top_p reward.delta reward.frame_window
    advantage.std_epsilon loss.dual_clip judge.timeout"""
_AT_MOST = {
    1: "{stage}.warmup rollout.top_p reward.h0 loss.clip_low judge.max_failed",
    2**32 - 1: "seed",  # random keys take 32 bits: a larger seed would be another one's double
}
_DTYPES = ("float32", "bfloat16", "float16")
_SAMPLE = 6  # procedures whose conversations are laid out


def check_config(config: ConfigDict, mesh: Mesh, data: bool = True) -> None:
    """Refuses a config with values that no run can be made of.

    Reads and writes nothing. What only the data can tell is looked up in the scripts of the suite;
    lengths of conversations in those of a few procedures.

    Args:
      config: from load_config, which has checked its keys and types.
      mesh: from run_mesh; only its shape counts.
      data: whether to look into the suite and lay out conversations, for which the run's videos
        and tokenizer must be there; a plan may be made before they are.

    Raises:
      UserError: one line that names the key.
    """
    whole, clip = check_values(config)
    _check_batches(config, mesh)
    if not data:
        return
    if config.suite.data_dir:
        check_data_dir(config)
    else:
        _check_suite(config)
    _check_lengths(config, whole, clip)


def check_values(config: ConfigDict) -> tuple[Layout, Layout]:
    """Checks all that the config alone tells; the layouts of whole videos and of clips.

    Raises:
      UserError: one line that names the key.
    """
    _check_numbers(config)
    if config.judge.temperature is not None:  # which leaves it out
        _check_least(config, 0, "judge.temperature")
    _check_model(config.model)
    for key, value, known in (
        ("video.resample", config.video.resample, RESAMPLES),
        ("rollout.kv_dtype", config.rollout.kv_dtype, ("", "int8")),
        ("judge.unscored", config.judge.unscored, UNSCORED),
    ):
        if value not in known:
            raise UserError(f"config.{key} is {value!r}; use {' or '.join(map(repr, known))}")
    video = config.video
    if video.min_frames > video.max_frames:
        raise UserError(
            f"config.video.min_frames is {video.min_frames}; it must be at most "
            f"config.video.max_frames, {video.max_frames}"
        )
    if config.video.stored_bank:
        with _section("video.stored_bank"):
            check_dtype(config.video.stored_bank)
    _check_frame_format(config.dialogue.frame_format)
    _check_response_format(config.dialogue.response_format)
    with _section("model"):
        model = with_vocabulary(config.model, config.dialogue.vocab_size)
    with _section("video"):
        whole, clip = layouts(config, model)
    with _section("reward"):
        RewardConfig(**config.reward)
    with _section("advantage"):
        AdvantageConfig(**config.advantage)
    with _section("loss"):
        LossConfig(**config.loss)
    with _section("judge"):
        make_judge(config.judge)
        if config.judge.url and not config.judge.model:
            raise UserError("url needs model, the name of the endpoint's model")
    return whole, clip


@contextlib.contextmanager
def _section(name: str) -> Iterator[None]:
    """Names the section (or key) in what a part of the program says about its values."""
    try:
        yield
    except UserError as error:
        raise UserError(f"config.{name}: {error}") from error


def _check_numbers(config: ConfigDict) -> None:
    """Every number that has a range lies in it."""
    for least, keys in _AT_LEAST.items():
        _check_least(config, least, keys)
    for key, value in _numbers(config, _ABOVE_ZERO):
        if value <= 0:
            raise UserError(f"config.{key} is {value}; it must be above 0")
    for most, keys in _AT_MOST.items():
        for key, value in _numbers(config, keys):
            if value > most:
                raise UserError(f"config.{key} is {value}; it must be at most {most}")


def _check_least(config: ConfigDict, least: float, keys: str) -> None:
    for key, value in _numbers(config, keys):
        if value < least:
            raise UserError(f"config.{key} is {value}; it must be at least {least}")


def _numbers(config: ConfigDict, keys: str) -> Iterator[tuple[str, float]]:
    """(key, value) of each of the keys; UserError where one is no finite number."""
    for pattern in keys.split():
        for key in dict.fromkeys(pattern.format(stage=stage) for stage in STAGES):
            value = config
            for part in key.split("."):
                value = value[part]
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"config.{key} is {value}; it must be a finite number")
            yield key, value


def _check_model(section: ConfigDict) -> None:
    """What ModelConfig takes as it is."""
    for name in ("dtype", "param_dtype"):
        if section[name] not in _DTYPES:
            raise UserError(
                f"config.model.{name} is {section[name]!r}; use one of {', '.join(_DTYPES)}"
            )
    mrope, whole = section.text.mrope_section, section.vision.fullatt_block_indexes
    if not all(isinstance(n, int) and n >= 0 for n in mrope):
        raise UserError(f"config.model.text.mrope_section is {mrope}; it needs whole numbers")
    depth = section.vision.depth
    if not all(isinstance(n, int) and 0 <= n < depth for n in whole):
        raise UserError(
            f"config.model.vision.fullatt_block_indexes is {whole}, but the tower's blocks are "
            f"numbered 0 to {depth - 1}"
        )


def _check_frame_format(text: str) -> None:
    """A frame's text has {frame} once and, on one side of it, a time that can be written."""
    name = f"config.dialogue.frame_format is {text!r}"
    sides = text.split("{frame}")
    if len(sides) != 2 or sum("{time" in side for side in sides) != 1:
        raise UserError(
            f"{name}; it needs {{frame}} once and {{time}} on one side of it, as in "
            "'{frame}{time:.1f}'"
        )
    stamp = next(side for side in sides if "{time" in side)
    constant = next(side for side in sides if "{time" not in side)
    try:
        same = stamp.format(time=1.0) == stamp.format(time=200.0)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{name}, which can't be filled in: {error}") from error
    if same or "{" in constant or "}" in constant or protocol.IMAGE in text:
        raise UserError(
            f"{name}; it may hold {{frame}}, {{time}} and plain text without braces or "
            f"{protocol.IMAGE}"
        )


def _check_response_format(text: str) -> None:
    """An observation's text has its tags around {response}, and nothing else to fill in."""
    before, mark, after = text.partition("{response}")
    tags = before.strip() == "<tool_response>" and after.strip() == "</tool_response>"
    if not (mark and tags):
        raise UserError(
            f"config.dialogue.response_format is {text!r}; it needs {protocol.RESPONSE!r}, with "
            "white space around the tags if you like"
        )


def _check_batches(config: ConfigDict, mesh: Mesh) -> None:
    """Batches can be shared out over the mesh, and groups of rollouts over micro batches."""
    for stage in STAGES:
        require_split(f"{stage}.batch_size", config[stage].batch_size, mesh)
    section = config.evaluation
    require_split("evaluation.rollouts", section.rollouts, mesh)
    questions = max(1, section.rollouts // section.samples)
    require_split("evaluation.rollouts // evaluation.samples", questions, mesh)
    check_parts(config, mesh)


def _check_suite(config: ConfigDict) -> None:
    """The suite that the config asks for can be drawn, and each video fits the frame bank."""
    if config.video.fps != 1:
        raise UserError(
            f"config.video.fps is {config.video.fps}, but phantom events lie on whole seconds: "
            "use 1.0"
        )
    with _section("suite"):
        suite = suite_of(config)
    scripts = procedures(suite)
    for split in SPLITS:
        if not any(script.split == split for script in scripts):
            raise UserError(f"config.suite has no {split} procedures; every split needs one")
    longest = max(scripts, key=lambda script: script.duration)
    frames = len(_paired(_recording(longest), config).times)
    if frames > config.video.max_frames:
        raise UserError(
            f"config.video.max_frames is {config.video.max_frames}, but the suite has a recording "
            f"of {longest.duration} s, which is {frames} frames"
        )


def _check_lengths(config: ConfigDict, whole: Layout, clip: Layout) -> None:
    """The conversations of a few records fit their slots."""
    tokenizer = run_tokenizer(config)
    samples = _built_samples if config.suite.data_dir else _phantom_samples
    with _section("dialogue.clip_length"):
        for part in parts_of(config, "warm_up"):
            for record, video in samples(config, part):
                clip_row(record, _paired(video, config), tokenizer, clip)
    for stage in ("cold_start", "passive"):
        with _section("dialogue.length"):
            for part in parts_of(config, stage):
                for record, video in samples(config, part):
                    shown = _paired(video, config)
                    dialogue_row(record, shown, tokenizer, whole, stage != "passive")
    if config.suite.data_dir:
        with _section("dialogue.length"):
            _check_prompts(config, tokenizer, whole)


def _check_prompts(config: ConfigDict, tokenizer: Tokenizer, whole: Layout) -> None:
    """Every question of a data folder leaves room for an answer: found now, not after training."""
    spare = config.rollout.turn_tokens
    for split, part in (("train", "rl"), ("test", "eval")):
        videos = times_only(config, split)
        found = list(suite_records(config, Path(), part, split))
        times = [_paired(videos[record["video"]], config).times for record in found]
        prompt_width(found, times, tokenizer, whole, True, spare)


def _phantom_samples(config: ConfigDict, part: str) -> Iterator[tuple[dict, Video]]:
    """Records of a few training procedures, of their scripts alone."""
    suite = suite_of(config)
    scripts = [script for script in procedures(suite) if script.split == "train"]
    for script in (scripts[i] for i in preview_indices(len(scripts), _SAMPLE)):
        for record in records(script, part, suite):
            yield record, _recording(script)


def _built_samples(config: ConfigDict, part: str) -> Iterator[tuple[dict, Video]]:
    """Some of a data folder's training records; those that do not fit later are left out then."""
    found = suite_records(config, Path(), part, "train")
    videos = times_only(config, "train")
    for place in preview_indices(len(found), _SAMPLE):
        record = found[int(place)]
        yield record, videos[record["video"]]


def _recording(script: Procedure) -> Video:
    return unseen(np.arange(script.duration, dtype=np.float64), float(script.duration))


def _paired(video: Video, config: ConfigDict) -> Video:
    return pair_frames(video) if config.video.native_pairs else video
