"""What the benchmarks share: opening a trained run, and describing the machine."""

import os
import platform
from pathlib import Path

import jax

from medscope_jax.distributed import check_device, make_mesh
from medscope_jax.training.run import Run, make_run
from medscope_jax.training.workdir import Workdir, read_workdir


def open_trained(path: str | Path) -> tuple[Run, Workdir]:
    """The Run of a workdir that train has been started in, and its folder; changes nothing.

    UserError if there is no run in it, or its device is not here.
    """
    workdir, config = read_workdir(path)
    devices = check_device(config.device)
    mesh = make_mesh(config.mesh, devices, kv_heads=config.model.text.num_key_value_heads)
    return make_run(config, workdir, mesh), workdir


def machine() -> dict:
    """What this process runs on: processor, cores it may use, devices, versions, load before."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "python": platform.python_version(),
        "jax": jax.__version__,
        # Above 0.5 or so, something else was running: such timings are not to be reported.
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
