"""The metrics file across kills, odd values, a full disk; progress without a terminal."""

import io
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.errors import UserError
from medscope_jax.training import metrics


def run(path, first, last, keep=0):
    with metrics.MetricsWriter(path, keep) as writer:
        for step in range(first, last):
            writer.write("warm_up", step, {"loss": 1.0 / (step + 1), "seconds_step": step})
        return writer.lines


def test_resumed_file_equals_uninterrupted_one(tmp_path):
    whole, resumed = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    run(whole, 0, 10)
    run(resumed, 0, 7)  # the last checkpoint was taken after 4 steps
    with open(resumed, "ab") as file:
        file.write(b'{"stage": "warm_up", "st')  # killed while writing
    assert len(metrics.read_metrics(resumed)) == 7
    assert run(resumed, 4, 10, keep=4) == 10
    a, b = (metrics.without_timing(metrics.read_metrics(p)) for p in (whole, resumed))
    assert a == b and len(a) == 10
    assert set(a[0]) == {"stage", "step", "loss"}
    assert all(json.loads(line) for line in resumed.read_text().splitlines())


def test_half_written_line_is_cut_off_and_missing_ones_are_told(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    run(path, 0, 3)
    path.write_bytes(path.read_bytes()[:-4])
    assert run(path, 3, 4, keep=3) == 3
    assert "has 2 whole lines, not 3" in caplog.text
    assert [r["step"] for r in metrics.read_metrics(path)] == [0, 1, 3]
    run(path, 0, 1)  # a fresh start
    assert [r["step"] for r in metrics.read_metrics(path)] == [0]


def test_cut_goes_back_to_an_older_checkpoint(tmp_path):
    path = tmp_path / "m.jsonl"
    with metrics.MetricsWriter(path) as writer:
        for step in range(4):
            writer.write("rl", step, {})
        writer.cut(2)
        writer.write("rl", 9, {})
        assert writer.lines == 3
    assert [r["step"] for r in metrics.read_metrics(path)] == [0, 1, 9]


def test_all_kinds_of_numbers(tmp_path):
    path = tmp_path / "m.jsonl"
    with metrics.MetricsWriter(path) as writer:
        writer.write(
            "rl",
            np.int64(3),
            {
                "a": jnp.float32(0.1),
                "b": np.float32("nan"),
                "c": -float("inf"),
                "d": np.arange(2),
                "e": {"f": jnp.int32(2), "g": [True, None, "text"]},
            },
        )
    line = path.read_text()
    assert "NaN" not in line and "Infinity" not in line
    record = metrics.read_metrics(path)[0]
    assert record["a"] == float(np.float32(0.1)) and np.isnan(record["b"])
    assert record["c"] == -np.inf and record["d"] == [0, 1]
    assert record["e"] == {"f": 2, "g": [True, None, "text"]}


def test_other_processes_write_nothing(tmp_path):
    with metrics.MetricsWriter(None, keep=3) as writer:
        writer.write("rl", 0, {"loss": 1.0})
        assert writer.lines == 4
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_lines_before(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    writer = metrics.MetricsWriter(path)
    writer.write("rl", 0, {})

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="disk full while writing .*m.jsonl; its 1 lines"):
            writer.write("rl", 1, {})
    writer.write("rl", 1, {})
    writer.close()
    assert [r["step"] for r in metrics.read_metrics(path)] == [0, 1]


def test_progress_without_a_terminal_prints_seldom():
    now, stream = [0.0], io.StringIO()
    with metrics.Progress(
        10, "stage 1", done=2, stream=stream, interval=30, clock=lambda: now[0]
    ) as progress:
        for _ in range(8):
            now[0] += 20
            progress.update(loss=0.12345)
    assert stream.getvalue().splitlines() == [
        "stage 1: 4/10 steps, loss 0.1235, 2:00 left",
        "stage 1: 6/10 steps, loss 0.1235, 1:20 left",
        "stage 1: 8/10 steps, loss 0.1235, 0:40 left",
        "stage 1: 10/10 steps, loss 0.1235, 2:40",
    ]


def test_progress_on_a_terminal_is_a_bar():
    stream = io.StringIO()
    stream.isatty = lambda: True
    with metrics.Progress(3, "stage 1", stream=stream) as progress:
        progress.update(3, loss=1.0, state="ok")
    assert "3/3" in stream.getvalue() and "loss 1, state ok" in stream.getvalue()
