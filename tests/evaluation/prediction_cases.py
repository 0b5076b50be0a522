"""Predictions made by hand: three questions, one of them sampled, with good calls and bad ones."""

import numpy as np

from medscope_jax.dialogue import protocol
from medscope_jax.evaluation.predictions import (
    PredictionHeader,
    prediction_file,
    record_fields,
    trajectory_fields,
)
from medscope_jax.evaluation.sealed_lines import SealedFile
from medscope_jax.rl import extract_answer, judge_answer
from medscope_jax.rollout import Trajectory

TIMES = np.arange(10) * 1.1
HEADER = PredictionHeader(
    "test", "suite 1", 7, 1.0, {"greedy": 3, "sampled": 2}, {"layout": {"length": 8}}
)


def record(number, task, answer, evidence=(), instant=-1.0, options=()):
    return {
        **{"id": f"q{number}", "video": f"v{number // 2}", "source": "eye", "task": task},
        **{"question": "Wann? \u00e9", "answer": answer, "options": list(options)},
        "evidence": np.asarray(evidence, np.float32).reshape(-1, 2),
        **{"evidence_time": np.float32(instant), "duration": np.float32(9.9)},
    }


RECORDS = [
    record(0, "grounding", "[2.1, 4.3]", [(2.1, 4.3)]),
    record(1, "vqa", "the left one", [], 3.3),
    record(2, "description", "a clip is placed and cut"),
]
CROP, NOTHING, ENDLESS = (1, 2.2, 4.4, 0), (0, 0.0, 0.0, 1), (1, 1.0, float("inf"), 6)


def trajectory(answer, *calls):
    text = "".join("<think>a</think>" + protocol.crop_call(2, 4) for _ in calls)
    text += f"<think>[1.0, 2.0]</think><answer>{answer}</answer>"
    frames = [[2, 3, 4] if call[3] == 0 else [] for call in calls]
    return Trajectory(text, [text], list(calls), frames)


GREEDY = [
    trajectory("[2.0, 4.0]", CROP),
    trajectory("the left one", NOTHING, CROP, ENDLESS),
    trajectory("a clip is cut"),
]
SAMPLED = [trajectory("[2.1, 4.3]", CROP), trajectory("no \ud7ff idea")]


def lines(model="rl", score=None):
    """One line a rollout, judged by the rules, or all with one score."""
    rows = [("greedy", n, 0, found) for n, found in enumerate(GREEDY)]
    rows += [("sampled", 0, sample, found) for sample, found in enumerate(SAMPLED)]
    return [
        {
            **{
                "model": model,
                "weights": 5,
                "mode": "tools" if model == "rl" else "passive",
                "decoding": decoding,
            },
            **{"number": number, "sample": sample},
            **record_fields(RECORDS[number]),
            **trajectory_fields(found, TIMES),
            **{"judge": "built-in", "score": rules(number, found) if score is None else score},
            "reply": None,
        }
        for decoding, number, sample, found in rows
    ]


def rules(number, found):
    row = RECORDS[number]
    answer = extract_answer(found.text)
    return judge_answer(answer, row["answer"], row["task"], row["evidence"])


def write(folder, rows, shard=(1, 1), header=HEADER):
    folder.mkdir(exist_ok=True)
    with SealedFile(prediction_file(folder, shard)) as file:
        file.append([header.line(), *rows])
    return prediction_file(folder, shard)
