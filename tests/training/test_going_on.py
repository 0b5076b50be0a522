"""A stage is made longer in the same workdir: the steps that are done stay, the rest follow."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from medscope_jax.data.batches import make_batches
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.going_on import check_lengths, is_finished, may_change
from medscope_jax.training.metrics_log import MetricsWriter, read_metrics
from medscope_jax.training.run import Run
from medscope_jax.training.stage import finished_params, run_stage
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import make_schedule, optimizer_of
from tests.training import step_cases as cases
from tests.training.metrics_cases import without_timing
from tests.training.test_stage_resume import bits


def run_of(steps, flat=True):
    """A run of two stages; flat: with one learning rate, whatever the number of steps."""
    stage = {"batch_size": 4, "learning_rate": 1e-2, "train_vision": False, "epochs": 0.0}
    stage |= {"warmup": 0.0 if flat else 0.2, "final_scale": 1.0 if flat else 0.1}
    stage |= {"weight_decay": 0.01, "clip_norm": 1.0}
    sections = {
        n: stage | {"steps": s} for n, s in zip(("warm_up", "cold_start"), steps, strict=True)
    }
    log = {"every": 2, "checkpoint_every": 3, "checkpoint_minutes": 0, "profile": ""}
    config = ConfigDict({"seed": 3, "rl": {"updates": 1}, "log": log, **sections})
    mesh = make_mesh({}, jax.devices()[:1])
    return Run(config, Path("."), mesh, None, None, cases.MODEL, None, None)


def session(run, folder, names=("warm_up", "cold_start"), kill=None):
    """One start of a program of these stages; the parameters it ends with, the updates it made."""
    examples, done = cases.sft_batch(10), []

    def prepare(name, params):
        step = functools.partial(
            sft_step,
            model=cases.MODEL,
            optimizer=optimizer_of(run.config, name),
            grid=cases.GRID,
            targets=10,
            train_vision=False,
        )
        compiled = jax.jit(step, donate_argnums=0)

        def update(state, batch):
            done.append(name)
            if len(done) == kill:
                raise KeyboardInterrupt
            return compiled(state, batch)

        def example(row):
            return {key: array[row] for key, array in examples.items()}

        return make_batches(range(10), example, 4, seed=3), update

    with Checkpoints(folder / "checkpoints", asynchronous=True) as checkpoints:
        logged = max((meta["lines"] for meta in checkpoints.metas()), default=0)
        with MetricsWriter(folder / "metrics.jsonl", keep=logged) as writer:
            params = jax.tree.map(jnp.asarray, cases.params())
            for name in names:
                start = functools.partial(lambda params: params, params)
                ready = functools.partial(prepare, name)
                params = run_stage(run, name, start, ready, checkpoints, writer)
        return bits(params), done


def log_of(folder):
    return without_timing(read_metrics(folder / "metrics.jsonl"))


def metas_of(folder):
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.metas()


def test_a_longer_run_is_the_run_that_was_as_long_at_once(tmp_path):
    """To the bit, where the schedule does not depend on the length; a note tells of the change."""
    wanted, done = session(run_of((2, 7)), tmp_path / "at_once")
    assert len(done) == 9
    folder = tmp_path / "longer"
    session(run_of((2, 4)), folder)
    before = log_of(folder)
    found, done = session(run_of((2, 7)), folder)
    assert found == wanted and done == ["cold_start"] * 3
    log = log_of(folder)
    note = {"stage": "cold_start", "step": 4}
    note["note"] = (
        "4 steps were planned, and are 7 from here on: so is the learning rate's schedule"
    )
    assert log[: len(before)] == before and log[len(before)] == note
    lines = [line for line in log if "note" not in line]
    assert lines == log_of(tmp_path / "at_once")
    assert session(run_of((2, 7)), folder) == (wanted, [])  # and then it is done


@pytest.mark.parametrize(
    "kill", [1, *(pytest.param(k, marks=pytest.mark.invariant) for k in (2, 3))]
)
def test_killed_on_its_way_it_ends_the_same(tmp_path, kill):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        session(run_of((2, 4)), folder)
    wanted, _ = session(run_of((2, 7)), whole)
    with pytest.raises(KeyboardInterrupt):
        session(run_of((2, 7)), killed, kill=kill)
    assert session(run_of((2, 7)), killed)[0] == wanted
    assert log_of(killed) == log_of(whole)
    assert [line["note"][:1] for line in log_of(killed) if "note" in line] == ["4"]


def test_the_schedule_is_that_of_the_new_length(tmp_path):
    session(run_of((2, 4), flat=False), tmp_path)
    run = run_of((2, 10), flat=False)
    session(run, tmp_path)
    rates = {line["step"]: line["learning_rate"] for line in log_of(tmp_path) if "note" not in line}
    new = make_schedule(run.config.cold_start, 10)
    for step in (6, 8, 10):
        assert rates[step] == pytest.approx(float(new(step - 1)))
    assert rates[6] > rates[4]  # which had ended low


def test_until_it_has_ended_again_the_model_of_before_is_kept(tmp_path):
    session(run_of((2, 4)), tmp_path)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        old = bits(finished_params(run_of((2, 4)), checkpoints, "cold_start"))
    with pytest.raises(KeyboardInterrupt):
        session(run_of((2, 20)), tmp_path, kill=14)  # beyond the saves of steps 6, 9, ... 15
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert bits(finished_params(run_of((2, 20)), checkpoints, "cold_start")) == old
    assert session(run_of((2, 20)), tmp_path)[1] == ["cold_start"] * 5
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert bits(finished_params(run_of((2, 20)), checkpoints, "cold_start")) != old


def test_a_stage_may_end_where_it_was_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        session(run_of((2, 9)), tmp_path, kill=2 + 5)  # step 3 is saved
    _, done = session(run_of((2, 3)), tmp_path)
    assert done == []
    metas = metas_of(tmp_path)
    assert (metas[-1]["step"], metas[-1]["steps"]) == (3, 3)
    assert is_finished(run_of((2, 3)).config, "cold_start", metas)


def test_a_stage_that_was_left_goes_on_from_its_own_save(tmp_path):
    """Another one has run since; the saves and the log of both are kept."""
    with pytest.raises(KeyboardInterrupt):
        session(run_of((9, 9)), tmp_path, names=("warm_up",), kill=8)  # step 6 is saved
    _, done = session(run_of((9, 9)), tmp_path, names=("cold_start",))
    assert done == ["cold_start"] * 9
    _, done = session(run_of((9, 9)), tmp_path, names=("warm_up",))
    assert done == ["warm_up"] * 3
    wanted = [
        ("warm_up", 2),
        ("warm_up", 4),
        ("warm_up", 6),
        *(("cold_start", s) for s in (2, 4, 6, 8, 9)),
    ]
    wanted += [("warm_up", 8), ("warm_up", 9)]
    assert [(line["stage"], line["step"]) for line in log_of(tmp_path)] == wanted


def config_of(warm_up=2, cold_start=4):
    stage = {"epochs": 0.0}
    sections = {"warm_up": warm_up, "cold_start": cold_start, "ga_grpo": 1, "passive": 1}
    return ConfigDict({name: stage | {"steps": steps} for name, steps in sections.items()})


def test_what_others_have_learned_from_keeps_its_length():
    metas = [
        {"stage": "warm_up", "step": 2, "steps": 2, "epochs": 0.0},
        {"stage": "cold_start", "step": 3, "steps": 4, "epochs": 0.0},
    ]
    check_lengths(config_of(), metas, Path("runs/a"))
    check_lengths(config_of(cold_start=9), metas, Path("runs/a"))
    line = "config.warm_up.steps was 2 and can't change any more: cold_start has started from what"
    with pytest.raises(UserError, match=line) as error:
        check_lengths(config_of(warm_up=3), metas, Path("runs/a"))
    assert "--config.start_from=runs/a:warm_up" in str(error.value)
    check_lengths(config_of(warm_up=3), metas[:1], Path("runs/a"))


def test_finished_is_what_is_as_long_as_it_shall_be():
    metas = [{"stage": "cold_start", "step": step, "steps": 4, "epochs": 0.0} for step in (3, 4)]
    assert is_finished(config_of(), "cold_start", metas)
    assert not is_finished(config_of(), "cold_start", metas[:1])
    assert not is_finished(config_of(cold_start=5), "cold_start", metas)
    assert not is_finished(config_of(), "warm_up", metas)
    old = {"stage": "cold_start", "step": 4}  # of before lengths were noted
    assert is_finished(config_of(), "cold_start", [old])


def test_keys_and_whole_sections():
    assert may_change("log.every") and may_change("device.kind") and may_change("stages")
    for key in ("log", "logs.every", "seed", "rl.group_size", "ga_grpo.steps.more"):
        assert not may_change(key)
