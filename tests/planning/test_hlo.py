"""Bytes moved and collectives, of programs whose are known by hand."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax.distributed import compile_for, make_mesh, topology_devices
from medscope_jax.errors import UserError
from medscope_jax.planning import Assumed, Moved, cost_of, count_flops, read_work
from medscope_jax.planning.hlo import group_size
from tests.planning.loop_cases import agent_loop, read

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
on_both = pytest.mark.parametrize("devices", ["cpu", pytest.param("v5e:2x2", marks=needs_libtpu)])
ONCE = Assumed()


def sharded(mesh, shape, *axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))


def shard_map(function, mesh, inside, out):
    return jax.shard_map(function, mesh=mesh, in_specs=inside, out_specs=out, check_vma=False)


@needs_libtpu
def test_collectives_of_a_slice_known_by_hand():
    mesh = make_mesh({"fsdp": 4}, topology_devices("v5e:2x2"))
    split = PartitionSpec("fsdp")

    def body(x):  # x: [256, 1024] on each chip, 1 MiB
        gathered = jax.lax.all_gather(x, "fsdp", tiled=True)

        def step(carry, _):
            return jax.lax.psum(carry * 2, "fsdp"), None

        summed, _ = jax.lax.scan(step, x, length=5)
        turned = jax.lax.ppermute(summed, "fsdp", [(i, (i + 1) % 4) for i in range(4)])
        return gathered, turned

    program = shard_map(body, mesh, (split,), (PartitionSpec(), split))
    report = compile_for(program, {"x": sharded(mesh, (1024, 1024), "fsdp")})
    work = read_work(report.text, 4, ONCE)
    mib = 2**20
    # Each chip sends three quarters of the gathered 4 MiB, and twice that share of 1 MiB a sum.
    assert work.collectives["all-gather"] == Moved(1, 3 * mib)
    assert work.collectives["all-reduce"] == Moved(5, 5 * 2 * 0.75 * mib)
    assert work.collectives["collective-permute"] == Moved(1, mib)
    assert work.ici_bytes == (3 + 7.5 + 1) * mib


@needs_libtpu
def test_bytes_to_and_from_memory_known_by_hand():
    mesh = make_mesh({"fsdp": 4}, topology_devices("v5e:2x2"))
    x = sharded(mesh, (4 * 32_768, 8192), "fsdp")  # 1 GiB a chip: no small memory holds it
    report = compile_for(lambda x: x * 2 + 1, {"x": x})
    assert read_work(report.text, 4, ONCE).hbm_bytes == 2 * 2**30


@needs_libtpu
def test_a_stack_of_weights_is_read_once_in_a_scan():
    """Each layer reads its own slice: in all one stack, not as many stacks as there are layers."""
    mesh = make_mesh({"fsdp": 4}, topology_devices("v5e:2x2"))
    arguments = {
        "x": sharded(mesh, (32, 4096), "fsdp", dtype=jnp.bfloat16),
        "w": sharded(mesh, (12, 4096, 4096), dtype=jnp.bfloat16),
    }

    def program(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    report = compile_for(program, arguments)
    stack = 12 * 4096 * 4096 * 2
    assert stack <= read_work(report.text, 4, ONCE).hbm_bytes < 1.1 * stack


def products(x, w):
    def step(x, w):
        heads = x.reshape(-1, 4, 4, 32).transpose(0, 2, 1, 3)
        scores = jnp.einsum("bhqd,bhkd->bhqk", heads, heads)
        mixed = jnp.einsum("bhqk,bhkd->bqhd", jax.nn.softmax(scores), heads)
        return jnp.tanh(mixed.reshape(x.shape) @ w), None

    return jax.lax.scan(step, x, w)[0]


@on_both
def test_a_chip_s_arithmetic_is_its_share_of_the_trace_s(devices):
    """Counted in the compiled text and in the trace: two ways that share no code."""
    chips = jax.devices()[:4] if devices == "cpu" else topology_devices(devices)
    mesh = make_mesh({"fsdp": 4}, chips)
    arguments = {"x": sharded(mesh, (64, 4, 128), "fsdp"), "w": sharded(mesh, (6, 128, 128))}
    report = compile_for(jax.grad(lambda x, w: products(x, w).sum(), argnums=1), arguments)
    asked = count_flops(report.trace, ONCE)
    assert asked.kernels == 0
    assert read_work(report.text, 4, ONCE).flops == pytest.approx(asked.total / 4, rel=0.02)


STEPS = {"execute_tools": 7, "decode_step": 50}


def gathered(x):
    return jax.lax.all_gather(x, "fsdp").sum(0)


def compiled(body, devices):
    """The text of a program that four chips do, each on four floats."""
    chips = jax.devices()[:4] if devices == "cpu" else topology_devices(devices)
    mesh, split = make_mesh({"fsdp": 4}, chips), PartitionSpec("fsdp")
    program = shard_map(body, mesh, (split,), split)
    return compile_for(program, {"x": sharded(mesh, (16,), "fsdp")}).text


def agents(x, **names):
    return agent_loop(x, execute_tools=gathered, decode_step=lambda x: x * 2, **names)


@on_both
def test_a_loop_that_values_decide_counts_as_assumed(devices):
    def body(x):
        return agents(read(x, gathered))

    work = read_work(compiled(body, devices), 4, Assumed(steps=STEPS, prompt=3))
    assert sum(moved.count for moved in work.collectives.values()) == 3 + 7


@on_both
@pytest.mark.parametrize(
    "body, steps, message",
    [
        (agents, STEPS | {"admit_request": 1}, "loops named execute_tools, decode_step, but"),
        (agents, {}, r"known of \(none\)"),
        (lambda x: agents(x, name="loop"), STEPS, "how often its loop named .* runs is not known"),
        (lambda x: x + 1, STEPS, "holds no loop named agent_loop"),
        (lambda x: read(x, gathered, "reading"), {}, "its loop named reading runs is not known"),
    ],
)
def test_a_loop_that_is_not_understood_is_an_error(body, steps, message, devices):
    with pytest.raises(UserError, match=message):
        read_work(compiled(body, devices), 4, Assumed(steps=steps))


@pytest.mark.parametrize(
    "attributes, size",
    [
        ("replica_groups=[2,8]<=[16]", 8),
        ("replica_groups=[2,2]<=[2,2]T(1,0), dimensions={1}", 2),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, x", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups={}", 16),
    ],
)
def test_the_size_of_a_group(attributes, size):
    assert group_size(attributes, 16) == size


def test_collectives_within_fusions_count_once_a_channel():
    text = """
