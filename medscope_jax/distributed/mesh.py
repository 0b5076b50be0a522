"""Device meshes, and the devices that a config asks for.

Every mesh has the axes `data`, `fsdp`, `context` and `tensor`, in this order, whatever their sizes:
batches are split over data and fsdp, weights over fsdp, over context the positions of long rows (in
training) or questions (in rollouts), heads and widths over tensor. Several TPU slices, joined by a
network that is slower than a slice's own links, split the data axis: each holds whole copies of the
weights, and only gradients go from one to another.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from medscope_jax.errors import UserError, closest

AXES = ("data", "fsdp", "context", "tensor")

# Makes the TPU compiler gather weights whole before it multiplies by them. By itself it multiplies
# by large ones part by part as they come round, and writes and reads the rounded sum each time,
# which costs more bytes to and from memory than all else in a training step.
WHOLE_GATHERS = "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"

# What a TPU calls itself -> the name it is sold under.
_TPU_GENERATIONS = {
    "tpu v4": "v4",
    "tpu v5 lite": "v5e",
    "tpu v5e": "v5e",
    "tpu v5": "v5p",
    "tpu v5p": "v5p",
    "tpu v6 lite": "v6e",
    "tpu v6e": "v6e",
}


def make_mesh(
    axes: Mapping[str, int],
    devices: Sequence[jax.Device] | None = None,
    *,
    kv_heads: int | None = None,
    slices: int = 1,
) -> Mesh:
    """Lays the devices out as a mesh of Auto axes (AXES).

    Args:
      axes: size of each axis by name; a missing axis has size 1, and one axis may be -1: the rest.
      devices: all of them are used; by default every device of the default backend.
      kv_heads: key-value heads of the model, which the tensor axis has to divide; None: unchecked.
      slices: that the devices are of, which split the data axis. Devices that do not say which
        slice they are of are taken for equal slices, one behind the other.

    Returns:
      A mesh whose axis types are Auto: the compiler places collectives from the inputs' shardings.

    Raises:
      UserError: an unknown axis, sizes that do not multiply to the number of devices, a tensor
        axis that does not divide the key-value heads, or a data axis that slices do not divide.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(axes, len(devices))
    if kv_heads is not None and kv_heads % sizes["tensor"]:
        allowed = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0]
        raise UserError(
            f"mesh axis tensor={sizes['tensor']} does not divide the model's {kv_heads} key-value "
            f"heads; use one of {', '.join(map(str, allowed))}"
        )
    if sizes["data"] % slices:
        raise UserError(
            f"mesh axis data={sizes['data']} is no multiple of the {slices} slices "
            "(config.device.slices): weights are not split over slices, so set --config.mesh.data"
        )
    inner = (sizes["data"] // slices, *(sizes[name] for name in AXES[1:]))
    # On TPUs this follows the physical links; splitting a physical axis beats refusing the mesh.
    grid = np.concatenate(
        [
            mesh_utils.create_device_mesh(inner, part, allow_split_physical_axes=True)
            for part in _by_slice(devices, slices)
        ]
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _by_slice(devices: list[jax.Device], slices: int) -> list[list[jax.Device]]:
    """The devices of each slice."""
    numbers = [getattr(device, "slice_index", None) for device in devices]
    there = len(set(numbers))
    if there == 1:
        size, rest = divmod(len(devices), slices)
        if rest:
            raise UserError(f"{len(devices)} devices are no {slices} slices (config.device.slices)")
        return [devices[first : first + size] for first in range(0, len(devices), size)]
    if there != slices:
        raise UserError(
            f"the devices are of {there} slices, not {slices}: set --config.device.slices={there}"
        )
    parts: dict[Any, list[jax.Device]] = {number: [] for number in numbers}
    for number, device in zip(numbers, devices, strict=True):
        parts[number].append(device)
    return list(parts.values())


def axis_sizes(axes: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """Resolves -1 and missing axes to the sizes of all AXES for that many devices.

    >>> axis_sizes({"data": -1, "tensor": 2}, 8)
    {'data': 4, 'fsdp': 1, 'context': 1, 'tensor': 2}

    Raises:
      UserError: an unknown axis, a bad size, or sizes that do not multiply to `num_devices`.
    """
    for name, size in axes.items():
        if name not in AXES:
            raise UserError(
                f"unknown mesh axis {name!r}{closest(name, AXES)}; axes are {', '.join(AXES)}"
            )
        if not isinstance(size, int) or isinstance(size, bool) or (size < 1 and size != -1):
            raise UserError(
                f"mesh axis {name}={size!r} must be a positive integer, or -1: the rest"
            )
    sizes = {name: axes.get(name, 1) for name in AXES}
    text = ", ".join(f"{name}={size}" for name, size in sizes.items())
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"mesh {text}: only one axis may be -1 (the rest)")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and num_devices % fixed == 0 and num_devices:
        sizes[free[0]] = num_devices // fixed
    elif free or fixed != num_devices:
        multiple = "a multiple of " if free else ""
        raise UserError(
            f"mesh {text} needs {multiple}{fixed} devices but there are {num_devices}; "
            "change config.mesh so that its sizes multiply to the number of devices"
        )
    return sizes


def check_device(device: Mapping) -> list[jax.Device]:
    """Finds the devices that a config's `device` section asks for.

    Args:
      device: `platform` ("cpu", "gpu" or "tpu"), `kind` (part of the device's name such as "H100",
        or a TPU generation such as "v5e"; "" for any) and `count`, how many the run uses.

    Returns:
      The first `count` devices of that platform and kind.

    Raises:
      UserError: one line that says what is needed, what was found, and where to go instead.
    """
    platform, kind, count = device["platform"], device["kind"], device["count"]
    if count < 1:
        raise UserError(f"config.device.count is {count}; it must be at least 1")
    if platform not in ("cpu", "gpu", "tpu"):
        raise UserError(f"config.device.platform is {platform!r}; use 'cpu', 'gpu' or 'tpu'")
    set_up_tpu_runtime()
    if platform == "cpu" and not jax.config.values["jax_platforms"]:
        jax.config.update("jax_platforms", "cpu")  # leave accelerators to other processes
    matching = [d for d in _devices(platform) if _is_kind(d.device_kind, kind)]
    if len(matching) > count and jax.process_count() > 1:
        raise UserError(
            f"config.device.count is {count} but the processes have {len(matching)} devices, and "
            "several processes have to use all of theirs: set --config.device.count"
        )
    if len(matching) >= count:
        return matching[:count]
    wanted = f"{count} {platform.upper()} device(s)" + (f" of kind {kind!r}" if kind else "")
    found = Counter(f"{d.platform} ({d.device_kind})" for d in _devices(None) or _devices("cpu"))
    found_text = ", ".join(f"{n} x {name}" for name, n in sorted(found.items())) or "none"
    if platforms := jax.config.values["jax_platforms"]:
        found_text += f" (JAX_PLATFORMS={platforms})"
    raise UserError(
        f"this config needs {wanted} but found {found_text}; run --config tpu_configs/cpu.py here, "
        "or see what it would use with python -m medscope_jax.plan --config FILE"
    )


def tpu_generation(device_kind: str) -> str:
    """ "TPU v5 lite" -> "v5e"; "" where the kind is no known TPU."""
    return _TPU_GENERATIONS.get(device_kind.lower(), "")


def set_up_tpu_runtime() -> None:
    """Sets the TPU compiler's flags, for chips that are here and for those that are not, and keeps
    libtpu from searching and complaining on a machine that has no TPU.

    JAX sets TPU_SKIP_MDS_QUERY where it sees no TPU chip; only there are the values below set, so
    that a real TPU host keeps its own. Must run before the first device look-up to have an effect.
    """
    flags = os.environ.get("LIBTPU_INIT_ARGS", "")
    if WHOLE_GATHERS.split("=")[0] not in flags:  # a user's own value is kept
        os.environ["LIBTPU_INIT_ARGS"] = f"{flags} {WHOLE_GATHERS}".strip()
    if os.environ.get("TPU_SKIP_MDS_QUERY") != "1":
        return
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)


def _devices(platform: str | None) -> list[jax.Device]:
    """The platform's devices, or the default backend's; none where it can't be started.

    Back ends fail in many ways (RuntimeError, AssertionError, plug-in errors) and all mean "not
    there".
    """
    try:
        return list(np.asarray(jax.devices(platform)).flat)
    except Exception:
        return []


def _is_kind(device_kind: str, kind: str) -> bool:
    wanted = kind.lower()
    if wanted in _TPU_GENERATIONS.values():
        return tpu_generation(device_kind) == wanted
    return wanted in device_kind.lower()
