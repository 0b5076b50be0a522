"""Records: deterministic, evidence that agrees with itself, trajectories that execute."""

import json
import re

import numpy as np
import pytest

from medscope_jax.data.phantom_reader import suite_corpus
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import (
    SuiteConfig,
    config_to_json,
    fingerprint,
    procedures,
    smoke_suite,
    suite_config,
)
from medscope_jax.tools.grammar import CallStatus, Tool, parse_call
from medscope_jax.tools.windows import select_frames_host

CALL = re.compile(r"<tool_call>(.*)</tool_call>$")
ANSWER = re.compile(r"^<think>[^<]+</think><answer>([^<]+)</answer>$")
TURN = re.compile(r"^<think>[^<]+</think><tool_call>\{.*\}</tool_call>$")


@pytest.fixture(scope="module")
def config():
    return smoke_suite()


@pytest.fixture(scope="module")
def scripts(config):
    return {p.id: p for p in procedures(config)}


@pytest.fixture(scope="module")
def made(config, scripts):
    return {
        part: [r for p in scripts.values() if p.split in splits for r in records(p, part, config)]
        for part, splits in SPLITS_OF_PART.items()
    }


def test_same_seed_same_records(config, scripts, made):
    for part in PARTS:
        first = made[part][0]
        again = records(scripts[first["video"]], part, config)[0]
        assert json.dumps(first, default=lambda value: value.tolist()) == json.dumps(
            again, default=lambda value: value.tolist()
        )


def test_ids_are_unique_and_splits_disjoint(made):
    everything = [record for part in made.values() for record in part]
    assert len({record["id"] for record in everything}) == len(everything)
    split_of = {}
    for record in everything:
        assert split_of.setdefault(record["video"], record["split"]) == record["split"]
    sources = {(record["split"], record["source"]) for record in everything}
    assert {split for split, source in sources if source == "laparoscopic"} == {"test"}
    assert {record["split"] for record in made["rl"]} == {"train"}


def test_evidence_agrees_in_seconds_frames_and_mask(scripts, made):
    for record in (record for part in made.values() for record in part):
        mask = np.zeros(int(record["duration"]), np.uint8)
        for (start, end), (first, last) in zip(
            record["evidence"], record["evidence_frame_range"], strict=True
        ):
            assert (start, end) == (first, last)  # 1 fps: frame k shows second k
            mask[first : last + 1] = 1
        if record["evidence_time"] >= 0:
            assert record["source"] == "endoscopic" and not len(record["evidence"])
            start, end = record["visible"][0]
            assert start < record["evidence_time"] < end
            mask[int(record["evidence_time"])] = 1
        assert np.array_equal(mask, record["evidence_mask"])
        assert not mask[list(scripts[record["video"]].preview)].any()
        if record["part"] in ("qa", "vcot", "passive", "rl"):
            assert mask.any()


def test_questions_have_the_papers_kinds(made):
    tasks = {part: {record["task"] for record in rows} for part, rows in made.items()}
    assert tasks["cap"] == {"caption"}
    assert tasks["vcot"] == tasks["rl"] == tasks["qa"] == {"grounding", "vqa", "perception"}
    assert tasks["cot"] == {"order", "description", "perception"}
    assert tasks["eval"] == {"grounding", "vqa", "perception", "order", "description"}
    for rows in made.values():
        for record in rows:
            assert record["task"] != "grounding" or record["source"] != "endoscopic"
            assert bool(record["turns"]) == (record["part"] not in ("rl", "eval"))
            if record["task"] not in ("caption", "description", "grounding"):
                assert len(record["answer"].split()) <= 3
            assert record["options"] == []  # its questions call for yes or no by their words
    # What one can guess from the question alone must not be enough.
    yes = [r["answer"] == "yes" for r in made["rl"] if r["answer"] in ("yes", "no")]
    assert 0.35 < np.mean(yes) < 0.65


