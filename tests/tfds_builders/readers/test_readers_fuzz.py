"""Whatever a file holds: every row is one Annotation or one BadRow, and nothing else happens."""

import json
import math
import re
import string

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medscope_jax.dialogue.sanitize import check_turns, clean_question
from medscope_jax.parts import PARTS
from medscope_jax.rl import parse_intervals
from tfds_builders.readers import read_source, source_names
from tfds_builders.record import Annotation, BadRow, make_record

SECRET = "Doe8Jane"  # is in every text of the structured files, and never in a reason

few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

TURN = "<think>Look.</think>"
CALL = '<tool_call>{"name": "get_frame", "arguments": {"timestamp": 3}}</tool_call>'
MESSAGES = [
    {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "v.mp4"}}]},
    {"role": "assistant", "content": TURN + CALL},
    {"role": "assistant", "content": TURN + "<answer>A vein.</answer>"},
]
# A whole row for each reader of JSON rows, and the file that it stands in.
VALID = {
    "surgvidlm": {
        "video_path": "v.mp4",
        "question": "What?",
        "answer": "A vein.",
        "qa_start_time": 1,
        "qa_end_time": 2,
        "clip_start_time": 0,
        "clip_end_time": 9,
    },
    "svu31k": {
        "videos": ["v.mp4"],
        "tag": "Visual Temporal Reasoning",
        "timecodes": [1, 2],
        "messages": [
            {"role": "user", "content": "<video>What?"},
            {"role": "assistant", "content": "A vein."},
        ],
    },
    "medvideocap": {
        "video": "v.mp4",
        "question": "What?",
        "answer": "A vein.",
        "anchor_frame_time": 1,
    },
    "ophvl": {
        "video_path": "v.mp4",
        "caption": "A cut.",
        "clip_start_time": 0,
        "clip_end_time": 9,
    },
    "verl": {
        "videos": [{"video": "file://v.mp4"}],
        "prompt": [{"role": "user", "content": "What?"}],
        "reward_model": {"ground_truth": "A vein."},
        "extra_info": {"video_segment": [[1, 2]], "split": "train"},
    },
    "longvt": {"messages": MESSAGES, "metadata": {"question": "What?", "frame_time": 3}},
    "medvidqa": {
        "video_id": "v",
        "question": "How?",
        "answer_start_second": 1,
        "answer_end_second": 3,
        "video_length": 9,
    },
    "plain": {
        "video": "v.mp4",
        "question": "What?",
        "answer": "A vein.",
        "part": "vcot",
        "turns": [TURN + CALL, TURN + "<answer>A vein.</answer>"],
        "spans": [[1, 2], [4, 5]],
    },
}
NAMES = {
    "charades": "sta.txt",
    "cholec80": "video01-tool.txt",
    "cholect50": "VID01.json",
    "nextgqa": "val.csv",
    "verl": "rows.parquet",
}
SAMPLES = {
    "charades": b"AO8RW 0.0 6.9##a person sits.\nAO8RW 1 2##he stands\n",
    "cholec80": b"Frame\tGrasper\tHook\n0\t1\t0\n25\t1\t1\n",
    "cholect50": json.dumps(
        {
            "categories": {kind: {"0": "x"} for kind in ("instrument", "verb", "target", "phase")},
            "annotations": {"0": [[0] * 15], "1": []},
        }
    ).encode(),
    "nextgqa": b"video_id,question,answer,qid,a0,a1,a2,a3,a4\n10,why,b,1,a,b,c,d,e\n",
}


def read_bytes(folder, reader, name, data):
    (folder / "gsub_val.json").write_text('{"10": {"location": {"1": [[1, 2]]}}}')
    path = folder / name
    path.write_bytes(data)
    return list(read_source(reader, path))


def check(found):
    """What builders rely on."""
    for made in found:
        assert isinstance(made, (Annotation, BadRow))
        if isinstance(made, BadRow):
            assert made.reason
            assert SECRET not in made.reason + made.place
            continue
        assert made.part in PARTS
        assert made.split in ("", "train", "validation", "test")
        assert made.question == clean_question(made.question)
        assert made.answer
        check_turns(made.turns)
        parts = made.video.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not (made.spans and made.frame_time is not None)
        for start, end in made.spans:
            assert 0 <= start < end <= 1e7 + 1000
        if made.task == "grounding":
            stated = parse_intervals(made.answer)
            assert len(stated) == len(made.spans)
            assert np.allclose(stated, made.spans, rtol=0, atol=0.0501)
        record = make_record(made, "n", "s", "train", "v", np.arange(3.0), 2e7)
        assert record["evidence_mask"].any() == bool(made.spans or made.frame_time is not None)


def rows_in(data):
    """The rows of a file of lines, counted otherwise than the readers do."""
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    return sum(1 for line in re.split(b"[\r\n]", data) if line.strip(b" \t\x0b\x0c"))


