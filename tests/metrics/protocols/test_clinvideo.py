"""ClinVideo-Eval's columns by hand, and against the rows that `evaluate` makes of the same."""

import math

import pytest

from medscope_jax.metrics import result_rows, score
from medscope_jax.metrics.protocols.clinvideo import clinvideo_question
from medscope_jax.metrics.uncertainty import estimates
from medscope_jax.tools import CallStatus, Tool

LOOK = (Tool.CROP_VIDEO, 10.0, 15.0, CallStatus.OK)
# source, task, the answer, evidence, the judge's score
ASKED = [
    ("ophvl", "grounding", "[10, 20]", [(10, 20)], 1.0),
    ("ophvl", "grounding", "[10, 20]", [(14, 20)], 0.5),
    ("ophvl", "grounding", "nowhere", [(14, 20)], 0.0),
    ("ophvl", "vqa", "two clips", [(10, 20)], 1.0),
    ("ophvl", "vqa", "two clips", [(10, 12)], 0.5),
    ("surgvidlm", "vqa", "one clip", 12.0, math.nan),
    ("surgvidlm", "vqa", "one clip", 20.0, 0.0),
    ("surgvidlm", "vqa", "one clip", [], 1.0),
]


def test_columns_by_hand_and_as_evaluate_sums_them_up():
    spans = {"[10, 20]": [(10.0, 20.0)], "nowhere": None}
    rows = [
        clinvideo_question(task, spans.get(answer, [(10.0, 15.0)]), evidence, judged)
        for _, task, answer, evidence, judged in ASKED
    ]
    names = [f"{source} {task}" for source, task, *_ in ASKED]
    found = estimates(rows, range(len(rows)), names)
    assert {name: set(column) for name, column in found.items()} == {
        "ophvl grounding": {"iou", "recall_0.3", "recall_0.5", "recall_0.7"},
        "ophvl vqa": {"iou", "accuracy"},
        "surgvidlm vqa": {"iou", "accuracy"},
    }
    means = {
        name: {key: value.value for key, value in column.items()} for name, column in found.items()
    }
    assert means["ophvl grounding"] == pytest.approx(
        {"iou": 1.6 / 3, "recall_0.3": 2 / 3, "recall_0.5": 2 / 3, "recall_0.7": 1 / 3}
    )
    assert means["ophvl vqa"] == pytest.approx({"iou": (0.5 + 0.4) / 2, "accuracy": 0.5})
    assert means["surgvidlm vqa"] == pytest.approx({"iou": 0.5, "accuracy": 0.5})
    assert found["surgvidlm vqa"]["accuracy"].missing == 1
    assert found["surgvidlm vqa"]["iou"].missing == 1
    scored = [
        score(
            model="rl",
            split=source,
            task=task,
            text=f"<think></think><answer>{answer}</answer>",
            reference="",
            evidence=evidence,
            judge_score=judged,
            calls=[LOOK],
        )
        for source, task, answer, evidence, judged in ASKED
    ]
    for row in result_rows(scored):
        column = means[f"{row['split']} {row['task']}"]
        assert row["miou"] == pytest.approx(column["iou"])
        assert all(row[key] == pytest.approx(column[key]) for key in set(column) - {"iou"})
