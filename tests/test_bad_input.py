"""Mistakes at the entry points: one clear line, exit status 2, nothing lost, nothing begun."""

import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

from medscope_jax import evaluate, plan, train
from medscope_jax.errors import UserError
from medscope_jax.training.workdir import Workdir

ROOT = Path(__file__).resolve().parent.parent
CPU = ROOT / "tpu_configs" / "cpu.py"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "required: --config"),
        ([f"--config={CPU}", "--confg=x"], "did you mean '--config'?"),
        (["--config=tpu_configs/cpy.py"], "no config file tpu_configs/cpy.py"),
        ([f"--config={CPU}:smok"], "unknown argument 'smok'"),
        ([f"--config={CPU}", "--config.ga_grpo.stesp=3"], "did you mean 'ga_grpo.steps'?"),
        ([f"--config={CPU}", "--config.ga_grpo.steps=many"], "takes int values such as"),
        ([f"--config={CPU}", "--config.mesh.date=2"], "did you mean 'mesh.data'?"),
        ([f"--config={CPU}", "--config.mesh.data=3"], "needs 3 devices but there are 1"),
        ([f"--config={CPU}", "--config.mesh.data=0"], "must be a positive integer"),
        (
            [f"--config={CPU}", "--config.device.count=4", "--config.mesh.tensor=4"],
            "tensor=4 does not divide the model's 2 key-value heads",
        ),
        ([f"--config={CPU}", "--config.device.count=99"], "needs 99 CPU device(s) but found 8 x"),
        ([f"--config={CPU}", "--config.device.platform=npu"], "use 'cpu', 'gpu' or 'tpu'"),
        ([f"--config={CPU.parent / 'gpu.py'}"], "needs 1 GPU device(s)"),
    ],
)
def test_train_refuses_before_it_makes_anything(refusal, tmp_path, arguments, match):
    workdir = tmp_path / "run"
    assert match in refusal(train.main, [*arguments, "--workdir", workdir])
    assert not workdir.exists()


def test_an_unknown_key_in_a_config_file_names_the_closest(refusal, tmp_path):
    path = tmp_path / "mine.py"
    text = CPU.read_text().replace('"group_size": 8', '"group_sise": 8')
    path.write_text(text)
    line = refusal(train.main, ["--config", path, "--workdir", tmp_path / "run"])
    assert "unknown key rl.group_sise (did you mean 'group_size'?)" in line
    assert not (tmp_path / "run").exists()


def test_a_tpu_config_on_a_laptop_says_where_to_go(tmp_path):
    """In a process of its own, as users run it: nothing but our line on stderr."""
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    command = [sys.executable, "-m", "medscope_jax.train", "--config", "tpu_configs/v5e.py"]
    ran = subprocess.run(
        [*command, "--workdir", str(tmp_path / "run")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr.startswith("error: this config needs") and ran.stderr.count("\n") == 1
    assert "TPU device(s) of kind 'v5e' but found" in ran.stderr
    assert "tpu_configs/cpu.py" in ran.stderr and "python -m medscope_jax.plan" in ran.stderr
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_config_is_left_alone(refusal, micro_run, micro_arguments):
    before = {path: path.read_bytes() for path in micro_run.iterdir() if path.is_file()}
    line = refusal(train.main, [*micro_arguments, "--config.seed=7", "--workdir", micro_run])
    assert "was made with another config: seed was 0, now 7" in line
    for path, content in before.items():
        assert path.name == ".lock" or path.read_bytes() == content


def test_workdirs_that_are_none(refusal, micro_run, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    line = refusal(train.main, [f"--config={CPU}", "--workdir", file])
    assert f"{file} is no folder; name another" in line and file.read_text() == "mine"
    for path in (file, tmp_path / "none"):
        refusal(evaluate.main, ["--workdir", path])
    assert not (tmp_path / "none").exists()
    line = refusal(evaluate.main, ["--workdir", micro_run, "--split", "dev"])
    assert "unknown split 'dev'; choose one of validation, test" in line


def test_evaluating_an_unfinished_run(refusal, micro_run, tmp_path):
    (tmp_path / "config.json").write_bytes((micro_run / "config.json").read_bytes())
    assert "train first" in refusal(evaluate.main, ["--workdir", tmp_path])


def test_plan_refuses_too(refusal):
    assert "no config file" in refusal(plan.main, ["--config=none.py"])
    assert "needs" in refusal(plan.main, [f"--config={CPU}", "--config.mesh.data=3"])


ROWS = [{"model": "rl", "split": "eye", "task": "vqa", "miou": 0.25, "accuracy": 0.5}]


def full_disk(monkeypatch, after):
    """From now on the disk takes `after` more files."""
    sync, left = os.fsync, [after]

    def full(descriptor):
        left[0] -= stat.S_ISREG(os.fstat(descriptor).st_mode)
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_at_the_end_of_training(tmp_path, monkeypatch, capsys, after):
    """The table is on the terminal all the same, and the run is not taken for done."""
    for name in ("load_records", "load_split", "read_metrics"):
        monkeypatch.setattr(train, name, lambda *_: [])
    monkeypatch.setattr(train, "model_of_run", lambda *_: None)
    monkeypatch.setattr(train, "evaluate_model", lambda *_: ([], []))
    monkeypatch.setattr(train, "telling_traces", lambda *_: [])
    monkeypatch.setattr(train, "result_rows", lambda _: ROWS)
    full_disk(monkeypatch, after)
    run = types.SimpleNamespace(config=types.SimpleNamespace(seed=0))
    workdir = Workdir(tmp_path)
    with pytest.raises(UserError, match="disk full while writing .*; nothing was written"):
        train.evaluate(run, workdir, {"sft": {}}, 60.0)
    assert "25.0/50.0" in capsys.readouterr().out
    assert not workdir.is_done()
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"][:after]


def test_a_full_disk_at_the_end_of_an_evaluation(micro_run, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_: ([None], []))
    monkeypatch.setattr(evaluate, "result_rows", lambda _: ROWS)
    before = sorted(item.name for item in micro_run.iterdir())
    full_disk(monkeypatch, 0)
    with pytest.raises(UserError, match="disk full while writing .*evaluation_validation.json"):
        evaluate.main(["--workdir", str(micro_run), "--split", "validation"])
    assert "25.0/50.0" in capsys.readouterr().out
    assert sorted(item.name for item in micro_run.iterdir()) == before
