"""A split's frame bank, from the disk where the config says so."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank import HostBank
from medscope_jax.bank.bank_build import LOCK, Built, build_bank, build_videos, remove_partials
from medscope_jax.bank.bank_codec import check_dtype
from medscope_jax.bank.bank_index import not_stored, write_index
from medscope_jax.bank.bank_key import BankKey, Preprocessing, weights_hash
from medscope_jax.bank.bank_store import FrameSource, content_of, load_bank, source_of
from medscope_jax.copies import fetch, publish, working_copy
from medscope_jax.dialogue import stamp_ids
from medscope_jax.distributed.multihost import broadcast, gather, is_first, meet
from medscope_jax.locks import alone
from medscope_jax.models import ModelConfig, frame_grid
from medscope_jax.models.vision import IMAGE_MEAN, IMAGE_STD
from medscope_jax.training.make_steps import make_encode
from medscope_jax.training.run import ENCODE_FRAMES, Run, VideoSplit, make_split_bank


def split_bank(run: Run, params: dict, split: VideoSplit, name: str) -> HostBank:
    """The frame bank of a split under the given parameters.

    With config.video.stored_bank, frame tokens are kept in the run's folder as that type, and read
    when they are shown: stages that share a frozen vision tower, and a run that is continued,
    encode no frame twice, and memory holds a batch's tokens. A bank of other frames or weights is
    never read but made again. Of several processes each encodes a part of what is not stored yet,
    on a device of its own.

    name: what the bank is for; no other bank of the run has it.
    """
    dtype = run.config.video.stored_bank
    if not dtype:
        return make_split_bank(run, params, split)
    if jax.process_count() > 1:
        params = {"vision": jax.tree.map(jnp.asarray, gather(params["vision"]))}
    return stored_bank(run, params, split, dtype, name)


def stored_bank(
    run: Run, params: dict, split: VideoSplit, dtype: str | None = None, name: str = ""
) -> HostBank:
    """make_split_bank's bank, from the run's folder; what is not stored there yet is encoded first.

    Each video of the split needs an id in split.rows.

    Args:
      params: on this process's own devices.
      dtype: what tokens are stored as; the tower's own if None: then the bank is make_split_bank's
        bit for bit, if it was stored by devices of the same kind. int8 comes back as bfloat16.
      name: as of split_bank, where there are several processes.

    Raises:
      UserError: as build_bank and load_bank.
    """
    names = sorted(split.rows, key=lambda name: split.rows[name])
    if [split.rows[name] for name in names] != list(range(len(split.videos))):
        raise ValueError("each video of a stored bank needs an id of its own")
    dtype = check_dtype(dtype or run.model.dtype)
    folder, made_of = bank_folder(run.folder, dtype), preprocessing(run.config.video)
    sources = [source_of(name, split.videos[row]) for row, name in enumerate(names)]
    contents = {source.id: content_of(source) for source in sources}
    key = BankKey(made_of, tower_hash(run.model, params["vision"]), contents)
    here = fetch(folder)
    here.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        absent: set[str] = set()
        if is_first():
            stack.enter_context(alone(here / LOCK))
            remove_partials(here)
            absent = set(not_stored(here, key, dtype))
            publish(folder)  # also what a killed process has left here alone
        meet(f"bank to {name}: looked at")
        fetch(folder)
        # As process 0 sees the folder: others may see a network's files later.
        told = broadcast(np.array([source.id in absent for source in sources]))
        missing = [source for source, is_absent in zip(sources, told, strict=True) if is_absent]
        if missing:
            mine = part_of(missing, jax.process_index(), jax.process_count())
            encode = functools.partial(make_encode(run.model), {"vision": params["vision"]})
            build_videos(here, sources, mine, encode, ENCODE_FRAMES, key, dtype)
            publish(folder)
            meet(f"bank to {name}: encoded")
            fetch(folder)  # what the others have encoded
            if is_first():
                write_index(here, key, dtype)
                publish(folder)
    stamps = functools.partial(stamp_ids, run.tokenizer, run.layout)
    return load_bank(here, key, sources, stamps, max_frames=run.config.video.max_frames)


def part_of(sources: Sequence[FrameSource], index: int, count: int) -> set[str]:
    """The ids that process `index` of `count` encodes: neighbours, of about as many frames each."""
    lengths = np.array([len(source.times) for source in sources])
    middles = np.cumsum(lengths) - lengths / 2
    owner = np.minimum(middles * count // lengths.sum(), count - 1)
    return {source.id for source, own in zip(sources, owner, strict=True) if own == index}


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
    """build_bank with a model's vision tower, of which `vision` are the parameters.

    A folder in a bucket is built in its copy on this machine: ArrayRecord is written to files.
    """
    frame_grid(model, made_of.height, made_of.width)  # says what size the tower can't take
    with working_copy(folder) as here:
        return build_bank(
            here,
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
