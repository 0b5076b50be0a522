"""Starting several processes of one run on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.xla_cases import flags_for

ROOT = Path(__file__).resolve().parent.parent.parent


def start_processes(
    count: int,
    arguments,
    folder: Path,
    devices: int = 1,
    cache: Path | None = None,
    copies: Path | None = None,
):
    """Starts `python -m ARGUMENTS` count times as processes of one run, `devices` devices each.

    Their output goes to FOLDER/processN.log. count 1 is a program on its own. With `copies`, each
    keeps copies of what is in buckets in a folder of its own there, as machines do.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = []
    for index in range(count):
        environment = dict(os.environ)
        environment["XLA_FLAGS"] = flags_for(devices)
        environment["PYTHONUNBUFFERED"] = "1"
        if count > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
        if copies is not None:
            environment["XDG_CACHE_HOME"] = str(copies / str(index))
        if cache is not None:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        with open(folder / f"process{index}.log", "a") as log:
            line = [sys.executable, "-m", *map(str, arguments)]
            process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)
        started.append(process)
    return started


def end_of(processes, folder: Path, timeout: float = 600) -> list[int]:
    """Waits for all; their exit statuses. Kills what is left when time is up."""
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()


def output_of(folder: Path, index: int = 0) -> str:
    return (folder / f"process{index}.log").read_text()
