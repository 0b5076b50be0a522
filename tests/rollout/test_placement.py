"""Weights on a mesh of the rollouts' own and in int8: what is rolled out, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.distributed import make_mesh, param_shardings
from medscope_jax.errors import UserError
from medscope_jax.models import LoraConfig, add_lora, freeze, init_params, model_config
from medscope_jax.rollout import (
    RolloutConfig,
    RolloutEngine,
    VideoQuestion,
    find_special_tokens,
    place_weights,
    rollout_mesh,
    rollout_model,
)
from tests.bank.bank_cases import on_host
from tests.rollout import rollout_cases as cases

CONFIG = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)
KEY = jax.random.key(7)


def make_world():
    """rollout_cases' world, whose model has four query heads on two key-value heads, biases that
    are not zero, and adapters on all projections."""
    tokenizer, model, _, bank, *_ = cases.make_world(layers=1)
    text = {"vocab_size": model.text.vocab_size, "hidden_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    model = model_config({"text": text | {"mrope_section": (2, 1, 1)}})
    model = dataclasses.replace(model, lora=LoraConfig(rank=4, base="float32"))
    params = add_lora(init_params(model, jax.random.key(0)), model, jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    return tokenizer, model, params, on_host(bank)


@pytest.fixture(scope="module")
def world():
    return make_world()


def engine_of(world, mesh, **changes):
    tokenizer, model, *_ = world
    special_tokens, config = find_special_tokens(tokenizer, cases.LAYOUT), CONFIG
    config = dataclasses.replace(config, **changes)
    return RolloutEngine(mesh, model, tokenizer, special_tokens, cases.LAYOUT, config)


def rolled(world, mesh, params, **changes):
    """(the finished rollouts of four questions, the weights that they were rolled out by)."""
    engine, bank = engine_of(world, mesh, **changes), world[3]
    times = [np.arange(float(length)) for length in bank.length]
    asked = [VideoQuestion({"question": "where is it?"}, v, times[v], v) for v in range(4)]
    width = engine.prompt_width(asked)
    weights = engine.place(params)
    batch = engine.prepare(bank, asked, KEY, width=width)
    return engine.wait(engine.start(weights, batch)), weights


def one_device():
    return make_mesh({}, jax.devices()[:1])


@pytest.fixture(scope="module")
def wanted(world):
    """One device's rollouts."""
    return rolled(world, one_device(), world[2])[0]


@pytest.mark.parametrize(
    "axes, sizes",
    [
        ({"fsdp": 2, "context": 2, "tensor": 2}, (1, 2, 1, 4)),
        pytest.param({"fsdp": 4, "tensor": 2}, (1, 2, 1, 4), marks=pytest.mark.invariant),
        pytest.param({"data": 2, "fsdp": 4}, (2, 1, 1, 4), marks=pytest.mark.invariant),
    ],
)
def test_more_parts_than_key_value_heads(world, wanted, axes, sizes):
    """Invariant: the same rollouts; each device has one query head with its key-value head."""
    mesh = make_mesh(axes, jax.devices()[:8], kv_heads=2)
    params = jax.device_put(world[2], param_shardings(world[2], mesh))
    found, weights = rolled(world, mesh, params, tensor=4)
    cases.assert_same(found.episode, wanted.episode)
    assert found.trajectories == wanted.trajectories
    kernel = weights["text"]["layers"]["self_attn"]["k_proj"]["kernel"]
    assert tuple(kernel.sharding.mesh.shape.values()) == sizes
    assert kernel.addressable_shards[0].data.shape[-1] == 8  # one head's width


def test_int8_weights(world):
    """Rollouts are those of the model whose frozen kernels are int8, on any mesh."""
    params = world[2]
    exact = freeze(params, "int8")  # in bfloat16, but for the kernels
    layers = jax.tree.map(lambda x: x, params["text"]["layers"])
    for part in ("self_attn", "mlp"):
        for name, projection in layers[part].items():
            own = exact["text"]["layers"][part][name]
            layers[part][name] = projection | {key: own[key] for key in ("kernel", "kernel_scale")}
    by_hand = {**params, "text": {**params["text"], "layers": layers}}
    wanted = rolled(world, one_device(), by_hand)[0]
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    placed = jax.device_put(params, param_shardings(params, mesh))
    for own, given, tensor in ((one_device(), params, 0), (mesh, placed, 4)):
        found, weights = rolled(world, own, given, weights_dtype="int8", tensor=tensor)
        # Sums of products with int8 are up to 127 times as large before their factor is applied.
        cases.assert_same(found.episode, wanted.episode, atol=5e-5)
        assert weights["text"]["layers"]["mlp"]["up_proj"]["kernel"].dtype == jnp.int8
    assert params["text"]["layers"]["mlp"]["up_proj"]["kernel"].dtype == jnp.float32


def test_what_needs_no_change_is_not_copied(world):
    assert engine_of(world, one_device()).place(world[2]) is world[2]


def test_the_same_devices_in_the_same_order():
    mesh = make_mesh({"fsdp": 2, "context": 2, "tensor": 2}, jax.devices()[:8])
    own = rollout_mesh(mesh, 4)
    assert own.devices.flatten().tolist() == mesh.devices.flatten().tolist()
    assert rollout_mesh(mesh, 0) is rollout_mesh(mesh, 2) is mesh


@pytest.mark.parametrize(
    "tensor, message",
    [(3, "is 3; it must be a multiple of mesh.tensor, 2, by"), (16, "mesh.fsdp x mesh.context, 4")],
)
def test_devices_that_do_not_split(tensor, message):
    mesh = make_mesh({"fsdp": 2, "context": 2, "tensor": 2}, jax.devices()[:8])
    with pytest.raises(UserError, match=message):
        rollout_mesh(mesh, tensor)


def test_heads_that_do_not_split(world):
    mesh = rollout_mesh(make_mesh({"fsdp": 4, "tensor": 2}, jax.devices()[:8]), 8)
    with pytest.raises(UserError, match="2 key-value heads and 4 query heads"):
        rollout_model(world[1], mesh)


def test_heads_stand_side_by_side(world):
    """A key-value head's copies are next to each other, as its query heads are."""
    params, model = world[2], world[1]
    mesh = make_mesh({"tensor": 4}, jax.devices()[:4])
    projection = params["text"]["layers"]["self_attn"]["v_proj"]
    found = place_weights(params, model, mesh, "")["text"]["layers"]["self_attn"]["v_proj"]
    for name in ("kernel", "bias", "lora_b"):
        first, second = np.split(np.asarray(projection[name]), 2, axis=-1)
        wanted = np.concatenate([first, first, second, second], axis=-1)
        np.testing.assert_array_equal(found[name], wanted)
    np.testing.assert_array_equal(found["lora_a"], projection["lora_a"])
