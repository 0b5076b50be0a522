"""The entry point `check`: a line an invariant, and what to do where one does not hold."""

from pathlib import Path

import pytest

from medscope_jax import check, invariants
from medscope_jax.invariants import Found, Skipped
from tests.distributed.process_cases import end_of, output_of, start_processes

CONFIG = str(Path(__file__).parent.parent / "tpu_configs" / "cpu.py")


@pytest.fixture
def checks(monkeypatch):
    """Stand-ins of known outcome: the real ones take a minute (tests/invariants)."""
    found = {
        "bank = re-encode": (lambda rolled: Found(2e-6, 1e-3, "largest difference"), "mend it"),
        "kernels = dense": (lambda rolled: Skipped("no kernel for cpu"), "update"),
    }
    monkeypatch.setattr(check, "CHECKS", found)
    return found


def test_a_line_for_each_invariant(checks, capsys):
    assert check.main(["--config", CONFIG]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 x cpu, mesh {'data': 1, 'fsdp': 1, 'context': 1, 'tensor': 1}",
        "ok      bank = re-encode: largest difference 2.0e-06, at most 1e-03",
        "-       kernels = dense: no kernel for cpu",
    ]


@pytest.mark.parametrize("figure, text", [(0.3, "3.0e-01"), (float("nan"), "nan")])
def test_one_that_does_not_hold_says_what_to_do(checks, capsys, figure, text):
    checks["bank = re-encode"] = (lambda rolled: Found(figure, 1e-3, "gap"), "mend it")
    assert check.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"FAILED  bank = re-encode: gap {text}, at most 1e-03" in lines
    assert "        mend it" in lines and lines[0].startswith("8 x cpu")


def test_a_broken_invariant_is_found_by_the_command(monkeypatch, capsys):
    """The real checks, but for a bank that is made by another tower than frames are encoded by."""
    rolled = invariants.rolled
    make = rolled.make_encode
    monkeypatch.setattr(rolled, "make_encode", lambda model: lambda *x: make(model)(*x) * 1.05)
    kept = ("bank = re-encode", "rollout = forward")
    monkeypatch.setattr(check, "CHECKS", {name: check.CHECKS[name] for name in kept})
    assert check.main(["--config", CONFIG]) == 1
    out = capsys.readouterr().out
    assert "FAILED  bank = re-encode" in out and "no bank can be trusted" in out
    assert "ok      rollout = forward" in out


@pytest.mark.slow
@pytest.mark.invariant
def test_two_processes_check_as_one(tmp_path):
    """Four devices each; the mesh's axes go across them. One process prints."""
    arguments = ["medscope_jax.check", "--scratch", tmp_path / "shared"]
    processes = start_processes(2, arguments, tmp_path, devices=4)
    statuses = end_of(processes, tmp_path)
    lines = output_of(tmp_path).splitlines()
    assert statuses == [0, 0], lines
    assert len([line for line in lines if line.startswith("ok  ")]) == 4
    assert "ok  " not in output_of(tmp_path, 1) and not any((tmp_path / "shared").iterdir())
