"""Signals: what is under way is saved, the status says so, and the run goes on bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medscope_jax.errors import EXIT_STOPPED
from medscope_jax.training.metrics_log import read_metrics
from medscope_jax.training.preemption import SIGNALS, Stopped, StopSignals
from tests.training.metrics_cases import without_timing
from tests.xla_cases import flags_for

ROOT = Path(__file__).resolve().parent.parent.parent


def start(folder, cache, pause=0.0, *options):
    """Starts the mini program; its compiled steps are kept between starts."""
    environment = os.environ | {
        "XLA_FLAGS": flags_for(devices=1),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    line = [sys.executable, "-m", "tests.training.mini_program", str(folder), str(pause)]
    line += map(str, options)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=ROOT, env=environment, **pipes)


def wait_for(process, word, times=1):
    """Reads lines of a process until a word has come so often."""
    for line in process.stdout:
        times -= line.strip() == word
        if not times:
            return
    raise AssertionError(process.stderr.read())


def log_of(folder):
    return without_timing(read_metrics(folder / "metrics.jsonl"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """(digest of the final states, log) of a program that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    out, err = start(folder, cache).communicate(timeout=300)
    log = log_of(folder)
    assert [line["step"] for line in log] == [2, 4, 6] * 2, err
    return out.splitlines()[-1], log


def test_stopped_runs_go_on_bit_for_bit(tmp_path, cache, whole):
    """SIGTERM in the second step of a stage, Ctrl-C in the other: saved between two saves."""
    digest, log = whole
    for number, times, saved in (
        (signal.SIGTERM, 2, "warm_up is saved after step 2 of 6"),
        (signal.SIGINT, 6, "cold_start is saved after step 2 of 6"),
    ):
        process = start(tmp_path, cache, pause=0.3)
        wait_for(process, "step", times)
        begin = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert process.returncode == EXIT_STOPPED, err
        assert time.monotonic() - begin < 30
        assert out.splitlines()[-1] == saved
        lines = [line for line in err.splitlines() if line.startswith("SIG")]
        assert len(lines) == 1 and "the step under way, which is saved" in lines[0]
        assert "Traceback" not in err
    out, err = start(tmp_path, cache).communicate(timeout=300)
    assert out.splitlines()[-1] == digest, err
    assert out.count("step") == 4  # what was done is not done again
    assert log_of(tmp_path) == log


def saving(folder):
    """Whether a checkpoint is being written, which has a name of its own until it is whole."""
    return any("tmp" in name for name in os.listdir(folder / "checkpoints"))


def whole_saves(folder):
    return [name for name in os.listdir(folder / "checkpoints") if name.isdecimal()]


def test_stopped_while_a_save_is_written_beside_the_steps(tmp_path, cache, whole):
    """Both that save and the step under way are on the disk when it leaves."""
    process = start(tmp_path, cache, 0.2, "--delay", 1.5)
    wait_for(process, "step", 5)  # the save of step 3 is under way
    assert saving(tmp_path) and not whole_saves(tmp_path)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == EXIT_STOPPED, err
    assert out.splitlines()[-1] == "warm_up is saved after step 5 of 6"
    assert len(whole_saves(tmp_path)) == 2 and not saving(tmp_path)
    out, err = start(tmp_path, cache).communicate(timeout=300)
    assert out.splitlines()[-1] == whole[0], err
    assert out.count("step") == 1 + 6
    assert log_of(tmp_path) == whole[1]


@pytest.mark.invariant
def test_killed_while_a_save_is_written_beside_the_steps(tmp_path, cache, whole):
    """The save before it is there, and the run goes on from that one."""
    process = start(tmp_path, cache, 0.2, "--delay", 1.5)
    wait_for(process, "step", 6 + 5)  # of the second stage, whose step 3 is being saved
    before = whole_saves(tmp_path)
    assert saving(tmp_path) and before
    process.kill()
    process.communicate()
    assert saving(tmp_path) and whole_saves(tmp_path) == before
    out, err = start(tmp_path, cache).communicate(timeout=300)
    assert out.splitlines()[-1] == whole[0], err
    assert out.count("step") == 6  # the first stage is whole
    assert log_of(tmp_path) == whole[1]


@pytest.mark.invariant
@pytest.mark.parametrize("options", [("--minutes", 0.005), ("--minutes", 0.005, "--micro", 2)])
def test_saves_by_time_change_nothing_but_what_a_kill_costs(tmp_path, cache, whole, options):
    """Killed beyond the first of them: less than the stage so far is done again."""
    micro = options[2:]
    digest, log = whole
    if micro:
        folder = tmp_path / "whole"
        out, _ = start(folder, cache, 0.0, *micro).communicate(timeout=300)
        digest, log = out.splitlines()[-1], log_of(folder)
        assert digest != whole[0]  # sums in another order
    process = start(tmp_path, cache, 0.2, *options)
    wait_for(process, "step", 5)
    process.kill()
    process.communicate()
    assert whole_saves(tmp_path)
    out, err = start(tmp_path, cache, 0.0, *options).communicate(timeout=300)
    assert out.splitlines()[-1] == digest, err
    assert 6 < out.count("step") < 12
    assert log_of(tmp_path) == log


def test_where_nothing_is_under_way_it_leaves_at_once(tmp_path, cache):
    """While a stage is prepared, which takes a minute here: one line, and nothing is written."""
    process = start(tmp_path, cache, pause=60)
    wait_for(process, "preparing")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == EXIT_STOPPED
    assert [line.split(":")[0] for line in err.splitlines() if "trains" not in line] == ["SIGTERM"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_second_signal_is_obeyed_at_once(tmp_path, cache):
    process = start(tmp_path, cache, pause=3)
    wait_for(process, "step", 2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT
    assert time.monotonic() - begin < 2.5


def test_the_signals_are_given_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals() as stop:
        assert [signal.getsignal(number) for number in SIGNALS] != before
        stop.hold()
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed()
        with pytest.raises(Stopped):
            stop.release()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not StopSignals().agreed()
