"""Some of a run's stages, from another run's model, and runs that are made longer: by the program.

A stage alone must end with the very parameters, and results, of the run that did all of them.
"""

import contextlib
import json
import re

import jax
import numpy as np
import pytest

from medscope_jax import train
from medscope_jax.distributed import make_mesh
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.metrics_log import read_metrics
from medscope_jax.training.run import make_run
from medscope_jax.training.stage import finished_params
from medscope_jax.training.workdir import Workdir, read_workdir


def changed(micro_arguments, workdir, **changes):
    given = [f"--config.{key}={value}" for key, value in changes.items()]
    return [*micro_arguments, *given, "--workdir", str(workdir)]


def model_of(path, stage):
    """What a stage of a run ended with, on the host."""
    workdir, config = read_workdir(path)
    run = make_run(config, workdir, make_mesh(config.mesh, jax.devices()[:1]))
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        return jax.device_get(finished_params(run, checkpoints, stage))


def assert_same_model(path, other, stage):
    jax.tree.map(np.testing.assert_array_equal, model_of(path, stage), model_of(other, stage))


def rows_of(path, model):
    return [row for row in json.loads((path / "results.json").read_text()) if row["model"] == model]


@pytest.fixture(scope="module")
def alone(micro_run, micro_arguments, tmp_path_factory):
    """The workdir of a run of stage 3 alone, from the other run's stage 2."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    changes = {"stages": "ga_grpo", "start_from": f"{micro_run}:cold_start", "log.profile": "1:1"}
    traced, kept = [], []

    def compiling_into(folder):
        kept.append(folder)
        return contextlib.nullcontext()

    with pytest.MonkeyPatch.context() as patch:
        # The real profiler is tried in a process of its own: where libtpu has been loaded for
        # other tests, it crashes.
        patch.setattr(jax.profiler, "start_trace", traced.append)
        patch.setattr(jax.profiler, "stop_trace", lambda: traced.append("stop"))
        patch.setattr(train, "compiling_into", compiling_into)
        train.main(changed(micro_arguments, workdir, **changes))
    assert kept == [workdir / "compiled"]  # what that does: training/test_compiled.py
    assert traced == [workdir / "profile" / "ga_grpo", "stop"]
    return workdir


def test_a_stage_alone_is_the_stage_of_the_whole_run(alone, micro_run):
    assert_same_model(alone, micro_run, "ga_grpo")
    assert {line["stage"] for line in read_metrics(alone / "metrics.jsonl")} == {"ga_grpo"}
    assert (alone / "tokenizer.model").read_bytes() == (micro_run / "tokenizer.model").read_bytes()


def test_the_models_that_the_run_has_are_evaluated(alone, micro_run):
    rows = json.loads((alone / "results.json").read_text())
    assert {row["model"] for row in rows} == {"rl"}
    assert rows == rows_of(micro_run, "rl")
    assert "Grounding and grounded VQA" in (alone / "report.html").read_text()


@pytest.mark.invariant
def test_rollouts_by_other_weights_are_weighed(micro_run, micro_arguments, tmp_path):
    """By int8 weights and, from the second step on, by those of the step before: near the learning
    policy's, and told apart from them. What is evaluated is the exact model."""
    changes = {"stages": "ga_grpo", "start_from": f"{micro_run}:cold_start", "ga_grpo.steps": 3}
    changes |= {"rl.lag": 1, "rollout.weights_dtype": "int8", "loss.importance_cap": 2.0}
    train.main(changed(micro_arguments, tmp_path / "run", **changes))
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["ratio_max"] == 1  # to the policy before the one update
        assert line["importance_mean"] == pytest.approx(1, abs=0.05)
        assert 0 < line["logprob_gap_max"] < 1
    assert {row["model"] for row in rows_of(tmp_path / "run", "rl")} == {"rl"}


def test_stages_one_after_the_other_in_one_workdir(micro_run, micro_arguments, tmp_path, capsys):
    """The first alone has no model to evaluate; the baseline then learns from it."""
    workdir = tmp_path / "run"
    train.main(changed(micro_arguments, workdir, stages="warm_up"))
    assert "done with warm_up in" in capsys.readouterr().out
    assert not (workdir / "results.json").exists()
    train.main(changed(micro_arguments, workdir, stages="passive"))
    assert_same_model(workdir, micro_run, "passive")
    rows = json.loads((workdir / "results.json").read_text())
    assert rows == rows_of(micro_run, "passive")


def test_two_starts_are_refused(micro_run, micro_arguments, tmp_path, refusal):
    changes = {"start_from": f"{micro_run}:cold_start", "model.checkpoint": str(tmp_path)}
    line = refusal(train.main, changed(micro_arguments, tmp_path / "run", **changes))
    assert "both name weights to start from: give one of them" in line
    changes = {"start_from": f"{tmp_path}:cold_start", "stages": "ga_grpo"}
    line = refusal(train.main, changed(micro_arguments, tmp_path / "run", **changes))
    assert "holds no run" in line
    assert not Workdir(tmp_path / "run").config.exists()


def test_a_stage_that_has_nothing_to_start_from_claims_no_folder(
    micro_arguments, tmp_path, refusal
):
    line = refusal(train.main, changed(micro_arguments, tmp_path / "run", stages="ga_grpo"))
    assert "config.stages is 'ga_grpo', so ga_grpo has no model to start from" in line
    assert not (tmp_path / "run").exists()


def test_a_done_run_made_longer_goes_on(alone, micro_arguments, micro_run, capsys):
    """Its table is kept beside, the log tells of it, and then it is done again.

    The last of these tests, as it changes the run.
    """
    workdir = alone
    before = (workdir / "results.json").read_bytes()
    changes = {"stages": "ga_grpo", "start_from": f"{micro_run}:cold_start", "ga_grpo.steps": 2}
    arguments = changed(micro_arguments, workdir, **changes)
    train.main(arguments)
    output = capsys.readouterr().out
    assert "its results so far are kept in" in output
    assert re.search(r"^ga_grpo: \d+ records, .* epochs, 2 steps, 1 of them left$", output, re.M)
    assert (workdir / "results_before_1.json").read_bytes() == before
    assert json.loads((workdir / "results.json").read_text())
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if line["stage"] == "ga_grpo"]
    assert [line["step"] for line in lines] == [1, 1, 2]
    assert lines[1]["note"].startswith("1 steps were planned, and are 2 from here on")
    assert read_workdir(workdir)[1].ga_grpo.steps == 2
    train.main(arguments)
    assert f"{workdir} is done" in capsys.readouterr().out
