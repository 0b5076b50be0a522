"""Stages with adapters: what each starts from and saves, what is printed, and exact resume."""

import contextlib
import dataclasses
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax import models
from medscope_jax.data.batches import make_batches
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.metrics_log import MetricsWriter, read_metrics
from medscope_jax.training.run import Run
from medscope_jax.training.stage import finished_params, run_stage, state_of
from medscope_jax.training.train_state import apply_gradients, optimizer_of, trained
from tests.training import step_cases as cases
from tests.training.metrics_cases import without_timing

STAGES = ("warm_up", "cold_start", "ga_grpo")
MODEL = dataclasses.replace(cases.MODEL, lora=models.LoraConfig(rank=4, alpha=8.0))
COUNT = 2 * 4 * (4 * 2 * 32 + 3 * (32 + 48))  # layers, rank, and both sides of 7 projections


def make_run(rl=(), model=MODEL):
    stage = {"steps": 3, "epochs": 0.0, "batch_size": 2, "learning_rate": 1e-2, "warmup": 0.2}
    stage |= {"weight_decay": 0.01, "clip_norm": 1.0, "final_scale": 0.1}
    sections = {
        "warm_up": stage | {"train_vision": True, "lora": False},
        "cold_start": stage | {"train_vision": False, "lora": True},
        "ga_grpo": stage | {"train_vision": False, "lora": True},
    }
    config = ConfigDict({"seed": 3, "rl": {"updates": 1, "lag": 0, **dict(rl)}, **sections})
    config.log = ConfigDict(
        {"every": 1, "checkpoint_every": 2, "checkpoint_minutes": 0, "profile": ""}
    )
    mesh = make_mesh({"fsdp": 2}, jax.devices()[:2])
    return Run(config, Path("."), mesh, None, None, model, None, None)


@pytest.fixture(scope="module")
def run():
    return make_run()


class Killed(BaseException):
    """Ends a session as a signal would: no handler for ordinary errors sees it."""


def session(run, folder, kill=None):
    """One start of a program of three stages, killed in its update number `kill`; its states."""
    done = []

    def prepare_for(name):
        optimizer = optimizer_of(run.config, name)
        vision = run.config[name].train_vision

        @jax.jit
        def step(state, batch):
            draw = jax.random.uniform(jax.random.fold_in(state.key, state.step))
            gradients = jax.tree.map(
                lambda leaf: (leaf + draw) * batch["number"].mean(), trained(state.params, vision)
            )
            state, norm = apply_gradients(state, gradients, optimizer)
            return state, {"draw": draw, "norm": norm}

        def update(state, batch):
            done.append(name)
            if len(done) == kill:
                raise Killed
            return step(state, batch)

        def prepare(params):
            del params
            return make_batches(range(8), lambda n: {"number": np.float32(n)}, 2, seed=0), update

        return prepare

    with Checkpoints(folder / "checkpoints") as checkpoints:
        kept = max((meta["lines"] for meta in checkpoints.metas()), default=0)
        with MetricsWriter(folder / "metrics.jsonl", keep=kept) as writer:
            params = jax.tree.map(jnp.asarray, cases.params())
            for name in STAGES:
                start = (lambda p: lambda: p)(params)
                params = run_stage(run, name, start, prepare_for(name), checkpoints, writer)
        return {name: checkpoints.restore(state_of(run, name), stage=name).state for name in STAGES}


