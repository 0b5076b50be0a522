"""Invariant: resume is exact. A run that is killed at any moment and started again ends with the
very parameters, metrics and results, bit for bit, of one that was never killed.

Here in one process: two stages of tiny steps, stopped at some events (updates, logged lines,
saves; the slow proof takes every single one). test_kills.py kills real programs.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax.data.batches import make_batches
from medscope_jax.distributed import make_mesh
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.metrics_log import MetricsWriter, read_metrics
from medscope_jax.training.run import Run
from medscope_jax.training.stage import run_stage, state_of
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import optimizer_of
from tests.training import step_cases as cases
from tests.training.metrics_cases import without_timing

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
    stage |= {
        "warmup": 0.2,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "final_scale": 0.1,
        "epochs": 0.0,
    }
    config = ConfigDict({"seed": 3, "warm_up": stage, "cold_start": stage, "rl": {"updates": 1}})
    config.log = ConfigDict(
        {"every": 2, "checkpoint_every": 3, "checkpoint_minutes": 0, "profile": ""}
    )
    config.evaluation = ConfigDict({"every": 2})
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

    def noisy(state, batch):
        """The step, and a draw from the stage's key, so that a lost key shows in the metrics."""
        draw = jax.random.uniform(jax.random.fold_in(state.key, state.step))
        state, metrics = step(state, batch)
        return state, metrics | {"draw": draw}

    return jax.jit(noisy, donate_argnums=0)


def score(params):
    """A number between 0 and 1 that goes up and down with what is learned."""
    return {
        "validation_score": float(jnp.sin(1e3 * jax.tree.leaves(params["text"])[0].sum()) / 2 + 0.5)
    }


def session(run, folder, optimizer, fuse, validate=None):
    """One start of a program of two stages, as train.train does it; returns the parameters, the
    state, and the best checkpoint's step and score where it validates."""
    examples = cases.sft_batch(10)

    class Writer(MetricsWriter):
        def write(self, *arguments):
            fuse()
            super().write(*arguments)
            fuse()

    def prepare(params):
        def update(state, batch):
            fuse()
            return compiled(optimizer)(state, batch)

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
                params = run_stage(
                    run, name, start, prepare, checkpoints, writer, validate=validate
                )
        state = state_of(run, "cold_start")
        best = checkpoints.restore(state, stage="cold_start", finished=False, best=True)
        best = best and (best.meta["step"], best.meta["validation"], bits(best.state.params))
        return bits(params), [bits(checkpoints.restore(state).state)], best


def lines(folder):
    return without_timing(read_metrics(folder / "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """(optimizer, events, outcome and log of a program that was never stopped)."""
    folder, fuse = tmp_path_factory.mktemp("whole"), Fuse()
    # cold_start's is the same; one object compiles once.
    optimizer = optimizer_of(run.config, "warm_up")
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


def validated(run, folder, optimizer, fuse):
    def validate(params):
        fuse()
        return score(params)

    return session(run, folder, optimizer, fuse, validate)


@pytest.fixture(scope="module")
def whole_validated(run, whole, tmp_path_factory):
    """As whole, of a program that validates after steps 2, 4 and 5."""
    folder, fuse = tmp_path_factory.mktemp("validated"), Fuse()
    outcome = validated(run, folder, whole[0], fuse)
    log = lines(folder)
    scores = [line["validation_score"] for line in log if "validation_score" in line][3:]
    steps = [line["step"] for line in log if "validation_score" in line][3:]
    assert steps == [2, 4, 5] and len(set(scores)) == 3
    assert outcome[2][:2] == max(zip(steps, scores, strict=True), key=lambda each: each[1])
    return fuse.count, outcome, log


# Before and after a validation, and what it made the run save, of the second stage.
VALIDATED = [e if e in (32, 36) else pytest.param(e, marks=SLOW) for e in range(1, 55)]


@pytest.mark.parametrize("event", VALIDATED)
def test_stopped_between_validations(run, whole, whole_validated, tmp_path, event):
    """The same scores, and the same best checkpoint."""
    events, outcome, log = whole_validated
    assert events == 54
    with pytest.raises(Killed):
        validated(run, tmp_path, whole[0], Fuse(event))
    assert validated(run, tmp_path, whole[0], Fuse()) == outcome
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
