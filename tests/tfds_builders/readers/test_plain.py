"""Our own form: CSV and JSON Lines say the same; every field is checked."""

import json

import pytest

from medscope_jax.dialogue.protocol import crop_call
from medscope_jax.errors import UserError
from tfds_builders.readers import _files
from tfds_builders.record import BadRow

CALL = (
    '<tool_call>{"name": "crop_video", "arguments": {"start_time": 1, "end_time": 2}}</tool_call>'
)
TURNS = [f"<think>Look.</think>{CALL}", "<think>A vein.</think><answer>A vein.</answer>"]
ANSWER = TURNS[1:]

ROWS = [
    {"video": "a/v.mp4", "question": "What is cut?", "answer": "A vein."},
    {
        "id": "2",
        "video": "a/v.mp4",
        "split": "test",
        "task": "perception",
        "question": "Is it, perhaps, cut?",
        "answer": "yes",
        "options": ["yes", "no"],
        "spans": [[12, 20.5], [40, 55]],
        "note": "checked",
    },
    {"video": "v.mp4", "task": "grounding", "question": "When?", "spans": [[1.5, 2]]},
    {"video": "v.mp4", "question": "Where?", "answer": "[3, 4.25]"},
    {"video": "v.mp4", "question": "Which?", "answer": "It.", "frame_time": 4.5, "part": "eval"},
    {"video": "v.mp4", "part": "cap", "answer": "A cut.", "window": [10, 60]},
    {"video": "v.mp4", "part": "vcot", "question": "Who?", "answer": "He.", "turns": TURNS},
    {"video": "v.mp4", "part": "passive", "question": "Who?", "answer": "He.", "turns": ANSWER},
    {"video": "v.mp4", "part": "qa", "question": "Who?", "answer": "He.", "turns": ANSWER},
]


def cell(key, value):
    if key in ("spans", "window"):
        pairs = value if isinstance(value[0], list) else [value]
        return "; ".join(f"{start}-{end}" for start, end in pairs)
    if key == "options":
        return " | ".join(value)
    return json.dumps(value) if key == "turns" else str(value)


def write(tmp_path, rows, form):
    path = tmp_path / f"rows.{form}"
    if form == "csv":
        header = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(header)]
        for row in rows:
            cells = [cell(key, row[key]) if key in row else "" for key in header]
            lines.append(",".join('"' + text.replace('"', '""') + '"' for text in cells))
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        text = json.dumps(rows, indent=1) if form == "json" else "\n".join(map(json.dumps, rows))
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_every_form_says_the_same(tmp_path, collect, form):
    good, bad = collect("plain", write(tmp_path, ROWS, form))
    assert not bad
    assert [(made.part, made.task) for made in good] == [
        ("rl", "vqa"),
        ("eval", "perception"),
        ("rl", "grounding"),
        ("rl", "grounding"),
        ("eval", "vqa"),
        ("cap", "caption"),
        ("vcot", "vqa"),
        ("passive", "vqa"),
        ("qa", "vqa"),
    ]
    assert [made.video for made in good] == ["a/v.mp4"] * 2 + ["v.mp4"] * 7
    assert [made.split for made in good] == ["", "test"] + [""] * 7
    assert (good[1].question, good[1].options) == ("Is it, perhaps, cut?", ("yes", "no"))
    assert good[1].spans == ((12.0, 20.5), (40.0, 55.0))
    assert (good[2].answer, good[2].spans) == ("[1.5, 2.0]", ((1.5, 2.0),))
    assert (good[3].answer, good[3].spans) == ("[3.0, 4.2]", ((3.0, 4.25),))
    assert (good[4].frame_time, good[4].spans) == (4.5, ())
    assert good[5].window == (10.0, 60.0)
    assert good[5].question == "Describe what the clip shows."
    assert good[5].turns == (
        "<think>The clip is from 10.0 to 60.0.</think><answer>A cut.</answer>",
    )
    assert good[6].turns == ("<think>Look.</think>" + crop_call(1, 2), TURNS[1])
    assert good[7].turns == good[8].turns == tuple(ANSWER)
    if form != "json":
        assert [made.place for made in good] == [
            f"rows.{form}:{number + (form == 'csv')}" for number in range(1, 10)
        ]


