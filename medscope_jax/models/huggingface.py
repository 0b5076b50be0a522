"""Hugging Face's Qwen2.5-VL tensors to our parameter tree and back.

Two spellings of names exist: the hub's checkpoints say `visual.*` and `model.layers.*`, newer
in-memory models `model.visual.*` and `model.language_model.layers.*`. Both are read; the hub's
are written. Layers are stacked here and separate there; matrices are [in, out] here and [out, in]
there; the patch projection is [C, t, p, p, D] here and [D, C, t, p, p] there.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.models.config import ModelConfig
from medscope_jax.models.qwen import param_shapes

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
_STACKS = {("text", "layers"): "model.layers", ("vision", "blocks"): "visual.blocks"}


def import_hf(state_dict: Mapping[str, np.ndarray], config: ModelConfig) -> dict:
    """Our parameters from a Hugging Face state dict of NumPy arrays, cast to config.param_dtype.

    A tied model's `lm_head.weight` is ignored: it is the embedding.

    Raises:
        ValueError: names every tensor that is missing, extra or of a wrong shape.
    """
    tensors = {_hub_name(name): array for name, array in state_dict.items()}
    if config.text.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    wanted = hf_shapes(config)
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"extra {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tensors[name].shape}, must be {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        raise ValueError("these weights are not of this model: " + "; ".join(problems))
    params: dict = {}
    for path, leaf in _leaves(config):
        places = list(_places(path, leaf))
        arrays = [_to_ours(path, np.asarray(tensors[name])) for name, _ in places]
        array = arrays[0] if places[0][1] is None else np.stack(arrays)
        branch = params
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = jnp.asarray(array, leaf.dtype)
    return params


def hf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Hub name and shape of every tensor of the model, without allocating any."""
    return {
        name: _theirs_shape(path, leaf.shape if layer is None else leaf.shape[1:])
        for path, leaf in _leaves(config)
        for name, layer in _places(path, leaf)
    }


def export_hf(params: dict, config: ModelConfig) -> dict[str, np.ndarray]:
    """The state dict that Hugging Face's hub format stores for params: inverse of import_hf."""
    del config  # the tree says it all; the argument keeps the pair symmetric
    tensors = {}
    for path, leaf in _walk(params):
        array = np.asarray(leaf)
        for name, layer in _places(path, leaf):
            ours = array if layer is None else array[layer]
            tensors[name] = np.ascontiguousarray(_to_theirs(path, ours))
    return tensors


def hf_config(config: ModelConfig) -> dict:
    """Keyword arguments that build the same model's `transformers.Qwen2_5_VLConfig`."""
    vision = dataclasses.asdict(config.vision)
    vision["fullatt_block_indexes"] = list(vision["fullatt_block_indexes"])
    text = dataclasses.asdict(config.text)
    section, theta = list(text.pop("mrope_section")), text.pop("rope_theta")
    tied = text.pop("tie_word_embeddings")
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": theta,
        "mrope_section": section,
    }
    # Special ids at the end of the vocabulary: the defaults lie beyond a tiny one.
    last = config.text.vocab_size - 1
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "vision_config": vision,
        "text_config": {**text, "bos_token_id": None, "eos_token_id": None},
        "tie_word_embeddings": tied,
        **{name: last - place for place, name in enumerate(ids)},
    }


def _hub_name(name: str) -> str:
    name = name.replace("model.visual.", "visual.", 1)
    return name.replace("model.language_model.", "model.", 1)


def _leaves(config: ModelConfig):
    return list(_walk(param_shapes(config)))


def _walk(tree: dict) -> Iterator[tuple[tuple[str, ...], jax.Array]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(entry.key for entry in path), leaf


def _places(path: tuple[str, ...], leaf) -> Iterator[tuple[str, int | None]]:
    """(hub name, layer) of each tensor in our leaf; layer is None outside the stacks."""
    if path[:2] not in _STACKS:
        yield _NAMES[path], None
        return
    last = "bias" if path[-1] == "bias" else "weight"
    for layer in range(leaf.shape[0]):
        yield ".".join((_STACKS[path[:2]], str(layer), *path[2:-1], last)), layer


def _is_matrix(path: tuple[str, ...]) -> bool:
    return path[-1] in ("kernel", "lm_head")


def _to_ours(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    if path[-1] == "patch_embed":
        return np.moveaxis(array, 0, -1)
    return array.T if _is_matrix(path) else array


def _to_theirs(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    if path[-1] == "patch_embed":
        return np.moveaxis(array, -1, 0)
    return array.T if _is_matrix(path) else array


def _theirs_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_theirs(path, np.broadcast_to(np.zeros(()), shape)).shape
