"""Saves by time, beside those by steps: every so many minutes since the last save of any kind."""

from medscope_jax.training import cadence as cadence_lib
from medscope_jax.training.cadence import Cadence


def saves(cadence, clock, steps):
    """The steps after which to save; step k ends k * 20 s after the start."""
    found = []
    for step in range(1, steps + 1):
        clock[0] = 20.0 * step
        if cadence.due(step):
            found.append(step)
            cadence.saved()
    return found


def cadence_of(steps, minutes):
    clock = [0.0]
    log = {"checkpoint_every": steps, "checkpoint_minutes": minutes}
    return Cadence(log, lambda: clock[0]), clock


def test_by_steps_alone():
    assert saves(*cadence_of(4, 0), 10) == [4, 8]


def test_by_minutes_alone():
    assert saves(*cadence_of(1000, 1), 10) == [3, 6, 9]
    assert saves(*cadence_of(1000, 0.1), 3) == [1, 2, 3]  # a step takes longer: each is saved


def test_the_minutes_count_from_the_last_save_of_any_kind():
    """Steps 5 and 10 are saved as such; minutes are full at 3 and, from 5 on, at 8."""
    assert saves(*cadence_of(5, 1), 10) == [3, 5, 8, 10]


def test_several_processes_save_after_the_same_step(monkeypatch):
    """Process 0's clock counts; all hear of it a step later, and once only."""
    flags = []

    class Late:
        """A Consensus of two processes, of which the first one's flags are known."""

        def __init__(self):
            self.before = False

        def __call__(self, flag):
            flags.append(flag)
            before, self.before = self.before, flag
            return before

    monkeypatch.setattr(cadence_lib, "Consensus", Late)
    assert saves(*cadence_of(1000, 1), 12) == [4, 8, 12]
    assert flags == [False, False, True, True] * 3
    monkeypatch.setattr(cadence_lib, "is_first", lambda: False)
    flags.clear()
    saves(*cadence_of(1000, 1), 12)
    assert not any(flags)
