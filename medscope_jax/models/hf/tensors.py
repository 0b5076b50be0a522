"""Hugging Face's Qwen2.5-VL tensors to our parameter tree and back.

Several spellings of names exist: the hub's checkpoints say `visual.*` and `model.layers.*`, newer
in-memory models `model.visual.*` and `model.language_model.layers.*`, the model without its head
`language_model.layers.*`. All are read; the hub's are written. Layers are stacked here and separate
there; matrices are [in, out] here and [out, in] there; the patch projection is [C, t, p, p, D] here
and [D, C, t, p, p] there.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.models.model_config import ModelConfig
from medscope_jax.models.qwen import param_shapes

_SPELLINGS = {  # beginning of a name -> of the hub's; the first that fits
    "model.visual.": "visual.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.",
    "language_model.": "model.",
}
# Stored by some checkpoints although they follow from the config; the second is the vision tower's.
_COMPUTED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")
Path = tuple[str, ...]  # of a leaf in the parameter tree

_NAMES = {  # our path outside the layers -> the hub's name
    ("text", "embed_tokens"): "model.embed_tokens.weight",
    ("text", "norm", "weight"): "model.norm.weight",
    ("text", "lm_head"): "lm_head.weight",
    ("vision", "patch_embed"): "visual.patch_embed.proj.weight",
    ("vision", "merger_norm", "weight"): "visual.merger.ln_q.weight",
    ("vision", "merger_in", "kernel"): "visual.merger.mlp.0.weight",
    ("vision", "merger_in", "bias"): "visual.merger.mlp.0.bias",
    ("vision", "merger_out", "kernel"): "visual.merger.mlp.2.weight",
    ("vision", "merger_out", "bias"): "visual.merger.mlp.2.bias",
}
_STACKS: dict[Path, str] = {
    ("text", "layers"): "model.layers",
    ("vision", "blocks"): "visual.blocks",
}


def import_hf(state_dict: Mapping[str, np.ndarray], config: ModelConfig) -> dict:
    """Our parameters from a Hugging Face state dict of NumPy arrays, cast to config.param_dtype.

    A tied model's `lm_head.weight` is ignored: it is the embedding.

    Raises:
        ValueError: names every tensor that is missing, extra or of a wrong shape.
    """
    tensors = {hub_name(name): array for name, array in state_dict.items()}
    problems = differences({name: array.shape for name, array in tensors.items()}, config)
    if problems:
        raise ValueError("these weights are not of this model: " + "; ".join(problems))
    params: dict = {}
    for path, leaf in leaves(param_shapes(config)):
        found = list(places(path, leaf.shape))
        arrays = [to_ours(path, np.asarray(tensors[name])) for name, _ in found]
        array = arrays[0] if found[0][1] is None else np.stack(arrays)
        branch = params
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = jnp.asarray(array, leaf.dtype)
    return params


def hf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Hub name and shape of every tensor of the model, without allocating any."""
    return dict(_hf_shapes(config))


@functools.lru_cache(maxsize=4)  # the model is traced for them, and they are asked for again
def _hf_shapes(config: ModelConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(
        (name, _theirs_shape(path, leaf.shape if layer is None else leaf.shape[1:]))
        for path, leaf in leaves(param_shapes(config))
        for name, layer in places(path, leaf.shape)
    )


def export_hf(params: dict, config: ModelConfig) -> dict[str, np.ndarray]:
    """The state dict that Hugging Face's hub format stores for params: inverse of import_hf."""
    del config  # not needed; the argument keeps the pair symmetric
    tensors = {}
    for path, leaf in leaves(params):
        array = np.asarray(leaf)
        for name, layer in places(path, leaf.shape):
            ours = array if layer is None else array[layer]
            tensors[name] = np.ascontiguousarray(to_theirs(path, ours))
    return tensors


def differences(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig) -> list[str]:
    """How tensors of these hub names and shapes differ from the model's: a line for each.

    A tied model's `lm_head.weight` and stored frequencies of the rotary embedding are ignored.
    """
    wanted = hf_shapes(config)
    ignored = {"lm_head.weight"} if config.text.tie_word_embeddings else set()
    lines = [f"missing {name}" for name in wanted if name not in shapes]
    ignored |= {name for name in shapes if name.endswith(_COMPUTED)}
    lines += [f"extra {name}" for name in shapes if name not in wanted and name not in ignored]
    return lines + [
        f"{name} is {tuple(shapes[name])}, must be {shape}"
        for name, shape in wanted.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]


def hub_name(name: str) -> str:
    """The hub's spelling of a tensor's name in any spelling; other names stay as they are."""
    for prefix, hub in _SPELLINGS.items():
        if name.startswith(prefix):
            return hub + name.removeprefix(prefix)
    return name


def leaves(tree: dict) -> Iterator[tuple[Path, Any]]:
    """(path, leaf) of each array, or shape of one, in a parameter tree."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(entry.key for entry in path), leaf


def places(path: Path, shape: tuple[int, ...]) -> Iterator[tuple[str, int | None]]:
    """(hub name, layer) of each tensor in our leaf of this shape; None outside the stacks."""
    if path[:2] not in _STACKS:
        yield _NAMES[path], None
        return
    last = "bias" if path[-1] == "bias" else "weight"
    for layer in range(shape[0]):
        yield ".".join((_STACKS[path[:2]], str(layer), *path[2:-1], last)), layer


def first_axis(path: Path) -> int:
    """The axis of our (unstacked) array along which the first axis of the hub's tensor lies."""
    return -1 if path[-1] == "patch_embed" or _is_matrix(path) else 0


def to_ours(path: Path, array: np.ndarray) -> np.ndarray:
    """The hub's tensor, or some rows of it, in our order of axes: a view."""
    if path[-1] == "patch_embed":
        return np.moveaxis(array, 0, -1)
    return array.T if _is_matrix(path) else array


def to_theirs(path: Path, array: np.ndarray) -> np.ndarray:
    """Our unstacked array in the hub's order of axes: a view, inverse of to_ours."""
    if path[-1] == "patch_embed":
        return np.moveaxis(array, -1, 0)
    return array.T if _is_matrix(path) else array


def _is_matrix(path: Path) -> bool:
    return path[-1] in ("kernel", "lm_head")


def _theirs_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return to_theirs(path, np.broadcast_to(np.zeros(()), shape)).shape
