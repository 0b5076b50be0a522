"""The TPU's attention kernel, run as a plain program here, against dense attention."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax import models
from medscope_jax.distributed import compile_for, make_mesh, topology_devices
from medscope_jax.models.attention.dense import RowPlan, sees, segments
from medscope_jax.models.attention.splash import PositionMask, attend_splash, padding_for_splash
from tests.models.attention.attention_cases import (
    assert_dense,
    causal_case,
    joined_case,
    packed_case,
)


def by_kernel(case):
    def attend(query, key, value):
        segment = segments(case.valid)
        padded = jnp.pad(segment, [(0, 0), (0, query.shape[1] - segment.shape[1])])
        return attend_splash(query, key, value, padded, case.plan, interpret=True)

    return attend


@pytest.mark.parametrize("case", [causal_case, packed_case, joined_case])
def test_values_and_gradients_are_those_of_dense_attention(case):
    assert_dense(by_kernel, case())


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 2}, {"context": 2, "tensor": 2}])
@pytest.mark.parametrize("case", [packed_case, joined_case])
def test_a_mesh_changes_nothing(case, axes):
    """Split by rows, heads and, with a context axis, positions: each device runs its own part."""
    assert_dense(by_kernel, case(), make_mesh(axes, jax.devices()[:4]))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 4), st.sampled_from([2, 3, 4, 8]))
def test_blocks_of_the_mask(prompt, rest, group, block):
    """Full, empty or mixed, and in detail where mixed: as the rule says position by position."""
    length = -(prompt + rest * group) // block * -block
    plan = RowPlan(prompt, rest)
    mask, positions = PositionMask(length, plan), np.arange(length)
    whole = np.zeros((length, length), bool)
    for i in range(length):
        for j in range(i + 1):
            same = i >= prompt and j >= prompt and (i - prompt) // rest == (j - prompt) // rest
            whole[i, j] = j < prompt or same
    np.testing.assert_array_equal(sees(positions[:, None], positions, plan), whole)
    for top in range(0, length, block):
        for left in range(0, length, block):
            part = slice(top, top + block), slice(left, left + block)
            found, wanted = mask[part], whole[part]
            assert (found.any(), found.all()) == (wanted.any(), wanted.all())
            if wanted.any() and not wanted.all():
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("slice_name", ["v5e:2x2", "v6e:2x2"])
@pytest.mark.parametrize("plan", [RowPlan(2100, 1500), RowPlan(8192, 8192)])
def test_it_compiles_for_a_tpu(slice_name, plan):
    """Packed rows and joined ones, forward and backward, in less memory than one head's scores of
    one row."""
    mesh, length = make_mesh({"fsdp": 2, "tensor": 2}, topology_devices(slice_name)), 8192

    def shape(dtype, *size):
        spec = PartitionSpec("fsdp", *((None, "tensor") if len(size) > 2 else ()))
        return jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, spec))

    query = shape(jnp.bfloat16, 2, length, 4, 128)
    key = shape(jnp.bfloat16, 2, length, 2, 128)

    def slope(query, key, value, segment):
        def total(*inputs):
            return attend_splash(*inputs, segment, plan).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    segment = shape(jnp.int32, 2, length)
    arguments = {"query": query, "key": key, "value": key, "segment": segment}
    report = compile_for(slope, arguments)
    assert report.fits and report.temporaries_bytes < length**2


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_devices_choose():
    """By their kind: a TPU slice gets the kernel, there or not, and only for bfloat16."""
    slice_mesh = make_mesh({"fsdp": 4}, topology_devices("v5e:2x2"))
    here = make_mesh({}, jax.devices()[:1])
    half = models.ModelConfig(dtype="bfloat16")
    assert models.for_mesh(half, slice_mesh).attention == "splash"
    assert models.for_mesh(half, here).attention == "xla"
    assert models.for_mesh(models.ModelConfig(), slice_mesh).attention == "xla"


def test_padding():
    assert [padding_for_splash(n, 1) for n in (1, 128, 129, 512, 513)] == [127, 0, 127, 0, 511]
    assert padding_for_splash(300, 2) == 212 and padding_for_splash(1100, 2) == 948
