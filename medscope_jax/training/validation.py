"""The validation split while a stage trains: how its model does now, and which checkpoint did best.

Greedy answers to some of the split's questions, judged by the built-in rules: fast, and the same
for a run that was killed. Nothing that is learned depends on it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medscope_jax.bank import HostBank
from medscope_jax.metrics import Scored
from medscope_jax.metrics.scoring import score_questions
from medscope_jax.rl import make_judge
from medscope_jax.rollout import RolloutEngine
from medscope_jax.training.run import (
    Run,
    VideoSplit,
    load_split,
    model_key,
    rollout_engine,
    suite_of,
    video_questions,
)
from medscope_jax.training.split_bank import split_bank
from medscope_jax.video import preview_indices

# Stages whose model answers questions; the first can't look.
STAGES = ("passive", "cold_start", "ga_grpo")
SPLIT = "validation"
# (parameters) -> metrics; see summary.
Validate = Callable[[dict], dict[str, float]]


def make_validation(run: Run, name: str) -> Validate | None:
    """What validates a stage's parameters; None where the config, stage or suite has none.

    Of many questions, evaluation.questions are asked, spread over the split.
    """
    section, suite = run.config.evaluation, suite_of(run)
    if not section.every or name not in STAGES or SPLIT not in suite.splits("eval"):
        return None
    judge, times = make_judge({"url": ""}), itertools.count()
    kept: list[HostBank] = []  # a tower that does not train gives the same one all along

    @functools.cache
    def prepared() -> tuple[list[dict], VideoSplit, RolloutEngine]:
        records = suite.records("eval", SPLIT)
        rows = preview_indices(len(records), section.questions)
        asked = [records[int(row)] for row in rows]
        return asked, load_split(run, SPLIT), rollout_engine(run, 1, greedy=True)

    def validate(params: dict) -> dict[str, float]:
        asked, split, engine = prepared()
        questions = video_questions(asked, split)
        if run.config[name].train_vision or not kept:
            kept[:] = [split_bank(run, params, split, f"validate {name} {next(times)}")]
        found = []
        for batch in engine.roll_out(
            params,
            kept[0],
            questions,
            model_key(run.config, "evaluate"),
            width=engine.prompt_width(questions),
            batch_size=section.rollouts,
            tools=name != "passive",
        ):
            found.extend(batch)
        scored = score_questions(
            name,
            asked,
            found,
            judge,
            decoding="greedy",
            can_look=name != "passive",
            seed=run.config.seed,
            frame_window=run.config.reward.frame_window,
        )
        return summary(scored)

    return validate


def summary(scored: Sequence[Scored]) -> dict[str, float]:
    """What to log of a validation.

    validation_score: the mean of all questions' scores, a grounding question's being the IoU of its
    answer and any other's the judge's; validation_iou, validation_accuracy: of those kinds alone,
    where there are any; validation_tool_rate: the share of questions with a look.
    """
    fits = [one.localization for one in scored if one.task == "grounding"]
    iou = [0.0 if fit is None else fit for fit in fits]
    judged = [one.judge_score for one in scored if one.task != "grounding"]
    right = [score for score in judged if not math.isnan(score)]
    values = {
        "validation_score": iou + right,
        "validation_iou": iou,
        "validation_accuracy": right,
        "validation_tool_rate": [float(one.tool_calls > 0) for one in scored],
    }
    return {name: float(np.mean(found)) for name, found in values.items() if found}


def best_score(metas: Sequence[Mapping], name: str) -> float:
    """The highest validation score of a stage's checkpoints; -inf where none has one."""
    scores = [meta.get("validation") for meta in metas if meta["stage"] == name]
    return max((score for score in scores if score is not None), default=-math.inf)
