"""Meshes, sharding rules, and compiling for TPU slices that are not there."""

from medscope_jax.distributed.mesh import (
    AXES,
    axis_sizes,
    check_device,
    make_mesh,
    quiet_tpu_runtime,
    tpu_generation,
)
from medscope_jax.distributed.topology import (
    GIB,
    USABLE_HBM_BYTES,
    Report,
    bytes_per_chip,
    compile_for,
    count_collectives,
    topology_devices,
)

__all__ = [
    "AXES",
    "GIB",
    "USABLE_HBM_BYTES",
    "Report",
    "axis_sizes",
    "bytes_per_chip",
    "check_device",
    "compile_for",
    "count_collectives",
    "make_mesh",
    "quiet_tpu_runtime",
    "topology_devices",
    "tpu_generation",
]
