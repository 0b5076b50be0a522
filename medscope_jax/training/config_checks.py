"""A config's values, checked before a run claims its folder.

A bad value then costs one line. Found later it would cost the minutes in which the suite is drawn
or a stage trained, and leave behind a folder that belongs to a config that can't be run.
"""

import os
from collections.abc import Sequence

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.data.examples import clip_row, dialogue_row
from medscope_jax.data.open_suite import Suite
from medscope_jax.data.row_lengths import without_pixels
from medscope_jax.data.stored_rows import VideoOutline
from medscope_jax.dialogue import Layout, Tokenizer
from medscope_jax.errors import UserError
from medscope_jax.rollout import prompt_width
from medscope_jax.training.asked import ASKED
from medscope_jax.training.from_config import (
    MODELS,
    STAGES,
    before,
    check_start,
    chosen_stages,
    require_split,
)
from medscope_jax.training.origin import check_origin
from medscope_jax.training.rollout_batch import check_parts
from medscope_jax.training.run import MANY, run_tokenizer
from medscope_jax.training.stage_rows import PARTS, parts_of
from medscope_jax.training.values import check_values, section_named
from medscope_jax.video import Video, preview_indices

_SAMPLE = 6  # records (of a phantom suite, procedures) whose conversations are laid out


def check_config(config: ConfigDict, mesh: Mesh, suite: Suite | None) -> None:
    """Refuses a config with values that no run can be made of.

    Reads and writes nothing. What only the data can tell is looked up in the scripts of the suite;
    lengths of conversations in those of a few procedures.

    Args:
      config: from load_config, which has checked its keys and types.
      mesh: from run_mesh; only its shape counts.
      suite: which is looked into, and of which conversations are laid out; the run's videos and
        tokenizer must be there. None: not yet, as a plan may be made before they are.

    Raises:
      UserError: one line that names the key.
    """
    whole, clip = check_values(config)
    chosen = chosen_stages(config)
    for stage in chosen:
        if not set(before(stage)) & set(chosen):
            check_start(config, stage)
    check_origin(config)
    _check_batches(config, mesh)
    if suite is not None:
        suite.check(config.video, needed_parts(chosen))
        _check_memory(config, suite, whole)
        _check_lengths(config, suite, whole, clip)


def needed_parts(stages: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """(split, parts) that these stages need records of, of one part at least.

    The baseline is left out where there are none for it; models are evaluated.
    """
    needed: list[tuple[str, Sequence[str]]] = []
    needed += [("train", PARTS[stage]) for stage in stages if stage != "passive"]
    return needed + [("test", ("eval",))] * bool(set(stages) & set(MODELS.values()))


def _check_batches(config: ConfigDict, mesh: Mesh) -> None:
    """Batches can be shared out over the mesh, and groups of rollouts over micro batches."""
    for stage in STAGES:
        require_split(f"{stage}.batch_size", config[stage].batch_size, mesh)
        _check_micro_batch(stage, config[stage], mesh)
    section = config.evaluation
    require_split("evaluation.rollouts", section.rollouts, mesh)
    questions = max(1, section.rollouts // section.samples)
    require_split("evaluation.rollouts // evaluation.samples", questions, mesh)
    check_parts(config, mesh)


def _check_memory(config: ConfigDict, suite: Suite, layout: Layout) -> None:
    """A frame bank that is kept in memory fits there; every process has all of it.

    Only stage 1 needs none: it encodes what a batch shows.
    """
    if config.video.stored_bank:
        return
    chosen, share = set(chosen_stages(config)), 2 if config.video.native_pairs else 1
    width = config.model.text.hidden_size * jnp.dtype(config.model.dtype).itemsize
    there = _memory_bytes()
    for split, asking in (("train", chosen - {"warm_up"}), ("test", chosen & {*MODELS.values()})):
        videos = suite.outlines(split).values() if asking else ()
        frames = sum(-(-len(video.times) // share) for video in videos)
        needed = frames * layout.tokens_per_frame * width
        if needed > there:
            raise UserError(
                f"config.video.stored_bank is '', but the frame bank of the {split} videos takes "
                f"{needed / 2**30:,.0f} GiB in every process, and this machine has "
                f"{there / 2**30:,.0f}: set --config.video.stored_bank=bfloat16, which keeps it on "
                "the disk"
            )


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_micro_batch(stage: str, section: ConfigDict, mesh: Mesh) -> None:
    """A supervised stage's batch comes in whole micro batches; stage 3 has rl.micro_batch."""
    rows = section.get("micro_batch", 0)
    if not rows:
        return
    require_split(f"{stage}.micro_batch", rows, mesh)
    if section.batch_size % rows:
        raise UserError(
            f"config.{stage}.batch_size is {section.batch_size}; it must be a multiple of "
            f"config.{stage}.micro_batch, {rows}"
        )


def _check_lengths(config: ConfigDict, suite: Suite, whole: Layout, clip: Layout) -> None:
    """The conversations of a few records fit the positions that they may have."""
    tokenizer, stages = run_tokenizer(config, suite), chosen_stages(config)
    with section_named("dialogue.clip_length"):
        for part in parts_of(suite, "warm_up") if "warm_up" in stages else ():
            for record, video in suite.samples(part, _SAMPLE):
                clip_row(record, _unseen(video, config), tokenizer, clip)
    for stage in (name for name in ("cold_start", "passive") if name in stages):
        with section_named("dialogue.length"):
            for part in parts_of(suite, stage):
                for record, video in suite.samples(part, _SAMPLE):
                    shown = _unseen(video, config)
                    dialogue_row(record, shown, tokenizer, whole, stage != "passive")
    if suite.config is None:  # a phantom suite has no records before it is drawn
        with section_named("dialogue.length"):
            _check_prompts(config, suite, tokenizer, whole)


def _check_prompts(config: ConfigDict, suite: Suite, tokenizer: Tokenizer, whole: Layout) -> None:
    """Questions leave room for an answer: found now, not after training.

    Of MANY, so many are looked at, spread over all; asked.check_questions measures the rest.
    """
    spare = config.rollout.turn_tokens
    for split, part in ASKED:
        if split not in suite.splits(part):  # of a run of other stages
            continue
        videos, records = suite.outlines(split), suite.records(part, split)
        found = [records[int(row)] for row in preview_indices(len(records), MANY)]
        times = [_unseen(videos[record["video"]], config).times for record in found]
        prompt_width(found, times, tokenizer, whole, True, spare)


def _unseen(outline: VideoOutline, config: ConfigDict) -> Video:
    return without_pixels(outline.times, outline.duration, config.video.native_pairs)
