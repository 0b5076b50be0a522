"""Builds that are killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tfds_builders import kill_program


@pytest.fixture(scope="session")
def kill_at():
    """(moment, folder, task, *arguments) -> whether the task was killed; see kill_program.py."""
    root = str(Path(kill_program.__file__).parents[2])
    command = [sys.executable, "-m", "tests.tfds_builders.kill_program"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, cwd=root, env=environment, **pipes) as program:

        def run(moment, folder, task, *arguments):
            job = [moment, str(folder), task, arguments]
            program.stdin.write(json.dumps(job) + "\n")
            program.stdin.flush()
            return bool(int(program.stdout.readline()))

        yield run
        program.stdin.close()
