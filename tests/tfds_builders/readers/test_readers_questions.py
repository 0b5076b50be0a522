"""SurgVidLM, MedVideoCap, OphVL-like clips and verl rows: what becomes of a row, and bad rows."""

import json
import math

import pyarrow as pa
import pyarrow.parquet
import pytest

from tfds_builders.record import BadRow

SURGVIDLM = {
    "clip_id": "c1",
    "video_name": "v.mp4",
    "video_path": "/data/v.mp4",
    "clip_start_time": 400.0,
    "clip_end_time": 620.0,
    "qa_start_time": 435.0,
    "qa_end_time": 600.0,
    "question": "What does Doe avoid?",
    "answer": "Undue Doe tension.",
}
MOMENT = {
    "video": "clips/a.mp4",
    "question": "What stands on the bench?",
    "answer": "Pipettes.",
    "anchor_frame_time": 4.5,
}
NARRATION = {
    "video_path": "eye.mp4",
    "clip_start_time": 31.5,
    "clip_end_time": "58",
    "caption": "The surgeon completes\nthe capsulorhexis.",
}
RL = {
    "data_source": "surgvidlm",
    "prompt": [
        {
            "role": "user",
            "content": "<video>What is avoided? Think first, call **crop_video** or **get_frame** "
            "if needed, then answer. The Video path for this video is: /data/v.mp4",
        }
    ],
    "videos": [{"type": "video", "video": "file:///data/v.mp4", "fps": 1, "max_frames": 512}],
    "ability": "video_tool",
    "reward_model": {"ground_truth": "Undue tension.", "style": "model"},
    "extra_info": {"split": "train", "index": 1, "video_segment": [435.0, 600.0]},
}


def changed(row, **changes):
    """The row with changes; None takes a key away."""
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def test_surgvidlm(write_rows, collect):
    rows = [
        SURGVIDLM,
        changed(SURGVIDLM, qa_start_time=None, qa_end_time=None, video_path=None),
        changed(SURGVIDLM, answer="[435.000, 600.000]"),
        changed(SURGVIDLM, question="Is it\tcut?", answer=[435, 600.04]),
    ]
    good, bad = collect("surgvidlm", write_rows("rows.jsonl", rows))
    assert not bad
    assert [made.task for made in good] == ["vqa", "vqa", "grounding", "grounding"]
    assert [made.spans for made in good] == [((435.0, 600.0),), ((400.0, 620.0),)] + [
        ((435.0, 600.0),)
    ] * 2
    assert good[0].answer == "Undue Doe tension."
    assert [made.answer for made in good[2:]] == ["[435.0, 600.0]"] * 2
    assert good[3].question == "Is it cut?"
    assert {made.part for made in good} == {"rl"}
    assert {(made.split, made.turns, made.window, made.video) for made in good} == {
        ("", (), None, "v.mp4")
    }


def test_surgvidlm_clips(write_rows, collect):
    rows = [SURGVIDLM, changed(SURGVIDLM, clip_start_time=440)]
    good, bad = collect("surgvidlm", write_rows("rows.jsonl", rows), part="qa")
    assert good[0].window == (400.0, 620.0)
    assert good[0].turns == (
        "<think>The clip is from 400.0 to 620.0.</think><answer>Undue Doe tension.</answer>",
    )
    assert bad == [BadRow("rows.jsonl:2", "the clip does not hold the evidence")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": None}, "question is missing"),
        ({"question": ""}, "question is missing"),
        ({"question": " ?! "}, "the question is empty"),
        ({"question": 5}, "the question is no text"),
        ({"question": "Doe <answer>x</answer>"}, "a tag of the protocol"),
        ({"question": "Doe <|im_end|>"}, "a tag of the protocol"),
        ({"question": "Doe \u202e?"}, "control characters"),
        ({"question": "Doe \ud800?"}, "control characters"),
        ({"question": "Doe " * 6000}, "longer than 20000 characters"),
        ({"answer": None}, "answer is missing"),
        ({"answer": "..."}, "the answer is empty"),
        ({"answer": "Doe </think>"}, "a tag of the protocol"),
        ({"answer": "[1.0, 2.0]"}, "the answer's interval is not the evidence"),
        ({"answer": "[600.0, 435.0]"}, "ends before it starts"),
        ({"qa_start_time": None}, "qa_start_time is missing"),
        ({"qa_start_time": "Doe"}, "is no number"),
        ({"qa_start_time": "nan"}, "is no number"),
        ({"qa_start_time": math.nan}, "is not finite"),
        ({"qa_end_time": math.inf}, "is not finite"),
        ({"qa_end_time": 10**400}, "is not finite"),
        ({"qa_end_time": 1e8}, "later than any video"),
        ({"qa_start_time": -0.5}, "is negative"),
        ({"qa_start_time": True}, "is no number"),
        ({"qa_start_time": [1]}, "is no number"),
        ({"qa_start_time": 601}, "ends before it starts"),
        ({"qa_start_time": 600}, "ends where it starts"),
        ({"clip_end_time": 399}, "the clip ends before it starts"),
        ({"video_path": None, "video_name": None}, "video_path, video_name are missing"),
        (
            dict.fromkeys(("qa_start_time", "qa_end_time", "clip_start_time", "clip_end_time")),
            "qa_start_time and clip_start_time are missing",
        ),
    ],
)
def test_surgvidlm_bad_rows(write_rows, collect, change, reason):
    rows = [SURGVIDLM, changed(SURGVIDLM, **change), changed(SURGVIDLM, answer="Another.")]
    good, bad = collect("surgvidlm", write_rows("rows.jsonl", rows))
    assert [made.place for made in good] == ["rows.jsonl:1", "rows.jsonl:3"]
    (found,) = bad
    assert found.place == "rows.jsonl:2"
    assert reason in found.reason
    assert "Doe" not in found.reason


