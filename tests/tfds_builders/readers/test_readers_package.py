"""read_source finds readers and checks options; files are read row by row, whatever they hold."""

import dataclasses
import json
import os

import numpy as np
import pytest

from medscope_jax.errors import UserError
from tfds_builders.readers import _files, read_source, source_names
from tfds_builders.record import Annotation, BadRow, make_record

ROW = {
    "video_path": "v.mp4",
    "question": "What is cut?",
    "answer": "The cystic duct.",
    "qa_start_time": 3,
    "qa_end_time": 5,
}


def row(**changes):
    return {**ROW, **changes}


def test_all_readers_are_there():
    assert source_names() == (
        "charades",
        "cholec80",
        "cholect50",
        "longvt",
        "medvideocap",
        "medvidqa",
        "nextgqa",
        "ophvl",
        "plain",
        "surgvidlm",
        "svu31k",
        "verl",
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("surgvidlmm", {}, "did you mean 'surgvidlm'?"),
        ("_files", {}, "unknown reader"),
        ("surgvidlm", {"prat": "rl"}, "did you mean 'part'?"),
        ("surgvidlm", {"part": 3}, "must be a str"),
        ("surgvidlm", {"part": "vcot"}, "must be one of rl, eval, qa"),
        ("surgvidlm", {"path": "x"}, "no option 'path'"),
        ("cholec80", {"fps": True}, "must be a float"),
        ("cholec80", {"fps": 0}, "must be from 0.001 to 250.0"),
        ("cholec80", {"tool_every": 0}, "must be from 0.001 to 250.0"),
        ("cholec80", {"max_gap": -1}, "must not be negative"),
        ("cholec80", {"stretches": 2.5}, "must be a int"),
    ],
)
def test_mistakes_are_one_line(tmp_path, name, options, words):
    (tmp_path / "video01-phase.txt").write_text("Frame\tPhase\n0\tPreparation\n")
    with pytest.raises(UserError, match=words.replace("?", r"\?")) as caught:
        read_source(name, tmp_path / "video01-phase.txt", options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", source_names())
def test_missing_and_wrong_paths(tmp_path, name):
    with pytest.raises(UserError, match="there is no"):
        read_source(name, tmp_path / "nothing.jsonl")
    empty = tmp_path / "folder"
    empty.mkdir()
    with pytest.raises(UserError):
        read_source(name, empty)


def test_places_and_order(write_rows):
    path = write_rows("rows.jsonl", [row(), "", "{broken", "  ", row(question="What is clipped?")])
    found = list(read_source("surgvidlm", path))
    assert [made.place for made in found] == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:5"]
    assert [type(made) for made in found] == [Annotation, BadRow, Annotation]


def test_a_list_on_one_line(tmp_path, collect):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row(), row(answer="A vein."), row()]))
    good, bad = collect("surgvidlm", path)
    assert [made.place for made in good] == ["rows.json:1, element 1", "rows.json:1, element 2"]
    assert bad == [BadRow("rows.json:1, element 3", "the row repeats row 1, element 1")]


def test_byte_order_mark_and_line_ends(tmp_path, collect):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row()), json.dumps(row(answer="A vein."))]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    good, bad = collect("surgvidlm", path)
    assert [made.answer for made in good] == ["The cystic duct.", "A vein."]
    assert not bad


def test_other_encodings_cost_their_rows_only(tmp_path, collect):
    path = tmp_path / "rows.jsonl"
    latin = json.dumps(row(answer="Fa\u00e7ade"), ensure_ascii=False).encode("latin-1")
    path.write_bytes(latin + b"\n" + json.dumps(row()).encode())
    good, bad = collect("surgvidlm", path)
    assert bad == [BadRow("rows.jsonl:1", "the row is not UTF-8 text")]
    assert [made.place for made in good] == ["rows.jsonl:2"]


