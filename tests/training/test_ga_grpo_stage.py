"""Stage 3 as run_stage runs it, with dynamic sampling: exact to resume, and stopped by its guard.

Rollouts and the policy step are stand-ins (their own tests are elsewhere); batches, groups, data
position, counters, log and checkpoints are real.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax.bank import FrameBank, flat_index
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import NotFiniteError
from medscope_jax.rollout import row_keys
from medscope_jax.training import ga_grpo, make_steps
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.metrics_log import MetricsWriter, read_metrics
from medscope_jax.training.rollout_batch import Roller, RolloutBatch
from medscope_jax.training.run import Run
from medscope_jax.training.stage import run_stage, state_of
from medscope_jax.training.train_state import apply_gradients
from tests.bank.bank_cases import on_host
from tests.training import step_cases as cases
from tests.training.group_cases import GROUP, LENGTH, STRIDE, make_groups
from tests.training.metrics_cases import without_timing
from tpu_configs.cpu import get_config

RECORDS, STEPS = 13, 6


def make_run(folder, resample, lag, updates):
    config = ConfigDict(get_config().to_dict())
    config.rl.update({"group_size": GROUP, "resample": resample, "lag": lag, "updates": updates})
    config.ga_grpo.update({"steps": STEPS, "batch_size": 3})
    config.log.checkpoint_every = 2
    config.video.max_frames = STRIDE
    mesh = make_mesh({}, jax.devices()[:1])
    layout = SimpleNamespace(tokens_per_frame=1, grid=(1, 1))
    return Run(config, folder, mesh, None, None, cases.MODEL, layout, None)


def step(state, episode, advantages, bank, reference, *, optimizer, poison, **_):
    """Moves weights by what a policy step would see: tokens, advantages, and the frames shown."""
    video = jnp.arange(len(advantages)) // GROUP
    index = flat_index(video, episode.visual_index, STRIDE)
    shown = jnp.where(index >= 0, bank[index, 0], 0.0)
    value = jnp.mean(advantages**2) + 1e-3 * jnp.mean(episode.logprobs) + 1e-3 * jnp.mean(shown)
    value = jnp.where(jnp.isin(state.step, jnp.array([-1, *poison])), jnp.nan, value)
    gradients = {"text": jax.tree.map(lambda leaf: leaf * value, state.params["text"])}
    state, norm = apply_gradients(state, gradients, optimizer, value)
    return state, {"policy_loss": value, "gradient_norm": norm, "logprob_gap_max": value}


def weight_of(params):
    """A number by which parameters are known."""
    return float(jax.tree.leaves(params["text"])[0].reshape(-1)[0])


def session(monkeypatch, folder, resample=2, poison=(), kill=None, lag=0, updates=1, events=None):
    """One start of stage 3, killed before its update number `kill`; bits of its last state.

    events: takes (what was done, with weights of this number).
    """
    run, events = make_run(folder, resample, lag, updates), [] if events is None else events

    def start(params, rows, key, first):
        events.append(("started", weight_of(params)))
        return weight_of(params), rows, key, first

    def finish(started, meanwhile):
        """Rewards of 0 and 1 by each rollout's key: half of the groups of two have a signal."""
        weight, rows, key, first = started
        events.append(("finished", weight))
        meanwhile()
        keys = row_keys(key, jnp.arange(len(rows) * GROUP) + first * GROUP)
        totals = jax.vmap(jax.random.bernoulli)(keys).reshape(-1, GROUP)
        groups = make_groups(rows, totals)
        groups = dataclasses.replace(groups, places=groups.rows.astype(np.int32))
        if lag:  # what was recorded while sampling is known to be of these weights
            logprobs = np.full_like(groups.episode.logprobs, weight)
            groups = dataclasses.replace(groups, episode=groups.episode.replace(logprobs=logprobs))
        return RolloutBatch(groups, {"decoded": 5}, {"seconds_rollout": 0.1, "seconds_judge": 0.1})

    names = 100.0 * np.arange(RECORDS)[:, None] + np.arange(STRIDE)
    zeros = np.zeros((RECORDS, STRIDE), np.float32)
    stamps, length = np.zeros((*zeros.shape, 1), np.int32), np.full(RECORDS, STRIDE)
    shown = names[:, :, None, None].astype(np.float32)
    bank = on_host(FrameBank(shown, zeros, stamps, length, zeros[:, 0]))
    monkeypatch.setattr(ga_grpo, "load_records", lambda *_: [{}] * RECORDS)
    monkeypatch.setattr(ga_grpo, "split_bank", lambda *_: bank)
    roller = Roller(start, finish, LENGTH)
    monkeypatch.setattr(ga_grpo, "make_roller", lambda *_: roller)
    monkeypatch.setattr(make_steps, "ga_grpo_step", functools.partial(step, poison=poison))

    def prepare(params):
        batches, update = ga_grpo.prepare_ga_grpo(run, None, None, params)
        count = []

        def killed(state, batch):
            count.append(0)
            if len(count) - 1 == kill:
                raise KeyboardInterrupt
            events.append(("update", weight_of(state.params)))
            return update(state, batch)

        return batches, killed

    first = jax.tree.map(jnp.asarray, cases.params())
    with Checkpoints(folder / "checkpoints") as checkpoints:
        kept = max((meta["lines"] for meta in checkpoints.metas()), default=0)
        with MetricsWriter(folder / "metrics.jsonl", keep=kept) as writer:
            run_stage(run, "ga_grpo", lambda: first, prepare, checkpoints, writer)
        restored = checkpoints.restore(state_of(run, "ga_grpo"))
    leaves = jax.tree.leaves((restored.state.params, restored.state.opt_state))
    return [np.asarray(leaf).tobytes() for leaf in leaves], restored.data