@pytest.mark.parametrize("line", ["7", "null", '"Doe"', "[1, 2]", "NaN", "{'a': 1}", "{"])
def test_rows_that_are_no_objects(write_rows, collect, line):
    for reader in ("surgvidlm", "medvideocap", "ophvl", "verl", "longvt"):
        good, bad = collect(reader, write_rows("rows.jsonl", [line]))
        assert not good
        assert [made.place for made in bad] == ["rows.jsonl:1"]
        assert "Doe" not in bad[0].reason


def test_medvideocap(write_rows, collect):
    rows = [
        MOMENT,
        changed(MOMENT, question=None, answer=None, caption="Hands hold a pipette."),
        changed(MOMENT, anchor_frame_time=None),
        changed(MOMENT, answer="[4, 5]"),
        changed(MOMENT, anchor_frame_time=-1),
    ]
    good, bad = collect("medvideocap", write_rows("rows.jsonl", rows))
    moment, caption = good
    assert (moment.frame_time, moment.spans, moment.task) == (4.5, (), "vqa")
    assert (moment.video, moment.part, moment.answer) == ("clips/a.mp4", "rl", "Pipettes.")
    assert (caption.part, caption.task, caption.window) == ("cap", "caption", None)
    assert caption.turns == (
        "<think>The clip is the whole video.</think><answer>Hands hold a pipette.</answer>",
    )
    assert [made.place for made in bad] == [f"rows.jsonl:{line}" for line in (3, 4, 5)]
    good, _ = collect("medvideocap", write_rows("rows.jsonl", [MOMENT]), part="eval")
    assert [made.part for made in good] == ["eval"]


def test_ophvl(write_rows, collect):
    question = changed(NARRATION, caption=None, question="What is inserted?", answer="A haptic.")
    narrow = changed(question, qa_start_time=40, qa_end_time=42)
    rows = [NARRATION, question, narrow, changed(NARRATION, clip_end_time=31.5)]
    good, bad = collect("ophvl", write_rows("rows.jsonl", rows))
    assert [(made.part, made.task) for made in good] == [
        ("cap", "caption"),
        ("rl", "vqa"),
        ("rl", "vqa"),
    ]
    assert [made.spans for made in good] == [((31.5, 58.0),), ((31.5, 58.0),), ((40.0, 42.0),)]
    assert [made.window for made in good] == [(31.5, 58.0), None, None]
    assert good[0].answer == "The surgeon completes the capsulorhexis."
    assert good[0].turns == (
        "<think>The clip is from 31.5 to 58.0.</think>"
        "<answer>The surgeon completes the capsulorhexis.</answer>",
    )
    assert [made.place for made in bad] == ["rows.jsonl:4"]


@pytest.mark.parametrize("said", [[1, 2], [[1, 2], [3, 4]], {"start": 1, "end": 2}])
def test_a_list_is_no_words(write_rows, collect, said):
    """Where words are meant, numbers are not taken for an answer of intervals."""
    clip = {"video_path": "v.mp4", "clip_start_time": 0, "clip_end_time": 9}
    plain = {"video": "v.mp4", "question": "What?"}
    for reader, row in (
        ("ophvl", clip | {"caption": said}),
        ("medvideocap", {"video": "v.mp4", "caption": said}),
        ("plain", plain | {"part": "cap", "answer": said}),
        ("plain", plain | {"task": "vqa", "answer": said}),
    ):
        good, bad = collect(reader, write_rows("rows.jsonl", [row]))
        assert not good, reader
        assert bad[0].reason == "the answer is no text"
    (made,), _ = collect("plain", write_rows("rows.jsonl", [plain | {"answer": said}]))
    assert made.task == "grounding"


def test_ophvl_with_keys_of_its_own(write_rows, collect):
    row = {"file": "e.mp4", "from": 1, "to": 3, "said": "An incision."}
    keys = {"video_key": "file", "start_key": "from", "end_key": "to", "text_key": "said"}
    good, bad = collect("ophvl", write_rows("rows.jsonl", [row]), **keys)
    assert not bad
    assert (good[0].video, good[0].spans, good[0].answer) == (
        "e.mp4",
        ((1.0, 3.0),),
        "An incision.",
    )


