"""Lengths of rows: those of the rows, whoever measures them, and never another suite's."""

import dataclasses
import functools

import numpy as np
import pytest

from medscope_jax.data import row_lengths as room
from medscope_jax.data.examples import clip_row, dialogue_row
from medscope_jax.data.row_lengths import RowMaker, measure, row_lengths
from medscope_jax.dialogue import Role, load_tokenizer, save_tokenizer, train_tokenizer
from medscope_jax.errors import UserError
from medscope_jax.video import Video
from tests.data.row_lengths_cases import CALL, END, LAYOUT, OUTLINES, MemorySuite


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """What reads the tokenizer in any process."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    save_tokenizer(train_tokenizer(["Where is it left?", CALL % 4.0, END] * 5, 1024, 16), path)
    return functools.partial(load_tokenizer, path)


def maker(tmp_path, load, count=30, part="vcot", kind="dialogue", **changes):
    suite = MemorySuite(tmp_path / "suite", count)
    return dataclasses.replace(
        RowMaker(suite, part, kind, LAYOUT, pairs=False, load_tokenizer=load), **changes
    )


def expected(asked):
    """int [3, N] by counting in the rows themselves, entry by entry."""
    tokenizer, found = asked.load_tokenizer(), []
    for record in asked.suite.records(asked.part, "train"):
        outline = OUTLINES[record["video"]]
        frames = np.zeros((len(outline.times), 2, 2, 3), np.uint8)
        video = Video(frames, outline.times, outline.duration)
        try:
            if asked.kind == "clip":
                row = clip_row(record, video, tokenizer, asked.layout)
            else:
                tools = asked.kind == "dialogue"
                row = dialogue_row(record, video, tokenizer, asked.layout, tools)
        except UserError:
            found.append((0, 0, 0))
            continue
        generated = sum(role == Role.GENERATED for role in row.role)
        found.append((len(row.tokens), generated, sum(i >= 0 for i in row.visual_index) // 2))
    return np.transpose(found)


@pytest.mark.parametrize(
    ("part", "kind"), [("vcot", "dialogue"), ("cot", "passive"), ("cap", "clip")]
)
def test_lengths_are_those_of_the_rows(tmp_path, load, part, kind):
    asked = maker(tmp_path, load, part=part, kind=kind)
    found = measure(asked, 30)
    np.testing.assert_array_equal(np.stack(found), expected(asked))
    assert 0 < np.count_nonzero(found.positions == 0) < 20  # too long, or without a question
    assert len(np.unique(found.positions)) > 4


def test_workers_measure_the_same(tmp_path, load, monkeypatch):
    """Three jobs over two fresh processes; the last job is shorter."""
    asked = maker(tmp_path, load)
    monkeypatch.setattr(room, "_JOB", 12)
    monkeypatch.setattr(room, "available_processes", lambda: 2)
    np.testing.assert_array_equal(np.stack(measure(asked, 30)), expected(asked))


def test_lengths_are_measured_once(tmp_path, load, monkeypatch):
    asked = maker(tmp_path, load)
    first = row_lengths(asked, tmp_path / "run")
    (path,) = asked.suite.lengths_folder.iterdir()
    monkeypatch.setattr(room, "measure", None)  # not called again
    np.testing.assert_array_equal(np.stack(row_lengths(asked, tmp_path / "run")), np.stack(first))
    assert path.stat().st_size == 32 + 3 * 4 * 30


def test_lengths_of_something_else_are_not_taken(tmp_path, load):
    """Another suite, part's kind, layout or pairing each has a file of its own."""
    asked = maker(tmp_path, load)
    others = [
        dataclasses.replace(asked, suite=dataclasses.replace(asked.suite, version="2")),
        dataclasses.replace(asked, kind="passive"),
        dataclasses.replace(asked, part="cot"),
        dataclasses.replace(asked, pairs=True),
        dataclasses.replace(asked, layout=dataclasses.replace(LAYOUT, length=90)),
        dataclasses.replace(asked, layout=dataclasses.replace(LAYOUT, frame_format="{frame}")),
    ]
    names = {room._key(each) for each in (asked, *others)}
    assert len(names) == 1 + len(others) and room._key(asked) == room._key(maker(tmp_path, load))


def test_another_tokenizer_is_another_table(tmp_path, load):
    path = tmp_path / "other.model"
    save_tokenizer(train_tokenizer(["Where is it right?", CALL % 5.0, END] * 5, 900, 16), path)
    asked = maker(tmp_path, load)
    other = dataclasses.replace(asked, load_tokenizer=functools.partial(load_tokenizer, path))
    assert room._key(asked) != room._key(other)


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty"])
def test_a_damaged_table_is_made_again(tmp_path, load, capsys, damage):
    asked = maker(tmp_path, load)
    first = np.stack(row_lengths(asked, tmp_path / "run"))
    (path,) = asked.suite.lengths_folder.iterdir()
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    ways = {"flip": data, "cut": data[:-4], "longer": data + bytes(4), "empty": b""}
    path.write_bytes(ways[damage])
    np.testing.assert_array_equal(np.stack(row_lengths(asked, tmp_path / "run")), first)
    assert "damaged: the rows are measured again" in capsys.readouterr().out
    row_lengths(asked, tmp_path / "run")
    assert capsys.readouterr().out == ""  # it was put right


def test_a_suite_that_is_only_to_be_read(tmp_path, load, monkeypatch):
    asked = maker(tmp_path, load)
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "lengths").write_text("a file in the folder's place")
    first = np.stack(row_lengths(asked, tmp_path / "run" / "lengths"))
    assert len(list((tmp_path / "run" / "lengths").iterdir())) == 1
    monkeypatch.setattr(room, "measure", None)
    np.testing.assert_array_equal(np.stack(row_lengths(asked, tmp_path / "run" / "lengths")), first)