def log(folder):
    return without_timing(read_metrics(folder / "metrics.jsonl"))


def test_dynamic_sampling_is_exact_to_resume(monkeypatch, tmp_path):
    """Batches drawn beside the first belong to the data position, as the others do."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    wanted = session(monkeypatch, whole)
    for kill in (3, 1, None):  # before its 4th update, then before the 2nd from there
        if kill is None:
            assert session(monkeypatch, broken) == wanted
        else:
            with pytest.raises(KeyboardInterrupt):
                session(monkeypatch, broken, kill=kill)
    assert log(broken) == log(whole)
    lines = log(whole)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    drawn = [line["batches_drawn"] for line in lines]
    assert set(drawn) <= {1, 2, 3} and max(drawn) > 1
    assert sum(line["groups_replaced"] for line in lines) > 0
    for line in lines:  # it stopped early only because its batch was full
        assert line["batches_drawn"] == 3 or line["groups_without_signal"] == 0
        assert line["decoded"] == 5 * line["batches_drawn"]
    timed = read_metrics(whole / "metrics.jsonl")[0]
    assert {"seconds_rollout", "seconds_judge", "seconds_update"} <= set(timed)
    # Without it, a step takes one batch, and groups without signal stay.
    _, data = session(monkeypatch, tmp_path / "off", resample=0)
    assert data != wanted[1]
    lines = log(tmp_path / "off")
    assert {line["batches_drawn"] for line in lines} == {1}
    assert max(line["groups_without_signal"] for line in lines) > 0


@pytest.mark.parametrize("updates", [1, 2])
def test_one_step_off(monkeypatch, tmp_path, updates):
    """Each batch but the first is rolled out by the weights before the update ahead of it, and
    begins while the one before is judged; killed anywhere, a run goes on with the same ones."""
    whole, broken, events = tmp_path / "whole", tmp_path / "broken", []
    options = {"resample": 0, "lag": 1, "updates": updates}
    wanted = session(monkeypatch, whole, **options, events=events)
    kinds = [kind for kind, _ in events]
    assert kinds == ["update", "started"] + ["finished", "started", "update"] * 5 + ["finished"]
    before = [weight for kind, weight in events if kind == "update"]
    by = [weight for kind, weight in events if kind == "finished"]
    assert by == [before[0], *before[:-1]] and len(set(before)) == STEPS
    for kill in (3, 1, None):
        if kill is None:
            assert session(monkeypatch, broken, **options) == wanted
        else:
            with pytest.raises(KeyboardInterrupt):
                session(monkeypatch, broken, **options, kill=kill)
    assert log(broken) == log(whole)
    on_policy = tmp_path / "on_policy"
    session(monkeypatch, on_policy, resample=0, updates=updates)
    assert log(on_policy) != log(whole)


def test_the_guard_keeps_the_rollouts(monkeypatch, tmp_path):
    """Three steps in a row: the last one's rollouts are kept; mended, the run goes on behind them.

    The first two were saved as skipped, so that they stay so.
    """
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with pytest.raises(NotFiniteError, match="ga_grpo stopped at its optimizer step 5"):
        session(monkeypatch, broken, poison=(2, 3, 4))
    with np.load(broken / "not_finite_ga_grpo_000005.npz") as saved:
        names = ("row", "tokens", "visual_index", "role", "logprobs", "rewards", "advantages")
        assert set(saved) == set(names)
        expected = make_groups(saved["row"], saved["rewards"])
        np.testing.assert_array_equal(saved["logprobs"], expected.episode.logprobs)
        assert saved["advantages"].shape == (3 * GROUP,)
    assert session(monkeypatch, broken) == session(monkeypatch, whole, poison=(2, 3))
    assert str(log(broken)) == str(log(whole))  # as text: what is not a number equals itself