def test_trajectories_execute_and_find_the_evidence(config, scripts, made):
    tools, overlap = set(), []
    for record in made["vcot"]:
        *calls, last = record["turns"]
        assert len(calls) == 2 and all(TURN.match(turn) for turn in calls)
        ticks = np.arange(scripts[record["video"]].duration)
        (start, end) = record["visible"][0]
        for turn in calls:
            call = parse_call(CALL.search(turn).group(1), float(record["duration"]))
            assert call.status == CallStatus.OK
            indices, count = select_frames_host(
                call.tool, call.start, call.end, ticks, len(ticks), config.window_frames
            )
            seen = indices[:count]
            assert ((start <= seen) & (seen <= end)).any()
        tools.add((record["source"], call.tool))
        answer = ANSWER.match(last).group(1)
        if record["task"] == "grounding":
            assert answer == f"[{call.start:.1f}, {call.end:.1f}]"
            assert call.start <= start and end <= call.end
            overlap.append((end - start) / (call.end - call.start))
        else:
            assert answer == record["answer"]
    assert tools == {
        ("ophthalmic", Tool.CROP_VIDEO),
        ("endoscopic", Tool.CROP_VIDEO),
        ("endoscopic", Tool.GET_FRAME),
    }
    assert 0.3 < np.mean(overlap) < 0.5  # too wide on purpose: stage 3 has something to gain


def test_windows_and_thoughts_of_the_other_parts(config, made):
    for record in made["qa"]:
        start, end = record["window"]
        assert 0 <= start <= record["visible"][0, 0] and record["visible"][0, 1] <= end
        assert end - start < config.window_frames and end < record["duration"]
    for record in made["passive"]:
        start, end = record["visible"][0]
        assert f"[{start:.1f}, {end:.1f}]" in record["turns"][0]
    for part in ("vcot", "cot", "passive", "rl", "eval"):
        assert all((record["window"] == -1).all() for record in made[part])
    for record in made["qa"] + made["cot"] + made["passive"] + made["cap"]:
        assert ANSWER.match(record["turns"][0]).group(1) == record["answer"]


def test_captions_are_dense_and_timestamped(config, made):
    with_event = wide = 0
    for record in made["cap"]:
        start, end = record["window"]
        assert 0 <= start < end < record["duration"]
        wide += end - start >= 60
        times = [float(t) for t in re.findall(r"\d+\.\d", record["answer"])]
        assert times and all(start <= t <= end for t in times)
        with_event += len(record["visible"])
    assert with_event / len(made["cap"]) > 0.4
    # Clips as sparse as a preview teach to name a phase's times from a few frames.
    assert 0.1 < wide / len(made["cap"]) < 0.5


def test_questions_of_all_parts_are_the_same_ones(made):
    questions = {part: {(r["video"], r["question"]) for r in made[part]} for part in made}
    assert questions["vcot"] == questions["passive"] == questions["qa"]
    assert questions["rl"] <= questions["vcot"]


def test_corpus_names_everything(config):
    words = " ".join(suite_corpus(config))
    for word in ("<tool_call>", "laparoscopic", "incision", "yellow", "three", "get_frame"):
        assert (word in words) == (word != "laparoscopic")
    assert len(list(suite_corpus(config, max_procedures=3))) < len(list(suite_corpus(config))) / 4


def test_config_overrides_and_their_errors():
    config = suite_config({"train_ophthalmic": 3, "teacher": {"margin_max": 2}})
    assert config.train_ophthalmic == 3 and config.teacher.margin_max == 2
    assert suite_config(config_to_json(config)) == config
    assert fingerprint(config) != fingerprint(SuiteConfig())
    with pytest.raises(UserError, match=r"suite\.teacher\.margin_maxx.*margin_max"):
        suite_config({"teacher": {"margin_maxx": 2}})
    with pytest.raises(UserError, match="whole seconds"):
        suite_config({"bank_fps": 2.0})
    with pytest.raises(UserError, match="number of 0 or more"):
        suite_config({"train_ophthalmic": -1})
