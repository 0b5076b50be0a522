"""Meshes, and the devices that a config asks for."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AxisType

from medscope_jax.distributed import axis_sizes, check_device, make_mesh, tpu_generation
from medscope_jax.errors import UserError


def test_one_axis_takes_the_rest():
    mesh = make_mesh({"data": -1, "tensor": 2}, jax.devices()[:8])
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "context": 1, "tensor": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 4


def test_no_axis_given_is_one_device():
    assert make_mesh({}, jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
    "axes, message",
    [
        ({"data": 3}, "needs 3 devices but there are 8"),
        ({"data": -1, "tensor": 3}, "needs a multiple of 3 devices but there are 8"),
        ({"data": -1, "fsdp": -1}, "only one axis may be -1"),
        ({"tensr": 2}, r"unknown mesh axis 'tensr' \(did you mean 'tensor'\?\)"),
        ({"data": 0}, "must be a positive integer"),
        ({"data": 2.0}, "must be a positive integer"),
    ],
)
def test_an_impossible_mesh_is_one_line(axes, message):
    with pytest.raises(UserError, match=message) as error:
        axis_sizes(axes, 8)
    assert "\n" not in str(error.value)


def test_tensor_has_to_divide_the_kv_heads():
    with pytest.raises(
        UserError, match="does not divide the model's 2 key-value heads; use one of 1, 2"
    ):
        make_mesh({"data": 2, "tensor": 4}, jax.devices()[:8], kv_heads=2)
    assert make_mesh({"data": 4, "tensor": 2}, jax.devices()[:8], kv_heads=2).size == 8


def test_slices_split_the_data_axis():
    """Devices that do not say which slice they are of: the first half is the first slice."""
    devices = jax.devices()[:8]
    mesh = make_mesh({"data": 4, "tensor": 2}, devices, slices=2)
    assert set(mesh.devices[:2].flat) == set(devices[:4])
    with pytest.raises(UserError, match="data=1 is no multiple of the 2 slices"):
        make_mesh({"fsdp": 8}, devices, slices=2)


@pytest.mark.parametrize("count", [1, 4])
def test_as_many_cpu_devices_as_asked_for(count):
    assert check_device({"platform": "cpu", "kind": "", "count": count}) == jax.devices()[:count]


@pytest.mark.parametrize("platform, kind", [("tpu", "v5e"), ("gpu", "H100"), ("cpu", "Z80")])
def test_a_missing_kind_says_what_is_needed_found_and_next(platform, kind):
    with pytest.raises(UserError) as error:
        check_device({"platform": platform, "kind": kind, "count": 4})
    text = str(error.value)
    for part in (
        f"4 {platform.upper()}",
        kind,
        "8 x cpu",
        "tpu_configs/cpu.py",
        "medscope_jax.plan",
    ):
        assert part in text
    assert "\n" not in text


def test_too_few_devices_are_reported():
    with pytest.raises(UserError, match=r"needs 99 CPU device\(s\) but found 8 x cpu"):
        check_device({"platform": "cpu", "kind": "", "count": 99})


def test_a_tpu_config_on_a_machine_without_one_ends_quietly():
    """libtpu is installed for planning: asking for a TPU then must neither hang nor complain."""
    if any(d.platform == "tpu" for d in jax.devices()):
        pytest.skip("there is a TPU")
    program = (
        "from medscope_jax.distributed import check_device\n"
        "from medscope_jax.errors import run_main\n"
        "run_main(lambda _: check_device({'platform': 'tpu', 'kind': 'v5e', 'count': 1}) and 0)\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: this config needs 1 TPU device(s) of kind 'v5e'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "kind, generation",
    [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("cpu", "")],
)
def test_generations(kind, generation):
    assert tpu_generation(kind) == generation
