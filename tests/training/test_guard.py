"""Steps without a finite loss and gradient change nothing, are counted, and three of them stop."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from medscope_jax.data.batches import make_batches
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import EXIT_NOT_FINITE, NotFiniteError, run_main
from medscope_jax.rl import LossConfig
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.metrics_log import MetricsWriter, read_metrics
from medscope_jax.training.packing import Packing
from medscope_jax.training.run import Run
from medscope_jax.training.stage import run_stage, state_of
from medscope_jax.training.steps import ga_grpo_step, sft_step
from medscope_jax.training.train_state import apply_gradients, init_state, make_optimizer
from tests.training import step_cases as cases

STAGE = {"steps": 12, "epochs": 0.0, "batch_size": 2, "learning_rate": 1e-2, "train_vision": False}
STAGE |= {"warmup": 0.2, "weight_decay": 0.01, "clip_norm": 1.0, "final_scale": 0.1}
OPTIMIZER = make_optimizer(STAGE, STAGE["steps"])


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def first_state():
    params = {"vision": {"w": jnp.ones(3)}, "text": {"w": jnp.arange(4.0), "b": jnp.ones(2)}}
    return init_state(params, OPTIMIZER, jax.random.key(0), False)


def counters(state):
    return int(state.step), int(state.skipped), int(state.skipped_in_row)


def gradient(value):
    return {"text": {"w": jnp.array([1.0, 2.0, value, 0.5]), "b": jnp.ones(2)}}


@pytest.mark.parametrize(
    "loss, value",
    [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, -np.inf), (1.0, 3e38)],
    ids=["nan_loss", "infinite_loss", "nan", "infinite", "norm_overflows"],
)
def test_a_step_that_is_not_finite_changes_nothing(loss, value):
    """Bitwise, the schedule's place included: the next step is what it would have been."""
    apply = jax.jit(functools.partial(apply_gradients, optimizer=OPTIMIZER))
    state, _ = apply(first_state(), gradient(-1.0), loss=1.0)
    after, norm = apply(state, gradient(value), loss=loss)
    assert bits((after.params, after.opt_state)) == bits((state.params, state.opt_state))
    assert counters(after) == (2, 1, 1) and counters(state) == (1, 0, 0)
    assert not (np.isfinite(norm) and np.isfinite(loss))
    taken, _ = apply(after, gradient(0.7), loss=1.0)
    wanted, _ = apply(state, gradient(0.7), loss=1.0)
    assert bits((taken.params, taken.opt_state)) == bits((wanted.params, wanted.opt_state))
    assert bits(taken.params) != bits(state.params)
    assert counters(taken) == (3, 1, 0)


def test_after_three_in_a_row_nothing_changes_any_more():
    state = first_state()
    for good in (False, False, True, False, False, False):
        state, _ = apply_gradients(state, gradient(1.0 if good else np.nan), OPTIMIZER)
    assert counters(state) == (6, 5, 3)
    for value in (1.0, np.nan):
        after, _ = apply_gradients(state, gradient(value), OPTIMIZER)
        assert counters(after) == (6, 5, 3)
        assert bits((after.params, after.opt_state)) == bits((state.params, state.opt_state))


@pytest.mark.parametrize("kind", ["sft", "ga_grpo"])
def test_the_training_steps_skip(kind):
    """A bank that is not finite makes neither loss nor gradient finite."""
    batch = cases.batch(4)
    shared = {"model": cases.MODEL, "optimizer": optax.adam(1e-2), "grid": cases.GRID}
    if kind == "sft":
        step = functools.partial(sft_step, targets=10, train_vision=False, **shared)
        given = cases.sft_batch(4)

        def arguments(factor):
            return ({**given, "visual": given["visual"] * factor},)
    else:
        step = functools.partial(
            ga_grpo_step,
            size=Packing(group=2, prompt=16, rest=cases.LENGTH),
            targets=10,
            loss=LossConfig(),
            temperature=1.0,
            kl_coefficient=0.0,
            micro_batch=2,
            **shared,
        )
        episode = cases.episode(batch, np.full(batch["role"].shape, -4.0))
        advantages = np.array([1.0, -1.0, 0.5, -0.5], np.float32)

        def arguments(factor):
            return episode, advantages, cases.bank(4) * factor, None

    step = jax.jit(step)
    params = jax.tree.map(jnp.asarray, cases.params())
    state = init_state(params, optax.adam(1e-2), jax.random.key(0), False)
    after, metrics = step(state, *arguments(np.float32(np.nan)))
    assert bits((after.params, after.opt_state)) == bits((state.params, state.opt_state))
    assert counters(after) == (1, 1, 1)
    assert not np.isfinite(metrics["gradient_norm"])
    after, metrics = step(after, *arguments(np.float32(1)))
    assert bits(after.params["text"]) != bits(state.params["text"])
    assert counters(after) == (2, 1, 0) and np.isfinite(metrics["gradient_norm"])


