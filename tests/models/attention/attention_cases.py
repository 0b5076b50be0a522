"""Self-attention's inputs, rows of three kinds, and dense attention's outputs and gradients."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.distributed import on_mesh
from medscope_jax.models.attention.dense import (
    Joined,
    Packed,
    RowPlan,
    attend_causal,
    attend_joined,
    attend_packed,
)

HEADS, KV_HEADS, WIDTH = 4, 2, 32
PROMPT, GROUP, REST = 90, 2, 70  # of packed rows; neither fills a block of 128


def attention_inputs(rows: int, length: int):
    """query [B, L, H, hd], key and value [B, L, K, hd], and weights of the outputs."""
    random = np.random.default_rng(0)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    return tuple(random.normal(size=(rows, length, n, WIDTH)).astype(np.float32) for n in heads)


def pulled_back(attend, real, query, key, value, weights):
    """Outputs at real positions, and gradients of their weighted sum in query, key and value."""

    def of(*inputs):
        out = attend(*inputs)[:, : real.shape[1]]
        out = jnp.where(real[..., None, None], out, 0)
        return jnp.sum(out * weights[:, : real.shape[1]]), out

    return jax.value_and_grad(of, argnums=(0, 1, 2), has_aux=True)(query, key, value)


def dense(case):
    """pulled_back by the case's own attention, without padding to whole blocks."""

    def attend(query, key, value):
        length = case.real.shape[1]
        query, key, value = (x[:, :length] for x in (query, key, value))
        key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
        return case.look(query, key, value, case.valid, jax.lax.Precision.HIGHEST)

    return jax.jit(functools.partial(pulled_back, attend, case.real))


class Case(NamedTuple):
    """Rows of one kind: `look` is their dense attention, given `valid`."""

    valid: np.ndarray | Packed | Joined
    real: np.ndarray  # bool [B, L]: the same, as positions
    plan: RowPlan
    look: Callable


def causal_case() -> Case:
    length = 250
    valid = np.arange(length) < np.array([[250], [90]])
    valid[0, 7] = False  # padding may stand anywhere
    return Case(valid, valid, RowPlan(256, 256), attend_causal)


def packed_case() -> Case:
    prompt = np.arange(PROMPT) < np.array([[90], [40]])
    rest = np.arange(REST) < np.array([[70, 9], [33, 0]])[..., None]
    valid = Packed(jnp.asarray(prompt), jnp.asarray(rest))
    return Case(valid, np.asarray(valid.flat()), RowPlan(PROMPT, REST), attend_packed)


def joined_case() -> Case:
    """Conversations of 1 to 128 positions, whose borders lie within blocks of 128 and between."""
    sizes = [[100, 28, 1, 90, 20], [128, 64]]
    segment = np.zeros((2, 250), np.int32)
    for row, counts in enumerate(sizes):
        segment[row, : sum(counts)] = np.repeat(np.arange(1, len(counts) + 1), counts)

    def look(query, key, value, valid, exact):
        return attend_joined(query, key, value, valid.segment, exact)

    return Case(Joined(jnp.asarray(segment)), segment > 0, RowPlan(256, 256), look)


def assert_dense(attend_of, case: Case, mesh=None, atol=2e-5):
    """attend_of(case), an attention, gives the values and gradients of dense attention."""
    inputs = attention_inputs(2, 256)
    program = jax.jit(functools.partial(pulled_back, attend_of(case), case.real))
    found, wanted = on_mesh(mesh, program)(*inputs), dense(case)(*inputs)
    close = functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-5)  # a sum is large
    jax.tree.map(close, found, wanted)
