"""The checks of `check`: they hold here, and each notices what it is there to notice."""

import functools

import jax
import numpy as np
import pytest

from medscope_jax import check
from medscope_jax.distributed import make_mesh
from medscope_jax.invariants import CHECKS, Rolled, Skipped, looks, make_tiny, rolled
from medscope_jax.models.attention import dispatch


@pytest.fixture(scope="module")
def split():
    """On eight devices, over three axes."""
    return Rolled(make_tiny(check.whole_mesh()))


@pytest.fixture
def alone():
    return Rolled(make_tiny(make_mesh({}, jax.devices()[:1])))


def test_all_devices_over_as_many_axes_as_they_allow():
    assert dict(check.whole_mesh().shape) == {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}


SLOW = ("resume is exact", "sharding changes nothing")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.invariant] if name in SLOW else [])
        for name in CHECKS
        if "kernels" not in name
    ],
)
def test_an_invariant_holds(split, name):
    found = CHECKS[name][0](split)
    assert found.figure <= found.bound
    if (
        name != "resume is exact"
    ):  # sums in another order: an exact zero would compare a thing to itself
        assert found.figure > 0


def test_where_there_is_nothing_to_look_at_it_says_why(alone, split):
    assert looks.sharding_changes_nothing(alone) == Skipped("one device: nothing is split")
    assert looks.kernels_are_dense(split) == Skipped("no kernel for cpu")


def test_a_bank_whose_tokens_are_a_little_off_is_noticed(alone, monkeypatch):
    make = rolled.make_encode
    monkeypatch.setattr(rolled, "make_encode", lambda model: lambda *x: make(model)(*x) * 1.05)
    found = looks.bank_is_reencoded(alone)
    assert found.figure > 2 * found.bound
    assert looks.rollout_is_forward(alone).figure <= found.bound  # of the same bank


def test_a_rollout_that_writes_something_else_is_noticed(alone):
    episode = alone.episode
    alone.__dict__["episode"] = episode.replace(tokens=episode.tokens + 1)
    assert looks.rollout_is_forward(alone).figure == float("inf")


@pytest.mark.invariant
def test_a_stage_that_goes_on_with_other_weights_is_noticed(alone, monkeypatch):
    restore = looks.Checkpoints.restore

    def changed(self, *args, **kwargs):
        found = restore(self, *args, **kwargs)
        if found is None or kwargs.get("partial"):
            return found
        params = jax.tree.map(lambda leaf: leaf * 1.001, found.state.params)
        state = found.state.replace(params=params)
        return looks.dataclasses.replace(found, state=state)

    monkeypatch.setattr(looks.Checkpoints, "restore", changed)
    assert looks.resume_is_exact(alone).figure > 0


@pytest.mark.parametrize("wrong", ["", "attend_splash", "attend_own"])
def test_kernels_are_held_against_dense_attention(alone, monkeypatch, wrong):
    """A TPU's, run as plain programs; and one that is off."""
    choose, splash = looks.for_mesh, dispatch.attend_splash
    own, prefix = dispatch.attend_own, dispatch.attend_prefix
    factor = {
        name: np.asarray(1.05 if name == wrong else 1.0, "bfloat16") for name in dir(dispatch)
    }

    def run_splash(*arguments):
        return splash(*arguments, interpret=True) * factor["attend_splash"]

    def run_own(*arguments):
        return own(*arguments[:-1], interpret=True) * factor["attend_own"]

    monkeypatch.setattr(dispatch, "attend_splash", run_splash)
    monkeypatch.setattr(dispatch, "attend_own", run_own)
    monkeypatch.setattr(dispatch, "attend_prefix", lambda *x: prefix(*x[:-1], interpret=True))
    as_on_tpu = functools.partial(looks.dataclasses.replace, attention="splash")
    monkeypatch.setattr(looks, "for_mesh", lambda *x: as_on_tpu(choose(*x)))
    found = looks.kernels_are_dense(alone)
    assert (found.figure <= found.bound) == (wrong == "")
