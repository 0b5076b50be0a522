"""Invariant: sharding changes nothing. Losses and updates on any mesh equal one device's.

Tolerances in float32, where only the order of sums differs: 2e-5 for losses (near 5), 1e-5 of each
array's largest entry for gradients, 2e-4 for AdamW's moments after two steps, and 2e-5 for
parameters, which is 0.2% of a step of 1e-2 (AdamW divides small gradients by their own size).
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from medscope_jax import models
from medscope_jax.distributed import (
    bank_shardings,
    batch_shardings,
    make_mesh,
    param_shardings,
    replicated,
    state_shardings,
)
from medscope_jax.distributed.sharding import resolve

CONFIG = models.ModelConfig(
    vision=models.VisionConfig(
        depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64
    ),
    text=models.TextConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(2, 3, 3),
        initializer_range=0.2,
    ),
)
BATCH, LENGTH, FRAMES = 8, 20, 2
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "data-tensor": {"data": 4, "tensor": 2},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
    "context": {"context": 8},  # which does not divide the slots
    "context-data": {"data": 2, "context": 4},
    "context-mixed": {"fsdp": 2, "context": 2, "tensor": 2},
}
# The eps is large since AdamW divides a gradient by its own size: where the true gradient is zero
# (biases of keys), rounding noise would become whole steps.
OPTIMIZER = optax.adamw(1e-2, eps=1e-3)


def loss_fn(params, batch):
    """Mean negative log-likelihood; frames are encoded inside, so that the vision tower trains."""
    bank = models.encode_frames(params, CONFIG, batch["frames"]).reshape(-1, 64)
    embeddings = models.embed(params, CONFIG, batch["tokens"], batch["index"], bank)
    hidden = models.forward(params, CONFIG, embeddings, batch["positions"], batch["valid"])
    scores = models.logits(params, CONFIG, hidden)[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["tokens"][:, 1:])
    mask = batch["valid"][:, 1:] & (batch["index"][:, 1:] < 0)
    return jnp.sum(losses * mask) / jnp.sum(mask)


def step(state, batch):
    loss, gradients = jax.value_and_grad(loss_fn)(state["params"], batch)
    updates, optimizer = OPTIMIZER.update(gradients, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "optimizer": optimizer, "step": state["step"] + 1}, (loss, gradients)


@functools.cache
def start():
    """Initial state and batch, on the host."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: models.init_params(CONFIG, key), jax.random.key(0))
    params = jax.tree.map(lambda leaf: random.normal(0, 0.2, leaf.shape).astype("f"), shapes)
    index = np.full((BATCH, LENGTH), -1, np.int32)
    index[:, 2:6] = 4 * np.arange(BATCH)[:, None] + np.arange(4)  # two frames of two tokens each
    lengths = random.integers(12, LENGTH + 1, BATCH)
    valid = np.arange(LENGTH) < lengths[:, None]
    batch = {
        "tokens": random.integers(0, 64, (BATCH, LENGTH)).astype(np.int32),
        "frames": random.integers(0, 256, (BATCH * FRAMES, 28, 56, 3)).astype(np.uint8),
        "index": index,
        "valid": valid,
        "positions": np.tile(np.arange(LENGTH), (3, BATCH, 1)).astype(np.int32),
    }
    state = {"params": params, "optimizer": OPTIMIZER.init(params), "step": np.zeros((), np.int32)}
    return jax.device_get((state, batch))


def run(axes):
    """Two steps on a mesh; returns host copies of the losses, first gradients and final state."""
    state, batch = start()
    size = int(np.prod(list(axes.values()), dtype=int))
    mesh = make_mesh(axes, jax.devices()[:size], kv_heads=2)
    state = jax.device_put(state, state_shardings(state, mesh))
    shardings = state_shardings(state, mesh)
    batch = jax.device_put(batch, batch_shardings(batch, mesh))
    jitted = jax.jit(
        step,
        out_shardings=(shardings, (replicated(mesh), shardings["params"])),
        donate_argnums=0,
        compiler_options={"xla_llvm_disable_expensive_passes": True},  # half the compile time
    )
    with jax.set_mesh(mesh):
        state, (first, gradients) = jitted(state, batch)
        state, (second, _) = jitted(state, batch)
    return jax.device_get(((first, second), gradients, state)), state


@functools.cache
def one_device():
    return run({})[0]


