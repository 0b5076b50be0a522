"""A field of another type than expected is read as meant, or costs its row: it is never absent."""

import copy
import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.tfds_builders.readers.test_readers_fuzz import CALL, MESSAGES, TURN, VALID
from tfds_builders.parquet_rows import lines
from tfds_builders.readers import read_source
from tfds_builders.record import Annotation, BadRow

INFO = {
    "question": "What is it?",
    "answer": "A vein.",
    "split": "test",
    "video_segment": [[1.0, 2.0], [5.0, 7.5]],
}
DECIMALS = [[decimal.Decimal(text) for text in pair] for pair in (("1.0", "2"), ("5", "7.50"))]
LENGTHS = [[datetime.timedelta(seconds=t) for t in pair] for pair in INFO["video_segment"]]
CLIP = {"type": "video", "video": "v.mp4", "video_start": 10, "video_end": 20}
# Rows with as many fields as a reader knows. In each, every field that is read makes a difference.
ROWS = {
    "verl": [
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "What?"}]}],
            "videos": [{"type": "video", "video": "v.mp4"}],
            "reward_model": {"ground_truth": "A vein."},
            "extra_info": {"split": "val", "frame_time": 4.5},
        },
        {"prompt": "What?", "videos": ["v.mp4"], "extra_info": INFO},
    ],
    "longvt": [
        {
            "messages": MESSAGES,
            "split": "test",
            "metadata": {"question": "What?", "qa_start_time": 1, "qa_end_time": 3},
        },
        {
            "messages": [
                {"role": "user", "content": [CLIP, {"type": "text", "text": "Why?"}]},
                {"role": "assistant", "content": f"{TURN}<answer>A vein.</answer>"},
            ],
            "metadata": {"answer_gt": "A vein.", "video_segment": [11, 12]},
        },
    ],
    "surgvidlm": [VALID["surgvidlm"] | {"split": "test"}],
    "svu31k": [VALID["svu31k"], VALID["svu31k"] | {"split": "test"}],
    "medvideocap": [
        {"video": "v.mp4", "question": "What?", "answer": "A vein.", "anchor_frame_time": 1},
        {"video": "v.mp4", "caption": "A cut.", "split": "test"},
    ],
    "ophvl": [
        {
            "video_path": "v.mp4",
            "split": "test",
            "caption": "A cut.",
            "clip_start_time": 0,
            "clip_end_time": 9,
        },
    ],
    "medvidqa": [
        {
            "video_id": "v",
            "split": "test",
            "question": "How?",
            "answer_start_second": 1,
            "answer_end_second": 3,
            "video_length": 9,
        }
    ],
    "plain": [
        {
            "video": "v.mp4",
            "split": "test",
            "task": "perception",
            "question": "Is it?",
            "answer": "yes",
            "options": ["yes", "no"],
            "spans": [[1, 2], [4, 5.5]],
        },
        {"video": "v.mp4", "part": "eval", "question": "Is it?", "answer": "yes", "frame_time": 2},
        {
            "video": "v.mp4",
            "part": "vcot",
            "question": "Is it?",
            "answer": "A vein.",
            "turns": [TURN + CALL, f"{TURN}<answer>A vein.</answer>"],
        },
        {"video": "v.mp4", "part": "cap", "answer": "A cut.", "window": [3, 4]},
    ],
}
CASES = [(reader, row) for reader, rows in ROWS.items() for row in rows]


def paths(value, here=()):
    """The places of all values inside a value."""
    if here:
        yield here
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*here, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def replaced(row, path, new):
    row = copy.deepcopy(row)
    at(row, path[:-1])[path[-1]] = new
    return row


# Fields that may be a text as well.
ALSO_TEXT = ("prompt", "videos", "video_url", "content")


def others(value, key):
    """Values of other types, some of which still say what the value says."""
    yield from (True, [[[]]], [7, "Doe"])
    if not isinstance(value, dict):
        yield from ({"Doe": 1}, {"Doe": {"Doe": []}})
    if not isinstance(value, str):
        yield from (json.dumps(value), f" {json.dumps(value)}")
        if key not in ALSO_TEXT and key != 0:
            yield from ("Doe", '{"Doe": 1}'[isinstance(value, dict) :], "[1, ")
    if not isinstance(value, (int, float)):
        yield from (7.25, -1.5)
    if isinstance(value, dict):
        yield [[name, item] for name, item in value.items()]
        yield [{"key": name, "value": item} for name, item in value.items()]
        if key not in ALSO_TEXT and key != 0:
            yield str(value)
    elif isinstance(value, list):
        yield {str(place): item for place, item in enumerate(value)}
    else:
        yield from ([value], {"value": value})


