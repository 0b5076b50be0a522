"""A stage's rows, kept or read when a batch asks: the same ones, and what is left out is told."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from medscope_jax.dialogue import load_tokenizer, save_tokenizer, train_tokenizer
from medscope_jax.training import stage_rows as room
from medscope_jax.training.run import VideoSplit
from medscope_jax.training.stage_rows import stage_rows
from medscope_jax.training.workdir import Workdir
from medscope_jax.video import Video
from tests.data.row_lengths_cases import CALL, END, LAYOUT, OUTLINES, MemorySuite

COUNT = 40


@pytest.fixture
def run(tmp_path):
    """What stage_rows asks of a run, in a folder of its own."""
    (tmp_path / "run").mkdir()
    tokenizer = train_tokenizer(["Where is it left?", CALL % 4.0, END] * 5, 1024, 16)
    save_tokenizer(tokenizer, Workdir(tmp_path / "run").tokenizer)
    model = SimpleNamespace(checkpoint="", text=SimpleNamespace(vocab_size=1024))
    config = SimpleNamespace(model=model, video=SimpleNamespace(native_pairs=False))
    layouts = {"layout": LAYOUT, "clip_layout": LAYOUT, "tokenizer": tokenizer}
    suite = MemorySuite(tmp_path / "suite", COUNT)
    return SimpleNamespace(config=config, folder=tmp_path / "run", suite=suite, **layouts)


@pytest.fixture
def split():
    videos = [
        Video(np.zeros((len(o.times), 2, 2, 3), np.uint8), o.times, o.duration)
        for o in OUTLINES.values()
    ]
    return VideoSplit(videos, {name: row for row, name in enumerate(OUTLINES)})


def taken(found):
    """Everything of every row."""
    rows = [found.row(number) for number in range(len(found.lengths.positions))]
    told = [(record["id"], *(array.tolist() for array in row)) for record, row in rows]
    return told, np.stack(found.lengths).tolist()


@pytest.mark.parametrize("name", ["warm_up", "cold_start", "passive"])
def test_rows_are_the_same_kept_or_read(run, split, monkeypatch, capsys, name):
    kept = taken(stage_rows(run, name, split))
    listed = (run.folder / f"left_out_{name}.json").read_text()
    said = capsys.readouterr().out
    assert not run.suite.lengths_folder.exists()
    for limit in ("_KEPT_RECORDS", "_KEPT_POSITIONS"):
        with monkeypatch.context() as patch:
            patch.setattr(room, limit, 10)
            assert taken(stage_rows(run, name, split)) == kept
        assert (run.folder / f"left_out_{name}.json").read_text() == listed
        assert capsys.readouterr().out == said
    assert len(list(run.suite.lengths_folder.iterdir())) == len(room.PARTS[name])


def test_what_is_left_out_is_listed(run, split, capsys):
    """Both parts of the stage, in the order in which they are mixed, with reasons."""
    found = stage_rows(run, "cold_start", split)
    listed = json.loads((run.folder / "left_out_cold_start.json").read_text())
    count = len(found.lengths.positions)
    wrong = {number for number in range(COUNT) if number % 7 == 3 or number % 11 == 5}
    expected = {f"{part}-{number}" for part in ("vcot", "cot") for number in wrong}
    assert expected <= {item["id"] for item in listed}  # and those with two long windows
    assert count + len(listed) == 2 * COUNT
    assert f"cold_start leaves out {len(listed)} of {2 * COUNT} records" in capsys.readouterr().out
    reasons = " ".join(item["reason"] for item in listed)
    assert "does not fit 150" in reasons and "is empty" in reasons


def test_a_row_is_laid_out_when_it_is_asked_for(run, split, monkeypatch):
    """A stage that is not kept reads its own records alone."""
    monkeypatch.setattr(room, "_KEPT_RECORDS", 10)
    found = stage_rows(run, "cold_start", split)
    asked = []
    lay_out = room.lay_out
    monkeypatch.setattr(
        room, "lay_out", lambda record, *rest: asked.append(record["id"]) or lay_out(record, *rest)
    )
    record, _ = found.row(7)
    assert asked == [record["id"]]


def test_workers_can_read_the_tokenizer(run):
    load = room.tokenizer_loader(run)
    assert isinstance(load, functools.partial) and load.func is load_tokenizer
    assert load().serialized == run.tokenizer.serialized


@pytest.mark.parametrize("name", ["warm_up", "cold_start"])
def test_lengths_alone_are_those_of_the_rows(run, split, name):
    """They say how many packed rows an epoch has, before any row is laid out."""
    np.testing.assert_array_equal(
        np.stack(room.stage_lengths(run, name)), np.stack(stage_rows(run, name, split).lengths)
    )
