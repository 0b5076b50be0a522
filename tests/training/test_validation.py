"""Validation beside training: what it says is what an evaluation says, it changes nothing that is
learned, and the best checkpoint stays and is the one that `convert save --best` takes."""

import json
import math

import numpy as np
import pytest

from medscope_jax import convert, train
from medscope_jax.errors import UserError
from medscope_jax.metrics import Scored
from medscope_jax.models import weights
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.metrics_log import read_metrics
from medscope_jax.training.validation import best_score, summary
from medscope_jax.training.workdir import Workdir
from tests.training.metrics_cases import without_timing


def scored(task, fit, judged, calls=0):
    return Scored("m", "eye", task, "a", "a", judged, fit, True, 1.0, calls)


def test_the_score_is_the_mean_of_questions():
    """IoU of grounding, the judge's score of all others; what nobody judged is left out."""
    found = summary(
        [
            scored("grounding", 0.5, 0.0, 2),
            scored("grounding", None, 0.0),
            scored("vqa", 0.9, 1.0, 1),
            scored("vqa", 0.9, math.nan),
        ]
    )
    assert found == {
        "validation_score": 0.5,
        "validation_iou": 0.25,
        "validation_accuracy": 1.0,
        "validation_tool_rate": 0.5,
    }


def test_the_best_checkpoint_is_kept(tmp_path):
    """Of two with the same score the first; of another stage, its own."""
    scores = [0.2, 0.5, None, 0.5, 0.4, None, None]
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in enumerate(scores):
            meta = {"stage": "rl", "step": step} | ({} if score is None else {"validation": score})
            checkpoints.save({"x": np.full(3, step)}, {}, meta, stage_finished=step == 6)
        checkpoints.save({"x": np.full(3, 9)}, {}, {"stage": "other", "step": 9})
        assert best_score(checkpoints.metas(), "rl") == 0.5
        assert best_score(checkpoints.metas(), "other") == -math.inf
        assert [meta["step"] for meta in checkpoints.metas()] == [1, 6, 9]
        found = checkpoints.restore({"x": np.zeros(3, int)}, stage="rl", finished=False, best=True)
        assert found.meta["step"] == 1 and found.state["x"].tolist() == [1, 1, 1]
        assert checkpoints.restore({"x": np.zeros(3, int)}, stage="rl").meta["step"] == 6
        none = checkpoints.restore({"x": np.zeros(3, int)}, "other", finished=False, best=True)
        assert none is None


@pytest.fixture(scope="module")
def validated(micro_arguments, micro_run, tmp_path_factory):
    """The run of micro_run, validated after each step."""
    workdir = tmp_path_factory.mktemp("validated") / "run"
    more = ["--config.evaluation.every=1", "--config.evaluation.questions=3"]
    train.main([*micro_arguments, *more, "--workdir", str(workdir)])
    return workdir


def test_what_is_learned_is_the_same(validated, micro_run):
    rows = without_timing(read_metrics(validated / "metrics.jsonl"))
    found = [row for row in rows if "validation_score" in row]
    kept = [row for row in rows if "validation_score" not in row]
    assert kept == without_timing(read_metrics(micro_run / "metrics.jsonl"))
    stages = {row["stage"] for row in found}
    assert stages == {"passive", "cold_start", "ga_grpo"} and len(found) == 5
    assert all(0 <= row["validation_score"] <= 1 for row in found)
    texts = [(run / "results.json").read_text() for run in (validated, micro_run)]
    assert json.loads(texts[0]) == json.loads(texts[1])


def test_the_best_model_is_saved_as_weights(validated, micro_run, tmp_path, capfd, refusal):
    metas = {}
    with Checkpoints(Workdir(validated).checkpoints, read_only=True) as checkpoints:
        for meta in checkpoints.metas():
            metas.setdefault(meta["stage"], []).append(meta.get("validation"))
    assert metas["ga_grpo"][-1] is not None
    convert.main(["save", "--source", str(validated), "--target", str(tmp_path / "a"), "--best"])
    assert "rl, step 1, " in capfd.readouterr().out
    assert weights.read_model(tmp_path / "a").text.num_hidden_layers == 2
    given = ["save", "--source", micro_run, "--target", tmp_path / "b", "--best"]
    assert "holds no checkpoint that was validated" in refusal(convert.main, given)
    with pytest.raises(UserError, match="--best"):
        convert.main(["export", "--source", "a", "--target", "b", "--best"])