def is_utf_16(data):
    return data.startswith((b"\xff\xfe", b"\xfe\xff"))


@pytest.mark.parametrize("reader", source_names())
@few
@given(data=st.binary(max_size=200))
def test_any_bytes(tmp_path_factory, reader, data):
    folder = tmp_path_factory.getbasetemp()
    names = [NAMES[reader]] if reader in NAMES else ["rows.jsonl", "rows.json"]
    for name in names + ["rows.csv"] * (reader == "plain"):
        found = read_bytes(folder, reader, name, data)
        check(found)
        assert found  # even an empty file says something


@pytest.mark.parametrize("reader", sorted(VALID))
@few
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 20), st.binary(max_size=6)), max_size=6
    ),
    ends=st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n \n"]),
    mark=st.booleans(),
)
def test_no_line_is_lost_when_lines_are_damaged(tmp_path_factory, reader, cuts, ends, mark):
    row = json.dumps(VALID[reader]).encode()
    data = bytearray(b"\xef\xbb\xbf" * mark + ends.join([row] * 4))
    for at, length, new in cuts:
        at %= len(data) + 1
        data[at : at + length] = new
    found = read_bytes(tmp_path_factory.getbasetemp(), reader, "rows.jsonl", bytes(data))
    check(found)
    assert is_utf_16(data) or len(found) == max(1, rows_in(bytes(data)))


@pytest.mark.parametrize("reader", sorted(SAMPLES))
@few
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 5), st.binary(max_size=6)), max_size=4
    )
)
def test_damaged_files_of_other_layouts(tmp_path_factory, reader, cuts):
    data = bytearray(SAMPLES[reader])
    for at, length, new in cuts:
        at %= len(data) + 1
        data[at : at + length] = new
    found = read_bytes(tmp_path_factory.getbasetemp(), reader, NAMES[reader], bytes(data))
    check(found)
    if is_utf_16(data):
        return
    if reader == "charades":
        assert len(found) == max(1, rows_in(bytes(data)))
    if reader == "nextgqa":  # the header is no row
        assert found and len(found) <= max(1, rows_in(bytes(data)) - 1)


# Values that may stand anywhere, some of them right.
texts = st.sampled_from(
    ["", "v.mp4", "[1, 2]", "[2, 1]", "[1, 2], [3, 9]", "train", "eval", "cap", "cot", "1.5", "nan"]
) | st.text(string.printable + "\u202e\ud800\u00e9", max_size=5).map(SECRET.__add__)
numbers = st.sampled_from(
    [0, 1, 2.5, 9, -1, 1e300, 10**400, math.nan, math.inf, -0.0, True]
) | st.floats(0, 100)
values = st.recursive(
    st.none() | texts | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "video", "video_url", "url"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
KEYS = sorted({key for row in VALID.values() for key in row}) + ["frame_time", "options", "window"]


@pytest.mark.parametrize("reader", sorted(VALID))
@few
@given(
    changes=st.lists(
        st.dictionaries(st.sampled_from(KEYS) | st.just(SECRET), values, max_size=3), max_size=4
    )
)
def test_any_values_in_rows(tmp_path_factory, reader, changes):
    rows = [{**VALID[reader], **change} for change in changes]
    data = "\n".join(map(json.dumps, rows)).encode()
    found = read_bytes(tmp_path_factory.getbasetemp(), reader, "rows.jsonl", data)
    check(found)
    assert len(found) == max(1, len(rows))
    if rows:
        places = [made.place for made in found]
        assert places == [f"rows.jsonl:{number}" for number in range(1, len(rows) + 1)]
    in_list = read_bytes(
        tmp_path_factory.getbasetemp(), reader, "rows.json", json.dumps(rows).encode()
    )
    assert [type(made) for made in in_list] == [type(made) for made in found]


@few
@given(
    changes=st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("annotations", "fps"), values)),
        max_size=2,
    ),
    instances=st.dictionaries(
        st.sampled_from(["0", "1", "2", "x", "01"]),
        st.lists(st.lists(st.sampled_from([0, -1, 1, 0.5, "0", None]), min_size=14, max_size=15)),
        max_size=4,
    ),
)
def test_any_values_in_cholect50(tmp_path_factory, changes, instances):
    document = {**json.loads(SAMPLES["cholect50"]), "annotations": instances}
    for change in changes:
        document |= change
    data = json.dumps(document).encode()
    check(read_bytes(tmp_path_factory.getbasetemp(), "cholect50", "VID01.json", data))


@few
@given(at=st.floats(0, 1))
def test_parquet_cut_short(tmp_path_factory, at):
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist([VALID["verl"]] * 3), whole)
    data = whole.read_bytes()
    part = data[: round(at * len(data))]
    found = read_bytes(folder, "verl", "rows.parquet", part)
    check(found)
    # A whole file says one thing three times; of a part of it nothing can be read.
    assert len(found) == (3 if part == data else 1)
