"""Invariant: resume is exact. A run that is killed at any moment and started again ends with the
very parameters, metrics and results, bit for bit, of one that was never killed.

By default in one process: two stages of tiny steps, stopped at some events (updates, logged lines,
saves; the slow proof takes every single one). Another slow proof kills the real program (SIGKILL)
in every stage, again in stage 3, and while it evaluates.
"""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax.distributed import check_device, make_mesh
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.data import make_batches
from medscope_jax.training.metrics import MetricsWriter, read_metrics, without_timing
from medscope_jax.training.run import Run, make_run
from medscope_jax.training.stage import STAGES, abstract_state, optimizer_of, run_stage
from medscope_jax.training.steps import sft_step
from medscope_jax.training.workdir import Workdir, read_workdir
from tests.training import step_cases as cases

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = 5


def bits(tree):
    """The bytes of every array of a tree, random keys as their data."""

    def plain(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return [np.asarray(plain(leaf)).tobytes() for leaf in jax.tree.leaves(tree)]


class Killed(BaseException):
    """Ends a session as a signal would: no handler for ordinary errors sees it."""


class Fuse:
    """Counts events and ends the session at one of them."""

    def __init__(self, blow: int | None = None):
        self.count, self.blow = 0, blow

    def __call__(self):
        self.count += 1
        if self.count == self.blow:
            raise Killed


@pytest.fixture(scope="module")
def run():
    """A Run of the tiny model: warm_up, then cold_start; saves every 3 steps, logs every 2."""
    stage = {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-2, "train_vision": False}
    stage |= {"warmup": 0.2, "weight_decay": 0.01, "clip_norm": 1.0, "final_scale": 0.1}
    config = ConfigDict({"seed": 3, "warm_up": stage, "cold_start": stage, "rl": {"updates": 1}})
    config.log = ConfigDict({"every": 2, "checkpoint_every": 3})
    mesh = make_mesh({}, jax.devices()[:1])
    return Run(config, Path("."), mesh, None, None, cases.MODEL, None, None)


@functools.cache
def compiled(optimizer):
    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=optimizer,
        grid=cases.GRID,
        targets=10,
        train_vision=False,
    )

    def noisy(state, batch, bank):
        """The step, and a draw from the stage's key, so that a lost key shows in the metrics."""
        draw = jax.random.uniform(jax.random.fold_in(state.key, state.step))
        state, metrics = step(state, batch, bank)
        return state, metrics | {"draw": draw}

    return jax.jit(noisy, donate_argnums=0)


def session(run, folder, optimizer, fuse):
    """One start of a program of two stages, as train.train does it; returns the parameters."""
    examples = cases.batch(10)
    bank = jnp.asarray(cases.bank(10))

    class Writer(MetricsWriter):
        def write(self, *arguments):
            fuse()
            super().write(*arguments)
            fuse()

    def prepare(params):
        def update(state, batch):
            fuse()
            return compiled(optimizer)(state, batch, bank)

        def example(row):
            return {key: array[row] for key, array in examples.items()}

        batches = make_batches(range(10), example, 4, seed=run.config.seed)
        return batches, update

    class Saves(Checkpoints):
        def save(self, *arguments, **options):
            fuse()
            number = super().save(*arguments, **options)
            fuse()
            return number

    with Saves(folder / "checkpoints") as checkpoints:
        kept = max((meta["lines"] for meta in checkpoints.metas()), default=0)
        with Writer(folder / "metrics.jsonl", keep=kept) as writer:
            params = jax.tree.map(jnp.asarray, cases.params())
            for name in ("warm_up", "cold_start"):
                start = functools.partial(lambda params: params, params)
                params = run_stage(run, name, start, prepare, checkpoints, writer)
        return bits(params), [bits(checkpoints.restore(abstract_state(run, "cold_start")).state)]


