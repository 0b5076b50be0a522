"""What fills a chip: the compiler's own map of its memory, read."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax.distributed import compile_for, make_mesh, topology_devices
from medscope_jax.planning import largest_buffers

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def v5e():
    return make_mesh({"fsdp": 4}, topology_devices("v5e:2x2"))


def rows(count, mesh=None):
    sharding = NamedSharding(mesh or v5e(), PartitionSpec("fsdp"))
    return jax.ShapeDtypeStruct((count, 65_536), jnp.float32, sharding=sharding)


def ordered(x):
    with jax.named_scope("ordering"):
        return jnp.sort(x, axis=1) * 2


@needs_libtpu
def test_the_largest_buffers_of_a_program_that_does_not_fit():
    report = compile_for(ordered, {"records": rows(400_000)})
    assert not report.fits
    part = 100_000 * 65_536 * 4  # a chip's, 24 GiB: the argument, its order, the result
    assert report.arguments_bytes == {"records": part} and report.outputs_bytes == part
    assert 3 * part <= report.total_bytes < 3.01 * part  # what the refusal says: 73.24G
    assert "73.24G" in report.message
    buffers = largest_buffers(report.assignment, report.text)
    assert [buffer.size for buffer in buffers[:2]] == sorted(
        (buffer.size for buffer in buffers[:2]), reverse=True
    )
    assert sum(part <= buffer.size < 1.01 * part for buffer in buffers) == 3
    assert any(buffer.shape == "f32[100000,65536]" for buffer in buffers)
    assert {buffer.name for buffer in buffers} >= {"x"}
    assert any("ordering" in buffer.name for buffer in buffers)


@needs_libtpu
def test_buffers_of_a_program_that_fits_add_up_to_no_more_than_its_memory():
    report = compile_for(ordered, {"records": rows(4_000)})
    assert report.fits
    buffers = largest_buffers(report.assignment, report.text, count=100)
    assert 1000 * 65_536 * 4 <= sum(buffer.size for buffer in buffers) <= report.total_bytes * 1.01


@needs_libtpu
def test_the_report_is_the_compiler_s_own_account():
    mesh = v5e()
    state, extra = rows(4_000, mesh), rows(416, mesh)  # of whole tiles: no padding

    def program(state, extra):
        return state + extra.sum(), jnp.sort(state, axis=0)[:8]

    step = jax.jit(program, donate_argnums=0)
    report = compile_for(step, {"state": state, "extra": extra})
    with jax.set_mesh(mesh):
        compiled = step.lower(state, extra).compile()
    memory = compiled.memory_analysis()
    assert sum(report.arguments_bytes.values()) == memory.argument_size_in_bytes
    assert report.outputs_bytes == memory.output_size_in_bytes
    assert report.aliased_bytes == memory.alias_size_in_bytes == 1000 * 65_536 * 4
    assert report.temporaries_bytes == memory.temp_size_in_bytes > 0
    assert report.code_bytes == memory.generated_code_size_in_bytes
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + report.code_bytes
    assert report.total_bytes == used + report.outputs_bytes - report.aliased_bytes


def test_of_values_that_share_memory_the_largest_counts():
    assignment = """BufferAssignment:
allocation 0: size 64, page 0, parameter 3, shape |f32[16]| at ShapeIndex {}:
 value: <1 p @0> (size=64,offset=0): f32[16]{0:T(256)}
allocation 1: size 999, color 1, page 0, preallocated-temp:
 value: <2 fast @1> (size=999,offset=0): f32[240]{0:T(256)S(1)}
allocation 2: size 300, page 0, preallocated-temp:
 value: <3 a @0> (size=100,offset=0): f32[25]{0}
 value: <4 b{1} @0> (size=80,offset=50): (f32[20]{0}, u32[])
 value: <5 c @0> (size=200,offset=100): f32[50]{0}
"""
    text = """
ENTRY %main {
  %p = f32[16]{0} parameter(3), metadata={op_name="bank.tokens"}
  %c = f32[50]{0} fusion(%p), metadata={op_name="jit(f)/while/body/layers/mlp/dot_general"}
}
"""
    found = largest_buffers(assignment, text)
    assert found == [
        (200, "f32[50]", "layers/mlp/dot_general"),
        (100, "f32[25]", "a"),
        (64, "f32[16]", "bank.tokens"),
    ]


def test_a_compiler_that_tells_nothing_gives_no_buffers():
    assert largest_buffers("", "HloModule x") == []
