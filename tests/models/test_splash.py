"""The TPU's attention kernel, run as a plain program here, against dense attention."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax import models
from medscope_jax.distributed import compile_for, make_mesh, on_mesh, topology_devices
from medscope_jax.models.attention import Packed, RowPlan, attend_causal, attend_packed, sees
from medscope_jax.models.splash import SlotMask, attend_splash, padding_for_splash

HEADS, KV_HEADS, WIDTH = 4, 2, 32
PROMPT, GROUP, REST = 90, 2, 70  # of packed rows; neither fills a block of 128


def arrays(rows: int, length: int):
    """query [B, L, H, hd], key and value [B, L, K, hd], and weights of the outputs."""
    random = np.random.default_rng(0)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    return tuple(random.normal(size=(rows, length, n, WIDTH)).astype(np.float32) for n in heads)


def pulled_back(attend, real, query, key, value, weights):
    """Outputs at real slots, and gradients of their weighted sum in query, key and value."""

    def of(*inputs):
        out = attend(*inputs)[:, : real.shape[1]]
        out = jnp.where(real[..., None, None], out, 0)
        return jnp.sum(out * weights[:, : real.shape[1]]), out

    return jax.value_and_grad(of, argnums=(0, 1, 2), has_aux=True)(query, key, value)


def dense(look, valid, real):
    """pulled_back by an attention of models/attention.py, without padding to whole blocks."""

    def attend(query, key, value):
        length = real.shape[1]
        query, key, value = (x[:, :length] for x in (query, key, value))
        return look(
            query, key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3), valid,
            jax.lax.Precision.HIGHEST,
        )  # fmt: skip

    return jax.jit(functools.partial(pulled_back, attend, real))


def by_kernel(real, plan):
    def attend(query, key, value):
        padded = jnp.pad(real, [(0, 0), (0, query.shape[1] - real.shape[1])])
        return attend_splash(query, key, value, padded, plan, interpret=True)

    return jax.jit(functools.partial(pulled_back, attend, real))


def assert_same(found, wanted):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), found, wanted)


def causal_case():
    length = 250
    valid = np.arange(length) < np.array([[250], [90]])
    valid[0, 7] = False  # padding may stand anywhere
    return valid, valid, RowPlan(256, 256), attend_causal


def packed_case():
    prompt = np.arange(PROMPT) < np.array([[90], [40]])
    rest = np.arange(REST) < np.array([[70, 9], [33, 0]])[..., None]
    valid = Packed(jnp.asarray(prompt), jnp.asarray(rest))
    return valid, np.asarray(valid.flat()), RowPlan(PROMPT, REST), attend_packed


@pytest.mark.parametrize("case", [causal_case, packed_case])
def test_values_and_gradients_are_those_of_dense_attention(case):
    valid, real, plan, look = case()
    inputs = arrays(2, 256)
    assert_same(by_kernel(real, plan)(*inputs), dense(look, valid, real)(*inputs))


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 2}, {"context": 2, "tensor": 2}])
def test_a_mesh_changes_nothing(axes):
    """Rows, heads and, with a context axis, slots: each device runs the kernel on its own part."""
    valid, real, plan, look = packed_case()
    inputs = arrays(2, 256)
    mesh = make_mesh(axes, jax.devices()[:4])
    found = on_mesh(mesh, by_kernel(real, plan))(*inputs)
    assert_same(found, dense(look, valid, real)(*inputs))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 4), st.sampled_from([2, 3, 4, 8]))
def test_blocks_of_the_mask(prompt, rest, group, block):
    """Full, empty or mixed, and in detail where mixed: as the rule says slot by slot."""
    length = -(prompt + rest * group) // block * -block
    plan = RowPlan(prompt, rest)
    mask, slots = SlotMask(length, plan), np.arange(length)
    whole = np.zeros((length, length), bool)
    for i in range(length):
        for j in range(i + 1):
            same = i >= prompt and j >= prompt and (i - prompt) // rest == (j - prompt) // rest
            whole[i, j] = j < prompt or same
    np.testing.assert_array_equal(sees(slots[:, None], slots, plan), whole)
    for top in range(0, length, block):
        for left in range(0, length, block):
            part = slice(top, top + block), slice(left, left + block)
            found, wanted = mask[part], whole[part]
            assert (found.any(), found.all()) == (wanted.any(), wanted.all())
            if wanted.any() and not wanted.all():
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_it_compiles_for_a_tpu():
    """Packed rows, forward and backward, in less memory than one head's scores of one row."""
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, topology_devices("v5e:2x2"))
    length, plan = 8192, RowPlan(2100, 1500)

    def shape(dtype, *size):
        spec = PartitionSpec("fsdp", *((None, "tensor") if len(size) > 2 else ()))
        return jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, spec))

    query = shape(jnp.bfloat16, 2, length, 4, 128)
    key = shape(jnp.bfloat16, 2, length, 2, 128)

    def slope(query, key, value, real):
        def total(*inputs):
            return attend_splash(*inputs, real, plan).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    arguments = {"query": query, "key": key, "value": key, "real": shape(jnp.bool_, 2, length)}
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
