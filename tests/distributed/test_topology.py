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
from medscope_jax.planning import Assumed, read_work

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
def test_weights_are_gathered_whole():
    """A product with a large matrix that is split over fsdp: not part by part, with sums that go to
    memory and back each time (by itself the compiler moves 5.9 GB here)."""
    mesh = make_mesh({"fsdp": 8}, topology_devices("v6e:2x4"))
    rows, weights = sharded(mesh, (65_536, 1792), "fsdp"), sharded(mesh, (1792, 18_944), "fsdp")
    work = read_work(compile_for(jnp.matmul, {"a": rows, "b": weights}).text, 8, Assumed())
    assert set(work.collectives) == {"all-gather"}
    parts = 8192 * 1792 + 1792 * 18_944 + 8192 * 18_944
    assert work.hbm_bytes < 1.5 * 4 * parts


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


@needs_libtpu
def test_two_slices_are_one_mesh_whose_data_axis_goes_from_one_to_the_other():
    devices = topology_devices("v5e:2x2", slices=2)
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices[::-1], slices=2)
    for place in range(2):
        assert len({device.slice_index for device in mesh.devices[place].flat}) == 1
    with pytest.raises(UserError, match="are of 2 slices, not 1: set --config.device.slices=2"):
        make_mesh({"data": 2, "fsdp": 4}, devices)
    w = sharded(mesh, (4096, 1024), "fsdp")
    step = jax.jit(
        lambda w, x: w - jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w), out_shardings=w.sharding
    )
    report = compile_for(step, {"w": w, "x": sharded(mesh, (512, 4096), ("data", "fsdp"))})
    assert report.fits and report.chips == 8 and report.device_kind == "v5e"
    work = read_work(report.text, 8, Assumed())
    # The gradient's sums within a slice are added up once more between the two: a chip's share.
    assert 4096 * 1024 * 4 / 4 <= work.dcn_bytes <= 1.1 * 4096 * 1024 * 4 / 2
    assert work.ici_bytes > 0


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
