"""One process works on a folder of a bucket; one that has ended is taken over or named."""

import json
import subprocess
import sys
import time

import pytest

from medscope_jax import owners
from medscope_jax.buckets import get_object
from medscope_jax.errors import UserError
from medscope_jax.locks import alone
from medscope_jax.owners import owning

BUSY = "it is in use{by}: wait for it"


@pytest.fixture
def lock(in_bucket):
    return in_bucket / ".lock"


def owner(lock, **changes):
    """Puts an owner, by default one of another machine who was here just now."""
    values = {"host": "elsewhere", "boot": "", "space": "", "process": 7, "token": "a"}
    lock.write_text(json.dumps(values | {"time": time.time()} | changes))


def here(**changes):
    return {**owners._here(), **changes}


def test_another_is_refused_until_the_first_has_ended(place):
    place.mkdir(parents=True, exist_ok=True)
    refused = pytest.raises(UserError, match=r"in use \(process \d+")
    with alone(place / ".lock", BUSY), refused, alone(place / ".lock", BUSY):
        pass
    with alone(place / ".lock", BUSY):
        pass


def test_nothing_is_left(lock):
    with pytest.raises(KeyError), owning(lock, BUSY):
        assert lock.exists()
        raise KeyError
    assert not lock.exists()


def test_of_another_machine(lock):
    owner(lock)
    with pytest.raises(UserError) as error, owning(lock, BUSY):
        pass
    assert str(error.value) == "it is in use (process 7 of elsewhere): wait for it"


def test_one_who_fell_silent_is_told_with_the_remedy(lock):
    owner(lock, time=time.time() - 720)
    with pytest.raises(UserError) as error, owning(lock, BUSY):
        pass
    assert str(error.value) == (
        f"{lock.parent} was in use by another process (process 7 of elsewhere), which gave its "
        f"last sign of life 12 minutes ago: if it has ended, delete {lock} and run again"
    )
    lock.unlink()
    with owning(lock, BUSY):
        pass


def test_a_process_of_this_machine_that_has_ended_is_taken_over(lock, caplog):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner(lock, **here(process=ended.pid))
    (lock.parent / ".0f.tmp").write_text("what it was about to put")
    with owning(lock, BUSY):
        assert [path.name for path in lock.parent.iterdir()] == [".lock"]
        assert "taken over" in caplog.text and str(ended.pid) in caplog.text
    owner(lock, **here(boot="an earlier start", process=1))
    with owning(lock, BUSY):
        pass


def test_a_process_that_lives_is_not(lock):
    """Nor one of another container of this machine, whose numbers mean nothing here."""
    for changes in ({"process": 1}, {"process": 2**22 + 1, "space": "pid:[1]"}):
        owner(lock, **here(**changes))
        with pytest.raises(UserError, match="in use"), owning(lock, BUSY):
            pass


def test_what_is_no_owner_is_told_with_the_remedy(lock):
    lock.write_text("{")
    with pytest.raises(UserError, match="delete .*lock and run again"), owning(lock, BUSY):
        pass


def test_signs_of_life(lock, caplog):
    with owning(lock, BUSY, beat=0.05):
        first = json.loads(get_object(lock))
        deadline = time.monotonic() + 10
        while json.loads(get_object(lock))["time"] == first["time"]:
            assert time.monotonic() < deadline
        assert json.loads(get_object(lock))["token"] == first["token"]
        owner(lock)  # another has taken the place, against all advice
        while "no longer held" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert json.loads(get_object(lock))["host"] == "elsewhere"  # and keeps it