def assert_trees_close(actual, expected, tolerance):
    """The tolerance is relative to the largest entry of each array (1e-4 at least)."""

    def compare(path, got, want):
        atol = tolerance * max(float(np.max(np.abs(want))), 1e-4)
        np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, actual, expected)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "mixed" else pytest.param(name, marks=pytest.mark.invariant)
        for name in MESHES
    ],
)
def test_sharding_changes_nothing(name):
    (losses, gradients, state), placed = run(MESHES[name])
    want_losses, want_gradients, want_state = one_device()
    assert want_losses[1] < want_losses[0] - 0.1  # the steps do something
    np.testing.assert_allclose(losses, want_losses, rtol=0, atol=2e-5)
    assert_trees_close(gradients, want_gradients, 1e-5)
    for name in ("mu", "nu"):
        moments = [getattr(tree["optimizer"][0], name) for tree in (state, want_state)]
        assert_trees_close(*moments, 2e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5),
        state["params"],
        want_state["params"],
    )
    for leaf in jax.tree.leaves(placed):
        assert len(leaf.sharding.device_set) == 8


def test_weights_and_their_moments_are_really_split():
    state, _ = start()
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
    placed = jax.device_put(state, state_shardings(state, mesh))
    adam = placed["optimizer"][0]
    for tree in (placed["params"], adam.mu, adam.nu):
        kernel = tree["text"]["layers"]["mlp"]["up_proj"]["kernel"]
        assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
        assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    assert adam.count.sharding.is_fully_replicated


def test_every_parameter_has_its_own_line():
    shapes = jax.eval_shape(lambda key: models.init_params(CONFIG, key), jax.random.key(0))
    mesh = make_mesh({}, jax.devices()[:1])
    assert jax.tree.structure(param_shardings(shapes, mesh)) == jax.tree.structure(shapes)
    shapes["text"]["layers"]["stranger"] = {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    with pytest.raises(ValueError, match="no line in PARAMETER_AXES for parameter text/layers/str"):
        param_shardings(shapes, mesh)


def test_a_dimension_that_does_not_divide_is_replicated_and_reported(caplog):
    mesh = make_mesh({"fsdp": 4, "tensor": 2}, jax.devices()[:8])
    odd = {"text": {"embed_tokens": jax.ShapeDtypeStruct((63, 64), jnp.float32)}}
    shardings, fallbacks = resolve(odd, mesh, strict=True)
    assert shardings["text"]["embed_tokens"].spec == PartitionSpec(None, "fsdp")
    assert [(f.path, f.dimension, f.mesh_axes) for f in fallbacks] == [
        ("text/embed_tokens", 0, ("tensor",))
    ]
    with caplog.at_level(logging.WARNING):
        param_shardings(odd, mesh)
    assert "text/embed_tokens dim 0 of 63 by tensor=2" in caplog.text


def test_a_bank_is_split_over_context_too():
    mesh = make_mesh({"fsdp": 2, "context": 2, "tensor": 2}, jax.devices()[:8])
    for videos, share in ((8, 2), (6, 3)):  # six do not divide by four: by fsdp alone
        bank = {"tokens": jax.ShapeDtypeStruct((videos, 4, 2, 64), jnp.float32)}
        assert bank_shardings(bank, mesh)["tokens"].shard_shape((videos, 4, 2, 64))[0] == share


def test_batches_are_split_by_rows(caplog):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
    batch = {
        "tokens": jax.ShapeDtypeStruct((8, 20), jnp.int32),
        "positions": jax.ShapeDtypeStruct((3, 8, 20), jnp.int32),
        "bank": jax.ShapeDtypeStruct((6, 4, 2, 64), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    with caplog.at_level(logging.WARNING):
        shardings = batch_shardings(batch, mesh)
    assert shardings["tokens"].shard_shape((8, 20)) == (2, 20)
    assert shardings["positions"].shard_shape((3, 8, 20)) == (3, 2, 20)
    assert shardings["bank"].is_fully_replicated and "bank dim 0 of 6" in caplog.text
    assert shardings["step"].is_fully_replicated


def test_what_a_batch_s_rows_see_lies_on_the_slice_but_once():
    """Over all axes that divide it; the rows' words are whole along context and tensor."""
    mesh = make_mesh(MESHES["context-mixed"], jax.devices()[:8])
    shapes = {"visual": (4, 12, 6), "frames": (4, 6, 2, 28, 28, 3), "tokens": (4, 12)}
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.uint8) for name, shape in shapes.items()}
    placed = batch_shardings(batch, mesh)
    found = {name: placed[name].shard_shape(shape) for name, shape in shapes.items()}
    assert found == {"visual": (2, 3, 6), "frames": (2, 3, 2, 28, 28, 3), "tokens": (2, 12)}