%all-reduce-scatter.1 (p: f32[8]) -> f32[4] {
  %p = f32[8]{0} parameter(0)
  %ar = f32[8]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1}}
  ROOT %part = f32[4]{0} slice(%ar), slice={[0:4]}
}

%begins (q: f32[8]) -> f32[16] {
  %q = f32[8]{0} parameter(0)
  ROOT %ag.1 = f32[16]{0} all-gather(%q), channel_id=1, replica_groups={{0,1}}
}

%goes_on (r: f32[8]) -> f32[16] {
  %r = f32[8]{0} parameter(0)
  ROOT %ag.2 = f32[16]{0} all-gather(%r), channel_id=1, replica_groups={{0,1}}
}

ENTRY %main (x: f32[8]) -> f32[16] {
  %x = f32[8]{0} parameter(0)
  %s = f32[4]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %a = f32[16]{0} fusion(%x), kind=kCustom, calls=%begins
  %b = f32[16]{0} fusion(%x), kind=kCustom, calls=%goes_on
  %kernel = f32[8]{0} custom-call(%x), kernel_metadata={
    "name": "a kernel's attributes take several lines"
}}, metadata={op_name="kernel"}
  %one = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}
  %two = f32[8]{0} all-reduce(%one), channel_id=1, replica_groups={{0,1}}
  ROOT %sum = f32[16]{0} add(%a, %b)
}
"""
    assert read_work(text, 2, ONCE).collectives == {
        "all-gather": Moved(1, 32),  # half of 64 bytes
        "all-reduce": Moved(2, 64),
        "reduce-scatter": Moved(1, 16),
    }


def test_a_kernel_s_estimate_counts_in_place_of_its_operands():
    """One call reads a few pages of a cache of 4 MiB, another says nothing, a third says zero."""
    kernel = 'custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"custom_call_'
    text = f"""
ENTRY %main (a: s8[4194304]) -> f32[256] {{
  %x = s8[4194304]{{0}} parameter(0)
  %all = f32[256]{{0}} {kernel}config":{{"body":"TUz"}}}}
  %none = f32[256]{{0}} {kernel}config":{{"cost_estimate":{{"flops":"9","bytes_accessed":"0"}}}}}}
  ROOT %few = f32[256]{{0}} {kernel}config": {{"cost_estimate": {{"bytes_accessed": 65536}}}}}}
}}
"""
    whole = 4 * 2**20 + 1024
    assert read_work(text, 1, ONCE).hbm_bytes == 2 * whole + 65_536


@needs_libtpu
def test_a_kernel_s_own_estimate_is_what_a_chip_does():
    """Compiled for four chips, of which two repeat the others' work."""
    mesh, split = (
        make_mesh({"data": 2, "fsdp": 2}, topology_devices("v5e:2x2")),
        PartitionSpec("data"),
    )
    estimate = pl.CostEstimate(flops=12_345, bytes_accessed=67_890, transcendentals=0)

    def double(x, y):
        y[...] = x[...] * 2

    def body(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pl.pallas_call(double, shape, cost_estimate=estimate)(x)

    program = shard_map(body, mesh, (split,), split)
    report = compile_for(program, {"x": sharded(mesh, (512, 1024), "data")})
    cost = cost_of(report, ONCE, {})
    assert (cost.flops, cost.chip_flops) == (2 * 12_345, 12_345)
    assert cost.work.hbm_bytes == 67_890
