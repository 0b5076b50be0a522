"""A config's values: all that the config alone tells, whatever the data and the devices are.

Ranges are checked by the schema, and what belongs to a part of the program by that part.
"""

import contextlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from medscope_jax.bank.bank_codec import check_dtype
from medscope_jax.config_values import check_ranges
from medscope_jax.dialogue import Layout, protocol
from medscope_jax.errors import UserError
from medscope_jax.rl import AdvantageConfig, LossConfig, RewardConfig, make_judge
from medscope_jax.training.duration import check_durations
from medscope_jax.training.from_config import chosen_stages, layouts, read_start, with_vocabulary
from medscope_jax.training.profiling import steps_to_trace


def check_values(config: ConfigDict) -> tuple[Layout, Layout]:
    """Checks all that the config alone tells; the layouts of whole videos and of clips.

    Raises:
      UserError: one line that names the key.
    """
    check_ranges(config)
    check_durations(config)
    chosen_stages(config)
    steps_to_trace(config.log.profile)
    if config.start_from:
        read_start(config.start_from)
    _check_blocks(config.model.vision)
    video = config.video
    if video.min_frames > video.max_frames:
        raise UserError(
            f"config.video.min_frames is {video.min_frames}; it must be at most "
            f"config.video.max_frames, {video.max_frames}"
        )
    if config.video.stored_bank:
        with section_named("video.stored_bank"):
            check_dtype(config.video.stored_bank)
    dialogue = config.dialogue
    protocol.check_frame_format(dialogue.frame_format, "config.dialogue.frame_format")
    protocol.check_response_format(dialogue.response_format, "config.dialogue.response_format")
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
    for key, value in (("parts", 1), ("resample", 0)):
        if config.rl.lag and config.rl[key] != value:
            raise UserError(
                f"config.rl.{key} is {config.rl[key]}; with config.rl.lag=1 it must be {value}: "
                "the next batch is rolled out while this one is judged"
            )
    if config.loss.importance_cap and config.rl.updates > 1:
        raise UserError(
            f"config.rl.updates is {config.rl.updates}; with config.loss.importance_cap it must be "
            "1: the ratio is to the policy before the one update"
        )
    with section_named("judge"):
        make_judge(config.judge)
    return whole, clip


@contextlib.contextmanager
def section_named(name: str) -> Iterator[None]:
    """Names the section (or key) in what a part of the program says about its values."""
    try:
        yield
    except UserError as error:
        raise UserError(f"config.{name}: {error}") from error


def _check_blocks(vision: ConfigDict) -> None:
    """The blocks that attend over the whole frame are there: ModelConfig ignores others."""
    whole, depth = vision.fullatt_block_indexes, vision.depth
    if not all(index < depth for index in whole):
        raise UserError(
            f"config.model.vision.fullatt_block_indexes is {whole}, but the tower's blocks are "
            f"numbered 0 to {depth - 1}"
        )
