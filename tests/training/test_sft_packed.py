"""Packed supervised stages: an epoch shows every conversation once, and a run trains so."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax import train
from medscope_jax.data.row_lengths import RowLengths, needs
from medscope_jax.dialogue import CompactRow, Layout, Role, pad_row
from medscope_jax.distributed import make_mesh
from medscope_jax.training import sft
from medscope_jax.training.workdir import read_workdir

COUNT, LENGTH, SIZE = 60, 64, 2


def conversations() -> list[CompactRow]:
    """Each of its own number as tokens, of 1 to 6 frames and up to 20 generated tokens."""
    random, rows = np.random.default_rng(0), []
    for number in range(COUNT):
        shown, words = SIZE * random.integers(1, 7), random.integers(1, 21)
        index = np.concatenate([[-1], np.arange(shown), np.full(words, -1)]).astype(np.int32)
        role = np.where(np.arange(len(index)) > shown, Role.GENERATED, Role.PROMPT)
        rows.append(CompactRow(np.full(len(index), number, np.int32), index, role.astype(np.int8)))
    return rows


def batches(monkeypatch, packed: bool, batch_size: int):
    """(a stage's batches, most generated tokens of a row) of the conversations."""
    monkeypatch.setattr(sft, "_update", lambda run, name, generated, parts: generated)
    section = {"batch_size": batch_size, "steps": 1}
    config = ConfigDict({"seed": 5, "dialogue": {"packed": packed}, "cold_start": section})
    run = SimpleNamespace(config=config, mesh=make_mesh({}, jax.devices()[:1]))
    layout = Layout(LENGTH, 8, 8, (1, SIZE), "{frame}{time:.1f}", 1)
    rows = conversations()

    def example(number, length, frames):
        row = rows[number]
        shown = np.count_nonzero(row.visual_index >= 0)
        visual = np.zeros((frames * SIZE, 1), np.float32)
        visual[:shown, 0] = 100 * number + np.arange(shown)
        arrays = pad_row(row, length)
        return {**arrays, "visual": visual}

    lengths = RowLengths(*np.array([needs(row, SIZE) for row in rows]).T)
    most = lengths.frames.max()
    return sft._batches_of(run, "cold_start", lengths, layout, most, example)


def test_an_epoch_shows_each_conversation_once(monkeypatch, capsys):
    found, generated = batches(monkeypatch, True, 1)
    line = capsys.readouterr().out.strip()
    count = int(line.partition(" rows")[0].split()[-1])
    assert line.startswith(f"cold_start packs {COUNT} conversations into {count} rows, whose")
    rows, most = conversations(), 0
    for _ in range(2):  # each epoch in another order
        seen = []
        for _ in range(count):
            row = {name: array[0] for name, array in next(found).items()}
            assert row["tokens"].shape == (LENGTH,)
            most = max(most, np.count_nonzero(row["role"] == Role.GENERATED))
            for segment in range(1, row["segment"].max() + 1):
                own = row["segment"] == segment
                number = int(row["tokens"][own][0])
                assert row["tokens"][own].tolist() == rows[number].tokens.tolist()
                assert row["role"][own].tolist() == rows[number].role.tolist()
                index = row["visual_index"][own]
                shown = row["visual"][index[index >= 0], 0]
                np.testing.assert_array_equal(shown, 100 * number + np.arange(len(shown)))
                seen.append(number)
        assert sorted(seen) == list(range(COUNT))
    assert generated - 8 < most <= generated and count < COUNT / 2


def test_they_go_on_from_where_they_were(monkeypatch):
    first, _ = batches(monkeypatch, True, 4)
    wanted = [next(first) for _ in range(12)][7:]
    again, _ = batches(monkeypatch, True, 4)
    for _ in range(7):
        next(again)
    place = json.loads(json.dumps(again.get_state()))
    other, _ = batches(monkeypatch, True, 4)
    other.set_state(place)
    for want in wanted:
        jax.tree.map(np.testing.assert_array_equal, next(other), want)


def test_without_packing_a_row_is_a_conversation(monkeypatch):
    found, generated = batches(monkeypatch, False, 4)
    batch = next(found)
    assert "segment" not in batch and batch["tokens"].shape[1] < LENGTH and generated <= 24
    for row in range(4):
        real = batch["role"][row] != Role.PADDING
        assert len(set(batch["tokens"][row, real].tolist())) == 1


@pytest.mark.slow
def test_a_run_with_packed_rows(tmp_path, micro_arguments, capsys):
    """All three supervised stages; what is logged says how many conversations a step had."""
    arguments = [*micro_arguments, "--config.dialogue.packed=True"]
    train.main([*arguments, "--workdir", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    workdir, _ = read_workdir(tmp_path / "run")
    assert workdir.is_done()
    lines = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    for name in ("warm_up", "cold_start", "passive"):
        assert f"{name} packs " in printed
        counts = [line["conversations"] for line in lines if line["stage"] == name]
        assert counts and min(counts) >= 4 and np.isfinite(counts).all()