@pytest.mark.parametrize("data", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_a_file_without_rows_is_one_bad_row(tmp_path, collect, data):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    assert collect("surgvidlm", path) == ([], [BadRow("rows.jsonl:1", "the file holds no rows")])


def test_a_huge_row_is_passed_over_in_pieces(tmp_path, collect, monkeypatch):
    monkeypatch.setattr(_files, "MAX_ROW", 200)
    huge = json.dumps(row(question="What " + "x" * 1000))
    path = tmp_path / "rows.jsonl"
    exact = json.dumps(row())
    exact += " " * (200 - len(exact))
    path.write_text(f"{huge}\n{exact}\n{huge}")
    good, bad = collect("surgvidlm", path)
    assert [made.place for made in good] == ["rows.jsonl:2"]
    assert [made.place for made in bad] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert all("longer than" in made.reason for made in bad)


def test_deep_nesting_is_a_bad_row(write_rows, collect):
    good, bad = collect("surgvidlm", write_rows("r.jsonl", ["[" * 100_000, row()]))
    assert (len(good), [made.reason for made in bad]) == (1, ["the row is no valid JSON"])


def test_repeated_rows(write_rows, collect):
    rows = [row(), row(clip_id="other"), row(answer="A vein.")]
    good, bad = collect("surgvidlm", write_rows("rows.jsonl", rows))
    assert [made.place for made in good] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert bad == [BadRow("rows.jsonl:2", "the row repeats row 1")]


LIST = """[
  {"video_path": "v.mp4", "question": "What is cut?", "answer": "The duct.",
   "qa_start_time": 3, "qa_end_time": 5},

  {"video_path": "v.mp4"},
  {"video_path": "v.mp4", "question": "What is clipped?", "answer": "The duct.",
   "qa_start_time": 3, "qa_end_time": 5}
"""


@pytest.mark.parametrize(
    ("end", "broken"),
    [
        ("]", []),
        ("]\n", []),
        ("", ["8"]),  # the list is not closed
        (", oops]", ["8"]),
        ("] more", ["8"]),
        (",]", ["8"]),
    ],
)
def test_json_lists_by_line_up_to_where_they_break(tmp_path, collect, end, broken):
    path = tmp_path / "rows.json"
    path.write_text(LIST + end)
    good, bad = collect("surgvidlm", path)
    assert [made.place for made in good] == ["rows.json:2, element 1", "rows.json:6, element 3"]
    assert [made.place for made in bad] == [
        f"rows.json:{place}" for place in ["5, element 2", *broken]
    ]


@pytest.mark.parametrize("text", ["[]", " [ ]\n"])
def test_an_empty_list_has_no_rows(tmp_path, collect, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert collect("surgvidlm", path)[1] == [BadRow("rows.json:1", "the file holds no rows")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_an_unreadable_file(write_rows, collect):
    path = write_rows("rows.jsonl", [row()])
    path.chmod(0)
    with pytest.raises(UserError, match="can't read"):
        collect("surgvidlm", path)


@pytest.mark.parametrize(
    ("given", "root", "name"),
    [
        ("a/b.mp4", "", "a/b.mp4"),
        ("./a//b.mp4", "", "a/b.mp4"),
        ("/data/x/a/b.mp4", "", "b.mp4"),
        ("/data/x/a/b.mp4", "/data/x", "a/b.mp4"),
        ("/data/x/a/b.mp4", "/data/x/", "a/b.mp4"),
        ("/data/xa/b.mp4", "/data/x", "b.mp4"),
        ("file:///data/x/a/b.mp4", "/data/x", "a/b.mp4"),
        ("C:\\data\\b.mp4", "", "b.mp4"),
        ("a\\b.mp4", "", "a/b.mp4"),
        ("Ä ö.mp4", "", "Ä ö.mp4"),
        (7, "", "7"),
        (7.0, "", "7"),
    ],
)
def test_video_names(write_rows, collect, given, root, name):
    path = write_rows("rows.jsonl", [row(video_path=given)])
    good, _ = collect("surgvidlm", path, video_root=root)
    assert [made.video for made in good] == [name]


@pytest.mark.parametrize(
    "given",
    [
        "../b.mp4",
        "a/../../b.mp4",
        "/data/..",
        "/",
        ".",
        " ",
        "https://host/b.mp4",
        "a\u0000b",
        "a\nb.mp4",
        "\ud800.mp4",
        "x" * 300,
        "x/" * 3000,
        7.5,
        True,
        ["a.mp4"],
    ],
)
def test_videos_that_are_refused(write_rows, collect, given):
    path = write_rows("rows.jsonl", [row(video_path=given)])
    good, bad = collect("surgvidlm", path, video_root="/data")
    assert not good
    assert "video" in bad[0].reason


def test_two_videos_never_become_one(write_rows, collect):
    rows = [row(video_path="/a/v.mp4"), row(video_path="/b/v.mp4", answer="A vein.")]
    good, bad = collect("surgvidlm", write_rows("rows.jsonl", rows))
    assert (len(good), len(bad)) == (1, 1)
    assert "video_root" in bad[0].reason
    good, bad = collect("surgvidlm", write_rows("rows.jsonl", rows), video_root="/")
    assert [made.video for made in good] == ["a/v.mp4", "b/v.mp4"]


def test_a_record_that_shows_a_clip_shows_the_whole_video_where_no_window_is_given():
    made = Annotation("rows.jsonl:1", "v.mp4", "cap", "caption", "What is seen?", "A duct.")
    times = np.arange(10.0)
    record = make_record(made, "n", "s", "train", "v", times, 9.5)
    assert record["window"].tolist() == [0.0, 9.5]
    other = make_record(dataclasses.replace(made, part="rl"), "n", "s", "train", "v", times, 9.5)
    assert other["window"].tolist() == [-1.0, -1.0]
