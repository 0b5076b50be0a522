"""The kernel over a key-value cache, run as a plain program here, against dense attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax.distributed import compile_for, make_mesh, topology_devices
from medscope_jax.models.attention.cached import attend_cached, takes_cached
from medscope_jax.models.attention.dense import attend
from medscope_jax.models.cache import Cache, read
from medscope_jax.models.quantize import quantize
from medscope_jax.planning import Assumed, count_flops, read_work
from tests.planning.plan_cases import needs_libtpu

LAYERS, WIDTH = 2, 16


def filled_cache(rows, kv_heads, length, int8=False):
    """A cache of random numbers; what is behind the filled part is there, and must not be seen."""
    keys = jax.random.split(jax.random.key(0), 2)
    shape = (LAYERS, rows, kv_heads, length, WIDTH)
    parts = [jax.random.normal(key, shape) for key in keys]
    if not int8:
        return Cache(*parts)
    (k, k_scale), (v, v_scale) = (quantize(part[..., None]) for part in parts)
    return Cache(k[..., 0], v[..., 0], k_scale[..., 0], v_scale[..., 0])


def queries(rows, count, heads):
    return jax.random.normal(jax.random.key(1), (rows, count, heads, WIDTH))


def dense(query, cache, layer, start):
    positions = start[:, None] + jnp.arange(query.shape[1])
    allowed = jnp.arange(cache.length) <= positions[..., None]
    return attend(query, *read(cache, layer, query.dtype), allowed, jax.lax.Precision.HIGHEST)


def assert_dense(query, cache, start, layer=1):
    found = attend_cached(query, cache, jnp.int32(layer), start, interpret=True)
    np.testing.assert_allclose(found, dense(query, cache, layer, start), rtol=2e-5, atol=2e-6)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([1, 2, 5, 8, 130]),
    st.sampled_from([(1, 1), (7, 1), (4, 2), (14, 2)]),
    st.sampled_from([128, 384, 2048]),
    st.booleans(),
    st.data(),
)
def test_it_is_dense_attention_of_what_is_filled(count, heads, length, int8, data):
    """Decode steps and pieces of texts, rows that are filled differently far, blocks' borders."""
    heads, kv_heads = heads
    count = min(count, length)
    borders = st.sampled_from([0, 1, 127, 128, 129, 255, 256, 1023, 1024, length - count])
    starts = st.integers(0, length - count) | borders.filter(lambda n: n <= length - count)
    start = jnp.array(data.draw(st.lists(starts, min_size=2, max_size=2)))
    assert_dense(queries(2, count, heads), filled_cache(2, kv_heads, length, int8), start)


def test_a_row_s_inputs_may_reach_beyond_the_cache():
    """Padding inputs do: they are dropped, and must not disturb the others."""
    cache, query, start = filled_cache(1, 1, 256), queries(1, 8, 2), jnp.array([252])
    found = attend_cached(query, cache, 0, start, interpret=True)
    np.testing.assert_allclose(
        found[:, :4], dense(query, cache, 0, start)[:, :4], rtol=2e-5, atol=2e-6
    )
    assert np.isfinite(found).all()


@pytest.mark.parametrize("axes", [{"data": 2, "tensor": 2}, {"tensor": 4}, {"context": 2}])
def test_a_mesh_changes_nothing(axes):
    """Heads over tensor where it divides them, rows over data; along context all do the same."""
    mesh = make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values())))])
    cache, query, start = filled_cache(2, 2, 256, int8=True), queries(2, 3, 4), jnp.array([5, 200])
    with jax.set_mesh(mesh):
        found = jax.jit(lambda *x: attend_cached(*x, interpret=True))(query, cache, 1, start)
    np.testing.assert_allclose(found, dense(query, cache, 1, start), rtol=2e-5, atol=2e-6)


def test_which_caches_it_takes():
    assert [takes_cached(n) for n in (128, 32_768, 10_240, 100, 200)] == [True] * 3 + [False] * 2


@needs_libtpu
@pytest.mark.parametrize("kind", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("count, heads, kv_heads", [(1, 16, 2), (1, 28, 4), (512, 28, 4)])
def test_it_compiles_for_a_tpu_and_reads_what_is_filled(kind, int8, count, heads, kv_heads):
    """Decode steps and pieces of prompts at the published sizes; half of the cache is filled."""
    layers, rows, length, width = 4, 8, 32_768, 128
    mesh = make_mesh({"tensor": 2}, topology_devices(kind)[:2])

    def argument(dtype, *shape, split=None):
        spec = PartitionSpec(*(None if i != split else "tensor" for i in range(len(shape))))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    dtype = jnp.int8 if int8 else jnp.bfloat16
    stored = argument(dtype, layers, rows, kv_heads, length, width, split=2)
    scale = argument(jnp.float32, layers, rows, kv_heads, length, split=2) if int8 else None
    query = argument(jnp.bfloat16, rows, count, heads, width, split=2)

    def program(query, cache, layer, start):
        return attend_cached(query, cache, layer, start)

    report = compile_for(
        program,
        {
            "query": query,
            "cache": Cache(stored, stored, scale, scale),
            "layer": argument(jnp.int32),
            "start": argument(jnp.int32, rows),
        },
    )
    blocks = -(-count // 128)
    position = kv_heads // 2 * (width * (1 if int8 else 2) + (4 * kv_heads // 2 if int8 else 0))
    of_cache = 2 * blocks * rows * length * position
    whole, half = (
        read_work(report.text, 2, Assumed(filled=(share,) * 3)).hbm_bytes for share in (1.0, 0.5)
    )
    assert whole - half == of_cache / 2
    assert half < 1.2 * of_cache / 2 + 4 * rows * count * heads * width * 2
    operations = count_flops(report.trace, Assumed(filled=(0.5,) * 3))
    asked = rows * -(-count // blocks) * blocks * heads * length * width
    assert operations.chip_kernels == 4 * asked / 2 / 2 and operations.products == 0
