"""A stage: what its state looks like, and that what is done is not done again."""

import dataclasses
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
from medscope_jax.training.stage import finished_params, run_stage, state_of
from medscope_jax.training.train_state import (
    apply_gradients,
    init_state,
    make_optimizer,
    updates_of,
)
from tests.training import step_cases as cases


@pytest.fixture(scope="module")
def run():
    stage = {"steps": 3, "batch_size": 2, "learning_rate": 1e-2, "train_vision": False}
    stage |= {
        "warmup": 0.2,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "final_scale": 0.1,
        "epochs": 0.0,
    }
    sections = {"warm_up": stage | {"train_vision": True}, "cold_start": stage, "ga_grpo": stage}
    config = ConfigDict({"seed": 3, "rl": {"updates": 2, "lag": 0}, **sections})
    config.log = ConfigDict(
        {"every": 2, "checkpoint_every": 10, "checkpoint_minutes": 0, "profile": ""}
    )
    mesh = make_mesh({"fsdp": 2}, jax.devices()[:2])
    return Run(config, Path("."), mesh, None, None, cases.MODEL, None, None)


def test_stage_3_counts_every_optimizer_step(run):
    assert updates_of(run.config, "cold_start") == 3 and updates_of(run.config, "ga_grpo") == 6


@pytest.mark.parametrize("name", ["warm_up", "cold_start"])
def test_the_abstract_state_is_the_states(run, name):
    """Same tree, shapes and types as a real first state; parameters split over the mesh."""
    section = run.config[name]
    optimizer = make_optimizer(section, updates_of(run.config, name))
    params = jax.tree.map(jnp.asarray, cases.params())
    state = init_state(params, optimizer, jax.random.key(0), section.train_vision)
    promised = state_of(run, name)
    assert jax.tree.structure(promised) == jax.tree.structure(state)
    for wanted, leaf in zip(jax.tree.leaves(promised), jax.tree.leaves(state), strict=True):
        assert wanted.shape == leaf.shape and wanted.dtype == leaf.dtype
    kernel = promised.params["text"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[1] == kernel.shape[1] // 2


def count_up(params):
    """Batches of one number, and an update that adds its mean to every weight."""
    optimizer = make_optimizer(
        {"learning_rate": 1e-2, "warmup": 0.2, "weight_decay": 0.01, "clip_norm": 1.0}
        | {"final_scale": 0.1, "epochs": 0.0},
        3,
    )

    @jax.jit
    def update(state, batch):
        gradients = {"text": jax.tree.map(jnp.ones_like, state.params["text"])}
        state, norm = apply_gradients(state, gradients, optimizer)
        return state, {"loss": jnp.mean(batch["number"]), "norm": norm}

    return make_batches(range(8), lambda n: {"number": np.float32(n)}, 2, seed=0), update


def refuse(*_):
    raise AssertionError("done work was done again")


def test_a_finished_stage_is_not_run_again(run, tmp_path):
    start = jax.tree.map(jnp.asarray, cases.params())
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        MetricsWriter(tmp_path / "metrics.jsonl") as writer,
    ):
        assert finished_params(run, checkpoints, "cold_start") is None
        params = run_stage(run, "cold_start", lambda: start, count_up, checkpoints, writer)
        again = run_stage(run, "cold_start", refuse, refuse, checkpoints, writer)
        found = finished_params(run, checkpoints, "cold_start")
        assert finished_params(run, checkpoints, "ga_grpo") is None
    for other in (again, found):
        jax.tree.map(np.testing.assert_array_equal, params, other)
    # The parameters that a stage starts from are others' too: they are still there, untouched.
    jax.tree.map(np.testing.assert_array_equal, start, cases.params())
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params["text"], start["text"])
    assert min(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(np.testing.assert_array_equal, params["vision"], start["vision"])
    log = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in log] == [("cold_start", 2), ("cold_start", 3)]
    text = params["text"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert text.sharding.shard_shape(text.shape)[1] == text.shape[1] // 2


class Late(float):
    """A metric that notes until which step somebody has waited for it."""

    awaited = 0

    def block_until_ready(self):
        Late.awaited = max(Late.awaited, int(self))
        return self


def test_the_devices_are_given_one_batch_at_a_time(run, tmp_path):
    """As a plan counts, and not as many as there are steps between two looks."""
    config = run.config.copy_and_resolve_references()
    config.log.every, config.cold_start.steps = 1000, 8
    run, given = dataclasses.replace(run, config=config), []

    def prepare(params):
        batches, update = count_up(params)

        def late(state, batch):
            given.append(Late.awaited)
            return update(state, batch)[0], {"loss": Late(len(given))}

        return batches, late

    start = jax.tree.map(jnp.asarray, cases.params())
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        MetricsWriter(tmp_path / "metrics.jsonl") as writer,
    ):
        run_stage(run, "cold_start", lambda: start, prepare, checkpoints, writer)
    assert given == list(range(8))
