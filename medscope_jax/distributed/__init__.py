"""Meshes, sharding rules, and compiling for TPU slices that are not there."""

from medscope_jax.distributed.activations import (
    BATCH,
    FRAMES,
    SEQUENCE,
    STREAM,
    TENSOR,
    constrain,
    free_axes,
    on_mesh,
    split_size,
    usable_axes,
)
from medscope_jax.distributed.memory import use_huge_pages
from medscope_jax.distributed.mesh import AXES, axis_sizes, check_device, make_mesh, tpu_generation
from medscope_jax.distributed.sharding import (
    abstract,
    bank_shardings,
    batch_shardings,
    param_shardings,
    replicated,
    state_shardings,
)
from medscope_jax.distributed.topology import (
    GIB,
    USABLE_GPU_BYTES,
    USABLE_HBM_BYTES,
    Report,
    compile_for,
    topology_devices,
    usable_bytes,
)

__all__ = [
    "AXES",
    "GIB",
    "BATCH",
    "FRAMES",
    "SEQUENCE",
    "STREAM",
    "USABLE_GPU_BYTES",
    "USABLE_HBM_BYTES",
    "TENSOR",
    "Report",
    "abstract",
    "axis_sizes",
    "bank_shardings",
    "batch_shardings",
    "check_device",
    "compile_for",
    "constrain",
    "free_axes",
    "make_mesh",
    "on_mesh",
    "param_shardings",
    "replicated",
    "split_size",
    "state_shardings",
    "topology_devices",
    "tpu_generation",
    "usable_axes",
    "usable_bytes",
    "use_huge_pages",
]
