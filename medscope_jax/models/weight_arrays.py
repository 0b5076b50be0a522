"""The arrays of a weights folder on disk: Zarr 3, at the paths where Orbax looks for them.

Orbax saves whole arrays, but one of our stacked leaves is 3.8 GB at 7B and 39 GB at 72B. So Orbax
only lays out the checkpoint, with one-element arrays. TensorStore, the library that Orbax itself
stores arrays with, then makes each array in its true shape and fills it slice by slice. Each chunk
ends with a CRC-32C, which TensorStore compares whenever it reads the chunk.
"""

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from medscope_jax.errors import UserError, one_line
from medscope_jax.models.hf.tensors import Path as LeafPath
from medscope_jax.models.hf.tensors import leaves

PARAMS = "params"
_CHUNK = re.compile(rf"{PARAMS}/[^/]+/c(\.\d+)+")
_CHUNK_BYTES = 32 * 2**20
_FORMAT = {"use_ocdbt": False, "use_zarr3": True}  # of Orbax: a folder of Zarr 3 for each array
_CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": 1}},
    {"name": "crc32c"},  # at the end of each chunk, compared when it is read
]
_ORBAX_LOG = logging.getLogger("absl")
REMEDY = "put back a copy, or make the folder again by python -m medscope_jax.convert"


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
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**_FORMAT)) as checkpointer:
            checkpointer.save((folder / PARAMS).resolve(), args=ocp.args.PyTreeSave(stand_ins))
    finally:
        _ORBAX_LOG.removeFilter(_is_a_problem)
    stores = {}
    for path, leaf in leaves(shapes):
        metadata = json.loads((array_folder(folder, path) / "zarr.json").read_text())
        chunk = list(chunk_shape(leaf.shape, leaf.dtype.itemsize))
        metadata |= {
            "shape": list(leaf.shape),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": _CODECS,
        }
        spec = {"metadata": metadata, "store_data_equal_to_fill_value": True}
        stores[path] = ts.open(
            _spec(folder, path) | spec, create=True, delete_existing=True
        ).result()
    return stores


def open_array(folder: Path, path: LeafPath) -> ts.TensorStore:
    """An array to be read slice by slice; OSError or ValueError where there is none."""
    # A missing chunk is damage, never a chunk of zeros that was left out.
    spec = _spec(folder, path) | {"fill_missing_data_reads": False}
    return ts.open(spec, open=True, read=True).result()


def read_array(store: ts.TensorStore, leaf: jax.ShapeDtypeStruct) -> np.ndarray | jax.Array:
    """An array in the leaf's dtype, where its sharding says; NumPy's without one.

    Raises:
        OSError, ValueError: a chunk is missing or is not what was written.
    """
    blocks: dict[str, np.ndarray] = {}  # devices may hold the same one

    def read(index: Any) -> np.ndarray:
        if repr(index) not in blocks:
            blocks[repr(index)] = store[index].read().result().astype(leaf.dtype, copy=False)
        return blocks[repr(index)]

    sharding = getattr(leaf, "sharding", None)
    return jax.make_array_from_callback(leaf.shape, sharding, read) if sharding else read(...)


def is_chunk(name: str) -> bool:
    """Whether a path from the folder, such as params/text.norm.weight/c.0, is a chunk's."""
    return _CHUNK.fullmatch(name) is not None


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


def damage(folder: Path, error: Exception) -> UserError:
    """An error of the libraries that read a folder's arrays as one line: which file, what to do."""
    text = one_line(error)
    place = re.search(r'local file "([^"]*)"', text)
    what = f"{place[1]} is damaged" if place else f"{folder} is damaged ({text[:160]})"
    return UserError(f"{what}: {REMEDY}")


def array_folder(folder: Path, path: LeafPath) -> Path:
    """Where Orbax keeps an array of a tree of dicts."""
    return folder / PARAMS / ".".join(path)


def _spec(folder: Path, path: LeafPath) -> dict[str, Any]:
    place = f"{array_folder(folder, path).resolve()}/"
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": place}}


def _is_a_problem(record: logging.LogRecord) -> bool:
    """Log filter: drops Orbax's remark that there is nothing to merge, which is intended."""
    return "Skipping merge of OCDBT" not in record.getMessage()
