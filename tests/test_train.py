"""The whole path, at the smallest size: prepare, three stages, evaluate, report; then again."""

import json
import shutil
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from medscope_jax import evaluate, train
from medscope_jax.report.trace import DISCLAIMER
from medscope_jax.training.from_config import MODELS, STAGES
from medscope_jax.training.metrics_log import MetricsWriter, read_metrics
from medscope_jax.training.workdir import Workdir

COLUMNS = {"recall_0.3", "recall_0.5", "recall_0.7", "miou", "accuracy", "tool_rate"}
SOURCES = {"ophthalmic", "endoscopic", "laparoscopic"}


def test_results_hold_the_named_columns_for_every_model(micro_run):
    rows = json.loads(Workdir(micro_run).results.read_text())
    assert {row["model"] for row in rows} == {"passive", "sft", "rl"}
    assert {row["split"] for row in rows} == SOURCES
    assert {"grounding", "vqa"} <= {row["task"] for row in rows}
    assert {row["decoding"] for row in rows} == {"greedy", "sampled"}
    for row in rows:
        assert row.keys() >= COLUMNS
        assert all(row[name] is None or 0 <= row[name] <= 1 for name in COLUMNS)
    assert not any(row["tool_rate"] for row in rows if row["model"] == "passive")


def test_metrics_hold_every_stage_in_order(micro_run):
    lines = read_metrics(Workdir(micro_run).metrics)
    assert list(dict.fromkeys(line["stage"] for line in lines)) == list(STAGES)
    assert [line["step"] for line in lines if line["stage"] == "warm_up"] == [1, 2]
    assert all("loss" in line for line in lines if line["stage"] != "ga_grpo")
    assert all("reward" in line and "policy_loss" in line for line in lines[-1:])
    assert (lines[-1]["judge"], lines[-1]["unscored"]) == ("built-in", 0)


def test_another_judge_of_the_evaluation_is_noted(tmp_path):
    """A judge may change on resume: metrics.jsonl says which one scored what."""
    workdir = Workdir(tmp_path)
    section = {"url": "http://host/v1", "model": "m", "temperature": None}
    with MetricsWriter(workdir.metrics) as writer:
        writer.write("ga_grpo", 1, {"judge": "built-in"})
        for judge in ({"url": ""}, section, section, {"url": ""}):
            run = SimpleNamespace(config=SimpleNamespace(judge=ConfigDict(judge)))
            train.note_judge(run, workdir, writer)
    lines = read_metrics(workdir.metrics)
    assert [line["judge"] for line in lines] == ["built-in", section, "built-in"]
    assert [line["stage"] for line in lines] == ["ga_grpo", "evaluation", "evaluation"]
    with MetricsWriter(workdir.metrics) as writer:  # of an old run, whose log is gone
        train.note_judge(run, workdir, writer)
    assert [line["judge"] for line in read_metrics(workdir.metrics)] == ["built-in"]


def test_report_is_one_page_with_traces(micro_run):
    page = Workdir(micro_run).report.read_text()
    assert DISCLAIMER in page and page.count("<svg") >= 2 and "data:image/jpeg" in page
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_second_run_says_that_it_is_done(micro_run, micro_arguments, capsys):
    before = {path: path.stat().st_mtime_ns for path in micro_run.iterdir() if path.is_file()}
    train.main([*micro_arguments, "--workdir", str(micro_run)])
    output = capsys.readouterr().out
    assert f"{micro_run} is done" in output and "Evaluation, percent" in output
    for path, when in before.items():
        assert path.stat().st_mtime_ns == when or path.name == ".lock"


def test_evaluate_another_split(micro_run, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(micro_run, workdir)
    monkeypatch.setattr(evaluate, "MODELS", {"rl": MODELS["rl"]})
    evaluate.main(["--workdir", str(workdir), "--split", "validation"])
    rows = json.loads((workdir / "evaluation_validation.json").read_text())
    assert {row["model"] for row in rows} == {"rl"}
    assert {row["split"] for row in rows} == {"ophthalmic", "endoscopic"}
    assert "evaluation_validation.json" in capsys.readouterr().out
    assert Workdir(workdir).results.read_text() == Workdir(micro_run).results.read_text()


@pytest.mark.parametrize("stage", ["passive", "cold_start", "ga_grpo"])
def test_finished_stages_are_kept_as_checkpoints(micro_run, stage):
    from medscope_jax.training.checkpoint import Checkpoints

    with Checkpoints(Workdir(micro_run).checkpoints, read_only=True) as checkpoints:
        assert stage in {meta["stage"] for meta in checkpoints.metas()}
