"""Where every array lives: one table from parameter paths to logical axes, one to mesh axes.

    text/layers/mlp/up_proj/kernel  [layers, embed, mlp]  ->  (None, "fsdp", "tensor")

An optimizer's moments stand in a tree of the same paths, so they follow their parameter.
"""

import logging
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medscope_jax.distributed.activations import BATCH, STREAM

# What each logical axis is split over. A dimension that its mesh axis does not divide is replicated
# instead, and reported.
LOGICAL_AXES = {
    "layers": None,  # the axis that layers are stacked along
    "vocab": "tensor",
    "embed": "fsdp",  # width of the residual stream
    "heads": "tensor",  # query heads x head width
    "kv_heads": "tensor",
    "mlp": "tensor",  # width inside the feed-forward
    "qkv": None,  # query, key and value side by side: a split over heads would cut across them
    "rank": None,  # the narrow side of an adapter
    "patch": None,  # channels, frames and pixels of a patch
    "bias": None,  # norms' weights and biases of the residual stream: too small to be worth it
}

# (pattern of the end of a parameter's path, logical axes). The first match counts.
PARAMETER_AXES = (
    (r"text/embed_tokens", ("vocab", "embed")),
    (r"text/lm_head", ("embed", "vocab")),
    (r"text/norm/weight", ("bias",)),
    (r"layers/self_attn/q_proj/kernel", ("layers", "embed", "heads")),
    (r"layers/self_attn/[kv]_proj/kernel", ("layers", "embed", "kv_heads")),
    (r"layers/self_attn/o_proj/kernel", ("layers", "heads", "embed")),
    (r"layers/self_attn/q_proj/(bias|kernel_scale)", ("layers", "heads")),
    (r"layers/self_attn/[kv]_proj/(bias|kernel_scale)", ("layers", "kv_heads")),
    (r"layers/self_attn/o_proj/kernel_scale", ("layers", "bias")),
    (r"(layers|blocks)/mlp/(gate|up)_proj/kernel", ("layers", "embed", "mlp")),
    (r"(layers|blocks)/mlp/(gate|up)_proj/(bias|kernel_scale)", ("layers", "mlp")),
    (r"(layers|blocks)/mlp/down_proj/kernel", ("layers", "mlp", "embed")),
    (r"(layers|blocks)/mlp/down_proj/(bias|kernel_scale)", ("layers", "bias")),
    # An adapter is split as the side of the kernel that it shares.
    (r"layers/(self_attn/[qkv]|mlp/(gate|up))_proj/lora_a", ("layers", "embed", "rank")),
    (r"layers/self_attn/o_proj/lora_a", ("layers", "heads", "rank")),
    (r"layers/mlp/down_proj/lora_a", ("layers", "mlp", "rank")),
    (r"layers/self_attn/q_proj/lora_b", ("layers", "rank", "heads")),
    (r"layers/self_attn/[kv]_proj/lora_b", ("layers", "rank", "kv_heads")),
    (r"layers/mlp/(gate|up)_proj/lora_b", ("layers", "rank", "mlp")),
    (r"layers/(self_attn/o|mlp/down)_proj/lora_b", ("layers", "rank", "embed")),
    (r"layers/(input|post_attention)_layernorm/weight", ("layers", "bias")),
    (r"vision/patch_embed", ("patch", "patch", "patch", "patch", "embed")),
    (r"blocks/attn/qkv/kernel", ("layers", "embed", "qkv")),
    (r"blocks/attn/qkv/bias", ("layers", "qkv")),
    (r"blocks/attn/proj/kernel", ("layers", "heads", "embed")),
    (r"blocks/attn/proj/bias", ("layers", "bias")),
    (r"blocks/norm[12]/weight", ("layers", "bias")),
    (r"vision/merger_norm/weight", ("bias",)),
    (r"vision/merger_in/kernel", ("embed", "mlp")),
    (r"vision/merger_in/bias", ("mlp",)),
    (r"vision/merger_out/kernel", ("mlp", "embed")),
    (r"vision/merger_out/bias", ("bias",)),
)
_PATTERNS = tuple((re.compile(rf"(^|/){p}$"), axes) for p, axes in PARAMETER_AXES)

_log = logging.getLogger(__name__)