def assert_bitwise(a, b):
    def plain(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(map(plain, jax.tree.leaves(a)), map(plain, jax.tree.leaves(b)), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def log(folder):
    return without_timing(read_metrics(folder / "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """(every stage's last state, the folder, what was printed) of a program that was not killed."""
    folder, printed = tmp_path_factory.mktemp("whole"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        states = session(run, folder)
    return states, folder, printed.getvalue().splitlines()


def test_one_adapter_on_one_base_through_the_stages(run, whole):
    """Stage 1 makes the base; after it only adapters move, and only they have moments."""
    states, folder, _ = whole
    assert len(log(folder)) == 9
    warm, cold, last = (states[name].params for name in STAGES)
    assert models.split_lora(warm)[1] == {}
    for params in (cold, last):
        base, adapters = models.split_lora(params)
        assert_bitwise(base, models.freeze(warm, "bfloat16"))
        assert {leaf.dtype for leaf in jax.tree.leaves(adapters)} == {jnp.dtype("float32")}
    first, second = (jax.tree.leaves(models.split_lora(p)[1]) for p in (cold, last))
    assert all((np.asarray(a) != np.asarray(b)).any() for a, b in zip(first, second, strict=True))
    # Stage 3's first adapters are those that stage 2 ended with: at most 3 small steps away.
    assert max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True)) < 0.1
    for name, count in (("cold_start", COUNT), ("ga_grpo", COUNT)):
        leaves = jax.tree.leaves(states[name].opt_state)
        assert sum(leaf.size for leaf in leaves if leaf.ndim) == 2 * count


SLOW = [pytest.mark.slow, pytest.mark.invariant]


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(2, marks=SLOW),
        pytest.param(5, marks=SLOW),
        pytest.param(9, marks=pytest.mark.invariant),
    ],
)
def test_killed_in_any_stage_the_program_ends_the_same(run, whole, tmp_path, kill):
    states, folder, _ = whole
    with pytest.raises(Killed):
        session(run, tmp_path, kill)
    found = session(run, tmp_path)
    for name in STAGES:
        assert_bitwise(found[name], states[name])
    assert log(tmp_path) == log(folder)


def test_the_number_of_trained_parameters_is_printed(whole):
    _, _, lines = whole
    assert len(lines) == 3
    total = models.count_params(MODEL)
    assert lines[0] == f"warm_up trains {total:,} of {total:,} parameters"
    start = (
        f"cold_start trains {COUNT:,} of {total + COUNT:,} parameters: "
        "adapters of rank 4, base in bfloat16, its kernels rounded by "
    )
    assert lines[1].startswith(start)
    assert 0.1 < float(lines[1].removeprefix(start).removesuffix(" %")) < 0.25
    # Stage 3 goes on with what is rounded already.
    assert lines[2] == start.replace("cold_start", "ga_grpo").removesuffix(
        ", its kernels rounded by "
    )


def test_the_abstract_state_is_split_and_allocates_nothing(run):
    promised = state_of(run, "ga_grpo")
    projection = promised.params["text"]["layers"]["mlp"]["up_proj"]
    assert projection["kernel"].dtype == jnp.bfloat16
    for name, axis in (("kernel", 1), ("lora_a", 1)):
        leaf = projection[name]
        assert leaf.sharding.shard_shape(leaf.shape)[axis] == leaf.shape[axis] // 2
    assert state_of(run, "warm_up").params["text"]["layers"]["mlp"]["up_proj"].keys() == {"kernel"}


def test_a_finished_stages_parameters_have_their_adapters(run, whole):
    states, folder, _ = whole
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        assert_bitwise(finished_params(run, checkpoints, "ga_grpo"), states["ga_grpo"].params)
        # The same folder under a config without adapters is refused in one line.
        other = make_run(model=cases.MODEL)
        with pytest.raises(UserError, match="is of another model"):
            checkpoints.restore(state_of(other, "ga_grpo"), stage="ga_grpo")


@pytest.mark.parametrize(
    "rl, model, message",
    [
        ({"kl_reference": "stage2"}, MODEL, "rl.kl_reference is 'stage2'; choose start or base"),
        ({"kl_reference": "base"}, cases.MODEL, "rl.kl_reference=base needs adapters"),
    ],
)
def test_a_reference_that_cannot_be_is_refused_before_stage_1(rl, model, message):
    run = make_run({"kl_coefficient": 0.1, **rl}, model)
    with pytest.raises(UserError, match=message):
        run_stage(run, "warm_up", None, None, None, None)
