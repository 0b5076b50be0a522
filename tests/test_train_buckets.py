"""A run whose folders are in a bucket is the run that it is on this machine, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import medscope_jax
from medscope_jax import ask, convert, encode, evaluate, train
from medscope_jax.buckets import list_objects
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS
from medscope_jax.paths import to_path
from medscope_jax.training.metrics_log import read_metrics
from tests.data import suite_cases
from tests.distributed.process_cases import end_of, output_of, start_processes
from tests.training.metrics_cases import without_timing
from tests.xla_cases import flags_for
from tfds_builders.build import build
from tfds_builders.card import __main__ as card

pytestmark = pytest.mark.invariant
ROOT = str(Path(__file__).resolve().parent.parent)
DATA = {
    "video.fps": 2.0,
    "dialogue.length": 700,
    "dialogue.clip_length": 500,
    "dialogue.vocab_size": 1024,
}


@pytest.fixture(scope="module")
def bucket(gcs, tmp_path_factory):
    """A bucket's address, and a cache of copies that the tests of this file share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield f"{gcs}/buckets"


@pytest.fixture(scope="module")
def run(bucket, micro_arguments):
    """The run of micro_run in a bucket: killed (-9) after its second stage, and gone on with."""
    workdir = to_path(f"{bucket}/run")
    command = [sys.executable, "-m", "medscope_jax.train", *micro_arguments]
    settings = {**os.environ, "XLA_FLAGS": flags_for(devices=8)}
    with subprocess.Popen([*command, "--workdir", str(workdir)], cwd=ROOT, env=settings) as process:
        deadline = time.monotonic() + 240
        while "checkpoints/000002/commit_success.txt" not in list_objects(workdir):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    assert ".lock" in list_objects(workdir)  # of the killed process
    # What was being written: it has no marker, and shall never be read.
    source = workdir / "checkpoints" / "000002"
    for name in list_objects(source):
        if name != "commit_success.txt":
            (workdir / "checkpoints" / "000009" / name).write_bytes((source / name).read_bytes())
    train.main([*micro_arguments, "--workdir", str(workdir)])
    return workdir


def test_it_is_the_run_of_this_machine(run, micro_run):
    assert json.loads((run / "results.json").read_text()) == json.loads(
        (micro_run / "results.json").read_text()
    )
    kept, there = read_metrics(run / "metrics.jsonl"), read_metrics(micro_run / "metrics.jsonl")
    assert without_timing(kept) == without_timing(there) and len(kept) == 7
    assert (run / "tokenizer.model").read_bytes() == (micro_run / "tokenizer.model").read_bytes()


def test_nothing_half_written_is_left(run):
    names = list_objects(run)
    top = {name.partition("/")[0] for name in names}
    assert top >= {"config.json", "metrics.jsonl", "results.json", "report.html", "suite"}
    assert ".lock" not in top and not [name for name in top if name.startswith(".")]
    numbers = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert "000009" not in numbers
    for number in numbers:
        assert f"checkpoints/{number}/commit_success.txt" in names


def test_a_second_start_says_that_it_is_done(run, micro_arguments, capsys):
    train.main([*micro_arguments, "--workdir", str(run)])
    assert f"{run} is done; see {run}/report.html" in capsys.readouterr().out


def test_another_process_is_refused(run, micro_arguments):
    from medscope_jax.locks import alone

    with alone(run / ".lock", "busy"), pytest.raises(UserError, match="in use by another run"):
        train.main([*micro_arguments, "--workdir", str(run)])


def test_evaluate(run, micro_run):
    for workdir in (run, micro_run):
        evaluate.main(["--workdir", str(workdir), "--split", "validation"])
    found = [json.loads((w / "evaluation_validation.json").read_text()) for w in (run, micro_run)]
    assert found[0] == found[1]
    (micro_run / "evaluation_validation.json").unlink()


def test_ask_and_load(run, micro_run, recording, tmp_path, capsys):
    question = "When does the grasper occur?"
    arguments = ["--video", str(recording), "--question", question]
    ask.main(["--workdir", str(run), *arguments, "--json", str(tmp_path / "a.json")])
    ask.main(["--workdir", str(micro_run), *arguments, "--json", str(tmp_path / "b.json")])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (
        medscope_jax.load(str(run)).ask(recording, question).answer
        == (json.loads((tmp_path / "a.json").read_text())["answer"])
    )


