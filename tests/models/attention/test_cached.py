"""The kernel over a key-value cache, run as a plain program here, against dense attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax import models
from medscope_jax.distributed import compile_for, make_mesh, topology_devices
from medscope_jax.models.attention.cached import padding_for_cached
from medscope_jax.models.attention.dense import attend as attend_densely
from medscope_jax.models.attention.dispatch import attend_cache, cached_length
from medscope_jax.models.cache import Cache, Prefix, read
from medscope_jax.models.quantize import quantize
from medscope_jax.planning import Assumed, count_flops, read_work
from tests.planning.plan_cases import needs_libtpu

LAYERS, WIDTH, LAYER = 2, 16, 1
DENSE = models.ModelConfig()
KERNEL = dataclasses.replace(DENSE, attention="splash")


def filled_cache(rows, kv_heads, length, int8=False, seed=0):
    """A cache of random numbers; what is behind the filled part is there, and must not be seen."""
    keys = jax.random.split(jax.random.key(seed), 2)
    shape = (LAYERS, rows, kv_heads, length, WIDTH)
    parts = [jax.random.normal(key, shape) for key in keys]
    if not int8:
        return Cache(*parts)
    (k, k_scale), (v, v_scale) = (quantize(part[..., None]) for part in parts)
    return Cache(k[..., 0], v[..., 0], k_scale[..., 0], v_scale[..., 0])


def queries(rows, count, heads):
    return jax.random.normal(jax.random.key(1), (rows, count, heads, WIDTH))


def dense(query, cache, start):
    positions = start[:, None] + jnp.arange(query.shape[1])
    allowed = jnp.arange(cache.length) <= positions[..., None]
    return attend_densely(
        query, *read(cache, LAYER, query.dtype), allowed, jax.lax.Precision.HIGHEST
    )


# At once: the many small programs of its operations would take longer to compile.
_attend_cache = jax.jit(attend_cache, static_argnames=("config", "interpret"))


def attend(query, cache, start, config=KERNEL, active=None):
    active = jnp.full(len(query), query.shape[1]) if active is None else active
    return _attend_cache(
        query, cache, jnp.int32(LAYER), start, active, config=config, interpret=True
    )


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


@settings(deadline=None, max_examples=12)
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
    query, cache = queries(2, count, heads), filled_cache(2, kv_heads, length, int8)
    found = attend(query, cache, start)
    assert_close(found, dense(query, cache, start))


def test_a_row_s_inputs_may_reach_beyond_the_cache():
    """Padding inputs do: they are dropped, and must not disturb the others."""
    cache, query, start = filled_cache(1, 1, 256), queries(1, 8, 2), jnp.array([252])
    found = attend(query, cache, start)
    assert_close(found[:, :4], dense(query, cache, start)[:, :4])
    assert np.isfinite(found).all()


# Three prompts of at most 256 positions; rows that begin with them, and how many positions of each.
PROMPTS, ROOM = 3, 256
LENGTHS = np.array([256, 3, 130])


def with_prefix(rows, group, int8=False, own=128):
    """(the cache of rows that begin with the PROMPTS of `rows`, the same rows in one cache)."""
    rows = np.array(rows)
    begun = filled_cache(PROMPTS, 2, ROOM, int8, seed=2)
    mine = filled_cache(len(rows), 2, own, int8)
    prefix = Prefix(begun, jnp.asarray(rows), jnp.asarray(LENGTHS[rows]), group)

    def joined(first, second):
        """Each row's prompt, then its own positions; [layers, rows, K, ROOM + own, ..]."""
        lines = [
            np.concatenate(
                [
                    first[:, row, :, : LENGTHS[row]],
                    second[:, i],
                    np.zeros_like(first[:, row, :, LENGTHS[row] :]),
                ],
                axis=2,
            )
            for i, row in enumerate(rows)
        ]
        return jnp.asarray(np.stack(lines, axis=1))

    whole = jax.tree.map(lambda a, b: joined(np.asarray(a), np.asarray(b)), begun, mine)
    return mine.replace(prefix=prefix), whole


@pytest.mark.parametrize("config", [DENSE, KERNEL], ids=["dense", "kernel"])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(
    "rows, group", [([0, 0, 1, 1, 2, 2], 2), ([2, 0, 0, 1], 0), ([1], 0), ([0, 1, 2], 1)]
)
def test_rows_that_begin_alike_are_rows_with_a_prompt_each(config, int8, count, rows, group):
    """Each row attends to its prompt and to its own positions as if they lay side by side."""
    cache, whole = with_prefix(rows, group, int8)
    start = jnp.asarray(LENGTHS[rows] + 7 * np.arange(len(rows)))
    query = queries(len(rows), count, 4)
    found = attend(query, cache, start, config)
    assert_close(found, dense(query, whole, start))


