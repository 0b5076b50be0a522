"""A config's values, checked before a run claims its folder.

A bad value then costs one line. Found later it would cost the minutes in which the suite is drawn
or a stage trained, and leave behind a folder that belongs to a config that can't be run.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.data.examples import clip_row, dialogue_row
from medscope_jax.data.open_suite import check_data_dir, suite_of, suite_records, times_only, unseen
from medscope_jax.dialogue import Layout, Tokenizer
from medscope_jax.errors import UserError
from medscope_jax.phantom.procedure import SPLITS, Procedure
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import procedures
from medscope_jax.rollout import prompt_width
from medscope_jax.training.from_config import STAGES, require_split
from medscope_jax.training.rollout_batch import check_parts
from medscope_jax.training.run import run_tokenizer
from medscope_jax.training.sft import parts_of
from medscope_jax.training.values import check_values, section_named
from medscope_jax.video import Video, pair_frames, preview_indices

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
    with section_named("suite"):
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
    with section_named("dialogue.clip_length"):
        for part in parts_of(config, "warm_up"):
            for record, video in samples(config, part):
                clip_row(record, _paired(video, config), tokenizer, clip)
    for stage in ("cold_start", "passive"):
        with section_named("dialogue.length"):
            for part in parts_of(config, stage):
                for record, video in samples(config, part):
                    shown = _paired(video, config)
                    dialogue_row(record, shown, tokenizer, whole, stage != "passive")
    if config.suite.data_dir:
        with section_named("dialogue.length"):
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
