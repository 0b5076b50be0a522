"""`evaluate --out`: every prediction is kept, whatever happens, and scored again offline."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medscope_jax import evaluate, evaluate_out
from medscope_jax.evaluation import predict as predicting
from medscope_jax.evaluation.predictions import HEADER, PREDICTION
from medscope_jax.evaluation.sealed_lines import read_sealed
from medscope_jax.training.from_config import MODELS
from tests.ask_cases import make_checkpoint
from tests.evaluation import evaluate_program
from tests.xla_cases import flags_for

ROOT = Path(__file__).resolve().parent.parent


def predictions(folder, name="predictions.jsonl"):
    reading = read_sealed(folder / name, HEADER, PREDICTION)
    _, *lines = [values for _, values in reading]
    assert not reading.faults.told()
    return lines


def rows_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("hub"), kv_heads=2)


@pytest.fixture
def of_checkpoint(checkpoint, micro_run, monkeypatch):
    """(out, *flags): evaluates the imported model on the suite of the micro run."""
    for place, name, value in evaluate_program.patches(checkpoint):
        monkeypatch.setattr(place, name, value)

    def run(out, *flags):
        given = ["--checkpoint", str(checkpoint), "--data_dir", str(micro_run)]
        evaluate.main([*given, "--split=validation", "--out", str(out), *flags])

    return run


def test_the_table_of_a_run_is_that_of_before(micro_run, tmp_path, monkeypatch, capsys):
    """Bit for bit, of all models and decodings; nothing is written into the run."""
    models = {name: MODELS[name] for name in ("passive", "rl")}
    workdir = tmp_path / "run"
    shutil.copytree(micro_run, workdir)
    monkeypatch.setattr(evaluate, "MODELS", models)
    monkeypatch.setattr(evaluate_out, "MODELS", models)
    evaluate.main(["--workdir", str(workdir), "--split", "validation"])
    before = json.loads((workdir / "evaluation_validation.json").read_text())
    (workdir / "evaluation_validation.json").unlink()
    names = sorted(path.name for path in workdir.iterdir())
    flags = ["--workdir", str(workdir), "--split", "validation"]
    evaluate.main([*flags, "--out", str(tmp_path / "out")])
    assert rows_of(tmp_path / "out") == before and len(before) > 4
    assert sorted(path.name for path in workdir.iterdir()) == names
    assert {line["decoding"] for line in predictions(tmp_path / "out")} == {"greedy", "sampled"}
    for path in (tmp_path / "out", tmp_path / "out" / "predictions.jsonl"):
        assert not path.stat().st_mode & 0o077
    # Scored again, without a model: the run may be gone.
    stored = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    (tmp_path / "out" / "results.json").unlink()
    shutil.rmtree(workdir)
    capsys.readouterr()
    evaluate.main(["--rescore", "--out", str(tmp_path / "out")])
    assert rows_of(tmp_path / "out") == before
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == stored
    printed = capsys.readouterr().out
    assert "Evaluation, percent" in printed and "judged by the built-in rules" in printed


def test_what_was_cut_off_goes_on(of_checkpoint, tmp_path, monkeypatch, capsys):
    """A file that only grows is, after a kill, the start of what it would have become."""
    out = tmp_path / "out"
    of_checkpoint(out, "--limit=9")
    whole, table = (out / "predictions.jsonl").read_bytes(), rows_of(out)
    lines = predictions(out)
    assert [line["number"] for line in lines] == list(range(9))  # three batches
    assert len({line["text"] for line in lines}) > 4 and all(line["turns"] for line in lines)
    assert {line["model"] for line in lines} == {"checkpoint"}
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in (3, ends[0], ends[4] - 1, ends[4], ends[6] + 9, len(whole) - 1, len(whole)):
        (out / "predictions.jsonl").write_bytes(whole[:size])
        (out / "results.json").unlink()
        capsys.readouterr()
        of_checkpoint(out, "--limit=9")
        assert (out / "predictions.jsonl").read_bytes() == whole and rows_of(out) == table
        printed = capsys.readouterr().out
        assert ("cut off" in printed) == (size not in (*ends, len(whole)))
    bad = whole.replace(b'"number": 2', b'"number": 3', 1)
    (out / "predictions.jsonl").write_bytes(bad)
    of_checkpoint(out, "--limit=9")
    assert "1 damaged line(s) left out (4); what is missing is predicted again" in (
        capsys.readouterr().out
    )
    assert rows_of(out) == table


def test_shards_together_are_the_whole(of_checkpoint, tmp_path, capsys):
    of_checkpoint(tmp_path / "whole", "--limit=9", "--modes=tools,passive")
    for part in (3, 1):
        of_checkpoint(tmp_path / "parts", "--limit=9", f"--shard={part}/3", "--modes=tools,passive")
    assert "checkpoint, greedy: 6 of " in capsys.readouterr().out
    of_checkpoint(tmp_path / "parts", "--limit=9", "--shard=2/3", "--modes=tools,passive")
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    parts = [predictions(tmp_path / "parts", f"predictions-{i}-of-3.jsonl") for i in (1, 2, 3)]
    for model in ("checkpoint", "checkpoint, passive"):
        found = [line for part in parts for line in part if line["model"] == model]
        expected = [x for x in predictions(tmp_path / "whole") if x["model"] == model]
        mode = "tools" if model == "checkpoint" else "passive"
        assert found == expected and {line["mode"] for line in found} == {mode}


def test_another_model_or_split_is_refused(of_checkpoint, checkpoint, tmp_path, refusal, micro_run):
    of_checkpoint(tmp_path, "--limit=1")
    given = ["--data_dir", micro_run, "--out", tmp_path, "--limit=1"]
    line = refusal(evaluate.main, ["--checkpoint", checkpoint, *given])
    assert "predictions of another evaluation (other split" in line
    (tmp_path / "hub").mkdir()
    other = make_checkpoint(tmp_path / "hub", kv_heads=1)
    line = refusal(evaluate.main, ["--checkpoint", other, *given, "--split=validation"])
    assert "predictions of other weights called checkpoint: name another --out" in line


def test_a_judge_that_is_not_there_loses_no_prediction(of_checkpoint, tmp_path, monkeypatch):
    from medscope_jax.rl import JudgeError

    def judge(section):
        def ask(records, answers):
            raise JudgeError("nobody is there")

        return ask

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "make_telling_judge", judge)
        with pytest.raises(JudgeError, match="--rescore with --judge.url judges them"):
            of_checkpoint(tmp_path, "--limit=2", "--judge.url=http://x", "--judge.model=m")
    assert [line["score"] for line in predictions(tmp_path)] == [None, None]
    evaluate.main(["--rescore", "--out", str(tmp_path)])
    assert sum(row["unscored"] for row in rows_of(tmp_path)) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name one of --workdir"),
        (["--workdir=a", "--checkpoint=b"], "name one of --workdir"),
        (["--workdir=a", "--limit=3"], "--limit needs --out"),
        (["--rescore"], "--rescore needs --out"),
        (["--rescore", "--out=o", "--workdir=a"], "--rescore takes --out"),
        (["--checkpoint=a", "--out=o"], "--checkpoint needs --data_dir"),
        (["--workdir=a", "--out=o", "--mesh=data=2"], "--mesh goes with --checkpoint"),
        (["--workdir=a", "--out=o", "--judge.url=u"], "--judge.url and --judge.model go together"),
        (["--workdir=a", "--out=o", "--distributed"], "--out takes one process"),
        (["--workdir=a", "--out=o", "--limit=0"], "--limit must be at least 1"),
        (["--workdir=a", "--out=o", "--shard=0/2"], "--shard is '0/2'; use I/N"),
        (["--workdir=a", "--out=gs://b/o"], "--out gs://b/o is an address"),
        (
            ["--checkpoint=a", "--data_dir=d", "--out=o", "--mesh=data"],
            "--mesh is 'data'; use axes",
        ),
        (["--checkpoint=a", "--data_dir=d", "--out=o", "--modes=tool"], "did you mean 'tools'"),
        (["--rescore", "--out=none"], "none holds no predictions"),
    ],
)
def test_flags_that_do_not_go_together(refusal, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(evaluate.main, flags)
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_something_else(micro_run, refusal, checkpoint):
    given = ["--checkpoint", checkpoint, "--data_dir", micro_run, "--out"]
    line = refusal(evaluate.main, [*given, checkpoint])
    assert "lies in the checkpoint; name a file elsewhere" in line
    line = refusal(evaluate.main, ["--workdir", micro_run, "--out", micro_run / "checkpoints"])
    assert "lies in the run's checkpoints" in line


@pytest.mark.slow
@pytest.mark.invariant
@pytest.mark.parametrize("axes", ["data=8", "data=2,fsdp=2,tensor=2", "fsdp=4,context=2"])
def test_an_imported_checkpoint_on_other_meshes(of_checkpoint, tmp_path, axes):
    """The same predictions as on one device, in each mode, to the last letter."""
    modes = "--modes=tools,passive,oracle"
    of_checkpoint(tmp_path / "one", modes)
    of_checkpoint(tmp_path / "mesh", modes, f"--mesh={axes}")
    one = (tmp_path / "one" / "predictions.jsonl").read_bytes()
    assert (tmp_path / "mesh" / "predictions.jsonl").read_bytes() == one
    lines = predictions(tmp_path / "one")
    assert len(lines) == 3 * 18 and len({line["text"] for line in lines}) > 20


@pytest.mark.slow
@pytest.mark.invariant
def test_kill_9_at_ten_moments(checkpoint, micro_run, tmp_path):
    """While it starts, between batches and within writes; the end is that of one never killed."""
    given = ["--checkpoint", checkpoint, "--data_dir", micro_run]
    given += ["--split=validation", "--modes=tools,passive,oracle"]
    environment = os.environ | {
        "XLA_FLAGS": flags_for(devices=1),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(out):
        line = [sys.executable, "-m", "tests.evaluation.evaluate_program", *map(str, given)]
        line += ["--out", str(out)]
        return subprocess.Popen(line, cwd=ROOT, env=environment)

    assert start(tmp_path / "whole").wait() == 0
    whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    file = tmp_path / "killed" / "predictions.jsonl"
    killed = 0
    for moment in range(10):
        process, grown = start(tmp_path / "killed"), file.stat().st_size if file.exists() else -1
        while process.poll() is None and (file.stat().st_size if file.exists() else -1) <= grown:
            time.sleep(0.0005)
        time.sleep(0.003 * moment)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert whole.startswith(file.read_bytes())
    assert killed >= 8
    assert start(tmp_path / "killed").wait() == 0
    assert file.read_bytes() == whole
    results = [(tmp_path / name / "results.json").read_text() for name in ("whole", "killed")]
    assert results[0] == results[1]
