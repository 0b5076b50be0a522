"""A split's frame bank, from the disk where the config says so."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medscope_jax.bank import HostBank
from medscope_jax.bank.bank_build import Built, build_bank
from medscope_jax.bank.bank_key import Preprocessing, weights_hash
from medscope_jax.bank.bank_store import FrameSource, load_bank, source_of
from medscope_jax.dialogue import stamp_ids
from medscope_jax.distributed.multihost import first_process_first, gather
from medscope_jax.models import ModelConfig, frame_grid
from medscope_jax.models.vision import IMAGE_MEAN, IMAGE_STD
from medscope_jax.training.make_steps import make_encode
from medscope_jax.training.run import ENCODE_FRAMES, Run, VideoSplit, make_split_bank


def split_bank(run: Run, params: dict, split: VideoSplit, name: str) -> HostBank:
    """The frame bank of a split under the given parameters.

    With config.video.stored_bank, frame tokens are kept in the run's folder as that type: stages
    that share a frozen vision tower, and a run that is continued, encode no frame twice. A bank of
    other frames or weights is never read but made again. Of several processes, process 0 encodes
    what is not stored yet, on a device of its own, and the others wait.

    name: what the bank is for; no other bank of the run has it.
    """
    dtype = run.config.video.stored_bank
    if not dtype:
        return make_split_bank(run, params, split)
    if jax.process_count() > 1:
        params = {"vision": jax.tree.map(jnp.asarray, gather(params["vision"]))}
    with first_process_first(f"bank to {name}"):
        return stored_bank(run, params, split, dtype)


def stored_bank(run: Run, params: dict, split: VideoSplit, dtype: str | None = None) -> HostBank:
    """make_split_bank's bank, from the run's folder; what is not stored there yet is encoded first.

    Each process for itself, with params on its own devices. Each video of the split needs an id in
    split.rows.

    Args:
      dtype: what tokens are stored as; the tower's own if None: then the bank is make_split_bank's
        bit for bit, if the split was stored as a whole and by a device of the same kind. int8
        comes back as bfloat16.

    Raises:
      UserError: as build_bank and load_bank.
    """
    names = sorted(split.rows, key=lambda name: split.rows[name])
    if [split.rows[name] for name in names] != list(range(len(split.videos))):
        raise ValueError("each video of a stored bank needs an id of its own")
    dtype = dtype or run.model.dtype
    folder = bank_folder(run.folder, dtype)
    sources = map(source_of, names, split.videos)
    made_of = preprocessing(run.config.video)
    built = build_vision_bank(folder, run.model, params["vision"], sources, made_of, dtype)
    stamps = functools.partial(stamp_ids, run.tokenizer, run.layout)
    return load_bank(folder, built.key, names, stamps, max_frames=run.config.video.max_frames)


def bank_folder(workdir: Path, dtype: str) -> Path:
    """Where a run keeps its banks of a type."""
    return workdir / "banks" / dtype


def build_vision_bank(
    folder: Path,
    model: ModelConfig,
    vision: dict,
    sources: Iterable[FrameSource],
    made_of: Preprocessing,
    dtype: str,
) -> Built:
    """build_bank with a model's vision tower, of which `vision` are the parameters."""
    frame_grid(model, made_of.height, made_of.width)  # says what size the tower can't take
    return build_bank(
        folder,
        sources,
        functools.partial(make_encode(model), {"vision": vision}),
        ENCODE_FRAMES,
        made_of,
        tower_hash(model, vision),
        dtype,
    )


def preprocessing(video: Mapping[str, Any]) -> Preprocessing:
    """How encode_frames takes a config's videos (height, width, native_pairs)."""
    mean, std = (tuple(map(float, values)) for values in (IMAGE_MEAN, IMAGE_STD))
    pairs = video.get("native_pairs", False)
    return Preprocessing(video["height"], video["width"], mean, std, pairs)


def tower_hash(model: ModelConfig, vision: dict) -> str:
    """weights_hash of a model's vision tower."""
    return weights_hash(vision, {**dataclasses.asdict(model.vision), "dtype": model.dtype})
