"""The metrics file across kills, odd values, a full disk; progress without a terminal."""

import io
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.errors import UserError
from medscope_jax.training import metrics_log as metrics
from tests.training.metrics_cases import without_timing


def run(path, first, last, keep=0):
    with metrics.MetricsWriter(path, keep) as writer:
        for step in range(first, last):
            writer.write("warm_up", step, {"loss": 1.0 / (step + 1), "seconds_step": step})
        return writer.lines


def test_resumed_file_equals_uninterrupted_one(place):
    place.mkdir(parents=True, exist_ok=True)
    whole, resumed = place / "a.jsonl", place / "b.jsonl"
    run(whole, 0, 10)
    run(resumed, 0, 7)  # the last checkpoint was taken after 4 steps
    # Killed while writing, as happens on this machine; a bucket's may be cut off by a copy.
    resumed.write_bytes(resumed.read_bytes() + b'{"stage": "warm_up", "st')
    assert len(metrics.read_metrics(resumed)) == 7
    assert run(resumed, 4, 10, keep=4) == 10
    a, b = (without_timing(metrics.read_metrics(p)) for p in (whole, resumed))
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


def test_cut_goes_back_to_an_older_checkpoint(place):
    place.mkdir(parents=True, exist_ok=True)
    path = place / "m.jsonl"
    with metrics.MetricsWriter(path) as writer:
        for step in range(4):
            writer.write("rl", step, {})
        writer.cut(2)
        writer.write("rl", 9, {})
        assert writer.lines == 3
    assert [r["step"] for r in metrics.read_metrics(path)] == [0, 1, 9]


def test_a_bucket_is_written_whole_and_seldom(in_bucket, monkeypatch, caplog):
    """Each minute and before a checkpoint; one that is out of reach for a while costs nothing."""
    path, put = in_bucket / "m.jsonl", []
    write = metrics.write_bytes
    monkeypatch.setattr(metrics, "write_bytes", lambda *given: put.append(given) or write(*given))
    with metrics.MetricsWriter(path) as writer:
        for step in range(100):
            writer.write("warm_up", step, {})
        assert not put and not path.exists()
        writer.flush()
        assert len(put) == 1 and len(metrics.read_metrics(path)) == 100
        writer.flush()
        assert len(put) == 1  # there was nothing new
        monkeypatch.setattr(metrics, "_BETWEEN", 0.0)
        writer.write("warm_up", 100, {})
        assert len(put) == 2 and len(metrics.read_metrics(path)) == 101
        monkeypatch.setattr(metrics, "write_bytes", unreachable)
        writer.write("warm_up", 101, {})
        assert "out of reach" in caplog.text
        with pytest.raises(UserError, match="out of reach"):
            writer.flush()
        monkeypatch.setattr(metrics, "write_bytes", write)
    assert [r["step"] for r in metrics.read_metrics(path)] == list(range(102))


def unreachable(*_):
    raise UserError("the bucket is out of reach")


@pytest.mark.parametrize("bad", [b"\xff", b"\n", b"{", b"\0", b"\r"])
@pytest.mark.parametrize("noted", [True, False])
def test_a_damaged_byte_anywhere_costs_its_line_alone(tmp_path, caplog, bad, noted):
    """On resume the file keeps all that was logged; only a newline's own damage needs the size."""
    path, whole = tmp_path / "m.jsonl", tmp_path / "whole.jsonl"
    run(whole, 0, 5)
    data = whole.read_bytes()
    size = len(b"".join(data.splitlines(keepends=True)[:4]))
    ends = [at for at in range(size - 1) if data[at : at + 1] == b"\n"]
    for at in sorted({*range(0, size - 1, 41), *ends, *(end - 1 for end in ends)}):
        if data[at : at + 1] == bad or (not noted and b"\n" in (bad, data[at : at + 1])):
            continue
        damaged = data[:at] + bad + data[at + 1 :]
        path.write_bytes(damaged)
        caplog.clear()
        with metrics.MetricsWriter(path, 4, size if noted else None) as writer:
            assert (writer.lines, writer.bytes) == (4, size)
            assert path.read_bytes() == damaged[:size]
            writer.write("warm_up", 4, {"loss": 1.0 / 5, "seconds_step": 4})
            assert path.stat().st_size == writer.bytes
        hurt = {data.count(b"\n", 0, at)} | ({data.count(b"\n", 0, at + 1)} & {1, 2, 3})
        kept = [record["step"] for record in metrics.read_metrics(path)]
        lost = set(range(5)) - set(kept)
        assert lost <= hurt and kept == sorted(kept)
        assert bool(lost) == ("can't be read: kept in the file" in caplog.text)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b"",
        b'{"step": 1, "time": 0}',
        b'{"stage": 3, "step": 1, "time": 0}',
        b'{"stage": "a", "step": "1", "time": 0}',
        b'{"stage": "a", "step": 1, "time": null}',
        b'{"stage": "a", "step": 1, "time": 0, "loss": NaN}',
        b'{"stage": "a", "step": 1, "time": 0, "loss": 1e999}',
        b'{"stage": "a", "step": 1, "time": 0, "loss": 1' + b"0" * 400 + b"}",
        b'{"stage": "a", "step": 1, "time": 0, "loss": ' + b"[" * 950 + b"]" * 950 + b"}",
        b'{"stage": "a", "step": 1, "time": 0, "loss": ' + b"[" * 10**5,
        b"\xff\xfe{}",
    ],
)
def test_a_line_that_was_never_written_is_named_and_left_out(tmp_path, caplog, line):
    path = tmp_path / "m.jsonl"
    run(path, 0, 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + second)
    assert [record["step"] for record in metrics.read_metrics(path)] == [0, 1]
    assert "line 2 can't be read" in caplog.text and len(caplog.records) == 1


def test_a_line_without_end_takes_no_memory(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(metrics, "_LONGEST", 256)
    path = tmp_path / "m.jsonl"
    run(path, 0, 3)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    damaged = first + b"x" * 10_000 + b"\n" + third
    path.write_bytes(damaged + b"y" * 10_000)
    assert [record["step"] for record in metrics.read_metrics(path)] == [0, 2]
    with metrics.MetricsWriter(path, 3) as writer:
        assert (writer.lines, writer.bytes) == (3, len(damaged))
    assert path.read_bytes() == damaged
    assert caplog.text.count("line 2 can't be read") == 2


def test_what_is_no_file_is_one_line(tmp_path):
    path = tmp_path / "m.jsonl"
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/null")):
        make()
        with pytest.raises(UserError, match="m.jsonl is no regular file: move it away"):
            metrics.MetricsWriter(path)
        path.rmdir() if path.is_dir() else path.unlink()


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
