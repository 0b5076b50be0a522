"""Scored samples, rows of metrics, seeds, the terminal table and the JSON file."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from medscope_jax.metrics import (
    accuracy,
    bleu,
    columns_of,
    mean_token_f1,
    print_results,
    result_rows,
    score,
    write_results,
)
from medscope_jax.tools import CallStatus, Tool

CROP = (Tool.CROP_VIDEO, 10.0, 15.0, CallStatus.OK)
FAILED = (Tool.NONE, 0.0, 0.0, CallStatus.NOT_JSON)


def sample(**changes):
    fields = {
        "model": "rl",
        "split": "ophthalmic",
        "task": "vqa",
        "text": "<think>[10, 20]</think><answer>two clips</answer>",
        "reference": "two clips",
        "evidence": [(10, 20)],
        "judge_score": 1.0,
        "calls": [CROP],
    }
    return score(**(fields | changes))


def test_text_metrics_by_hand():
    assert accuracy([1, 0.5, 0, 1]) == 0.5
    assert mean_token_f1(["two clips", "a"], ["two clips", "one clip"]) == 0.5
    assert bleu(["The lens is inserted now"], ["the lens is inserted now"]) == pytest.approx(1)
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 quadruples agree.
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert bleu(["the lens is inserted now"], ["the lens is inserted here"]) == pytest.approx(
        expected
    )
    assert all(math.isnan(value) for value in (accuracy([]), mean_token_f1([], []), bleu([], [])))
    with pytest.raises(ValueError, match="1 answers but 2"):
        bleu(["a"], ["a", "b"])


def test_a_scored_sample():
    scored = sample(calls=[FAILED, CROP])
    assert (scored.localization, scored.parsed, scored.window) == (0.5, True, 5.0)
    assert (scored.tool_calls, scored.answer, scored.judge_score) == (1, "two clips", 1.0)
    passive = sample(model="passive", calls=[], can_look=False)
    assert (passive.localization, passive.tool_calls) == (1.0, 0)
    silent = sample(text="<think>cut off", calls=[])
    assert (silent.answer, silent.localization, silent.parsed, silent.window) == (
        "",
        0,
        False,
        None,
    )
    assert sample(evidence=[]).localization is None
    assert sample(evidence=12.0).localization == 1.0
    assert sample(evidence=np.float32(16.0)).localization == 0.0
    assert sample(calls=[(Tool.GET_FRAME, 12.0, 12.0, 0)], evidence=12.5).window == 0.0


def test_rows_by_hand():
    samples = [
        sample(),
        sample(judge_score=0.5, calls=[]),
        sample(task="grounding", text="<answer>[10, 18]</answer>"),
        sample(task="grounding", text="<answer>soon</answer>"),
        sample(
            task="description",
            text="<think>x</think><answer>The lens is inserted now.</answer>",
            reference="the lens is inserted now.",
            evidence=[],
            calls=[],
        ),
    ]
    vqa, grounding, description = result_rows(samples)
    assert (vqa["model"], vqa["split"], vqa["task"], vqa["seed"]) == ("rl", "ophthalmic", "vqa", 0)
    assert (vqa["count"], vqa["unparsed"], vqa["tool_rate"], vqa["accuracy"]) == (2, 1, 0.5, 0.5)
    assert (vqa["miou"], vqa["recall_0.5"], vqa["recall_0.7"]) == (0.25, 0.5, 0.0)
    assert (vqa["judge_score"], vqa["window"], vqa["bleu"]) == (0.75, 5.0, None)
    assert (grounding["miou"], grounding["unparsed"]) == (pytest.approx(0.4), 1)
    assert [grounding[f"recall_{at}"] for at in (0.3, 0.5, 0.7)] == [0.5, 0.5, 0.5]
    assert (description["miou"], description["unparsed"]) == (None, 0)
    assert description["bleu"] == pytest.approx(1)


def test_what_the_judge_did_not_score_is_counted():
    """Accuracy is of the others; tables say so."""
    rows = result_rows([sample(), sample(judge_score=math.nan), sample(judge_score=0.0)])
    assert (rows[0]["unscored"], rows[0]["count"]) == (1, 3)
    assert rows[0]["accuracy"] == rows[0]["judge_score"] == 0.5
    assert "The judge gave 1 answers no score" in printed(rows, 100)
    assert "judge" not in printed([rows[0] | {"unscored": 0}], 100)
    (none,) = result_rows([sample(judge_score=math.nan)])
    assert none["accuracy"] is none["judge_score"] is None and none["unscored"] == 1


def results():
    rows = []
    for model, shift in (("passive", 0.0), ("sft", 0.2), ("rl", 0.4)):
        for split in ("ophthalmic", "endoscopic", "laparoscopic"):
            for task in ("vqa", "grounding", "perception"):
                if (split, task) == ("endoscopic", "grounding"):
                    continue
                metrics = {"recall_0.3": 0.5, "recall_0.5": 0.4, "recall_0.7": 0.1, "miou": 0.3}
                metrics = {name: value + shift for name, value in metrics.items()}
                metrics |= {"accuracy": shift, "count": 10, "unparsed": 1 if shift == 0 else 0}
                rows.append({"model": model, "split": split, "task": task} | metrics)
    return rows


def printed(rows, width):
    console = Console(file=io.StringIO(), width=width)
    print_results(rows, console)
    return console.file.getvalue()


def test_the_table_is_laid_out_as_the_papers():
    columns = columns_of(results())
    assert [column.title for column in columns] == [
        "ophthalmic grounding",
        "ophthalmic VQA",
        "endoscopic VQA",
        "laparoscopic grounding",
        "laparoscopic VQA",
    ]
    assert columns[0].labels == "R@.3 / R@.5 / R@.7 / mIoU"
    assert columns[1].labels == "mIoU / Acc"
    text = printed(results(), width=160)
    assert "90.0/80.0/50.0/70.0" in text and "30.0/0.0" in text
    assert "Other tasks" in text and "8 of 240 trajectories" in text


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_number_is_cut_off_on_a_narrow_terminal(width):
    text = printed(results(), width)
    assert text.count("90.0/80.0/50.0/70.0") == 2 and "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_missing_values_and_sampled_rows():
    rows = [
        {"model": "rl", "split": "eye", "task": "vqa", "miou": None, "accuracy": 0.5},
        {"model": "rl", "split": "eye", "task": "vqa", "decoding": "sampled", "accuracy": 0.25},
    ]
    text = printed(rows, 80)
    assert "-/50.0" in text and "rl, sampled" in text and "-/25.0" in text
    assert printed([], 80) == ""


def test_results_file(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, [{"model": "rl", "miou": np.float32(0.5), "accuracy": math.nan}])
    assert json.loads(path.read_text()) == [{"model": "rl", "miou": 0.5, "accuracy": None}]
    write_results(path, {"rows": [], "seeds": np.arange(3)})
    assert json.loads(path.read_text()) == {"rows": [], "seeds": [0, 1, 2]}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