def lines(folder):
    return without_timing(read_metrics(folder / "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """(optimizer, events, outcome and log of a program that was never stopped)."""
    folder, fuse = tmp_path_factory.mktemp("whole"), Fuse()
    optimizer = optimizer_of(run, "warm_up")  # cold_start's is the same; one object compiles once
    outcome = session(run, folder, optimizer, fuse)
    log = lines(folder)
    assert [line["step"] for line in log] == [2, 4, 5] * 2
    assert len({line["draw"] for line in log}) == 6
    return optimizer, fuse.count, outcome, log


SLOW = [pytest.mark.slow, pytest.mark.invariant]
# 2 stages x (5 updates + 3 lines and 2 saves, before and after each) = 30 events. By default: after
# a line that is no longer in the last save, after a stage's last line, in the second stage's first
# steps, before it is saved; and beyond that save.
EVENTS = [e if e in (10, 13, 20, 25) else pytest.param(e, marks=SLOW) for e in range(1, 31)]


@pytest.mark.parametrize("event", EVENTS)
def test_stopped_at_any_event_the_program_ends_the_same(run, whole, tmp_path, event):
    optimizer, events, outcome, log = whole
    assert events == 30
    with pytest.raises(Killed):
        session(run, tmp_path, optimizer, Fuse(event))
    assert session(run, tmp_path, optimizer, Fuse()) == outcome
    assert lines(tmp_path) == log


def test_stopped_again_and_again(run, whole, tmp_path):
    """Each session lives for a few events; progress is never lost beyond the last save."""
    optimizer, _, outcome, log = whole
    sessions = 0
    while True:
        sessions += 1
        try:
            # 9 events reach the next save from any checkpoint.
            assert session(run, tmp_path, optimizer, Fuse(9)) == outcome
            break
        except Killed:
            assert sessions < 20
    assert sessions > 3
    assert lines(tmp_path) == log


def command(workdir, arguments):
    """The program's command line and environment."""
    # Enough steps to write calls and answers, so that stage 3 has rewards to learn from.
    changes = {
        "warm_up.steps": 3,
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
    arguments = [*arguments, *(f"--config.{k}={v}" for k, v in changes.items())]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    line = [sys.executable, "-m", "medscope_jax.train", *arguments, "--workdir", str(workdir)]
    return line, environment


def start(workdir, arguments):
    line, environment = command(workdir, arguments)
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log)


def logged(workdir):
    """How many whole lines metrics.jsonl has."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcome_of(workdir):
    """(results, log, every stage's final state and data position) of a finished run."""
    place, config = read_workdir(workdir)
    mesh = make_mesh(config.mesh, check_device(config.device))
    run = make_run(config, Workdir(workdir), mesh)
    found = {}
    with Checkpoints(place.checkpoints, read_only=True) as checkpoints:
        for name in STAGES:
            restored = checkpoints.restore(abstract_state(run, name), stage=name)
            found[name] = (bits(restored.state), restored.data, restored.meta)
    return place.results.read_bytes(), lines(workdir), found


@pytest.mark.slow
@pytest.mark.invariant
def test_the_program_killed_in_every_stage_ends_the_same(tmp_path, micro_arguments):
    """SIGKILL at seeded random moments: in each stage, in stage 3 twice, and while evaluating."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(whole, micro_arguments)
    begins = {}
    while process.poll() is None:
        begins.setdefault(logged(whole), time.monotonic())
        time.sleep(0.02)
    end = time.monotonic()
    assert process.returncode == 0, Path(f"{whole}.log").read_text()[-2000:]
    log = lines(whole)
    total = len(log)
    assert any(line.get("tool_rate", 0) and line["groups_without_signal"] < 1 for line in log)
    # Seconds from each line to the next (from the last one: the evaluation).
    when = [begins.get(n) for n in range(total + 1)] + [end]
    later = [next(t for t in when[n + 1 :] if t is not None) for n in range(total + 1)]
    spans = [0.0 if when[n] is None else later[n] - when[n] for n in range(total + 1)]

    broken.mkdir()
    for name in ("suite", "tokenizer.model"):
        copy = shutil.copytree if (whole / name).is_dir() else shutil.copy
        copy(whole / name, broken / name)
    dice = random.Random(5)
    stages = [line["stage"] for line in log]
    targets = [stages.index(name) + dice.randrange(1, stages.count(name)) for name in STAGES]
    # After stage 3's last but one step; while evaluating, and while starting to do so again.
    targets += [total - 1, total, total]
    kills = []
    for target in sorted(targets):
        process = start(broken, micro_arguments)
        while process.poll() is None and logged(broken) < target:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.9) * spans[target])
        process.send_signal(signal.SIGKILL)
        kills.append(process.wait())
    # A kill may come too late once; all but one must have hit a living program.
    assert kills.count(-signal.SIGKILL) >= len(kills) - 1, kills
    assert not (broken / "results.json").exists() or kills[-1] == 0
    process = start(broken, micro_arguments)
    assert process.wait() == 0, Path(f"{broken}.log").read_text()[-2000:]

    results, log, states = outcome_of(broken)
    wanted_results, wanted_log, wanted = outcome_of(whole)
    assert log == wanted_log
    for name in STAGES:
        assert states[name][1:] == wanted[name][1:], name
        assert states[name][0] == wanted[name][0], f"{name} ended with other arrays"
    assert results == wanted_results
