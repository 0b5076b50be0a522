"""How a program's intermediate arrays lie on the mesh that it is traced under (jax.set_mesh)."""

import math

import jax


def free_axes() -> dict[str, int]:
    """Sizes by name of the current mesh's axes that the compiler splits over; {} without a mesh.

    Axes of an enclosing shard_map are left out: what one sees in there is split over them already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return {name: size for name, size in mesh.shape.items() if name not in mesh.manual_axes}


def split_size(size: int, *axes: str) -> int:
    """What one device holds of a dimension of `size` that is split over mesh axes, if it divides.

    Traced under a mesh of data=2, fsdp=4, split_size(16, "data", "fsdp") is 2; 16 without one.
    """
    sizes = free_axes()
    parts = math.prod(sizes.get(name, 1) for name in axes)
    return size // parts if size % parts == 0 else size