@pytest.mark.parametrize(("reader", "row"), CASES)
def test_another_type_is_the_same_or_a_bad_row(write_rows, reader, row):
    changes = [(path, new) for path in paths(row) for new in others(at(row, path), path[-1])]
    rows = [row, *(replaced(row, path, new) for path, new in changes)]
    whole, *found = read_source(reader, write_rows("rows.jsonl", rows))
    assert isinstance(whole, Annotation)
    assert whole.split == "test" or "split" not in row
    for change, made in zip(changes, found, strict=True):
        assert isinstance(made, BadRow), change
        # A row that says the same as the first one repeats it; no other may say anything.
        assert "repeats" not in made.reason or made.reason == "the row repeats row 1", change
        assert "Doe" not in made.reason
    same = sum(made.reason == "the row repeats row 1" for made in found)
    assert same or reader == "medvideocap"  # some are read


@pytest.mark.parametrize(
    "column",
    [
        pa.array([json.dumps(INFO)] * 2),
        pa.array([json.dumps(INFO).encode()] * 2),  # as texts of the types ENUM and JSON come
        pa.array([json.dumps(INFO)] * 2).dictionary_encode(),
        pa.array([json.dumps(INFO)] * 2, pa.large_string()),
        pa.array([INFO] * 2),
        pa.array([{**INFO, "split": b"test"}] * 2),
        pa.array(
            [[(key, v if isinstance(v, str) else json.dumps(v)) for key, v in INFO.items()]] * 2,
            pa.map_(pa.string(), pa.string()),
        ),
        pa.array([INFO | {"video_segment": DECIMALS}] * 2),
        pa.array([INFO | {"video_segment": LENGTHS}] * 2),
    ],
    ids=str,
)
def test_parquet_columns_of_another_type(tmp_path, collect, column):
    good, bad = read_column(tmp_path, collect, column)
    assert [made.reason for made in bad] == ["the row repeats row 1"]
    (made,) = good
    assert (made.split, made.part, made.question) == ("test", "eval", "What is it?")
    assert made.spans == ((1.0, 2.0), (5.0, 7.5))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"\xff\x00"] * 2),
        pa.array([5, 6]).dictionary_encode(),
        pa.array([datetime.date(2020, 1, 1)] * 2),
        pa.array([True, False]),
        pa.array([["a"], ["b"]]),
        pa.array([{**INFO, "split": 1}] * 2),
        pa.array([{**INFO, "split": b"\xff"}] * 2),
        pa.array([{**INFO, "video_segment": datetime.datetime(2020, 1, 1)}] * 2),
    ],
    ids=str,
)
def test_parquet_columns_that_are_no_objects(tmp_path, collect, column):
    good, bad = read_column(tmp_path, collect, column)
    assert not good
    assert len(bad) == 2


def read_column(tmp_path, collect, column):
    """What verl makes of two rows whose extra_info is a column; in this process, to be quick."""
    table = {"prompt": ["What?"] * 2, "videos": [["v.mp4"]] * 2, "extra_info": column}
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table(table), path)
    with open(path, "rb") as file:
        rows = [json.loads(line) for line in lines(file, ["prompt", "videos", "extra_info"])]
    assert len(rows) == 2 and not any(fault for _, fault in rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row, _ in rows))
    return collect("verl", tmp_path / "rows.jsonl")


def test_parquet_columns_by_other_names(tmp_path, collect):
    path = tmp_path / "rows.parquet"
    table = {"Prompt": ["What?"], "VIDEOS": [["v.mp4"]], "Extra_Info": [INFO]}
    pyarrow.parquet.write_table(pa.table(table), path)
    good, bad = collect("verl", path)
    assert (good[0].split, good[0].spans) == ("test", ((1.0, 2.0), (5.0, 7.5)))
    table = {"prompt": ["What?"], "videos": [["v.mp4"]], "extra_info.split": ["test"]}
    pyarrow.parquet.write_table(pa.table(table), path)
    good, bad = collect("verl", path)
    assert not good
    assert "a column of its own for a field of extra_info" in bad[0].reason


