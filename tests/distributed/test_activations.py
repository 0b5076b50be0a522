"""Where intermediate arrays lie: only what is asked for, only where it divides, nothing unasked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from medscope_jax import models
from medscope_jax.distributed import (
    BATCH,
    SEQUENCE,
    TENSOR,
    constrain,
    make_mesh,
    on_mesh,
    split_size,
    usable_axes,
)
from tests.training import step_cases as cases

MIXED = {"data": 2, "fsdp": 2, "tensor": 2}


def mesh_of(axes):
    return make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values()), dtype=int))])


def placed(shape, *split):
    """The sharding's spec of an array that was whole, after `constrain`."""
    run = on_mesh(mesh_of(MIXED), jax.jit(lambda x: constrain(x, *split)))
    return run(np.zeros(shape, np.float32)).sharding.shard_shape(shape)


def test_split_as_said():
    assert placed((8, 6, 4), BATCH, SEQUENCE, None) == (2, 6, 4)
    assert placed((8, 6, 4), BATCH, (), TENSOR) == (2, 6, 2)
    # What its axes do not divide is split over the first of them, or stays as it is.
    assert placed((6, 6, 4), BATCH, (), TENSOR) == (3, 6, 2)
    assert placed((5, 6, 4), BATCH, (), TENSOR) == (5, 6, 2)
    assert placed((8, 6, 3), BATCH, None, TENSOR) == (2, 6, 3)


def test_nothing_is_said_without_a_mesh_or_on_one_device():
    one = mesh_of({})

    def same(x):
        assert constrain(x, BATCH, TENSOR) is x
        assert split_size(8, BATCH) == 8 and usable_axes(8, BATCH) == ()
        return x

    jax.jit(same)(jnp.zeros((8, 8)))
    with jax.set_mesh(one):
        jax.jit(same)(jnp.zeros((8, 8)))
    assert on_mesh(one, same) is same and on_mesh(None, same) is same


def test_axes_of_an_enclosing_shard_map_are_left_alone():
    def inside(x):
        assert usable_axes(len(x), BATCH) == ("fsdp",)
        assert usable_axes(len(x), TENSOR) == ("tensor",)
        assert split_size(4, BATCH) == 2
        return constrain(x, BATCH, TENSOR) + jax.lax.axis_index("data")

    spec = PartitionSpec("data")
    run = jax.shard_map(inside, in_specs=spec, out_specs=spec, axis_names={"data"})
    out = on_mesh(mesh_of(MIXED), jax.jit(run))(jnp.zeros((8, 8)))
    np.testing.assert_array_equal(out[:, 0], [0, 0, 0, 0, 1, 1, 1, 1])


@pytest.fixture(scope="module")
def inputs():
    """Embeddings [8, 12, 32] that every device holds, positions, valid."""
    embeddings = np.random.default_rng(0).normal(size=(8, 12, 32)).astype(np.float32)
    return embeddings, np.zeros((3, 8, 12), np.int32), np.ones((8, 12), bool)


def test_a_model_s_shapes_can_be_asked_for_on_any_mesh():
    """While a step is traced, too, and whatever attention the devices have."""
    model = dataclasses.replace(cases.MODEL, attention="splash")
    with jax.set_mesh(mesh_of({"context": 4, "tensor": 2})):
        assert models.param_shapes(model) == models.param_shapes(cases.MODEL)


def test_the_model_itself_splits_what_it_computes(inputs):
    """Rows, and the slots of the residual stream, although weights and inputs are whole."""
    params = cases.params()
    run = on_mesh(mesh_of(MIXED), jax.jit(models.forward, static_argnums=1))
    hidden = run(params, cases.MODEL, *inputs)
    assert hidden.sharding.shard_shape(hidden.shape) == (2, 6, 32)
    frames = np.zeros((4, 28, 56, 3), np.uint8)
    run = on_mesh(mesh_of(MIXED), jax.jit(models.encode_frames, static_argnums=1))
    for count in (4, 8):  # over data and fsdp alone, and over all of the mesh
        tokens = run(params, cases.MODEL, np.tile(frames, (count // 4, 1, 1, 1)))
        assert tokens.sharding.shard_shape(tokens.shape) == (count // min(count, 8), 2, 32)


ALL_SPLIT = {"fsdp": 2, "context": 2, "tensor": 2}


@pytest.mark.parametrize("axes", [MIXED, ALL_SPLIT, {"context": 8}])
def test_no_chip_encodes_a_frame_that_another_one_encodes(axes):
    """A chip's operations, as the compiler counts them, are its share of one device's."""

    def operations(axes):
        encode = jax.jit(models.encode_frames, static_argnums=1)
        frames = jax.ShapeDtypeStruct((16, 56, 56, 3), jnp.uint8)
        with jax.set_mesh(mesh_of(axes)):
            compiled = encode.lower(cases.params(), cases.MODEL, frames).compile()
        return compiled.cost_analysis()["flops"]

    assert operations(axes) < 1.1 * operations({}) / 8


@pytest.mark.parametrize("axes", [MIXED, ALL_SPLIT])
def test_a_frame_is_taken_from_its_device(axes):
    """Rows that show their own device's part of the bank get what they would get without a mesh;
    another device's part is NaN, not a wrong frame. Devices along context share their rows' part.
    """
    parts = axes.get("data", 1) * axes["fsdp"]
    random = np.random.default_rng(0)
    bank = random.normal(size=(16, 32)).astype(np.float32)
    first = 16 // parts * (np.arange(8) // (8 // parts))[:, None]
    shown = first + random.integers(0, 16 // parts, (8, 6))
    frame = np.where(random.random((8, 6)) < 0.3, -1, shown)
    tokens = random.integers(0, 64, (8, 6))
    arguments = cases.params(), cases.MODEL, tokens, frame.astype(np.int32), bank
    embed = jax.jit(models.embed, static_argnums=(1, 5))
    expected = embed(*arguments)
    run = on_mesh(mesh_of(axes), embed)
    np.testing.assert_array_equal(run(*arguments, True), expected)
    elsewhere = np.where(frame >= 0, (frame + 16 // parts) % 16, -1).astype(np.int32)
    found = run(*arguments[:3], elsewhere, bank, True)
    np.testing.assert_array_equal(np.isnan(found).any(-1), frame >= 0)
