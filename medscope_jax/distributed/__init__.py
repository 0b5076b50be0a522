"""Meshes, sharding rules, and compiling for TPU slices that are not there."""

from medscope_jax.distributed.activations import (
    ANY,
    ROWS,
    SLOTS,
    WIDTH,
    constrain,
    free_axes,
    on_mesh,
    split_size,
    usable_axes,
)
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
    topology_devices,
)

__all__ = [
    "ANY",
    "AXES",
    "GIB",
    "ROWS",
    "SLOTS",
    "USABLE_HBM_BYTES",
    "WIDTH",
    "Fallback",
    "Report",
    "abstract",
    "axis_sizes",
    "batch_sharding",
    "batch_shardings",
    "bytes_per_chip",
    "check_device",
    "compile_for",
    "constrain",
    "free_axes",
    "make_mesh",
    "on_mesh",
    "param_shardings",
    "quiet_tpu_runtime",
    "replicated",
    "shard_state",
    "split_size",
    "state_shardings",
    "topology_devices",
    "tpu_generation",
    "usable_axes",
    "use_huge_pages",
]
