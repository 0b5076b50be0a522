"""Meshes, sharding rules, and compiling for TPU slices that are not there."""

from medscope_jax.distributed.activations import split_size
from medscope_jax.distributed.memory import use_huge_pages
from medscope_jax.distributed.mesh import (
    AXES,
    axis_sizes,
    check_device,
    make_mesh,
    quiet_tpu_runtime,
    tpu_generation,
)
from medscope_jax.distributed.sharding import (
    BATCH_AXES,
    Fallback,
    abstract,
    batch_sharding,
    batch_shardings,
    param_shardings,
    replicated,
    shard_state,
    state_shardings,
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
    "BATCH_AXES",
    "GIB",
    "USABLE_HBM_BYTES",
    "Fallback",
    "Report",
    "abstract",
    "axis_sizes",
    "batch_sharding",
    "batch_shardings",
    "bytes_per_chip",
    "check_device",
    "compile_for",
    "count_collectives",
    "make_mesh",
    "param_shardings",
    "quiet_tpu_runtime",
    "replicated",
    "shard_state",
    "split_size",
    "state_shardings",
    "topology_devices",
    "tpu_generation",
    "use_huge_pages",
]
