"""Invariant: kill -9 at any moment, saving included, and the run continues as if it had not been.

What is compared, bit for bit: metrics.jsonl less its wall-clock fields, every stage's final state
and data position, and results.json. The mini program (see mini_program.py) is killed three times
by default, and 20 times as a slow proof; another slow proof kills the real program 20 times:
while it prepares its suite, in every stage, inside saves, and while it evaluates.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medscope_jax.distributed import check_device, make_mesh
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.from_config import STAGES
from medscope_jax.training.metrics_log import read_metrics
from medscope_jax.training.run import make_run
from medscope_jax.training.stage import state_of
from medscope_jax.training.workdir import Workdir, read_workdir
from tests.training.metrics_cases import without_timing
from tests.training.mini_program import digest
from tests.xla_cases import flags_for

ROOT = Path(__file__).resolve().parent.parent.parent
SLOW = [pytest.mark.slow, pytest.mark.invariant]


def start(folder, cache, arguments):
    """Starts `python -m ARGUMENTS`; its output goes to FOLDER.log, what it compiles to `cache`."""
    environment = os.environ | {
        "XLA_FLAGS": flags_for(devices=1),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    with open(f"{folder}.log", "a") as log:
        line = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)


def output_of(folder):
    return Path(f"{folder}.log").read_text()


def finish(folder, cache, arguments):
    assert start(folder, cache, arguments).wait() == 0, output_of(folder)[-2000:]


def wait_until(process, happens):
    """Returns once it happens, or the process has ended."""
    while process.poll() is None and not happens():
        time.sleep(0.002)


def logged(folder):
    """How many whole lines metrics.jsonl has."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saving(folder):
    """Whether a checkpoint is being written: it has a name of its own until it is whole."""
    checkpoints = folder / "checkpoints"
    return checkpoints.is_dir() and any("tmp" in name for name in os.listdir(checkpoints))


def kill(process):
    process.send_signal(signal.SIGKILL)
    return process.wait()


def lines(folder):
    return without_timing(read_metrics(folder / "metrics.jsonl"))


@pytest.mark.parametrize(
    "kills, steps, options",
    [
        pytest.param(3, 6, [], marks=pytest.mark.invariant),
        pytest.param(20, 40, [], marks=SLOW),
        pytest.param(6, 20, ["--minutes", 0.002, "--micro", 2], marks=SLOW),
    ],
)
def test_the_mini_program_killed_ends_the_same(tmp_path, kills, steps, options):
    """Every third kill hits a save, the others seeded random moments since training went on."""
    whole, broken, cache = (tmp_path / name for name in ("whole", "broken", "compiled"))

    def program(folder):
        return ["tests.training.mini_program", folder, 0.02, "--steps", steps, *options]

    finish(whole, cache, program(whole))
    dice, hits = random.Random(kills), []
    for number in range(kills):
        process = start(broken, cache, program(broken))
        seen = output_of(broken).count("step\n")
        wait_until(process, lambda seen=seen: output_of(broken).count("step\n") > seen)
        if number % 3 == 1:
            wait_until(process, lambda: saving(broken))
            hits.append(saving(broken))
        else:
            time.sleep(dice.uniform(0, 0.08 * steps / kills))
        assert kill(process) == -signal.SIGKILL, output_of(broken)[-2000:]
    assert any(hits)
    finish(broken, cache, program(broken))
    assert output_of(broken).splitlines()[-1] == output_of(whole).splitlines()[-1]
    assert lines(broken) == lines(whole)
    assert not saving(broken)


# Enough steps to write calls and answers, so that stage 3 has rewards to learn from.
CHANGES = {
    "warm_up.steps": 3,
    "passive.steps": 3,
    "cold_start.steps": 80,
    "cold_start.batch_size": 8,
    "cold_start.learning_rate": 3e-3,
    "ga_grpo.steps": 4,
    "rl.group_size": 4,
    "rl.updates": 2,
    "rl.kl_coefficient": 0.1,
    "rollout.turn_tokens": 48,
    "log.checkpoint_every": 2,
}


def outcome_of(workdir):
    """(results, log, every stage's final state and data position) of a finished run."""
    place, config = read_workdir(workdir)
    mesh = make_mesh(config.mesh, check_device(config.device))
    run = make_run(config, Workdir(workdir), mesh)
    found = {}
    with Checkpoints(place.checkpoints, read_only=True) as checkpoints:
        for name in STAGES:
            restored = checkpoints.restore(state_of(run, name), stage=name)
            found[name] = (digest(restored.state), restored.data, restored.meta)
    return place.results.read_bytes(), lines(workdir), found


@pytest.mark.slow
def test_the_program_killed_20_times_ends_the_same(tmp_path, micro_arguments):
    """SIGKILL while the suite is made, at seeded moments of all stages, in saves, evaluating."""
    whole, broken, cache = (tmp_path / name for name in ("whole", "broken", "compiled"))
    changes = [f"--config.{key}={value}" for key, value in CHANGES.items()]

    def program(folder):
        return ["medscope_jax.train", *micro_arguments, *changes, "--workdir", folder]

    process = start(whole, cache, program(whole))
    begins, begin = {}, time.monotonic()
    while process.poll() is None:
        if (whole / "tokenizer.model").exists():
            begins.setdefault(logged(whole), time.monotonic())
        time.sleep(0.02)
    end = time.monotonic()
    assert process.returncode == 0, output_of(whole)[-2000:]
    log = lines(whole)
    total = len(log)
    assert any(line.get("tool_rate", 0) and line["groups_without_signal"] < 1 for line in log)
    # Seconds from each line to the next (from the last one: the evaluation).
    when = [begins.get(n) for n in range(total + 1)] + [end]
    later = [next(t for t in when[n + 1 :] if t is not None) for n in range(total + 1)]
    spans = [0.0 if when[n] is None else later[n] - when[n] for n in range(total + 1)]

    dice = random.Random(5)
    stages = [line["stage"] for line in log]
    # One while the suite is made; in each stage; anywhere; the evaluation three times.
    targets = [-1] + [stages.index(n) + dice.randrange(1, stages.count(n)) for n in STAGES]
    targets += [dice.randrange(total) for _ in range(12)] + [total - 1, total, total]
    targets.sort()
    in_saves = set(dice.sample(range(5, 17), 6))
    kills, hits = [], 0
    for number, target in enumerate(targets):
        process = start(broken, cache, program(broken))
        if target < 0:
            wait_until(process, lambda: (broken / "suite" / "videos").exists())
            time.sleep(dice.uniform(0, 0.5) * (min(begins.values()) - begin))
        else:
            wait_until(process, lambda target=target: logged(broken) >= target)
            if number in in_saves:
                wait_until(process, lambda: saving(broken))
                hits += saving(broken)
            else:
                time.sleep(dice.uniform(0, 0.9) * spans[target])
        kills.append(kill(process))
    assert len(kills) == 20 and hits >= 3
    # A kill may come too late once; all but one must have hit a living program.
    assert kills.count(-signal.SIGKILL) >= len(kills) - 1, kills
    assert not (broken / "results.json").exists() or kills[-1] == 0
    finish(broken, cache, program(broken))

    results, log, states = outcome_of(broken)
    wanted_results, wanted_log, wanted = outcome_of(whole)
    assert log == wanted_log
    assert states == wanted
    assert results == wanted_results
