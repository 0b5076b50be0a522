"""What the benchmarks share: opening a trained run, and describing the machine."""

import os
import platform
from pathlib import Path

import jax

from medscope_jax.config import ConfigError
from medscope_jax.data.open_suite import open_suite
from medscope_jax.distributed import check_device, make_mesh
from medscope_jax.errors import UserError
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.from_config import MODELS
from medscope_jax.training.run import Run, make_run
from medscope_jax.training.stage import finished_params
from medscope_jax.training.workdir import Workdir, read_workdir


def open_trained(path: str | Path) -> tuple[Run, Workdir]:
    """The Run of a workdir that train has been started in, and its folder; changes nothing.

    UserError if there is no run in it, or its device is not here.
    """
    workdir, config = read_workdir(path)
    devices = check_device(config.device)
    mesh = make_mesh(config.mesh, devices, kv_heads=config.model.text.num_key_value_heads)
    return make_run(config, workdir, mesh, open_suite(config, workdir.path)), workdir


def trained_params(run: Run, workdir: Workdir, wanted: str = "") -> tuple[str, dict]:
    """The name and parameters of the wanted model, or of the last stage that has finished."""
    names = [wanted] if wanted else ["rl", "sft"]
    if wanted not in ("", "rl", "sft"):
        raise ConfigError(f"unknown model {wanted!r}; choose rl or sft")
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        for name in names:
            params = finished_params(run, checkpoints, MODELS[name])
            if params is not None:
                return name, params
    raise UserError(
        f"{workdir.path} has no finished {' or '.join(names)} model yet; train it first"
    )


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
