"""Checkpoints on a full disk and of a program killed while saving."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def child(source, *arguments, wrapper=()):
    """Starts Python source that may import this project."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


FULL = """
import sys
from pathlib import Path
import numpy as np
from medscope_jax.errors import UserError
from medscope_jax.training.checkpoint import Checkpoints

def state(step):
    return {"w": np.random.default_rng(step).integers(0, 2**31, 250_000, dtype=np.int32)}

folder = Path(sys.argv[1])
ballast = folder / "ballast"
ballast.write_bytes(bytes(3_000_000))
with Checkpoints(folder / "checkpoints", asynchronous=sys.argv[2] == "True") as checkpoints:
    try:
        for step in range(9):
            checkpoints.save(state(step), step, {"stage": "rl", "step": step}, stage_finished=False)
            checkpoints.wait()
            (folder / f"fill{step}").write_bytes(bytes(1_500_000))
    except UserError as error:
        print(error)
    print(sorted(p.name for p in (folder / "checkpoints").iterdir()))
    restored = checkpoints.restore(state(0))
    print(restored.meta["step"], (restored.state["w"] == state(restored.data)["w"]).all())
    ballast.unlink()
    checkpoints.save(state(99), 99, {"stage": "rl", "step": 99})
    checkpoints.wait()
    print(checkpoints.restore(state(0)).meta["step"])
"""


def can_mount():
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") and not subprocess.run(command, capture_output=True).returncode


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.skipif(not can_mount(), reason="can't mount a small disk of its own to fill")
def test_full_disk_loses_nothing(tmp_path, asynchronous):
    mount = f'mount -t tmpfs -o size=8m tmpfs "{tmp_path}" && exec "$@"'
    wrapper = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    out, err = child(FULL, tmp_path, asynchronous, wrapper=wrapper).communicate(timeout=60)
    message, names, kept, later = out.splitlines()
    assert message.startswith("disk full while saving checkpoint") and "free some space" in message
    names = json.loads(names.replace("'", '"'))
    assert not any("tmp" in name for name in names)
    assert kept == f"{int(names[-1]) - 1} True" and f"{names[-1]} before it is kept" in message
    assert later == "99"
    assert "Traceback" not in err, err


KILLED = """
import sys
import numpy as np
from medscope_jax.training.checkpoint import Checkpoints

def state(step):
    return {"a": np.full((300, 300), step, np.float32), "b": {"c": np.full(7, step, np.int32)}}

with Checkpoints(sys.argv[1]) as checkpoints:
    restored = checkpoints.restore(state(0))
    step = 0
    if restored is not None:
        step = restored.data["next_index"]
        values = {float(x) for leaf in (restored.state["a"], restored.state["b"]["c"])
                  for x in np.unique(leaf)}
        assert values == {float(step)} and restored.meta["step"] == step, (values, step)
    print("restored", step, flush=True)
    while len(sys.argv) < 3:
        step += 1
        checkpoints.save(state(step), {"next_index": step}, {"stage": "rl", "step": step})
        print("saved", step, flush=True)
"""


def kill_while_saving(directory: Path, rounds: int, seed: int) -> None:
    """Kills a saving program again and again; nothing that it said was saved may be missing."""
    delays, last = random.Random(seed), 0
    for _ in range(rounds):
        process = child(KILLED, directory)
        lines = [process.stdout.readline() for _ in range(delays.randrange(2, 5))]
        time.sleep(delays.uniform(0.0, 0.2))  # about as long as one save, to hit any part of it
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        err = process.stderr.read()
        process.wait()
        assert "Error" not in err and "damaged" not in err, err
        # A line that the kill cut short was not said.
        words = [line.split() for line in lines if line.endswith("\n")]
        assert words[0][0] == "restored" and int(words[0][1]) in (last, last + 1), (lines, last)
        last = max(int(step) for _, step in words)
    out, err = child(KILLED, directory, "stop").communicate()
    assert int(out.split()[1]) in (last, last + 1) and last >= rounds, (out, err)
    assert not list(directory.glob("*tmp*"))


def test_killed_while_saving(tmp_path):
    kill_while_saving(tmp_path, rounds=4, seed=0)


@pytest.mark.slow
def test_killed_while_saving_20_times(tmp_path):
    kill_while_saving(tmp_path, rounds=20, seed=1)