class Fallback(NamedTuple):
    """A dimension that had to be replicated, since its mesh axes do not divide it."""

    path: str
    dimension: int
    size: int
    mesh_axes: tuple[str, ...]
    mesh_size: int

    def __str__(self) -> str:
        axes = " x ".join(self.mesh_axes)
        return f"{self.path} dim {self.dimension} of {self.size} by {axes}={self.mesh_size}"


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """The NamedSharding of every parameter, in the tree's own structure.

    Args:
      params: tree of arrays or ShapeDtypeStructs, as of models.init_params.
      mesh: from make_mesh.

    Raises:
      ValueError: a parameter that PARAMETER_AXES has no line for.
    """
    shardings, fallbacks = resolve(params, mesh, strict=True)
    _report(fallbacks)
    return shardings


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """The NamedSharding of everything in a training state.

    Parameters, and whatever stands under a parameter's path with its number of dimensions
    (gradients, an optimizer's moments), are sharded as that parameter; the rest (steps, random
    keys) is replicated.
    """
    shardings, fallbacks = resolve(state, mesh, strict=False)
    _report(fallbacks)
    return shardings


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Rows along `axis` split over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH))


def batch_shardings(batch: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each array of a batch, an episode or a frame bank.

    Rows stand along the first axis, except for `positions` [3, B, L]. Where data x fsdp does not
    divide the rows, the array is replicated and a warning says so. What rows of training see, their
    `visual` tokens or `frames`, is most of a batch: it is split along the second axis too, over
    context and tensor as far as they divide it, so that it lies on the slice but once.
    """
    size = mesh.shape["data"] * mesh.shape["fsdp"]
    fallbacks: list[Fallback] = []

    def place(path, leaf):
        name = _path(path)
        axis = 1 if name.rsplit("/", 1)[-1] == "positions" and len(leaf.shape) == 3 else 0
        if not leaf.shape:
            return replicated(mesh)
        if leaf.shape[axis] % size:
            fallbacks.append(Fallback(name, axis, leaf.shape[axis], BATCH, size))
            return replicated(mesh)
        if name.rsplit("/", 1)[-1] in ("visual", "frames"):
            return NamedSharding(mesh, PartitionSpec(BATCH, _dividing(leaf.shape[1], mesh)))
        return batch_sharding(mesh, axis)

    shardings = jax.tree_util.tree_map_with_path(place, batch)
    _report(fallbacks)
    return shardings


def _dividing(size: int, mesh: Mesh) -> tuple[str, ...] | None:
    """The axes of a row's positions, as many of them as divide a size."""
    axes: tuple[str, ...] = STREAM
    while size % math.prod(mesh.shape[name] for name in axes):
        axes = axes[:-1]
    return axes or None


def bank_shardings(bank: Any, mesh: Mesh) -> Any:
    """The NamedSharding of a frame bank that rollouts and training gather from: its videos in the
    order of the rows that show them, split over data, fsdp and context.

    A device along context holds a part of its rows' videos; see models.embed with local=True. Where
    the axes do not divide the videos: as batch_shardings.
    """
    axes = (*BATCH, "context")
    size = math.prod(mesh.shape[name] for name in axes)
    if any(leaf.shape[0] % size for leaf in jax.tree.leaves(bank)):
        return batch_shardings(bank, mesh)
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec(axes)), bank)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def abstract(tree: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs of a tree of arrays (or of such structs) with the given shardings."""
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), tree, shardings
    )


def resolve(tree: Any, mesh: Mesh, strict: bool) -> tuple[Any, tuple[Fallback, ...]]:
    """Shardings of a tree by the two tables, and the dimensions that had to be replicated.

    Args:
      tree: arrays or ShapeDtypeStructs whose paths end in parameter paths.
      mesh: from make_mesh.
      strict: raise a ValueError for a path without a line; else replicate it.
    """
    fallbacks: list[Fallback] = []

    def place(path, leaf):
        name, shape = _path(path), leaf.shape
        axes = next((a for pattern, a in _PATTERNS if pattern.search(name)), None)
        if axes is None or len(axes) != len(shape):
            if strict:
                raise ValueError(f"no line in PARAMETER_AXES for parameter {name} {shape}")
            return replicated(mesh)
        spec = []
        for dimension, logical in enumerate(axes):
            axis = LOGICAL_AXES[logical]
            if axis is not None and shape[dimension] % mesh.shape[axis]:
                fallbacks.append(
                    Fallback(name, dimension, shape[dimension], (axis,), mesh.shape[axis])
                )
                axis = None
            spec.append(axis)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(place, tree), tuple(fallbacks)


def _path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _report(fallbacks: Sequence[Fallback]) -> None:
    if fallbacks:
        shown = "; ".join(map(str, fallbacks[:3])) + ("; ..." if len(fallbacks) > 3 else "")
        _log.warning("%d dimensions replicated instead of split: %s", len(fallbacks), shown)