def test_two_splits_are_none(write_rows, collect):
    row = ROWS["verl"][1] | {"split": "train"}
    good, bad = collect("verl", write_rows("rows.jsonl", [row, row | {"split": "Test"}]))
    assert [made.split for made in good] == ["test"]
    assert [made.reason for made in bad] == ["the row names two splits"]


def test_a_field_that_is_there_twice_is_none_of_both(tmp_path, collect):
    path = tmp_path / "rows.jsonl"
    row = '{"videos": ["v.mp4"], "prompt": "What?", "reward_model": {"ground_truth": "It."}, %s}'
    info = '"extra_info": {"split": "test", "Split": "train"}', '"extra_info": {}, "extra_info": {}'
    path.write_text("\n".join(row % one for one in info))
    good, bad = collect("verl", path)
    assert not good
    assert [made.reason for made in bad] == ["split is there twice", "extra_info is there twice"]


NUMBER_TEXTS = [
    (65.5, "65.5"),
    (65.5, " 65.5 s"),
    (65.0, "65sec"),
    (65.0, "65 seconds"),
    (65.5, "01:05.5"),
    (65.25, "00:01:05,250"),
    (3665.0, "1:01:05"),
    (4530.0, "75:30"),
]


@pytest.mark.parametrize(("seconds", "text"), NUMBER_TEXTS)
def test_times_as_texts(write_rows, collect, seconds, text):
    rows = [
        {"video": "v.mp4", "question": "What?", "answer": "A vein.", "frame_time": text},
        {"video": "v.mp4", "question": "When?", "spans": f"{text} - 2:00:00"},
        {"video": "v.mp4", "question": "And?", "spans": [[text, 7200]]},
        {"video": "v.mp4", "question": "So?", "task": "grounding", "answer": f"{text} to 2:00:00"},
    ]
    good, bad = collect("plain", write_rows("rows.jsonl", rows))
    assert not bad
    assert good[0].frame_time == seconds
    assert [made.spans for made in good[1:]] == [((seconds, 7200.0),)] * 3
    assert {made.task for made in good[1:]} == {"grounding"}


@pytest.mark.parametrize(
    "text",
    ["01:60", "1:2:3:4", "65,5", "1 min", "65.5.5", "\u0663", "-1", "nan", "inf", "1e400", "1e9"],
)
def test_times_that_are_none(write_rows, collect, text):
    row = {"video": "v.mp4", "question": "What?", "answer": "A vein.", "frame_time": text}
    good, bad = collect("plain", write_rows("rows.jsonl", [row]))
    assert not good
    assert bad[0].reason.startswith("frame_time is ")


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ("[01:05, 01:10]", ((65.0, 70.0),)),
        ("01:05 - 01:10", ((65.0, 70.0),)),
        ("00:01:05 to 00:01:10.5; 00:02:00 - 00:02:01", ((65.0, 70.5), (120.0, 121.0))),
        ("[[65, 70]]", ((65.0, 70.0),)),
        ("[65s - 70s] and [80, 90]", ((65.0, 70.0), (80.0, 90.0))),
        ([["01:05", "01:10"]], ((65.0, 70.0),)),
        ("12-20", ()),
        ("[left, right]", ()),
        ("1:05", ()),
    ],
)
def test_answers_that_are_intervals(write_rows, collect, answer, spans):
    row = {"video": "v.mp4", "question": "When?", "answer": answer}
    (made,), bad = collect("plain", write_rows("rows.jsonl", [row]))
    assert not bad
    assert made.spans == spans
    assert made.task == ("grounding" if spans else "vqa")
    if not spans:
        assert made.answer == answer


@pytest.mark.parametrize(
    "answer", ["[12,5, 20,0]", "[nan, 5]", "[12]", "[01:60, 02:00]", "[1, 2, 3]"]
)
def test_answers_that_only_look_like_intervals(write_rows, collect, answer):
    row = {"video": "v.mp4", "question": "When?", "answer": answer}
    good, bad = collect("plain", write_rows("rows.jsonl", [row]))
    assert not good
    assert "numbers in brackets and no interval" in bad[0].reason
