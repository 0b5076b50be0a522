"""Bytes that fusions read and write, against counts by hand: weights and caches that are stored in
another way than they are multiplied in."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax.distributed import compile_for, make_mesh, topology_devices
from medscope_jax.planning import Assumed, read_work
from tests.planning.plan_cases import needs_libtpu

MIB = 2**20
# How the TPU compiler writes x @ W.T, or a product with weights of another dtype: the fusion reads
# the stored array through one within it that does nothing else.
PRODUCT = """
%stored (w: {stored}) -> {used} {{
  %w = {stored}{{1,0}} parameter(0)
  ROOT %renamed = {used}{{1,0}} {rename}(%w)
}}

%product (x: bf16[8,1024], s: {stored}) -> f32[8,2048] {{
  %x = bf16[8,1024]{{1,0:S(1)}} parameter(0)
  %s = {stored}{{1,0}} parameter(1)
  %weights = {used}{{1,0}} fusion(%s), kind=kLoop, calls=%stored
  ROOT %y = f32[8,2048]{{1,0:S(1)}} convolution(%x, %weights), dim_labels=bf_io->bf
}}

ENTRY %main (a: bf16[8,1024], b: {stored}) -> f32[8,2048] {{
  %a = bf16[8,1024]{{1,0:S(1)}} parameter(0)
  %b = {stored}{{1,0}} parameter(1)
  ROOT %out = f32[8,2048]{{1,0:S(1)}} fusion(%a, %b), kind=kOutput, calls=%product
}}
"""


def moved(text):
    return read_work(text, 1, Assumed()).hbm_bytes


@pytest.mark.parametrize(
    "rename, stored, used, mib",
    [
        ("bitcast", "bf16[2048,1024]", "bf16[1024,2048]", 4),  # a head tied to the embedding
        ("copy", "bf16[1024,2048]", "bf16[1024,2048]", 4),
        ("convert", "s8[1024,2048]", "bf16[1024,2048]", 2),  # int8 weights: a byte each
        ("convert", "f32[1024,2048]", "bf16[1024,2048]", 8),
    ],
)
def test_weights_are_read_as_they_are_stored(rename, stored, used, mib):
    assert moved(PRODUCT.format(rename=rename, stored=stored, used=used)) == mib * MIB


def test_a_part_behind_a_nested_conversion_counts_alone_at_its_stored_width():
    """One layer of a stack of 24 int8 layers, and one more from within the nested fusion."""
    text = """
%layer (w: s8[24,1024,1024], n: s32[]) -> bf16[1,1024,1024] {
  %w = s8[24,1024,1024]{2,1,0} parameter(0)
  %n = s32[] parameter(1)
  %wide = bf16[24,1024,1024]{2,1,0} convert(%w)
  ROOT %one = bf16[1,1024,1024]{2,1,0} dynamic-slice(%wide, %n), dynamic_slice_sizes={1,1024,1024}
}

%wider (v: s8[24,1024,1024]) -> bf16[24,1024,1024] {
  %v = s8[24,1024,1024]{2,1,0} parameter(0)
  ROOT %converted = bf16[24,1024,1024]{2,1,0} convert(%v)
}

%added (s: s8[24,1024,1024], k: s32[]) -> bf16[1,1024,1024] {
  %s = s8[24,1024,1024]{2,1,0} parameter(0)
  %k = s32[] parameter(1)
  %left = bf16[1,1024,1024]{2,1,0} fusion(%s, %k), kind=kLoop, calls=%layer
  %all = bf16[24,1024,1024]{2,1,0} fusion(%s), kind=kLoop, calls=%wider
  %right = bf16[1,1024,1024]{2,1,0} slice(%all), slice={[3:4], [0:1024], [0:1024]}
  ROOT %sum = bf16[1,1024,1024]{2,1,0:S(1)} add(%left, %right)
}

ENTRY %main (a: s8[24,1024,1024], i: s32[]) -> bf16[1,1024,1024] {
  %a = s8[24,1024,1024]{2,1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  ROOT %out = bf16[1,1024,1024]{2,1,0:S(1)} fusion(%a, %i), kind=kLoop, calls=%added
}
"""
    assert moved(text) == 2 * MIB


@pytest.mark.parametrize(
    "opcode, kind, mib", [("convert", "bf16", 1 + 2), ("copy", "s8", 1 + 1), ("bitcast", "s8", 0)]
)
def test_a_fusion_that_only_copies_or_converts_reads_and_writes(opcode, kind, mib):
    """Beside a counter that it adds one to, which lives in a small memory."""
    text = f"""
%both (p: s8[1048576], n: s32[]) -> ({kind}[1048576], s32[]) {{
  %p = s8[1048576]{{0}} parameter(0)
  %n = s32[] parameter(1)
  %other = {kind}[1048576]{{0}} {opcode}(%p)
  %next = s32[] add(%n, %n)
  ROOT %pair = ({kind}[1048576]{{0}}, s32[]) tuple(%other, %next)
}}

ENTRY %main (a: s8[1048576], i: s32[]) -> ({kind}[1048576], s32[]) {{
  %a = s8[1048576]{{0}} parameter(0)
  %i = s32[]{{:S(6)}} parameter(1)
  ROOT %out = ({kind}[1048576]{{0}}, s32[]{{:S(6)}}) fusion(%a, %i), kind=kLoop, calls=%both
}}
"""
    assert moved(text) == pytest.approx(mib * MIB, abs=8)


def argument(mesh, shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))


def head(x, embedding):
    return jnp.argmax(jnp.matmul(x, embedding.T, preferred_element_type=jnp.float32), -1)


def layers(x, weights, scales):
    def layer(x, one):
        y = jnp.matmul(x, one[0].astype(x.dtype), preferred_element_type=jnp.float32)
        return (y * one[1]).astype(x.dtype), None

    return jax.lax.scan(layer, x, (weights, scales))[0]


def attention(query, keys, key_scales, values, value_scales):
    scores = jnp.einsum("bgd,bmd->bgm", query, keys.astype(query.dtype))
    weights = jax.nn.softmax(scores * key_scales[:, None], -1) * value_scales[:, None]
    return jnp.einsum("bgm,bmd->bgd", weights.astype(query.dtype), values.astype(query.dtype))


BF16, INT8, F32 = jnp.bfloat16, jnp.int8, jnp.float32
CACHE, SCALES = ((8, 32_768, 128), INT8), ((8, 32_768), F32)


@needs_libtpu
@pytest.mark.parametrize(
    "program, shapes, stored",
    [
        (head, [((8, 2048), BF16), ((151_936, 2048), BF16)], 151_936 * 2048 * 2),
        (layers, [((8, 4096), BF16), ((24, 4096, 4096), INT8), ((24, 4096), F32)], 24 * 4096**2),
        (attention, [((8, 8, 128), BF16), CACHE, SCALES, CACHE, SCALES], 2 * 8 * 32_768 * 132),
    ],
    ids=["tied head", "int8 weights", "int8 cache"],
)
def test_a_compiled_program_reads_what_is_stored_once(program, shapes, stored):
    """What a decode step spends its time in: all else, such as scores, is small beside it."""
    mesh = make_mesh({"tensor": 4}, topology_devices("v5e:2x2"))
    arguments = {f"a{i}": argument(mesh, *shape) for i, shape in enumerate(shapes)}
    report = compile_for(program, arguments)
    assert stored <= read_work(report.text, 4, Assumed()).hbm_bytes < 1.25 * stored
