"""A model's weights as a folder: what convert imports to, and what runs start from.

    CKPT/model.json       the ModelConfig, and the base folder of one that holds a part of a model
    CKPT/params/          the parameter tree, as plain Orbax restores it onto any mesh
    CKPT/tokenizer.json   and the other small files of the Hugging Face folder that it came from

A folder holds all of a model, or what was trained of it (adapters, say) and where the rest is.

Orbax saves whole arrays. One of our stacked leaves is 3.8 GB at 7B and 39 GB at 72B, so Orbax only
lays the checkpoint out here, with one-element arrays, and TensorStore, the library that Orbax
itself stores arrays with, makes each of them anew in its true shape and fills it slice by slice.
"""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from medscope_jax.errors import UserError, one_line
from medscope_jax.models.config import ModelConfig, model_config
from medscope_jax.models.huggingface import Path as LeafPath
from medscope_jax.models.huggingface import leaves
from medscope_jax.models.lora import LEAVES, adapter_shapes, join_params
from medscope_jax.models.new_folder import new_folder
from medscope_jax.models.qwen import param_shapes

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
    return _read_model(folder)[0]


def _read_model(folder: Path) -> tuple[ModelConfig, Path | None]:
    """The ModelConfig, and the base folder if there is one."""
    try:
        values = json.loads((folder / MODEL).read_text())
        base = values.pop("base", None)
        return model_config(values), base and Path(base)
    except OSError as error:
        raise UserError(
            f"{folder} has no {MODEL} ({error.strerror}): make it by "
            "python -m medscope_jax.convert import"
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / MODEL} is broken: {one_line(error)}") from error


def weight_shapes(config: ModelConfig) -> dict:
    """param_shapes of a model, with its adapters where config.lora says that it has some."""
    shapes = param_shapes(config)
    return join_params(shapes, adapter_shapes(config, config.lora)) if config.lora else shapes


def load_params(folder: Path, abstract: Any) -> Any:
    """The parameters of a weights folder, read by Orbax.

    Args:
        folder: as import or save_params made it.
        abstract: weight_shapes of its config, or a part of it; shardings say where arrays go (any
            mesh; none: NumPy arrays), and another dtype casts.

    Raises:
        UserError: the folder is damaged or is another model's.
    """
    open_arrays(folder, abstract)
    homes = _homes(folder, abstract)
    params: dict = {}
    for home in dict.fromkeys(homes.values()):
        part = _nest((path, leaf) for path, leaf in leaves(abstract) if homes[path] == home)
        params = join_params(params, _restore(home, part))
    return params


def _restore(folder: Path, abstract: Any) -> Any:
    arguments = ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore((folder / PARAMS).resolve(), args=arguments)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} can't be loaded: {one_line(error)}") from error


def save_params(
    folder: Path,
    params: Any,
    config: ModelConfig,
    like: Path | None = None,
    base: Path | None = None,
) -> None:
    """Writes parameters in memory as a weights folder, whole or not at all; for one process.

    Args:
        folder: the new folder.
        params: the tree of arrays, each of which this process sees in whole; with `base`, only what
            was trained of it: adapters, or the vision tower. int8 kernels can't be among them.
        config: the model's; param_dtype is set to what the arrays (or the base's) are.
        like: the weights folder or Hugging Face folder whose companion files go along.
        base: the weights folder that has the other leaves. It is pointed to, not copied.

    Raises:
        UserError: the folder exists, or `base` is none.
        ValueError: the leaves are not the model's.
    """
    given = {path: leaf.shape for path, leaf in leaves(params)}
    known = {path: leaf.shape for path, leaf in leaves(weight_shapes(config))}
    wrong = [path for path, shape in given.items() if known.get(path) != shape]
    wrong += [path for path in known if path not in given and base is None]
    if wrong:
        names = shorten(["/".join(path) for path in wrong])
        raise ValueError(f"missing, extra or of a wrong shape: {names}")
    if base is not None:
        dtype = read_model(base).param_dtype
    else:
        dtype = next(leaf.dtype.name for path, leaf in leaves(params) if path[-1] not in LEAVES)
    with new_folder(folder) as partial:
        stores = create_arrays(partial, params)
        for path, leaf in leaves(params):
            by_layer = leaf.ndim > 2 and not is_one_chunk(stores[path])
            for part in range(len(leaf)) if by_layer else [...]:
                stores[path][part].write(np.asarray(leaf[part])).result()
        write_model(partial, dataclasses.replace(config, param_dtype=dtype), like or base, base)


def write_model(
    folder: Path, config: ModelConfig, like: Path | None, base: Path | None = None
) -> None:
    """Writes model.json, and the companion files of the folder `like`."""
    values = dataclasses.asdict(config)
    del values["attention"]  # of the devices that it ran on, not of the model
    if base is not None:
        values = {"base": str(base.resolve()), **values}
    (folder / MODEL).write_text(json.dumps(values, indent=2) + "\n")
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
            checkpointer.save((folder / PARAMS).resolve(), args=ocp.args.PyTreeSave(stand_ins))
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
    homes = _homes(folder, shapes)
    stores, problems = {}, []
    for path, leaf in leaves(shapes):
        try:
            # Not writing a chunk of zeros is a damage here, not a choice.
            spec = _spec(homes[path], path) | {"fill_missing_data_reads": False}
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


def shorten(problems: list[str], most: int = 20) -> str:
    """At most `most` of the problems on one line, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def _homes(folder: Path, shapes: Any) -> dict[LeafPath, Path]:
    """The folder that holds each leaf: this one, or the base where this one has it not."""
    base = _read_model(folder)[1]
    if base is not None and not base.is_dir():
        raise UserError(f"{folder} holds a part of a model, and the rest, {base}, is not there")
    own = {path: base is None or _array(folder, path).is_dir() for path, _ in leaves(shapes)}
    return {path: folder if mine else base for path, mine in own.items()}


def _nest(pairs: Iterable[tuple[LeafPath, Any]]) -> dict:
    """The tree of dicts with these leaves."""
    tree: dict = {}
    for path, leaf in pairs:
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = leaf
    return tree


def _array(folder: Path, path: LeafPath) -> Path:
    return folder / PARAMS / ".".join(path)  # where Orbax keeps an array of a tree of dicts


def _spec(folder: Path, path: LeafPath) -> dict[str, Any]:
    place = f"{_array(folder, path).resolve()}/"
    return {"driver": "zarr", "kvstore": {"driver": "file", "path": place}}


def _is_a_problem(record: logging.LogRecord) -> bool:
    """Log filter: Orbax remarks that there is nothing to merge, which is as it should be."""
    return "Skipping merge of OCDBT" not in record.getMessage()
