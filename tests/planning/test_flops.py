"""Operations of a program against counts made otherwise: by hand, and by the compiler."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from medscope_jax import models
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.models import ModelConfig, TextConfig, VisionConfig
from medscope_jax.planning import Assumed, count_flops
from tests.planning.loop_cases import agent_loop, read


def operations(program, arguments, assumed):
    return count_flops(jax.make_jaxpr(program)(*arguments), assumed).total


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


ONCE = Assumed()
FEW = floats(2, 4), floats(4, 4)


def test_a_product_by_hand():
    def program(x, y):
        return jnp.einsum("bij,bjk->bik", x, y) + 1

    assert operations(program, (floats(3, 4, 5), floats(3, 5, 6)), ONCE) == 2 * 3 * 4 * 5 * 6


def test_a_scan_counts_as_often_as_it_is_long_and_its_backward_pass_twice():
    def forward(w, x):
        step = jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None), prevent_cse=False)
        return jax.lax.scan(step, x, w)[0].sum()

    arguments = floats(7, 8, 8), floats(4, 8)
    once = 7 * 2 * 4 * 8 * 8
    assert operations(forward, arguments, ONCE) == once
    # A product for each of the two gradients, and the forward pass again.
    assert operations(jax.jit(jax.grad(forward)), arguments, ONCE) == 4 * once


def test_the_agent_loop_counts_its_steps_as_often_as_assumed():
    """By their names, in whatever order they stand."""

    def program(x, w):
        return agent_loop(x, execute_tools=lambda x: (x @ w) @ w, decode_step=lambda x: x @ w)

    assumed = Assumed(steps={"decode_step": 10, "execute_tools": 3})
    assert operations(program, FEW, assumed) == (2 * 3 + 10) * 2 * 2 * 16


def test_a_text_is_read_in_as_many_pieces_as_assumed():
    """Before the agent loop and where prompts are read a prompt, else an observation."""

    def program(x, w):
        return agent_loop(
            read(x, lambda x: x @ w),
            prefill_prompts=lambda x: read(x, lambda x: x @ w),
            admit_request=lambda x: x + 1,
            execute_tools=lambda x: read(x, lambda x: x @ w),
            decode_step=lambda x: x + 2,
        )

    steps = {"prefill_prompts": 2, "admit_request": 5, "execute_tools": 3, "decode_step": 100}
    found = operations(program, FEW, Assumed(steps=steps, prompt=10, observation=4))
    assert found == (10 + 2 * 10 + 3 * 4) * 2 * 2 * 16


STEPS = {"execute_tools": 3, "decode_step": 10}
KINDS = {"execute_tools": lambda x: x + 1, "decode_step": lambda x: x * 2}


@pytest.mark.parametrize(
    "kinds, steps, message",
    [
        ({"execute_tools": KINDS["execute_tools"]}, STEPS, "loops named execute_tools, but"),
        ({**KINDS, "write": lambda x: x + 3}, STEPS, "decode_step, write, but.*known of execute"),
        ({"look": KINDS["execute_tools"], "decode_step": KINDS["decode_step"]}, STEPS, "look, dec"),
        (
            KINDS,
            {**STEPS, "admit_request": 8},
            "known of execute_tools, decode_step, admit_request",
        ),
        (KINDS, {}, r"known of \(none\)"),
    ],
)
def test_an_agent_loop_of_other_steps_than_assumed_is_an_error(kinds, steps, message):
    with pytest.raises(UserError, match=message):
        operations(lambda x, w: agent_loop(x, **kinds), FEW, Assumed(steps=steps))


@pytest.mark.parametrize("name", ["reading", "agent_loops"])
def test_products_in_a_loop_of_no_known_length_are_an_error(name):
    def program(x, w):
        return read(x, lambda x: x @ w, name)

    with pytest.raises(UserError, match=f"how often its loop named {name} runs is not known"):
        operations(program, FEW, ONCE)
    # A loop that multiplies nothing has no operations to count.
    assert operations(lambda x, w: read(x, lambda x: x + 1, name), FEW, ONCE) == 0


def test_another_choice_counts_by_its_share():
    def program(x, w):
        return jax.lax.cond(x.sum() > 0, lambda x: (x @ w) @ w, lambda x: x @ w, x)

    found = operations(program, FEW, Assumed(choice=(0.75, 0.25)))
    assert found == (0.75 + 0.25 * 2) * 2 * 2 * 16


def test_a_shard_s_work_counts_for_all_shards():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
    split = PartitionSpec(("data", "fsdp"))
    program = jax.shard_map(
        lambda x, w: x @ w,
        mesh=mesh,
        in_specs=(split, PartitionSpec()),
        out_specs=split,
        axis_names={"data", "fsdp"},
    )
    with jax.set_mesh(mesh):
        assert operations(program, (floats(8, 4), floats(4, 4)), ONCE) == 2 * 8 * 4 * 4


@pytest.mark.parametrize("out", [PartitionSpec("data"), PartitionSpec("data", "fsdp")])
def test_what_devices_repeat_counts_once(out):
    """Rows split over data alone: devices along fsdp do the same, unless they leave parts apart."""
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
    program = jax.shard_map(
        lambda x, w: kernel(x @ w, flops=1000),
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=out,
        axis_names={"data", "fsdp"},
        check_vma=False,
    )
    with jax.set_mesh(mesh):
        trace = jax.make_jaxpr(program)(floats(8, 4), floats(4, 4))
    parts = 4 if "fsdp" in out else 2
    assert count_flops(trace, ONCE) == (parts * 2 * (8 / 2) * 4 * 4, parts * 1000, 1000)


def kernel(x, flops=None):
    """A Pallas call that multiplies x, [N, N], by itself, with an estimate of its FLOPs or none."""
    estimate = flops and pl.CostEstimate(flops=flops, bytes_accessed=10, transcendentals=0)

    def multiply(x, y):
        y[...] = x[...] @ x[...]

    return pl.pallas_call(multiply, x, name="square", cost_estimate=estimate)(x)


def test_a_kernel_that_can_t_be_counted_is_an_error():
    with pytest.raises(UserError, match="kernel square is no attention.*give its pallas_call a"):
        operations(kernel, (floats(4, 4),), ONCE)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_model_s_forward_pass_against_the_compiler_s_count(layers):
    """Where no loop hides anything: up to four layers are unrolled, so the compiler sees all."""
    text = TextConfig(
        vocab_size=256, hidden_size=256, intermediate_size=1024, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, mrope_section=(8, 12, 12),
    )  # fmt: skip
    model = ModelConfig(VisionConfig(out_hidden_size=256), text)
    params = models.param_shapes(model)
    batch, length = 2, 96

    def program(params, embeddings, positions):
        valid = jnp.ones((batch, length), bool)
        hidden = models.forward(params, model, embeddings, positions, valid)
        return models.logits(params, model, hidden)

    arguments = (
        params,
        floats(batch, length, 256),
        jax.ShapeDtypeStruct((3, batch, length), jnp.int32),
    )
    found = operations(program, arguments, ONCE)
    # By hand: projections, feed-forward, scores and their product with values, head.
    width, inner, kv = 256, 1024, 2 * 64
    weights = 2 * width * width + 2 * width * kv + 3 * width * inner
    attention = 2 * length * width  # all keys for every query, masked or not
    by_hand = 2 * batch * length * (layers * (weights + attention) + width * 256)
    assert found == by_hand
    compiled = jax.jit(program).lower(*arguments).compile().cost_analysis()["flops"]
    assert found < compiled < 1.1 * found  # which counts every operation, not products alone


def test_a_convolution_by_hand():
    def program(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID")

    found = operations(program, (floats(2, 3, 8, 8), floats(5, 3, 3, 3)), ONCE)
    assert found == 2 * (2 * 5 * 6 * 6) * 3 * 3 * 3


def test_an_attention_kernel_by_hand():
    """Forward and backward: two products of all pairs of slots, then seven, of which half count."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    heads, length, width = 4, 512, 64
    mask = splash.MultiHeadMask([splash.CausalMask((length, length))] * heads)
    names = "block_q block_kv block_kv_compute block_q_dkv block_kv_dkv block_kv_dkv_compute"
    blocks = dict.fromkeys(f"{names} block_q_dq block_kv_dq".split(), 128)
    kernel = splash.make_splash_mha(
        mask, block_sizes=splash.BlockSizes(**blocks), head_shards=1, q_seq_shards=1
    )
    one = floats(heads, length, width)
    pairs = heads * length * length
    forward = count_flops(jax.make_jaxpr(kernel)(one, one, one), ONCE)
    by_hand = 0.5 * 2 * 2 * pairs * width
    assert forward == (0, by_hand, by_hand)

    def loss(q, k, v):
        return jax.vmap(kernel)(q, k, v).sum()  # a batch of three

    batch = floats(3, heads, length, width)
    both = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(batch, batch, batch)
    found = count_flops(both, Assumed(attended=0.25))
    assert found.kernels == 0.25 * 3 * (2 + 7) * 2 * pairs * width
    assert found.products == 2 * 3 * pairs * width / length  # of outputs with their gradients
