"""Attention to the filled blocks of a cache, against dense attention to all of it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.models.attention.filled import BLOCK, OWN_BLOCKS, attend_filled
from medscope_jax.planning import Assumed, count_flops, read_work
from tests.models.attention.test_cached import DENSE, LAYER, WIDTH, attend, dense, filled_cache
from tests.models.attention.test_cached import queries as make_queries

LENGTH = 2 * BLOCK + 300  # the last block begins within the one before


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, LENGTH - 3), min_size=2, max_size=2),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_blocks_are_dense_attention(starts, count, int8):
    """Borders anywhere; what is behind the filled part is there and is not seen."""
    cache = filled_cache(2, 2, LENGTH, int8)
    query, start = make_queries(2, count, 4), jnp.array(starts)
    found = attend(query, cache, start, DENSE)
    np.testing.assert_allclose(found, dense(query, cache, start), atol=2e-6)


def test_rows_without_inputs_decide_nothing():
    """Not how far is read, by a row that is done and full; nor does it change another row."""
    cache, query = filled_cache(2, 2, LENGTH), make_queries(2, 1, 4)
    start = jnp.array([40, LENGTH - 1])
    wanted = dense(query, cache, start)
    found = attend(query, cache, start, DENSE, active=jnp.array([1, 0]))
    np.testing.assert_allclose(found[0], wanted[0], atol=2e-6)
    # A not-a-number behind the first block is not read at all.
    holes = cache.replace(v=cache.v.at[:, :, :, BLOCK:].set(jnp.nan))
    found = attend(query, holes, start, DENSE, active=jnp.array([1, 0]))
    np.testing.assert_allclose(found[0], wanted[0], atol=2e-6)


def program(length):
    """The compiled attention over a cache of so many positions, and its trace."""

    def run(query, cache, last):
        part = attend_filled(
            query, cache, LAYER, last, lambda at: (at <= last)[None, None], None, OWN_BLOCKS
        )
        return part.values

    query = jax.ShapeDtypeStruct((2, 2, 2, 1, WIDTH), jnp.float32)
    cache = jax.eval_shape(lambda: filled_cache(2, 2, length))
    traced = jax.jit(run).trace(query, cache, jax.ShapeDtypeStruct((), jnp.int32))
    return traced.jaxpr, traced.lower().compile().as_text()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_plan_counts_what_is_filled(share):
    """By hand: scores and values of 4 heads a row, 2 rows, so many blocks of positions."""
    trace, text = program(4 * BLOCK)
    assumed = Assumed(filled=(share, share, share))
    wanted = 2 * 2 * (2 * 4) * WIDTH * 4 * BLOCK * share
    assert count_flops(trace, assumed).total == wanted
    assert read_work(text, 1, assumed).flops == wanted


def test_short_caches_are_read_at_once():
    assert re.search(r"\bwhile\(", program(4 * BLOCK)[1])
    assert not re.search(r"\bwhile\(", program(2 * BLOCK)[1])