GOOD = {"video": "v.mp4", "question": "What is Doe?", "answer": "A vein."}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"video": None}, "video is missing"),
        ({"question": None}, "question is missing"),
        ({"answer": None}, "the answer is missing"),
        ({"Doe": 1}, "a field that nobody knows"),
        ({"frametime": 1}, "did you mean 'frame_time'?"),
        ({"part": "Doe"}, "part is none of cap, qa"),
        ({"part": 7}, "part is none of cap, qa"),
        ({"part": "evl"}, "did you mean 'eval'?"),
        ({"task": "Doe"}, "task is none of grounding"),
        ({"split": "Doe"}, "the split is none of"),
        ({"spans": [[5, 1]]}, "ends before it starts"),
        ({"spans": "Doe"}, "spans does not read start-end"),
        ({"spans": [1, 2, 3]}, "not two numbers"),
        ({"spans": [[1, 2]], "frame_time": 3}, "both there"),
        ({"frame_time": "Doe"}, "frame_time is no number"),
        ({"task": "grounding"}, "no interval"),
        ({"task": "grounding", "answer": None}, "no span of evidence"),
        ({"task": "grounding", "answer": "[1, 2]", "frame_time": 1}, "not a frame time"),
        ({"answer": "[1, 2]", "spans": [[4, 5]]}, "not the evidence"),
        ({"answer": []}, "an answer of intervals has none"),
        ({"options": "Doe"}, "no list of texts"),
        ({"options": ["yes", "no"]}, "none of the options"),
        ({"options": ["A vein.", " "]}, "an option is empty"),
        ({"options": ["A vein.", 5]}, "no list of texts"),
        ({"turns": ANSWER}, "turns go with the parts"),
        ({"part": "cot"}, "turns go with the parts"),
        ({"part": "cot", "turns": TURNS}, "call a tool in part vcot"),
        ({"part": "vcot", "turns": ANSWER}, "call a tool in part vcot"),
        ({"part": "qa", "turns": TURNS}, "call a tool in part vcot"),
        ({"part": "cot", "turns": ["Doe"]}, "turn 1 does not read"),
        ({"part": "cot", "turns": "Doe"}, "no list of texts"),
        ({"window": [1, 2]}, "window goes with"),
        ({"part": "qa", "window": [2, 1]}, "ends before it starts"),
        ({"part": "qa", "window": [[1, 2], [3, 4]]}, "window is not one span"),
    ],
)
def test_bad_rows(tmp_path, collect, change, reason):
    row = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    good, bad = collect("plain", write(tmp_path, [row, GOOD], "jsonl"))
    assert [made.place for made in good] == ["rows.jsonl:2"]
    assert [made.place for made in bad] == ["rows.jsonl:1"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('v.mp4,What is Doe?,"A vein.', "no CSV line"),
        ("v.mp4,What is Doe?", "the row has 2 columns, the header 5"),
        ("v.mp4,What is Doe?,A vein.,,,", "the row has 6 columns, the header 5"),
        ("v.mp4,What is Doe?,A vein.,1-2-3,", "spans does not read start-end; start-end"),
        ("v.mp4,What is Doe?,A vein.,-1-2,", "spans does not read start-end; start-end"),
        ("v.mp4,What is Doe?,A vein.,1e400-2,", "is not finite"),
        ("v.mp4,What is Doe?,A vein.,..-2,", "spans does not read start-end; start-end"),
        ('v.mp4,What is Doe?,A vein.,"1,5-2,5",', "spans does not read start-end; start-end"),
        ("v.mp4,What is Doe?,A vein.,,[", "no list of texts"),
        ("v.mp4,What is Doe?,A vein.,,7", "no list of texts"),
    ],
)
def test_bad_cells(tmp_path, collect, line, reason):
    path = tmp_path / "rows.csv"
    path.write_text(f"video,question,answer,spans,turns\n{line}\nv.mp4,What?,A vein.,,\n")
    good, bad = collect("plain", path)
    assert [made.place for made in good] == ["rows.csv:3"]
    assert [made.place for made in bad] == ["rows.csv:2"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("question,answer", "lacks the column video"),
        ("video,answer,answer", "names a column twice"),
        ("video,awnser", "did you mean 'answer'?"),
        ("video,Doe", "nobody knows"),
        ('video,"Doe', "no CSV line"),
        ("", "holds no rows"),
    ],
)
def test_bad_headers_make_every_row_bad(tmp_path, collect, header, reason):
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n" + "v.mp4,x\n" * 2 if header else "")
    good, bad = collect("plain", path)
    assert not good
    assert (
        [made.place for made in bad] == ["rows.csv:2", "rows.csv:3"] if header else ["rows.csv:1"]
    )
    assert all(reason in made.reason and "Doe" not in made.reason for made in bad)


def test_ids_come_once(tmp_path, collect):
    rows = [{**GOOD, "id": 7}, {**GOOD, "id": "8", "answer": "A duct."}, {**GOOD, "id": "7"}]
    good, bad = collect("plain", write(tmp_path, rows, "jsonl"))
    assert len(good) == 2
    assert bad == [BadRow("rows.jsonl:3", "the row's id is that of an earlier row")]


def test_other_endings(tmp_path, collect):
    path = tmp_path / "rows.txt"
    path.write_text("x")
    with pytest.raises(UserError, match="neither .csv nor .tsv nor .jsonl nor .json"):
        collect("plain", path)


def test_an_element_that_is_too_long(tmp_path, collect, monkeypatch):
    """Those before it are read; how long a list is does not matter."""
    monkeypatch.setattr(_files, "MAX_ROW", 200)
    path = write(tmp_path, [{**GOOD, "question": f"What is {i}?"} for i in range(40)], "json")
    good, bad = collect("plain", path)
    assert len(good) == 40 and not bad and path.stat().st_size > 10 * 200
    for length in (230, 100_000):
        long = {**GOOD, "note": "x" * length}
        good, bad = collect("plain", write(tmp_path, [GOOD, long, GOOD], "json"))
        assert good[0].place == "rows.json:2, element 1" and len(good) == 1
        assert all("longer than" in row.reason or "repeats" in row.reason for row in bad) and bad


def test_lists_end_anywhere_in_what_is_read_at_once(tmp_path, collect, monkeypatch):
    """The elements and their lines are json.loads's and a count's, wherever a piece ends."""
    text = "[\n" + ",\n\n ".join(
        json.dumps({**GOOD, "question": f"\u00e9{i}?"}, ensure_ascii=False) for i in range(9)
    )
    path = tmp_path / "rows.json"
    path.write_text(text + "\n]" + " \n" * 500, encoding="utf-8")
    values = json.loads(path.read_text(encoding="utf-8"))
    for longest in range(150, 190):
        monkeypatch.setattr(_files, "MAX_ROW", longest)
        found = list(_files.json_rows(path))
        assert [value for _, value in found] == values
        assert [place for place, _ in found] == [f"{2 * i + 2}, element {i + 1}" for i in range(9)]


def test_lists_that_stop_being_text(tmp_path, collect):
    path = write(tmp_path, [GOOD, GOOD | {"question": "Why?"}], "json")
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"\xff" + data[-20:])
    good, bad = collect("plain", path)
    assert len(good) == 1 and "not UTF-8" in bad[0].reason
