"""A config's values, each by itself: what the data and the devices are does not matter."""

import contextlib
import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from medscope_jax.bank.bank_codec import check_dtype
from medscope_jax.dialogue import Layout, protocol
from medscope_jax.errors import UserError
from medscope_jax.rl import UNSCORED, AdvantageConfig, LossConfig, RewardConfig, make_judge
from medscope_jax.training.from_config import STAGES, layouts, with_vocabulary
from medscope_jax.video.frames import RESAMPLES

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
        with section_named("video.stored_bank"):
            check_dtype(config.video.stored_bank)
    _check_frame_format(config.dialogue.frame_format)
    _check_response_format(config.dialogue.response_format)
    with section_named("model"):
        model = with_vocabulary(config.model, config.dialogue.vocab_size)
    with section_named("video"):
        whole, clip = layouts(config, model)
    with section_named("reward"):
        RewardConfig(**config.reward)
    with section_named("advantage"):
        AdvantageConfig(**config.advantage)
    with section_named("loss"):
        LossConfig(**config.loss)
    with section_named("judge"):
        make_judge(config.judge)
        if config.judge.url and not config.judge.model:
            raise UserError("url needs model, the name of the endpoint's model")
    return whole, clip


@contextlib.contextmanager
def section_named(name: str) -> Iterator[None]:
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
