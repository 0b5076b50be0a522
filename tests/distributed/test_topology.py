"""Programs compiled for TPU slices that this machine does not have."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax.distributed import (
    compile_for,
    make_mesh,
    topology_devices,
)
from medscope_jax.errors import UserError

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def sharded(mesh, shape, *axes):
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


@needs_libtpu
def test_a_program_compiles_for_an_absent_slice():
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, topology_devices("v5e:2x2"))
    arguments = {
        "x": sharded(mesh, (64, 1024), "fsdp"),
        "w": sharded(mesh, (1024, 512), "fsdp", "tensor"),
    }
    report = compile_for(lambda x, w: (x @ w).sum(), arguments)
    assert report.fits and report.chips == 4 and report.device_kind == "v5e"
    assert report.arguments_bytes == {"x": 32 * 1024 * 4, "w": 512 * 256 * 4}
    assert "all-reduce" in report.text and "allocation 0" in report.assignment
    assert any(equation.primitive.name == "dot_general" for equation in report.trace.eqns)
    assert sum(report.arguments_bytes.values()) <= report.total_bytes <= report.hbm_bytes


@needs_libtpu
def test_donated_memory_is_reused():
    mesh = make_mesh({"fsdp": 4}, topology_devices("v5e:2x2"))
    state = sharded(mesh, (4096, 1024), "fsdp")
    report = compile_for(jax.jit(lambda s: s + 1.0, donate_argnums=0), {"state": state})
    assert report.aliased_bytes == report.outputs_bytes == 4096 * 1024


@needs_libtpu
def test_a_program_too_large_is_reported_not_raised():
    mesh = make_mesh({"fsdp": 4}, topology_devices("v5e:2x2"))
    x = sharded(mesh, (400_000, 65_536), "fsdp")
    report = compile_for(lambda x: jnp.sort(x, axis=1) * 2, {"x": x})
    assert not report.fits and report.total_bytes > report.hbm_bytes
    assert "exceeds" in report.message and "\n" not in report.message


@needs_libtpu
@pytest.mark.parametrize("name, chips", [("v4:2x2x1", 4), ("v6e:2x4", 8), ("v5p:2x2x1", 4)])
def test_one_device_a_chip(name, chips):
    assert len(topology_devices(name)) == chips


@pytest.mark.parametrize("name", ["v5e-8", "v5e", "h100:1x1", "v5e:4", ""])
def test_a_bad_name_is_a_user_error(name):
    with pytest.raises(UserError, match="GENERATION:SHAPE"):
        topology_devices(name)


@needs_libtpu
def test_an_impossible_slice_is_a_user_error():
    with pytest.raises(UserError, match="no TPU slice 'v5e:3x5'"):
        topology_devices("v5e:3x5")


def test_without_libtpu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install libtpu"):
        topology_devices("v5e:2x2")
