"""A model's weights as a folder: what convert imports to, and what runs start from.

    CKPT/model.json       the ModelConfig
    CKPT/params/          the parameter tree, as plain Orbax restores it onto any mesh
    CKPT/tokenizer.json   and the other small files of the Hugging Face folder that it came from

Orbax saves whole arrays. One of our stacked leaves is 3.8 GB at 7B and 39 GB at 72B, so Orbax only
lays the checkpoint out here, with one-element arrays, and TensorStore, the library that Orbax
itself stores arrays with, makes each of them anew in its true shape and fills it slice by slice.
"""

import contextlib
import dataclasses
import fcntl
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from medscope_jax.errors import UserError, is_disk_full, one_line
from medscope_jax.models.config import ModelConfig, model_config
from medscope_jax.models.huggingface import Path as LeafPath
from medscope_jax.models.huggingface import leaves

MODEL, PARAMS = "model.json", "params"
# What of a Hugging Face folder belongs to a model beside its weights.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
)
_CHUNK_BYTES = 32 * 2**20
_ORBAX_LOG = logging.getLogger("absl")


def read_model(folder: Path) -> ModelConfig:
    """The ModelConfig of a weights folder.

    Raises:
        UserError: the folder is none, or its model.json is broken.
    """
    try:
        return model_config(json.loads((folder / MODEL).read_text()))
    except OSError as error:
        raise UserError(
            f"{folder} has no {MODEL} ({error.strerror}): make it by "
            "python -m medscope_jax.convert import"
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / MODEL} is broken: {one_line(error)}") from error


def load_params(folder: Path, abstract: Any) -> Any:
    """The parameters of a weights folder, read by Orbax.

    Args:
        folder: as import or save_params made it.
        abstract: models.param_shapes of its config; shardings say where arrays go (any mesh; none:
            NumPy arrays), and another dtype casts.

    Raises:
        UserError: the folder is damaged or is another model's.
    """
    open_arrays(folder, abstract)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(
                (folder / PARAMS).absolute(),
                args=ocp.args.PyTreeRestore(
                    item=abstract,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                ),
            )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} can't be loaded: {one_line(error)}") from error


def save_params(folder: Path, params: Any, config: ModelConfig, like: Path | None = None) -> None:
    """Writes parameters in memory as a weights folder, whole or not at all; for one process.

    Args:
        folder: the new folder.
        params: the tree of arrays that one process sees in whole.
        config: its ModelConfig; param_dtype is set to what the arrays are.
        like: the weights folder or Hugging Face folder whose companion files go along.

    Raises:
        UserError: the folder exists.
    """
    dtype = jax.tree.leaves(params)[0].dtype.name
    with new_folder(folder) as partial:
        stores = create_arrays(partial, params)
        for path, leaf in leaves(params):
            by_layer = leaf.ndim > 2 and not is_one_chunk(stores[path])
            for part in range(len(leaf)) if by_layer else [...]:
                stores[path][part].write(np.asarray(leaf[part])).result()
        write_model(partial, dataclasses.replace(config, param_dtype=dtype), like)


def write_model(folder: Path, config: ModelConfig, like: Path | None) -> None:
    """Writes model.json, and the companion files of the folder `like`."""
    (folder / MODEL).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    if like is not None:
        copy_companions(like, folder)


def copy_companions(source: Path, target: Path) -> None:
    """Copies the COMPANIONS that are there."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def create_arrays(folder: Path, shapes: Any) -> dict[LeafPath, ts.TensorStore]:
    """An Orbax checkpoint of this tree, every array of which is still to be written.

    Args:
        folder: the weights folder that gets it.
        shapes: tree of arrays or ShapeDtypeStructs.

    Returns:
        Writable arrays by path. Orbax refuses to restore one of which a chunk was not written.
    """
    stand_ins = jax.tree.map(lambda leaf: np.zeros((1,) * len(leaf.shape), leaf.dtype), shapes)
    _ORBAX_LOG.addFilter(_is_a_problem)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
            checkpointer.save((folder / PARAMS).absolute(), args=ocp.args.PyTreeSave(stand_ins))
    finally:
        _ORBAX_LOG.removeFilter(_is_a_problem)
    stores = {}
    for path, leaf in leaves(shapes):
        metadata = json.loads((_array(folder, path) / ".zarray").read_text())
        metadata |= {
            "shape": list(leaf.shape),
            "chunks": list(chunk_shape(leaf.shape, leaf.dtype.itemsize)),
        }
        spec = {"metadata": metadata, "store_data_equal_to_fill_value": True}
        stores[path] = ts.open(
            _spec(folder, path) | spec, create=True, delete_existing=True
        ).result()
    return stores


def open_arrays(folder: Path, shapes: Any) -> dict[LeafPath, ts.TensorStore]:
    """The arrays of a weights folder, to be read slice by slice.

    Raises:
        UserError: an array is missing, broken, or not of the shape in `shapes`.
    """
    stores, problems = {}, []
    for path, leaf in leaves(shapes):
        try:
            # Not writing a chunk of zeros is a damage here, not a choice.
            spec = _spec(folder, path) | {"fill_missing_data_reads": False}
            stores[path] = ts.open(spec, open=True, read=True).result()
        except (OSError, ValueError) as error:
            problems.append(f"{'/'.join(path)} can't be read ({one_line(error)[:80]})")
            continue
        if stores[path].shape != leaf.shape:
            problems.append(f"{'/'.join(path)} is {stores[path].shape}, must be {leaf.shape}")
    if problems:
        raise UserError(f"{folder} is not whole: {shorten(problems)}")
    return stores


def is_one_chunk(store: ts.TensorStore) -> bool:
    """Whether an array is stored in one piece, which only pays to be written at once."""
    return store.chunk_layout.write_chunk.shape == store.shape


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """How an array is cut on disk: in one piece up to 32 MiB, else by layer and then into halves.

    Halving the longest even side keeps chunks aligned with meshes of 2, 4, 8, ... devices, so that
    each device reads little more than its own.
    """
    chunk = list(shape)
    while math.prod(chunk) * itemsize > _CHUNK_BYTES:
        if len(chunk) > 2 and chunk[0] > 1:
            chunk[0] = 1
            continue
        even = [axis for axis, side in enumerate(chunk) if side % 2 == 0]
        axis = max(even or range(len(chunk)), key=lambda a: chunk[a])
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it when the block ends well, and vanishes otherwise.

    What a killed process left there is removed by the next one.

    Raises:
        UserError: the target exists, or another process is writing it.
    """
    check_new(target)
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"{partial} can't be made: {error.strerror}") from error
    try:
        _lock(lock, target)
        for left in partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield partial
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def check_new(target: Path) -> None:
    """UserError if there is something at `target`."""
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already: name another target, or delete it")


def shorten(problems: list[str], most: int = 20) -> str:
    """At most `most` of the problems on one line, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def _lock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another process is writing {target}: wait for it") from error
    except OSError:  # some network file systems have no locks
        pass


def _array(folder: Path, path: LeafPath) -> Path:
    return folder / PARAMS / ".".join(path)  # where Orbax keeps an array of a tree of dicts


def _spec(folder: Path, path: LeafPath) -> dict[str, Any]:
    place = f"{_array(folder, path).absolute()}/"
    return {"driver": "zarr", "kvstore": {"driver": "file", "path": place}}


def _is_a_problem(record: logging.LogRecord) -> bool:
    """Log filter: Orbax remarks that there is nothing to merge, which is as it should be."""
    return "Skipping merge of OCDBT" not in record.getMessage()