def test_save_export_import(run, micro_run, bucket, tmp_path):
    """Out of a run and back by way of the hub's form, all in the bucket: the same bytes."""
    weights, hub, again = (f"{bucket}/{name}" for name in ("weights", "hub", "again"))
    convert.main(["save", "--source", str(run), "--target", weights])
    convert.main(["export", "--source", weights, "--target", hub])
    convert.main(["import", "--source", hub, "--target", again])
    convert.main(["save", "--source", str(micro_run), "--target", str(tmp_path / "weights")])
    for name in list_objects(to_path(weights)):
        if name.rpartition("/")[2].startswith("c."):  # chunks of arrays
            data = (to_path(weights) / name).read_bytes()
            assert (to_path(again) / name).read_bytes() == data
            assert (tmp_path / "weights" / name).read_bytes() == data
    with pytest.raises(UserError, match="exists already"):
        convert.main(["save", "--source", str(run), "--target", weights])


def test_banks(run, micro_run, capsys):
    """Made once; of the next start none is made again."""
    for made in ("4 videos encoded, 0 were there", "0 videos encoded, 4 were there"):
        encode.main(["--workdir", str(run), "--split", "train"])
        assert made in capsys.readouterr().out
    assert "banks/bfloat16/index.json" in list_objects(run)


@pytest.fixture(scope="module")
def data(bucket, tmp_path_factory):
    """(a data folder in the bucket, the same built on this machine)."""
    root = tmp_path_factory.mktemp("own")
    suite_cases.write_manual(root / "manual")
    for folder in (f"{bucket}/data", root / "data"):
        build("clinvideo_suite", root / "manual", folder)
    return f"{bucket}/data", root / "data", root / "manual"


def test_a_built_suite_is_the_same(data, capsys):
    there, here, manual = data
    names = {p.relative_to(here).as_posix(): p for p in here.rglob("*") if p.is_file()}
    names.pop(".lock")
    assert list_objects(to_path(there)).keys() == names.keys()
    for name, path in names.items():
        assert (to_path(there) / name).read_bytes() == path.read_bytes(), name
    for folder in (there, here):
        card.main(["--data_dir", str(folder)])
        build("clinvideo_suite", manual, folder)
        assert "was there already" in capsys.readouterr().out
    assert (to_path(there) / "card.html").exists()


def test_a_killed_overwriting_is_refused_until_it_is_built_again(data):
    there, _, manual = data
    seal = next(name for name in list_objects(to_path(there)) if "rl/" in name and "check" in name)
    (to_path(there) / seal).unlink()  # the first thing that putting it there does
    with pytest.raises(UserError, match="not whole .*build it again with --overwrite"):
        ClinvideoReader(there).records("rl", "train")
    build("clinvideo_suite", manual, there, overwrite=True)
    assert len(ClinvideoReader(there).records("rl", "train")) == 8


def test_train_on_it(data, bucket, micro_arguments, tmp_path):
    """From a data folder in the bucket into a workdir there, as from one of this machine."""
    results = []
    for folder, workdir in zip(data[:2], (f"{bucket}/own", str(tmp_path / "own")), strict=True):
        given = {**DATA, "suite.data_dir": folder}
        arguments = [f"--config.{key}={value}" for key, value in given.items()]
        train.main([*micro_arguments, *arguments, "--workdir", workdir])
        results.append(json.loads((to_path(workdir) / "results.json").read_text()))
    assert results[0] == results[1] and any(results[0])
    assert any("train" in ClinvideoReader(data[0]).splits(part) for part in PARTS)


@pytest.mark.slow
def test_two_machines(bucket, micro_arguments, tmp_path):
    """Two processes, each with copies of its own: the run of two processes in a folder of here.

    Frame banks are stored: each process encodes a part of them, and reads the other's.
    """
    changes = {"device.count": 2, "mesh.data": 2, "video.stored_bank": "float32"}
    given = [*micro_arguments, *(f"--config.{key}={value}" for key, value in changes.items())]
    found = []
    for name, workdir in (("here", tmp_path / "run"), ("there", to_path(f"{bucket}/two"))):
        folder = tmp_path / name
        folder.mkdir()
        program = ["medscope_jax.train", *given, "--workdir", workdir]
        compiled = tmp_path / "compiled"
        processes = start_processes(2, program, folder, cache=compiled, copies=folder)
        assert end_of(processes, folder, 400) == [0, 0], output_of(folder)[-3000:]
        found.append(without_timing(read_metrics(workdir / "metrics.jsonl")))
        assert json.loads((workdir / "results.json").read_text())
    assert found[0] == found[1] and len(found[0]) == 7
    banks = [
        len(list(folder.rglob("banks/**/*.array_record")))
        for folder in (tmp_path / "run", tmp_path / "there" / "0", tmp_path / "there" / "1")
    ]
    assert banks[0] == banks[1] == banks[2] > 0