@pytest.mark.parametrize("config", [DENSE, KERNEL], ids=["dense", "kernel"])
def test_a_row_without_a_prompt_yet_sees_its_own_alone(config):
    """A batch slot that no request has taken: nothing of it counts, and it is finite."""
    cache, _ = with_prefix([0, 0], 0)
    cache = cache.replace(prefix=cache.prefix.replace(length=jnp.zeros(2, jnp.int32)))
    query, start = queries(2, 1, 4), jnp.array([0, 9])
    found = attend(query, cache, start, config)
    assert_close(found, dense(query, cache.replace(prefix=None), start))


@pytest.mark.parametrize("active", [[1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
def test_rows_that_do_nothing_disturb_no_other_and_stay_finite(active):
    rows, active = [0, 0, 2, 2], np.array(active)
    cache, whole = with_prefix(rows, 2)
    start, query = jnp.asarray(LENGTHS[rows] + [3, 0, 60, 9]), queries(4, 1, 4)
    found = attend(query, cache, start, active=jnp.asarray(active))
    assert np.isfinite(found).all()
    wanted = dense(query, whole, start)
    assert_close(found[active > 0], wanted[active > 0])


@pytest.mark.parametrize("axes", [{"data": 2, "tensor": 2}, {"tensor": 4}, {"context": 2}])
def test_a_mesh_changes_nothing(axes):
    """Heads over tensor where it divides them; along all else devices do the same."""
    mesh = make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values())))])
    cache, whole = with_prefix([0, 0, 2, 2], 2, int8=True)
    query, start = queries(4, 3, 4), jnp.asarray(LENGTHS[[0, 0, 2, 2]])

    with jax.set_mesh(mesh):
        found = jax.jit(attend)(query, cache, start)
    assert_close(found, dense(query, whole, start))


def test_lengths():
    assert [padding_for_cached(n) for n in (128, 32_768, 100, 129)] == [0, 0, 28, 127]
    assert (cached_length(100, KERNEL), cached_length(100, DENSE)) == (128, 100)


@needs_libtpu
@pytest.mark.parametrize(
    "kind, int8, count, heads, kv_heads",
    [
        *(("v5e:2x2", int8, 1, 16, 2) for int8 in (False, True)),
        *(("v6e:2x2", int8, count, 28, 4) for int8 in (False, True) for count in (1, 512)),
        ("v4:2x2x1", False, 512, 28, 4),
        ("v5p:2x2x1", True, 1, 28, 4),
    ],
)
def test_it_compiles_for_a_tpu_and_reads_what_is_filled(kind, int8, count, heads, kv_heads):
    """Decode steps of a group and pieces of prompts at the published sizes; of the rows' own
    positions a quarter is filled, and prompts are read once."""
    layers, width, chips = 72, 128, 2  # too large for the memory on the chip
    rows, group = (8, 8) if count == 1 else (1, 1)
    mesh = make_mesh({"tensor": chips}, topology_devices(kind)[:chips])

    def argument(dtype, *shape, split=None):
        spec = PartitionSpec(*(None if i != split else "tensor" for i in range(len(shape))))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def stored(rows, length):
        dtype = jnp.int8 if int8 else jnp.bfloat16
        part = argument(dtype, layers, rows, kv_heads, length, width, split=2)
        scale = argument(jnp.float32, layers, rows, kv_heads, length, split=2) if int8 else None
        return Cache(part, part, scale, scale)

    places = argument(jnp.int32, rows)
    cache = stored(rows, 13_440).replace(prefix=Prefix(stored(1, 19_456), places, places, group))
    query = argument(jnp.bfloat16, rows, count, heads, width, split=2)
    config = dataclasses.replace(KERNEL, dtype="bfloat16")

    def program(query, cache, layer, start, count):
        return attend_cache(query, cache, layer, start, count, config)

    arguments = {"query": query, "cache": cache, "layer": argument(jnp.int32)}
    arguments |= {"start": places, "count": places}
    report = compile_for(program, arguments)
    local = kv_heads // chips
    position = 2 * local * (width + 4 * local if int8 else 2 * width)
    blocks = -(-count // 128)
    prompts, own = (blocks * n * position for n in (19_456, rows * 13_440))
    whole, quarter = (
        read_work(report.text, chips, Assumed(filled=(share,) * 3)).hbm_bytes
        for share in (1.0, 0.25)
    )
    assert whole - quarter == 0.75 * own
    asked = rows * count * heads * width
    # Factors of int8 numbers are small enough for XLA to bring them to the chip as a whole.
    factors = 2 * 2 * layers * local * 4 * (19_456 + rows * 13_440) if int8 else 0
    assert quarter < 1.05 * (prompts + own / 4) + factors + 20 * asked
    operations = count_flops(report.trace, Assumed(filled=(0.25,) * 3))
    pairs = asked * (19_456 + 13_440 / 4)
    assert operations.chip_kernels == pytest.approx(4 * pairs / chips, rel=0.3)
    assert operations.products == 0
