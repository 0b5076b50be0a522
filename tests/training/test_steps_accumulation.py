"""A supervised batch in micro batches: the step of the whole batch, in the memory of a part.

Tolerances are those of test_steps: only the order of float32 sums differs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medscope_jax.dialogue import Role
from medscope_jax.distributed import batch_shardings, make_mesh, state_shardings
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import init_state
from tests.training import step_cases as cases

ROWS = 16
SGD = optax.sgd(1.0)  # new parameters = old - gradient
MESHES = {"data": {"data": 8}, "mixed": {"data": 2, "fsdp": 2, "tensor": 2}}


def batch_of(train_vision):
    """Rows of several numbers of generated tokens, some of none, whose order mixes them."""
    batch = cases.sft_batch(ROWS)
    if train_vision:
        random = np.random.default_rng(3)
        del batch["visual"]
        batch["frames"] = random.integers(0, 256, (ROWS, cases.FRAMES, 28, 56, 3)).astype(np.uint8)
    return batch


def step_of(train_vision, micro_batch):
    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=SGD,
        grid=cases.GRID,
        targets=10,
        train_vision=train_vision,
        micro_batch=micro_batch,
    )
    return jax.jit(step)


def state_of(train_vision):
    params = jax.tree.map(jnp.asarray, cases.params())
    return init_state(params, SGD, jax.random.key(5), train_vision)


@functools.cache
def whole(train_vision):
    """(parameters, metrics) of the step on all rows at once, on one device."""
    state, metrics = step_of(train_vision, 0)(state_of(train_vision), batch_of(train_vision))
    return jax.device_get((state.params, metrics))


def assert_same(found, train_vision):
    state, metrics = jax.device_get(found)
    params, wanted = whole(train_vision)
    assert metrics.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)

    def check(path, got, want, start):
        bound = 1e-4 * np.abs(want - start).max() + 1e-6  # of each array's largest gradient
        np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=str(path))

    jax.tree_util.tree_map_with_path(check, state.params, params, cases.params())
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params["text"], cases.params()["text"])
    assert all(step > 1e-4 for step in jax.tree.leaves(moved))


@pytest.mark.parametrize("train_vision", [False, True])
@pytest.mark.parametrize("micro_batch", [2, 8, 16])
def test_one_device_takes_the_step_of_the_whole_batch(micro_batch, train_vision):
    step = step_of(train_vision, micro_batch)
    assert_same(step(state_of(train_vision), batch_of(train_vision)), train_vision)


@pytest.mark.parametrize("mesh", MESHES)
def test_eight_devices_take_the_step_of_the_whole_batch(mesh):
    """Each holds its rows of every micro batch; the vision tower trains too."""
    mesh = make_mesh(MESHES[mesh], jax.devices()[:8])
    batch, state = batch_of(True), state_of(True)
    batch = jax.device_put(batch, batch_shardings(batch, mesh))
    state = jax.device_put(state, state_shardings(state, mesh))
    with jax.set_mesh(mesh):
        assert_same(step_of(True, 8)(state, batch), True)


def test_a_mean_of_the_micro_batches_means_is_another_number():
    """Rows differ in how many tokens they generate: the test above could fail."""
    batch = batch_of(False)
    step, losses, counts = step_of(False, 0), [], []
    for part in range(2):  # as micro batches of 8 are: row i in part i % 2
        rows = {name: array[part::2] for name, array in batch.items()}
        losses.append(step(state_of(False), rows)[1]["loss"])
        counts.append(np.sum(rows["role"] == Role.GENERATED))
    wanted = whole(False)[1]["loss"]
    np.testing.assert_allclose(np.average(losses, weights=counts), wanted, rtol=2e-5)
    assert counts[0] != counts[1] and abs(np.mean(losses) - wanted) > 1e-3


def test_a_part_takes_the_memory_of_a_part():
    def bytes_of(micro_batch):
        compiled = step_of(True, micro_batch).lower(state_of(True), batch_of(True)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(2) < 0.5 * bytes_of(0)


def test_rows_that_do_not_split_are_refused():
    with pytest.raises(ValueError, match="16 rows do not split into parts of 5"):
        step_of(False, 5)(state_of(False), batch_of(False))