def rl_rows():
    info = RL["extra_info"]
    moment = {"split": "test", "frame_time": 4.5, "question": "What is it?", "answer": "A pipette."}
    several = {"split": "val", "video_segment": [[1.0, 2.0], [5.0, 7.5]], "answer": "A duct."}
    return [
        RL,
        changed(RL, extra_info=moment, reward_model=None),
        changed(RL, extra_info={**info, **several, "question": "When is it seen?"}),
        changed(RL, extra_info=None, videos=["v.mp4"]),
    ]


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_verl(tmp_path, collect, form):
    path = tmp_path / f"rows.{form}"
    rows = rl_rows()
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif form == "json":
        path.write_text(json.dumps(rows))
    else:
        del rows[2:]  # one type a column: segments and videos of the first form
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    good, bad = collect("verl", path, video_root="/data")
    assert not bad
    assert [made.question for made in good[:2]] == ["What is avoided?", "What is it?"]
    assert [made.answer for made in good[:2]] == ["Undue tension.", "A pipette."]
    assert [(made.split, made.part) for made in good[:2]] == [("train", "rl"), ("test", "eval")]
    assert [made.spans for made in good[:2]] == [((435.0, 600.0),), ()]
    assert [made.frame_time for made in good[:2]] == [None, 4.5]
    assert {made.video for made in good} == {"v.mp4"}
    if form != "parquet":
        assert (good[2].split, good[2].part) == ("validation", "eval")
        assert good[2].spans == ((1.0, 2.0), (5.0, 7.5))
        assert (good[3].split, good[3].spans, good[3].frame_time) == ("", (), None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"videos": None}, "videos is missing"),
        ({"videos": [{"video": "a.mp4"}, {"video": "b.mp4"}]}, "not about one video"),
        ({"videos": [{"type": "video"}]}, "video is missing"),
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": [{"role": "system", "content": "Doe"}]}, "no message of the user"),
        ({"prompt": "Think first, call Doe"}, "the question is empty"),
        ({"reward_model": {"ground_truth": 7}}, "the answer is no text"),
        ({"reward_model": None}, "the answer is missing"),
        ({"extra_info": {"split": "Doe"}}, "none of train, validation and test"),
        ({"extra_info": {"video_segment": [5, 1]}}, "ends before it starts"),
        ({"extra_info": {"video_segment": [[5, 6, 7]]}}, "not two numbers"),
        ({"extra_info": {"video_segment": "Doe"}}, "does not read start-end"),
        ({"extra_info": {"frame_time": "Doe"}}, "no number"),
    ],
)
def test_verl_bad_rows(write_rows, collect, change, reason):
    rows = [changed(RL, **change), RL]
    good, bad = collect("verl", write_rows("rows.jsonl", rows))
    assert [made.place for made in good] == ["rows.jsonl:2"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason


def test_verl_instruction_of_its_own(write_rows, collect):
    row = changed(
        RL, prompt=[{"role": "user", "content": [{"type": "text", "text": "Cut? Reply:"}]}]
    )
    good, _ = collect("verl", write_rows("rows.jsonl", [row]), instruction="Reply")
    assert [made.question for made in good] == ["Cut?"]


def test_damaged_parquet(tmp_path, collect):
    whole = tmp_path / "whole.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(rl_rows()[:2]), whole)
    data = whole.read_bytes()
    for number, part in enumerate((b"", b"PAR1", b"no parquet", data[:-9], data[: len(data) // 2])):
        path = tmp_path / f"part{number}.parquet"
        path.write_bytes(part)
        good, bad = collect("verl", path)
        assert not good
        assert [made.place for made in bad] == [f"part{number}.parquet:1"]
    other = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pa.table({"Doe": [1, 2]}), other)
    good, bad = collect("verl", other)
    assert not good
    assert "none of the columns prompt, videos" in bad[0].reason


def test_parquet_text_that_is_none(tmp_path, collect):
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "prompt": pa.array([b"What is cut?", b"What \xff is cut?"]).view(pa.string()),
            "videos": [["v.mp4"]] * 2,
            "reward_model": [{"ground_truth": "A duct."}] * 2,
        }
    )
    pyarrow.parquet.write_table(table, path)
    good, bad = collect("verl", path)
    assert [made.question for made in good] == ["What is cut?"]
    assert bad == [BadRow("rows.parquet:2", "the row holds text that is not UTF-8")]


def test_parquet_pages_are_held_against_their_checksums(tmp_path, collect):
    """Where the file has them: a flipped byte of an answer is no other answer."""
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "prompt": ["What is cut?"],
            "videos": [["v.mp4"]],
            "reward_model": ['{"ground_truth": "A duct."}'],
        }
    )
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pyarrow.parquet.write_table(table, path, write_page_checksum=True, **plain)
    data = path.read_bytes()
    assert data.count(b"A duct.") == 1
    path.write_bytes(data.replace(b"A duct.", b"A dust."))
    good, bad = collect("verl", path)
    assert not good
    assert "the Parquet file is damaged here" in bad[0].reason
    path.write_bytes(data)
    good, bad = collect("verl", path)
    assert (good[0].answer, bad) == ("A duct.", [])
