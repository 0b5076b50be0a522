"""Options of a question: in every form and from every reader, under the letters that they have."""

import pytest

from tests.tfds_builders.readers.test_readers_fuzz import MESSAGES

OPTIONS = [
    ["yes", "no"],
    '["yes", "no"]',
    "yes | no",
    {"A": "yes", "B": "no"},
    {"b": "no", "a": "yes", "c": None},
    {"0": "yes", "1": "no"},
    '{"A": "yes", "B": "no"}',
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_in_every_form(write_rows, collect, options):
    rows = [
        {"video": "v.mp4", "question": f"{answer}?", "answer": answer, "options": options}
        for answer in ("yes", "B", "b", "B.", "(B) no", "B. yes", "C", "maybe")
    ]
    if isinstance(options, dict) and "0" in options or isinstance(options, str) and "0" in options:
        rows = [row | {"answer": row["answer"].upper().replace("B", "1")} for row in rows[1:3]]
    good, bad = collect("plain", write_rows("rows.jsonl", rows))
    assert {made.options for made in good} == {("yes", "no")}
    assert [made.answer for made in good] == (["yes"] + ["no"] * 4)[-len(good) :]
    assert len(good) in (2, 5)
    assert all("none of the options" in made.reason for made in bad)
    assert len(good) + len(bad) == len(rows)


def test_options_with_letters_of_their_own_stay_as_they_are(write_rows, collect):
    options = ["(A) yes", "(B) no"]
    rows = [
        {"video": "v.mp4", "question": f"{answer}?", "answer": answer, "options": options}
        for answer in ("(B) no", "B", "no", "b)", "B. no", "B. yes", "maybe")
    ]
    good, bad = collect("plain", write_rows("rows.jsonl", rows))
    assert [(made.answer, made.options) for made in good] == [("(B) no", tuple(options))] * 5
    assert len(bad) == 2


@pytest.mark.parametrize(
    "options",
    [7, True, "yes", [["yes"]], {"A": 1}, {"first": "a"}, {"A": "yes", "a": "no"}],
)
def test_options_that_are_none(write_rows, collect, options):
    row = {"video": "v.mp4", "question": "Is it?", "answer": "yes", "options": options}
    good, bad = collect("plain", write_rows("rows.jsonl", [row]))
    assert not good
    assert "option" in bad[0].reason


def plain(options, answer):
    return {"video": "v.mp4", "question": "Which?", "answer": answer, "options": options}


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (["+", "-"], "-", "-"),
        (["<", "=", "\u2265"], "C", "\u2265"),
        ("+ | -", "A", "+"),
        ([["A", "yes"], ["B", "no"]], "B", "no"),  # a map of Parquet's
        ([{"key": "A", "value": "yes"}, {"key": "B", "value": "no"}], "b", "no"),
        ({"A": "yes", "B": "no", "C": None}, "no", "no"),
        (["A", "B", "AB"], "B", "B"),
        (["00:01-00:02", "00:03-00:04"], "B", "00:03-00:04"),
        (["[1.0, 2.0]", "[3.0, 4.0]"], "[1.0, 2.0]", "[1.0, 2.0]"),
    ],
)
def test_the_answer_is_an_option_as_it_stands(write_rows, collect, options, answer, right):
    (made,), bad = collect("plain", write_rows("rows.jsonl", [plain(options, answer)]))
    assert not bad
    assert (made.answer, made.task) == (right, "vqa") and right in made.options


@pytest.mark.parametrize(
    ("options", "answer", "reason"),
    [
        ({"B": "yes", "D": "no"}, "D", "keys are not A, B, C"),
        ({"A": "a", "B": None, "C": "c"}, "C", "keys are not A, B, C"),
        ({"1": "a", "3": "c"}, "3", "keys are not A, B, C"),
        ({"A": "B", "B": "A"}, "A", "keys are not A, B, C"),
        (["O", "A"], "A", "two of the options"),
        (["yes", "no", "yes"], "yes", "two of the options"),
        (["yes", "no", "yes"], "A", "two of the options"),
        (["yes", "no"], 1, "the answer is no text"),  # a class label's number, from 0 or from 1?
        (["1", "2"], 1, "the answer is no text"),
        (["yes", "no"], ["A", "B"], "the answer is no text"),
        (["yes", "no"], None, "the answer is missing"),
    ],
)
def test_no_option_is_guessed(write_rows, collect, options, answer, reason):
    row = plain(options, answer) | {"spans": [[1, 2]]}
    good, bad = collect("plain", write_rows("rows.jsonl", [row]))
    assert not good
    assert reason in bad[0].reason


ASKED = {"video_path": "v.mp4", "question": "Which?", "answer": "B"}
CLIP = {"clip_start_time": 1, "clip_end_time": 9}
LONGVT = {"messages": MESSAGES, "metadata": {"question": "Which?", "answer_gt": "B"}}
VERL = {"prompt": "Which?", "videos": ["v.mp4"], "reward_model": {"ground_truth": "B"}}


@pytest.mark.parametrize(
    ("reader", "row", "inside"),
    [
        ("surgvidlm", ASKED | CLIP, None),
        ("ophvl", ASKED | CLIP, None),
        ("medvideocap", ASKED | {"anchor_frame_time": 2}, None),
        ("verl", VERL, None),
        ("verl", VERL, "extra_info"),
        ("longvt", LONGVT, None),
        ("longvt", LONGVT, "metadata"),
    ],
)
def test_every_reader_of_questions_keeps_options(write_rows, collect, reader, row, inside):
    given = {"options": ["yes", "no"]}
    row = row | ({inside: row.get(inside, {}) | given} if inside else given)
    (made,), bad = collect(reader, write_rows("rows.jsonl", [row]))
    assert not bad
    assert (made.answer, made.options) == ("no", ("yes", "no"))


@pytest.mark.parametrize(
    ("reader", "row"),
    [
        ("surgvidlm", ASKED | CLIP),
        ("ophvl", ASKED | CLIP),
        ("verl", VERL),
        ("longvt", LONGVT),
    ],
)
@pytest.mark.parametrize(
    ("field", "spans", "moment"),
    [
        ({"video_segment": [2, 3]}, ((2.0, 3.0),), None),
        ({"spans": "2-3; 4-5"}, ((2.0, 3.0), (4.0, 5.0)), None),
        ({"qa_start_time": "00:02", "qa_end_time": 3}, ((2.0, 3.0),), None),
        ({"frame_time": 2.5}, (), 2.5),
    ],
)
def test_evidence_beside_the_other_fields_is_read(
    write_rows, collect, reader, row, field, spans, moment
):
    (made,), bad = collect(reader, write_rows("rows.jsonl", [row | field]))
    assert not bad
    assert (made.spans, made.frame_time) == (spans, moment)


def test_two_pieces_of_evidence_are_a_bad_row(write_rows, collect):
    row = VERL | {"video_segment": [1, 2], "extra_info": {"video_segment": [1, 2]}}
    other = VERL | {"video_segment": [1, 2], "extra_info": {"video_segment": [5, 6]}}
    good, bad = collect("verl", write_rows("rows.jsonl", [row, other]))
    assert good[0].spans == ((1.0, 2.0),)
    assert "two pieces of evidence" in bad[0].reason
