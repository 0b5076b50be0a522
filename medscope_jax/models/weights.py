"""A model's weights as a folder, which convert imports to and runs start from.

    CKPT/model.json       the ModelConfig; of a part of a model its base folder, with a checksum
    CKPT/params/          the parameter tree, as plain Orbax restores it onto any mesh
    CKPT/tokenizer.json   and the other small files of the Hugging Face folder that it came from
    CKPT/manifest.json    checksums of all of these: what is damaged or edited is refused by name

A folder holds a whole model, or the trained part of one, such as adapters, and the base's path.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from medscope_jax.copies import new_target
from medscope_jax.errors import UserError, one_line
from medscope_jax.manifest import (
    MANIFEST,
    check_files,
    file_checksum,
    read_manifest,
    write_manifest,
)
from medscope_jax.models.hf.tensors import Path as LeafPath
from medscope_jax.models.hf.tensors import leaves
from medscope_jax.models.lora import LEAVES, adapter_shapes, join_params
from medscope_jax.models.model_config import ModelConfig, model_config
from medscope_jax.models.qwen import param_shapes
from medscope_jax.models.weight_arrays import (
    REMEDY,
    array_folder,
    create_arrays,
    damage,
    is_chunk,
    is_one_chunk,
    open_array,
    read_array,
)
from medscope_jax.strict_json import read_json_object

MODEL = "model.json"
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


def read_model(folder: Path) -> ModelConfig:
    """The ModelConfig of a weights folder.

    Raises:
        UserError: it is no weights folder, or its model.json is broken.
    """
    return _read_model(folder)[0]


def base_of(folder: Path) -> Path | None:
    """The base folder of a weights folder that holds a part of a model; None of a whole one."""
    return _read_model(folder)[1]


def _read_model(folder: Path) -> tuple[ModelConfig, Path | None]:
    """The ModelConfig, and the base folder if there is one."""
    if not (folder / MODEL).exists():
        raise UserError(
            f"{folder} has no {MODEL}: make it by python -m medscope_jax.convert import"
        )
    read_manifest(folder, REMEDY)
    values = read_json_object(folder / MODEL)
    base, known = values.pop("base", None), values.pop("base_manifest", None)
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{folder / MODEL} is broken: base must be the path of a folder")
        _check_base(folder, Path(base), known)
    try:
        return model_config(values), base and Path(base)
    except UserError as error:
        raise UserError(f"{folder / MODEL} is broken: {error}") from error


def _check_base(folder: Path, base: Path, known: str) -> None:
    """UserError where a folder's base is missing, or has other weights than it was made with."""
    if not (base / MANIFEST).is_file():
        raise UserError(f"{folder} holds a part of a model, and the rest, {base}, is not there")
    if file_checksum(base / MANIFEST) != known:
        raise UserError(
            f"{base} has other weights than those that {folder} was made on: put those back, or "
            "make the folder again on these"
        )


def weight_shapes(config: ModelConfig) -> dict:
    """param_shapes of a model, with its adapters where config.lora is set."""
    shapes = param_shapes(config)
    return join_params(shapes, adapter_shapes(config, config.lora)) if config.lora else shapes


def load_params(folder: Path, abstract: Any) -> Any:
    """The parameters of a weights folder; a process reads what its devices hold.

    Args:
        folder: as import or save_params made it.
        abstract: weight_shapes of its config, or a part of it. Arrays go where the shardings say,
            on any mesh; without shardings they are NumPy's. They are cast to the dtypes.

    Raises:
        UserError: the folder is damaged or is another model's.
    """
    stores = open_arrays(folder, abstract)
    try:
        return _nest((path, read_array(stores[path], leaf)) for path, leaf in leaves(abstract))
    except (OSError, ValueError) as error:
        raise damage(folder, error) from error


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
        params: the tree of arrays, each of which is whole in this process; with `base`, only the
            trained part: adapters, or the vision tower. int8 kernels can't be among them.
        config: the model's; param_dtype is set to that of the arrays, or of the base's.
        like: the weights folder or Hugging Face folder whose companion files are copied.
        base: the weights folder that has the other leaves. Its path is stored, nothing is copied.

    Raises:
        UserError: the folder exists, or `base` is no weights folder.
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
    with new_target(folder) as partial:
        stores = create_arrays(partial, params)
        for path, leaf in leaves(params):
            by_layer = leaf.ndim > 2 and not is_one_chunk(stores[path])
            for part in range(len(leaf)) if by_layer else [...]:
                stores[path][part].write(np.asarray(leaf[part])).result()
        write_model(partial, dataclasses.replace(config, param_dtype=dtype), like or base, base)


def write_model(
    folder: Path, config: ModelConfig, like: Path | None, base: Path | None = None
) -> None:
    """Finishes a folder whose arrays are written.

    Writes model.json, the companion files of the folder `like`, and the manifest.
    """
    values = dataclasses.asdict(config)
    del values["attention"]  # a matter of devices, not of the model
    if base is not None:
        known = file_checksum(base / MANIFEST)
        values = {"base": str(base.resolve()), "base_manifest": known, **values}
    (folder / MODEL).write_text(json.dumps(values, indent=2) + "\n")
    if like is not None:
        copy_companions(like, folder)
    write_manifest(folder, is_chunk)


def copy_companions(source: Path, target: Path) -> None:
    """Copies those of the COMPANIONS that `source` has."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def open_arrays(folder: Path, shapes: Any) -> dict[LeafPath, ts.TensorStore]:
    """The arrays of a weights folder, to be read slice by slice.

    Raises:
        UserError: an array is missing, broken, or not of the shape in `shapes`.
    """
    homes = _homes(folder, shapes)
    _check_chunks(homes)
    stores, problems = {}, []
    for path, leaf in leaves(shapes):
        try:
            stores[path] = open_array(homes[path], path)
        except (OSError, ValueError) as error:
            problems.append(f"{'/'.join(path)} can't be read ({one_line(error)[:80]})")
            continue
        if stores[path].shape != leaf.shape:
            problems.append(f"{'/'.join(path)} is {stores[path].shape}, must be {leaf.shape}")
    if problems:
        raise UserError(f"{folder} is not whole: {shorten(problems)}")
    return stores


def _check_chunks(homes: Mapping[LeafPath, Path]) -> None:
    """UserError where a chunk of one of these arrays is missing or is another's."""
    for home in dict.fromkeys(homes.values()):
        mine = {".".join(path) for path, at in homes.items() if at == home}
        files = read_manifest(home, REMEDY)
        chunks = [name for name in files if is_chunk(name) and name.split("/")[1] in mine]
        check_files(home, files, chunks, REMEDY)


def shorten(problems: list[str], most: int = 20) -> str:
    """At most `most` of the problems on one line, long ones cut, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problem[:300] for problem in problems[:most]) + more


def _homes(folder: Path, shapes: Any) -> dict[LeafPath, Path]:
    """The folder that holds each leaf: this one, or the base where this one lacks it."""
    base = _read_model(folder)[1]
    return {
        path: folder if base is None or array_folder(folder, path).is_dir() else base
        for path, _ in leaves(shapes)
    }


def _nest(pairs: Iterable[tuple[LeafPath, Any]]) -> dict:
    """The tree of dicts with these leaves."""
    tree: dict = {}
    for path, leaf in pairs:
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = leaf
    return tree
