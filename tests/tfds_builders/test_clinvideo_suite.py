"""ClinvideoSuite from a folder full of faults: what is stored is right, what is not is said."""

import collections
import hashlib
import json
import pathlib

import numpy as np
import pytest

from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.listing import VideoSettings
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from medscope_jax.video import read_video
from medscope_jax.workers import workers
from tests.dialogue.chat_cases import render_chat
from tests.tfds_builders import clinvideo_cases as cases
from tests.tfds_builders.clinvideo_cases import build_all, digest, stored_videos
from tfds_builders.build import build, main


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(manual folder, data folder, counts), built in this process."""
    root = tmp_path_factory.mktemp("clinvideo")
    manual, data = root / "manual", root / "data"
    manual.mkdir()
    cases.write_folder(manual)
    return manual, data, build_all(manual, data)


def video_id(path: pathlib.Path, source: str) -> str:
    return f"{source}-{hashlib.blake2b(path.read_bytes()).hexdigest()}"


def all_records(data):
    suite = ClinvideoReader(data)
    return [
        record
        for part in PARTS
        for split in suite.splits(part)
        for record in suite.records(part, split)
    ]


def test_every_video_is_stored_once_with_its_own_times(folders):
    manual, data, _ = folders
    scope, echo = manual / "scope" / "videos", manual / "echo" / "videos"
    expected = {
        video_id(scope / "Mustermann_Erika.mp4", "scope"): scope / "Mustermann_Erika.mp4",
        video_id(scope / "b.mp4", "scope"): scope / "b.mp4",
        video_id(echo / "Doe.dcm", "echo"): echo / "Doe.dcm",
    }
    seen = {}
    for split in ("train", "test"):
        suite, stored = ClinvideoReader(data), stored_videos(data / "clinvideo_frames", split)
        names = [video["id"] for video in stored]
        assert list(suite.outlines(split)) == names
        assert [outline.source for outline in suite.outlines(split).values()] == [
            video["source"] for video in stored
        ]
        seen |= dict(zip(names, suite.videos(split), strict=True))
        assert all(video["split"] == split for video in stored)
    assert seen.keys() == expected.keys()
    for name, video in seen.items():
        read = read_video(expected[name], 2.0, (24, 32), 40)
        np.testing.assert_array_equal(video.times, read.times)
        assert video.duration == read.duration and video.notes == read.notes
        assert video.frames.shape == read.frames.shape
        off = np.abs(np.asarray(video.frames, int) - read.frames)
        assert off.mean() < (50 if name.startswith("echo") else 20)  # noise is hard on JPEG


def evidence(record, times):
    """Frames of the evidence, once more: plain loops over the times."""
    spans = [tuple(map(float, span)) for span in record["evidence"]]
    moment = float(record["evidence_time"])
    chosen, frames = set(), []
    for start, end in spans + ([(moment, moment)] if moment >= 0 else []):
        start, end = np.float32(start), np.float32(end)
        inside = [i for i, time in enumerate(times) if start <= np.float32(time) <= end]
        inside = inside or [min(range(len(times)), key=lambda i: abs(times[i] - (start + end) / 2))]
        chosen |= set(inside)
        frames.append((inside[0], inside[-1]))
    return frames[: len(spans)], np.array([i in chosen for i in range(len(times))], np.uint8)


def test_evidence_in_frames_and_mask(folders):
    _, data, _ = folders
    suite = ClinvideoReader(data)
    split_of = {name: split for split in ("train", "test") for name in suite.outlines(split)}
    videos = suite.outlines("train") | suite.outlines("test")
    records = all_records(data)
    assert len(records) >= 9
    for record in records:
        video = videos[record["video"]]
        frames, mask = evidence(record, video.times)
        np.testing.assert_array_equal(
            record["evidence_frame_range"].reshape(-1, 2).tolist(), frames
        )
        np.testing.assert_array_equal(record["evidence_mask"], mask)
        assert record["duration"] == np.float32(video.duration)
        assert (record["evidence"] <= record["duration"]).all()
        assert (
            record["split"] == split_of[record["video"]]
            and record["split"] in SPLITS_OF_PART[record["part"]]
        )


def test_records_are_the_rows(folders):
    manual, data, _ = folders
    erika = video_id(manual / "scope" / "videos" / "Mustermann_Erika.mp4", "scope")
    suite = ClinvideoReader(data)
    (cap,) = suite.records("cap", "train")
    assert (cap["video"], cap["id"], cap["source"]) == (erika, f"{erika}-cap-0000", "scope")
    assert cap["window"].tolist() == [1.0, 4.0] and cap["turns"] == [cases.ANSWER]
    questions = [record["question"] for record in suite.records("rl", "train")]
    assert questions[:2] == ["Where is it, number 2?", "Where is it, number 3?"]
    tested = suite.records("eval", "test")
    # Row 5 is a question for rl about a video that is tested on; 3 is of the other source's copy.
    assert [record["question"][-2] for record in tested] == ["4", "5", "3"]
    assert tested[0]["options"] == ["left", "right"]
    assert {record["video"] for record in tested}.isdisjoint(
        record["video"] for record in all_records(data) if record["split"] == "train"
    )
    assert "left" in list(suite.texts())
    assert suite.video_settings() == VideoSettings(**cases.VIDEO)


def test_messages_are_the_conversation(folders):
    _, data, _ = folders
    suite = ClinvideoReader(data)
    (record,) = suite.records("vcot", "train")
    messages = json.loads(record["messages"])
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    text = render_chat(messages)
    assert text.count("\n<tool_call>\n") == 2 and record["question"] in text
    assert messages[0]["content"][0] == {"type": "video", "video": record["video"]}
    crop, frame = messages[2]["content"], messages[4]["content"]
    assert crop == [
        {"type": "video", "video": record["video"], "video_start": 1.0, "video_end": 2.5}
    ]
    # Frames are half a second apart; the three nearest to 3.1 s.
    assert [image["timestamp"] for image in frame] == [2.5, 3.0, 3.5]
    assert messages[-1]["content"] == record["turns"][-1]
    (cap,) = suite.records("cap", "train")
    shown = json.loads(cap["messages"])[0]["content"][0]
    assert (shown["video_start"], shown["video_end"]) == (1.0, 4.0)
    assert all(r["messages"] == "" for r in suite.records("rl", "train"))


def test_nothing_is_hidden(folders):
    manual, _, counts = folders
    lines = [json.loads(line) for line in (manual / "quarantine.jsonl").read_text().splitlines()]
    found = {(line["stage"], line["source"], line["place"].split(":")[-1]): line for line in lines}
    reasons = {
        ("annotations", "scope", "7"): "line 7 has no question",
        ("annotations", "scope", "14"): "names a part that there is not",
        ("annotations", "echo", "rows.json"): "the reader stops here (KeyError)",
        ("videos", "scope", "scope/videos/cut_Erika.mp4"): "cut short",
        ("videos", "scope", "scope/videos/nowhere.mp4"): "not there",
        ("videos", "scope", "scope/videos/../../secret.mp4"): "outside",
        ("rl", "scope", "8"): "its video can't be read",
        ("rl", "scope", "9"): "names a video that is not there",
        ("rl", "scope", "10"): "names a video outside its source's folder",
        ("rl", "scope", "11"): "evidence [61.5, 62.0] starts after the video's end at 6.000 s",
        ("rl", "scope", "12"): "holds </answer>",
        ("vcot", "scope", "1"): "its evidence cut at the video's end at 6.000 s",
        ("vcot", "scope", "13"): "a call names another file",
        ("eval", "echo", "2"): "names another split than test",
        ("cot", "echo", "4"): "cot has no test split",
    }
    assert found.keys() == reasons.keys() and len(lines) == len(reasons)
    for key, reason in reasons.items():
        assert reason in found[key]["reason"], key
    assert [key for key in found if found[key].get("kept")] == [("vcot", "scope", "1")]
    tally = collections.Counter(line["stage"] for line in lines if "kept" not in line)
    assert tally == {stage: sum(found.values()) for stage, found in counts.items() if found}
    assert counts["rl"]["scope", "evidence [#, #] starts after the video's end at # s"] == 1


def test_no_trace_of_a_patient(tmp_path, capfd, caplog):
    """In no file that is built and no word that is said; in the manual folder names were before."""
    manual, data = tmp_path / "manual", tmp_path / "data"
    manual.mkdir()
    cases.write_folder(manual)
    with caplog.at_level(0):
        build_all(manual, data)
    said = capfd.readouterr()
    texts = [said.out, said.err, caplog.text, repr(all_records(data))]
    for split in ("train", "test"):
        texts += [repr(video) for video in stored_videos(data / "clinvideo_frames", split)]
    texts += [str(path.relative_to(data)) for path in data.rglob("*")]
    files = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
    for secret in cases.SECRETS:
        assert not any(secret in text for text in texts), secret
        if len(secret) > 3:  # three letters may come by chance in a thousand pictures
            assert not any(secret.encode() in file for file in files), secret
    assert "Mustermann" in (manual / "quarantine.jsonl").read_text()  # or the test shows nothing


@pytest.mark.parametrize("processes", [1, 2])
def test_same_bytes_again_and_with_two_processes(folders, tmp_path, processes):
    manual, data, _ = folders
    with workers(processes) as spread:
        build_all(manual, tmp_path / "again", spread=spread)
    assert digest(tmp_path / "again") == digest(data)


def test_what_is_there_is_kept_and_halves_are_removed(folders, tmp_path, capsys):
    manual, _, _ = folders
    data = tmp_path / "data"
    build("clinvideo_frames", manual, data, read=cases.read_rows)
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*.array_record*")}
    half = data / "clinvideo_suite" / "cap" / "1.0.0.incompleteABC_1.0.0"
    half.mkdir(parents=True)
    (half / "train.000000.part").write_bytes(b"half")
    build_all(manual, data, config="cap")
    assert not list(data.rglob("*incomplete*"))
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "was there already" in capsys.readouterr().out
    suite = ClinvideoReader(data)
    assert suite.splits("cap") == ("train",) and suite.splits("rl") == ()


def test_other_splits_need_overwrite(tmp_path):
    manual, data = tmp_path / "manual", tmp_path / "data"
    manual.mkdir()
    cases.write_suite(manual, {"scope": [cases.row("a.mp4", "rl", spans=[[1.0, 2.0]])]})
    cases.write_video(manual / "scope" / "videos" / "a.mp4", 3, seed=4)
    listed = json.loads((manual / "suite.json").read_text())
    (manual / "suite.json").write_text(json.dumps(listed | {"splits": {"train": 1}}))
    build_all(manual, data, config="rl")
    (manual / "suite.json").write_text(json.dumps(listed | {"splits": {"test": 1}}))
    with pytest.raises(UserError, match="--overwrite"):
        build_all(manual, data, config="rl")
    build("clinvideo_frames", manual, data, overwrite=True, read=cases.read_rows)
    suite = ClinvideoReader(data)
    assert len(suite.outlines("test")) == 1
    with pytest.raises(UserError, match="it has test"):
        suite.videos("train")
    with pytest.raises(UserError, match="not one example"):
        build_all(manual, data, config="rl", overwrite=True)
    build_all(manual, data, config="eval")
    assert suite.records("eval", "test")[0]["evidence_frame_range"].tolist() == [[2, 4]]


def test_one_line_for_mistakes(folders, tmp_path, refusal):
    manual, _, _ = folders
    flags = ["clinvideo_frames", "--data_dir", tmp_path, "--manual_dir"]
    assert "suite.json cannot be read" in refusal(main, [*flags, tmp_path])
    assert "unknown reader 'stand_in'" in refusal(main, [*flags, manual])
