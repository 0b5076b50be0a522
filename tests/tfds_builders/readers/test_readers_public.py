"""NExT-GQA, MedVidQA and Charades-STA in their original layouts."""

import json

import pytest

from medscope_jax.errors import UserError
from tfds_builders.record import BadRow

HEADER = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
OPTIONS = "sit,stand,run,eat,sleep"
SPANS = {
    "10": {
        "duration": 34,
        "fps": 29.97,
        "location": {"1": [[1.2, 5.8]], "3": [[12.1, 17.1], [20, 23.5]], "4": [[9, 8]], "5": []},
    },
    "11": "Doe",
}


def next_gqa(tmp_path, lines, spans=SPANS, name="val", header=HEADER):
    path = tmp_path / f"{name}.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    text = spans if isinstance(spans, str) else json.dumps(spans)
    (tmp_path / f"gsub_{name}.json").write_text(text)
    return path


def line(question="what does he do", answer="run", qid=1, video=10, options=OPTIONS):
    return f"{video},369,640,480,{question},{answer},{qid},CH,{options}"


def test_next_gqa(tmp_path, collect):
    lines = [line(), line('"why, in the end"', "4", 3)]
    good, bad = collect("nextgqa", next_gqa(tmp_path, lines))
    assert not bad
    assert [made.question for made in good] == ["what does he do", "why, in the end"]
    assert [made.answer for made in good] == ["run", "sleep"]
    assert [made.spans for made in good] == [((1.2, 5.8),), ((12.1, 17.1), (20.0, 23.5))]
    assert good[0].options == ("sit", "stand", "run", "eat", "sleep")
    assert {(made.video, made.task, made.split, made.part) for made in good} == {
        ("10.mp4", "vqa", "validation", "eval")
    }
    assert [made.place for made in good] == ["val.csv:2", "val.csv:3"]


@pytest.mark.parametrize(
    ("bad_line", "reason"),
    [
        (line(answer="Doe"), "none of the options"),
        (line(answer="5"), "none of the options"),
        (line(answer=""), "answer is missing"),
        (line(question="..."), "the question is empty"),
        (line(question=""), "question is missing"),
        (line(qid=2), "has no span"),
        (line(qid=5), "has no span"),
        (line(qid=4), "ends before it starts"),
        (line(video=11), "has no span"),
        (line(video=12), "has no span"),
        (line(options="sit,stand,run,eat"), "12 columns, the header 13"),
        (line(options="sit,stand,run,eat,"), "option a4 is empty"),
        (line(options="sit,stand,run,eat,<think>"), "a tag of the protocol"),
        (line(question='"Doe'), "no CSV line"),
        (line(question="x" * 200_000), "no CSV line"),
    ],
)
def test_next_gqa_bad_rows(tmp_path, collect, bad_line, reason):
    good, bad = collect("nextgqa", next_gqa(tmp_path, [bad_line, line()]))
    assert [made.place for made in good] == ["val.csv:3"]
    assert [made.place for made in bad] == ["val.csv:2"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason


def test_next_gqa_ids_come_once(tmp_path, collect):
    good, bad = collect("nextgqa", next_gqa(tmp_path, [line(), line("why")]))
    assert len(good) == 1
    assert bad == [BadRow("val.csv:3", "the row's video_id and qid is that of an earlier row")]


def test_next_gqa_header(tmp_path, collect):
    path = next_gqa(tmp_path, [line(), line("why")], header=HEADER.replace("qid", "id"))
    good, bad = collect("nextgqa", path)
    assert not good
    assert [made.place for made in bad] == ["val.csv:2", "val.csv:3"]
    assert all("lacks the column qid" in made.reason for made in bad)


def test_next_gqa_files_beside_it(tmp_path, collect):
    path = next_gqa(tmp_path, [line()], "{broken")
    good, bad = collect("nextgqa", path)
    assert not good
    assert [made.place for made in bad] == ["gsub_val.json:1", "val.csv:2"]
    next_gqa(tmp_path, [line()])
    (tmp_path / "map.json").write_text(json.dumps({"10": "1164/3238"}))
    good, _ = collect("nextgqa", path, video_map="map.json")
    assert [made.video for made in good] == ["1164/3238.mp4"]
    (tmp_path / "map.json").write_text("{}")
    good, bad = collect("nextgqa", path, video_map="map.json")
    assert "video map" in bad[0].reason
    with pytest.raises(UserError, match="there is no file"):
        collect("nextgqa", path, spans_file="gsub_train.json")


MEDVIDQA = {
    "sample_id": 12,
    "question": "How to relieve pain in the gums?",
    "answer_start": "00:14",
    "answer_end": "00:23",
    "answer_start_second": 14,
    "answer_end_second": 23,
    "video_length": 120,
    "video_id": "abc123",
}


def medvidqa(tmp_path, rows, name="train.json"):
    path = tmp_path / name
    path.write_text("[" + ",\n".join(json.dumps(row) for row in rows) + "]")
    return path


def test_medvidqa(tmp_path, collect):
    good, bad = collect("medvidqa", medvidqa(tmp_path, [MEDVIDQA]))
    assert not bad
    (made,) = good
    assert (
        made.question == "When does the video show the answer to: How to relieve pain in the gums?"
    )
    assert (made.answer, made.spans, made.task) == ("[14.0, 23.0]", ((14.0, 23.0),), "grounding")
    assert (made.video, made.split, made.part) == ("abc123.mp4", "train", "rl")
    good, _ = collect("medvidqa", medvidqa(tmp_path, [MEDVIDQA], "test.json"), extension=".webm")
    assert (good[0].split, good[0].part, good[0].video) == ("test", "eval", "abc123.webm")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer_end_second": 122}, "ends after the video"),
        ({"answer_end_second": 14}, "ends where it starts"),
        ({"answer_end_second": None}, "answer_end_second is missing"),
        ({"answer_start_second": "00:75"}, "is no number"),
        ({"video_id": 7.5}, "video_id is neither a text nor a whole number"),
        ({"video_id": "../x"}, "leads out"),
        ({"question": None}, "question is missing"),
        ({"question": "?"}, "the question is empty"),
        ({"sample_id": 12}, "sample_id is that of an earlier row"),
        ({"video_length": -1}, "is negative"),
    ],
)
def test_medvidqa_bad_rows(tmp_path, collect, change, reason):
    rows = [MEDVIDQA, {**MEDVIDQA, "sample_id": 13, **change}]
    good, bad = collect("medvidqa", medvidqa(tmp_path, rows))
    assert [made.place for made in good] == ["train.json:1, element 1"]
    assert [made.place for made in bad] == ["train.json:2, element 2"]
    assert reason in bad[0].reason


