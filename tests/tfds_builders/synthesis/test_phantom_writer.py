"""Whole runs about phantom procedures, by the built-in teacher."""

import json

import numpy as np
import pytest

from medscope_jax.dialogue.sanitize import check_turns
from medscope_jax.phantom.procedure import make_procedure
from medscope_jax.tools import CallStatus, parse_call
from medscope_jax.video.decode import read_video
from tfds_builders.readers import plain
from tfds_builders.record import Annotation, make_record
from tfds_builders.synthesis.__main__ import main


def read_rows(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def read_stages(out):
    return json.loads((out / "stages.json").read_text())


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms")
    main(["--phantom", "6", "--out", str(out / "rows.jsonl"), "--errors", "0.2"])
    return out


def test_phantom_rows_are_true(phantoms):
    """Against the scripts: evidence is the event that is asked about, answers are its details."""
    read = list(plain.read(phantoms / "rows.jsonl"))
    assert all(isinstance(row, Annotation) for row in read)
    assert {row.part for row in read} == {"cap", "qa", "cot", "vcot", "rl"}
    procedures = {}
    for i in range(6):
        family = ("ophthalmic", "endoscopic")[i % 2]
        procedures[f"train-{family}-{i // 2:03d}.mp4"] = make_procedure(0, "train", family, i // 2)
    assert {row.video for row in read} == set(procedures)
    for row in read:
        procedure = procedures[row.video]
        assert row.split == "train"
        check_turns(row.turns)
        if row.part in ("cap", "cot"):
            continue
        if row.question.startswith("Which phase is seen at "):
            time = float(row.question.split()[-1].strip("?"))
            assert row.answer == procedure.phase_at(time).kind
            continue
        (event,) = [e for e in procedure.events if f" {e.kind}" in row.question.replace("?", " ")]
        assert row.spans == ((event.start, event.end),)
        details = {event.side, event.colour, event.count, "yes", "no"}
        if row.task == "grounding":
            assert row.answer == f"[{event.start:.1f}, {event.end:.1f}]"
        else:
            assert set(row.answer.split(", ")) <= details
        if row.part == "vcot":
            calls = [turn.split("<tool_call>")[1].split("</")[0] for turn in row.turns[:-1]]
            found = [parse_call(call, procedure.duration) for call in calls]
            assert found and all(call.status == CallStatus.OK for call in found)


def test_every_filter_has_something_to_do(phantoms):
    stages = read_stages(phantoms)["stages"]
    reasons = {reason for stage in stages.values() for reason in stage["drops"]}
    assert {
        "question: unknown task",
        "blind: answered without frames",
        "verify: not answered from its evidence",
        "verify: answered without its evidence",
        "trajectory: last window misses the evidence",
    } <= reasons
    for name in ("caption", "blind", "verify", "teach", "think"):
        stage = stages[name]
        assert stage["items"] == stage["kept"] + sum(stage["drops"].values())
    assert stages["verify"]["items"] == stages["blind"]["kept"]
    assert stages["teach"]["items"] == stages["verify"]["kept"]


def test_phantom_rows_depend_on_the_seed_alone(phantoms, tmp_path):
    def run(name, *more):
        main(["--phantom", "6", "--out", str(tmp_path / name / "rows.jsonl"), *more])
        return (tmp_path / name / "rows.jsonl").read_bytes()

    assert run("again", "--errors", "0.2") == (phantoms / "rows.jsonl").read_bytes()
    assert run("other", "--errors", "0.2", "--seed", "1") != (phantoms / "rows.jsonl").read_bytes()


def test_no_test_recording_teaches(tmp_path):
    main(["--phantom", "3", "--split", "test", "--out", str(tmp_path / "rows.jsonl")])
    rows = read_rows(tmp_path)
    assert {row["part"] for row in rows} == {"eval"} and {row["split"] for row in rows} == {"test"}
    assert {row["video"].split("-")[1] for row in rows} == {
        "ophthalmic",
        "endoscopic",
        "laparoscopic",
    }


def test_phantom_rows_fit_their_recordings(tmp_path):
    """Records made of rows and decoded files: evidence frames are the script's seconds."""
    out, videos = tmp_path / "rows.jsonl", tmp_path / "videos"
    main(["--phantom", "1", "--out", str(out), "--videos", str(videos)])
    (path,) = videos.iterdir()
    video = read_video(path, fps=1.0, size=(28, 56))
    procedure = make_procedure(0, "train", "ophthalmic", 0)
    parts = set()
    for number, row in enumerate(plain.read(out)):
        assert row.video == path.name
        record = make_record(row, str(number), "ours", "train", "id", video.times, video.duration)
        parts.add(row.part)
        for event in procedure.events:
            if row.spans == ((event.start, event.end),):
                seen = np.flatnonzero(record["evidence_mask"])
                assert seen.tolist() == list(range(event.start, event.end + 1))
    assert {"cap", "qa", "vcot", "rl"} <= parts
