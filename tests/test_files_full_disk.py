"""A disk that is full: one line that names what was being written, and nothing half done is left.

A real one of a megabyte, where the machine lets us mount it.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import model_cases, weights_cases

ROOT = Path(__file__).resolve().parent.parent
SIZE = 2**20


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def run(disk, room, module, *arguments):
    """(what is left on the disk, lines on stderr) of a program that has `room` bytes to write."""
    (disk / "fill").write_bytes(bytes(SIZE - room))
    ran = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2, ran.stderr
    # A progress bar ends its own line.
    return sorted(os.listdir(disk)), [x for x in ran.stderr.splitlines() if "/s]" not in x and x]


@pytest.mark.invariant
@pytest.mark.parametrize("room", [20_000, 60_000, 300_000])
def test_imported_weights(disk, tmp_path, room):
    """Arrays are written by threads of Orbax and TensorStore, which print more than they raise."""
    config = dataclasses.replace(
        model_cases.tiny_config(), dtype="bfloat16", param_dtype="bfloat16"
    )
    drawn = weights_cases.random_weights(config, "bfloat16")
    source = weights_cases.write_folder(tmp_path / "hf", config, drawn, shard_bytes=20_000)
    module, target = "medscope_jax.convert", disk / "checkpoint"
    left, lines = run(disk, room, module, "import", "--source", source, "--target", target)
    assert left == ["fill"]
    assert lines == [f"error: disk full while writing {target}; free some space and run again"]


@pytest.mark.invariant
def test_drawn_recordings(disk, tmp_path):
    arguments = ["--phantom=1", "--videos", disk / "videos", "--out", tmp_path / "rows.jsonl"]
    _, lines = run(disk, 20_000, "tfds_builders.synthesis", *arguments)
    assert len(lines) == 1 and "is the disk full?" in lines[0]
    assert not os.listdir(disk / "videos") and not (tmp_path / "rows.jsonl").exists()


@pytest.mark.invariant
def test_prepared_suite(disk):
    left, lines = run(disk, 40_000, "tfds_builders.prepare", "--smoke", "--workdir", disk / "run")
    assert len(lines) == 1 and "full" in lines[0] and str(disk) in lines[0]
    assert left == ["fill", "run"] and not (disk / "run" / "suite" / "done.json").exists()