EVERY = {"every": 5, "checkpoint_every": 4, "checkpoint_minutes": 0, "profile": ""}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = ConfigDict({"seed": 3, "rl": {"updates": 1}, "cold_start": STAGE, "log": EVERY})
    mesh = make_mesh({}, jax.devices()[:1])
    folder = tmp_path_factory.mktemp("folder")
    return Run(config, folder, mesh, None, None, cases.MODEL, None, None)


def train(run, folder, poison, steps=12):
    """A stage whose steps `poison` (counted from 0) have no finite gradient; what it ends with.

    steps: the program is killed before this one.
    """

    @jax.jit
    def compiled(state, batch):
        bad = jnp.isin(state.step, jnp.array([-1, *poison]))
        value = jnp.where(bad, jnp.nan, jnp.mean(batch["number"]))
        gradients = jax.tree.map(lambda leaf: leaf * 0 + value, {"text": state.params["text"]})
        state, norm = apply_gradients(state, gradients, OPTIMIZER, loss=value)
        return state, {"loss": value, "gradient_norm": norm}

    def prepare(params):
        def update(state, batch):
            if int(state.step) == steps:
                raise KeyboardInterrupt
            return compiled(state, {"number": batch["number"]})

        def example(n):
            return {"number": np.float32(n), "frames": np.zeros((2, 2), np.uint8)}

        return make_batches(range(30), example, 2, seed=0), update

    start = jax.tree.map(jnp.asarray, cases.params())
    with Checkpoints(folder / "checkpoints") as checkpoints:
        kept = max((meta["lines"] for meta in checkpoints.metas()), default=0)
        with MetricsWriter(folder / "metrics.jsonl", keep=kept) as writer:
            run_stage(run, "cold_start", lambda: start, prepare, checkpoints, writer)
        return bits(checkpoints.restore(state_of(run, "cold_start")).state.params)


def batches_of(count):
    """The numbers in the first batches of the stage."""
    batches = make_batches(range(30), lambda n: {"number": np.float32(n)}, 2, seed=0)
    return [next(batches)["number"] for _ in range(count)]


def on_folder(run, folder):
    folder.mkdir(exist_ok=True)
    return dataclasses.replace(run, folder=folder)


def test_a_few_skipped_steps_are_counted_and_the_run_goes_on(run, tmp_path):
    train(on_folder(run, tmp_path), tmp_path, poison=(2, 3, 6, 11))
    log = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["skipped"]) for line in log] == [(5, 2), (10, 3), (12, 4)]
    # Skipped steps take none of the schedule: 8 steps were taken, the 8th at this rate.
    schedule = optax.warmup_cosine_decay_schedule(5e-3, 1e-2, 2, 12, 1e-3)
    assert log[-1]["learning_rate"] == pytest.approx(float(schedule(7)))
    assert np.isnan(log[-1]["loss"]) and np.isfinite(log[0]["loss"])


def test_three_in_a_row_stop_the_run_and_keep_the_batch(run, tmp_path):
    """Between two looks of the host, with good batches after them; mended, the run goes on."""
    whole, broken = on_folder(run, tmp_path / "whole"), on_folder(run, tmp_path / "broken")
    wanted = train(whole, whole.folder, poison=())
    with pytest.raises(NotFiniteError, match="cold_start stopped at its optimizer step 7") as error:
        train(broken, broken.folder, poison=(4, 5, 6))
    path = broken.folder / "not_finite_cold_start_000007.npz"
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with np.load(path) as saved:
        assert set(saved) == {"number"}  # no pixels
        np.testing.assert_array_equal(saved["number"], batches_of(7)[-1])
    # The same again; then without the cause.
    with pytest.raises(NotFiniteError, match="optimizer step 7"):
        train(broken, broken.folder, poison=(4, 5, 6))
    assert train(broken, broken.folder, poison=()) == wanted


def test_the_rule_survives_a_resume(run, tmp_path):
    """Two skipped steps, a checkpoint, a kill: one more stops the run, as without the kill."""
    run = on_folder(run, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, poison=(2, 3, 4), steps=4)
    with pytest.raises(NotFiniteError, match="optimizer step 5"):
        train(run, tmp_path, poison=(2, 3, 4))
    with np.load(tmp_path / "not_finite_cold_start_000005.npz") as saved:
        np.testing.assert_array_equal(saved["number"], batches_of(5)[-1])


def test_the_program_leaves_with_a_status_of_its_own(monkeypatch, capsys):
    def main(_):
        raise NotFiniteError("warm_up stopped")

    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as stop:
        run_main(main)
    assert stop.value.code == EXIT_NOT_FINITE == 3
    assert capsys.readouterr().err == "error: warm_up stopped\n"
