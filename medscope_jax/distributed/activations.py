"""How a program's intermediate arrays lie on the mesh that it is traced under (jax.set_mesh).

Left to itself, the compiler may follow the weights' sharding and hold all rows of a batch on every
chip. The model therefore says of its few large arrays how they are split:

    hidden [B, L, D]      constrain(hidden, BATCH, STREAM, None)   rows over data and fsdp
    heads  [B, L, H, hd]  constrain(heads, BATCH, SEQUENCE, TENSOR, None)

Without a mesh, or on one device, nothing is said and nothing changes.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec

# Mesh axes that a dimension of an intermediate array is split over.
BATCH = ("data", "fsdp")  # rows of a batch: episodes
SEQUENCE = ("context",)  # positions of an episode
TENSOR = ("tensor",)  # heads, the width inside a feed-forward, the vocabulary
# Slots of the residual stream, which devices along tensor would else all hold, layer by layer.
STREAM = SEQUENCE + TENSOR
# Frames in the vision tower, of which none sees another: every chip takes its share of them, where
# a chip along context or tensor would else repeat what its neighbours compute.
FRAMES = BATCH + SEQUENCE + TENSOR


def on_mesh(mesh: Mesh | None, function: Callable) -> Callable:
    """The (jitted) function, always traced and run under the mesh; itself where there is only one
    device, which needs none."""
    if mesh is None or mesh.size == 1:
        return function

    @functools.wraps(function)
    def run(*args, **kwargs):
        if jax.sharding.get_abstract_mesh() == mesh.abstract_mesh:
            return function(*args, **kwargs)  # it may be set once only while tracing
        with jax.set_mesh(mesh):
            return function(*args, **kwargs)

    return run


def constrain(x: jax.Array, *split: tuple[str, ...] | None) -> jax.Array:
    """x, split over the mesh as said.

    Args:
        x: any array of a program that is being traced.
        split: for each dimension mesh axes, such as BATCH, or None: whole on every device. A
            dimension is split as far as usable_axes says, or else left to the compiler.
    """
    sizes = free_axes()
    if math.prod(sizes.values()) == 1:
        return x
    spec = [
        None if axes is None else usable_axes(n, axes)
        for n, axes in zip(x.shape, split, strict=True)
    ]
    if not any(axes for axes in spec):
        return x
    places = (PartitionSpec.UNCONSTRAINED if axes == () else axes for axes in spec)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*places))


def free_axes() -> dict[str, int]:
    """Sizes by name of the current mesh's axes that the compiler splits over; {} without a mesh.

    Axes of an enclosing shard_map are left out: what one sees in there is split over them already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return {name: size for name, size in mesh.shape.items() if name not in mesh.manual_axes}


def usable_axes(size: int, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the axes that are free and split anything, without the last ones if need be so that
    they divide `size`."""
    sizes = free_axes()
    axes = tuple(name for name in axes if sizes.get(name, 1) > 1)
    while size % math.prod(sizes[name] for name in axes):
        axes = axes[:-1]
    return axes


def split_size(size: int, axes: tuple[str, ...]) -> int:
    """What one device holds of a dimension of `size` that is split over the usable mesh axes.

    Traced under a mesh of data=2, fsdp=4, split_size(16, BATCH) is 2; 16 without one.
    """
    sizes = free_axes()
    return size // math.prod(sizes[name] for name in usable_axes(size, axes))