SVU31K = {
    "id": 7,
    "videos": ["/data/a/v.mp4"],
    "tag": "Visual Temporal Reasoning",
    "timecodes": [435, 600],
    "messages": [
        {"role": "user", "content": "<video>Why is the duct clipped?"},
        {"role": "assistant", "content": "To stop the bile,\nthen to cut it."},
    ],
}


def test_svu31k(tmp_path, collect):
    """The clip is the evidence; a whole video has none."""
    whole = {**SVU31K, "id": 8, "tag": "full video description", "timecodes": [0, -1]}
    good, bad = collect("svu31k", medvidqa(tmp_path, [SVU31K, whole], "clip_test_set.json"))
    assert not bad
    clip, full = good
    assert (clip.question, clip.answer) == (
        "Why is the duct clipped?",
        "To stop the bile, then to cut it.",
    )
    assert (clip.spans, clip.task, clip.video) == (((435.0, 600.0),), "temporal reasoning", "v.mp4")
    assert (clip.part, clip.split, clip.window) == ("eval", "test", None)
    assert (full.spans, full.task) == ((), "full description")
    (shown,), _ = collect("svu31k", medvidqa(tmp_path, [SVU31K], "clip_train.json"), part="qa")
    assert (shown.part, shown.split, shown.window) == ("qa", "train", (435.0, 600.0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"videos": ["a.mp4", "b.mp4"]}, "not about one video"),
        ({"timecodes": [435, -1]}, "ends at -1"),
        ({"timecodes": [600, 435]}, "ends before it starts"),
        ({"timecodes": [435]}, "not a start and an end"),
        ({"tag": None}, "tag is missing"),
        ({"tag": "Video"}, "names no task"),
        ({"messages": SVU31K["messages"][::-1]}, "one of the user and one of the assistant"),
        ({"messages": SVU31K["messages"] * 2}, "one of the user and one of the assistant"),
        ({"id": 7}, "id is that of an earlier row"),
    ],
)
def test_svu31k_bad_rows(tmp_path, collect, change, reason):
    rows = [SVU31K, {**SVU31K, "id": 8, **change}]
    good, bad = collect("svu31k", medvidqa(tmp_path, rows, "test.json"))
    assert len(good) == len(bad) == 1 and reason in bad[0].reason


def test_charades(tmp_path, collect):
    path = tmp_path / "charades_sta_test.txt"
    path.write_text(
        "AO8RW 0.0 6.9##a person is putting a book on a shelf.\n"
        "\n"
        "AO8RW 2 6.95##a person ## sits.\r\n"
    )
    good, bad = collect("charades", path)
    assert not bad
    assert [made.question for made in good] == [
        "When does this happen: a person is putting a book on a shelf.",
        "When does this happen: a person ## sits.",
    ]
    assert [made.spans for made in good] == [((0.0, 6.9),), ((2.0, 6.95),)]
    assert good[0].answer == "[0.0, 6.9]"
    assert {(made.video, made.split, made.part, made.task) for made in good} == {
        ("AO8RW.mp4", "test", "eval", "grounding")
    }
    assert [made.place for made in good] == ["charades_sta_test.txt:1", "charades_sta_test.txt:3"]


@pytest.mark.parametrize(
    ("bad_line", "reason"),
    [
        ("AO8RW 0.0 6.9 Doe sits", "does not read"),
        ("AO8RW 6.9##Doe sits", "does not read"),
        ("Doe W 0.0 6.9##sits", "does not read"),
        ("AO8RW 6.9 0.0##Doe sits", "ends before it starts"),
        ("AO8RW nan 6.9##Doe sits", "is no number"),
        ("AO8RW -1 6.9##Doe sits", "is negative"),
        ("AO8RW 0 1_0##Doe sits", "is no number"),
        ("AO8RW 0 6.9##", "the sentence is empty"),
        ("../Doe 0 6.9##sits", "leads out"),
        ("AO8RW 0 6.9##Doe <think>", "a tag of the protocol"),
        ("AO8RW 0 0.0001##Doe sits", "shorter than a millisecond"),
    ],
)
def test_charades_bad_lines(tmp_path, collect, bad_line, reason):
    path = tmp_path / "sta.txt"
    path.write_text(f"{bad_line}\nAO8RW 0.0 6.9##a person sits\n")
    good, bad = collect("charades", path)
    assert [(made.place, made.split, made.part) for made in good] == [("sta.txt:2", "", "rl")]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason


def test_a_short_span_keeps_its_length_in_the_answer(tmp_path, collect):
    path = tmp_path / "sta.txt"
    path.write_text("AO8RW 3.01 3.04##he blinks\n")
    good, _ = collect("charades", path)
    assert good[0].answer == "[3.010, 3.040]"
