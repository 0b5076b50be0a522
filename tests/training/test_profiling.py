"""Which steps of a stage are traced, and where the trace lies."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from medscope_jax.errors import UserError
from medscope_jax.training.profiling import StepTrace, steps_to_trace


def test_what_a_config_may_say():
    assert list(steps_to_trace("3:5")) == [3, 4, 5] and list(steps_to_trace("7:7")) == [7]
    assert not steps_to_trace("")
    for text in ("5", "5:3", "0:3", "a:b", "3:5:7", ":", "-1:2", "٣:٥", " 3:5"):
        with pytest.raises(UserError, match="use FIRST:LAST"):
            steps_to_trace(text)


@pytest.fixture
def calls(monkeypatch):
    """When JAX's profiler was started and stopped, among the steps."""
    found = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: found.append(path.name))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
    return found


def run(folder, wanted, first, steps, calls):
    with StepTrace(folder, "warm_up", wanted, steps) as trace:
        for step in range(first, steps + 1):
            with trace.step(step):
                calls.append(step)
            trace.after(step, jnp.zeros(()))


@pytest.mark.parametrize(
    "first, steps, wanted",
    [
        (1, 6, [1, 2, "warm_up", 3, 4, "stop", 5, 6]),
        (1, 3, [1, 2, "warm_up", 3, "stop"]),  # the stage ends before
        (3, 4, ["warm_up", 3, 4, "stop"]),
        (4, 5, [4, 5]),  # it goes on within: what was traced is not whole
    ],
)
def test_from_the_first_to_the_last(tmp_path, calls, first, steps, wanted):
    run(tmp_path, range(3, 5), first, steps, calls)
    assert calls == wanted


def test_a_stage_that_fails_ends_its_trace(tmp_path, calls):
    with pytest.raises(KeyError), StepTrace(tmp_path, "warm_up", range(1, 5), 9) as trace:
        with trace.step(1):
            pass
        raise KeyError
    assert calls == ["warm_up", "stop"]


def test_a_stage_that_is_too_short_says_so(tmp_path, calls, capsys):
    run(tmp_path, range(3, 5), 1, 2, calls)
    assert calls == [1, 2]
    assert capsys.readouterr().out == "warm_up has 2 steps, so none of 3:4 is traced\n"


PROGRAM = """
import sys
from pathlib import Path
import jax.numpy as jnp
from medscope_jax.training.profiling import StepTrace
with StepTrace(Path(sys.argv[1]), "warm_up", range(2, 3), 3) as trace:
    for step in (1, 2, 3):
        with trace.step(step):
            result = jnp.ones((64, 64)) @ jnp.ones((64, 64))
        trace.after(step, result)
"""


def test_the_profiler_writes_what_its_viewer_reads(tmp_path):
    """In a process of its own: where libtpu has been loaded for other tests, it crashes."""
    root = Path(__file__).resolve().parent.parent.parent
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    subprocess.run(command, check=True, cwd=root)
    (trace,) = (tmp_path / "profile" / "warm_up").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1_000
