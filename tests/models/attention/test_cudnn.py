"""cuDNN's attention: its call against dense attention here, and as a program for a GPU not here.

The very call of jax.nn.dot_product_attention runs as a plain program on this machine, which JAX
promises to mean the same. What cuDNN itself computes needs a GPU.
"""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.cudnn import fused_attention_stablehlo  # what a machine without cuDNN lacks

from medscope_jax import models
from medscope_jax.distributed import make_mesh
from medscope_jax.models.attention.cudnn import attend_cudnn, conversations
from medscope_jax.models.attention.dense import Joined, Packed, attend_joined
from medscope_jax.models.attention.dispatch import attend_self
from tests.models.attention.attention_cases import (
    assert_dense,
    attention_inputs,
    causal_case,
    joined_case,
    packed_case,
)

gpu_only = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")


def by_call(case):
    return functools.partial(attend_cudnn, valid=case.valid, implementation="xla")


@pytest.mark.parametrize("case", [causal_case, packed_case, joined_case])
def test_values_and_gradients_are_those_of_dense_attention(case):
    assert_dense(by_call, case())


@pytest.mark.parametrize("case", [packed_case, joined_case])
def test_a_mesh_changes_nothing(case):
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    assert_dense(by_call, case(), mesh)


def test_joined_rows_that_are_split_are_dense_attention_s():
    config = models.ModelConfig(attention="cudnn")
    mesh = make_mesh({"fsdp": 2, "context": 2}, jax.devices()[:4])

    def attend_of(case):
        return functools.partial(attend_self, valid=case.valid, config=config)

    assert_dense(attend_of, joined_case(), mesh)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_joined_rows_of_any_conversations(data):
    """Rows with fewer conversations than others, with padding between them, or with none at all."""
    sizes = st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=5)
    segment = np.zeros((2, 16), np.int32)
    for row in segment:
        flat = [
            number
            for number, (real, count) in enumerate(data.draw(sizes), 1)
            for number in [number if real else 0] * count
        ][:16]
        row[: len(flat)] = flat
    query, key, value, _ = attention_inputs(2, 16)
    exact = jax.lax.Precision.HIGHEST
    wanted = attend_joined(
        query, key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3), jnp.asarray(segment), exact
    )
    found = attend_cudnn(query, key, value, Joined(jnp.asarray(segment)), implementation="xla")
    real = segment > 0
    np.testing.assert_allclose(found[real], wanted[real], atol=2e-5)
    assert not np.asarray(found[~real]).any()


def test_a_row_of_padding_alone_is_finite():
    query, key, value, _ = attention_inputs(2, 16)
    valid = jnp.arange(16) < np.array([[16], [0]])
    out = attend_cudnn(query, key, value, valid, implementation="xla")
    assert np.isfinite(out).all() and not np.asarray(out[1]).any()


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(1, 7), st.integers(1, 4), st.integers(1, 5))
def test_conversations_hold_their_real_positions_in_order(data, shared, group, own):
    def flags(count):
        return np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))

    prompt, rest = flags(shared), flags(group * own).reshape(group, own)
    found = conversations(Packed(jnp.asarray(prompt[None]), jnp.asarray(rest[None])))
    positions, lengths, places = (np.asarray(x)[0] for x in found)
    for g in range(group):
        wanted = [i for i in range(shared) if prompt[i]]
        wanted += [shared + g * own + i for i in range(own) if rest[g, i]]
        assert positions[g, : lengths[g]].tolist() == wanted
    # Each position is found again where it was laid out, with its own conversation or the first.
    np.testing.assert_array_equal(positions.reshape(-1)[places], np.arange(shared + group * own))
    whose = places // (shared + own)
    assert whose.tolist() == [0] * shared + [g for g in range(group) for _ in range(own)]


@pytest.mark.parametrize(
    ("case", "kernels"),
    [(packed_case, ["fmhaSoftmax"]), (joined_case, ["fmhaSoftmax", "fmhaSoftmax"])],
)
def test_it_lowers_for_a_gpu(monkeypatch, case, kernels):
    """Forward and backward: cuDNN's calls, causal with lengths, and no other."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91200)
    valid = case().valid
    half = [jnp.bfloat16(x) for x in attention_inputs(2, 256)[:3]]
    config = models.ModelConfig(dtype="bfloat16", attention="cudnn")

    def total(*inputs):
        return attend_self(*inputs, valid, config).astype(jnp.float32).sum()

    slope = jax.value_and_grad(total, argnums=(0, 1, 2))
    lowered = jax.jit(slope).trace(*half).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @(\S+?)\(", lowered)
    assert calls == [f"__cudnn${name}" for name in (*kernels, "fmhaSoftmaxBackward")]
    masks = re.findall(r"mask_type\W+22: \W+22(\w+)\W+22", lowered)
    assert masks == ["PADDING_CAUSAL"] * len(calls)
    assert "dot_general" not in lowered  # no scores beside the kernel's


def test_the_devices_choose():
    """GPUs from Ampere on, in bfloat16, and heads that the kernel takes."""

    def chosen(capability, dtype="bfloat16", platform="gpu", width=128):
        device = SimpleNamespace(
            platform=platform, device_kind="NVIDIA", compute_capability=capability
        )
        mesh = SimpleNamespace(devices=np.array([device]))
        text = models.TextConfig(
            hidden_size=2 * width,
            num_attention_heads=2,
            num_key_value_heads=2,
            mrope_section=(width // 2, 0, 0),
        )
        vision = models.VisionConfig(out_hidden_size=2 * width)
        config = models.ModelConfig(vision, text, dtype=dtype)
        return models.for_mesh(config, mesh).attention

    assert chosen("9.0") == chosen("8.0") == chosen("12.0", width=64) == "cudnn"
    assert chosen("7.5") == chosen("gfx942") == chosen("9.0", "float32") == "xla"
    assert chosen("9.0", width=256) == chosen("9.0", width=36) == "xla"
    assert chosen("9.0", platform="cpu") == "xla"


@gpu_only
@pytest.mark.parametrize("case", [causal_case, packed_case, joined_case])
def test_on_a_gpu_it_is_dense_attention_to_bfloat16(case):
    def attend_of(case):
        def attend(*inputs):
            out = attend_cudnn(*(x.astype(jnp.bfloat16) for x in inputs), case.valid)
            return out.astype(jnp.float32)

        return attend

    assert_dense(attend_of, case(), atol=0.1)
