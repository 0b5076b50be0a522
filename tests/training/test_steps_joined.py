"""Supervised steps on rows that hold several conversations against the same ones in rows alone.

Tolerances in float32 as of test_steps.py, whose meshes these are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medscope_jax.bank import flat_index
from medscope_jax.data.row_packing import join_examples
from medscope_jax.dialogue import Role
from medscope_jax.distributed import batch_shardings, make_mesh, on_mesh, state_shardings
from medscope_jax.training.logprobs import find_targets, token_logprobs
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import init_state
from tests.training import step_cases as cases

ROWS, LENGTH = 12, 80
SGD = optax.sgd(1.0)  # new parameters = old - gradient


def alone(kind: str) -> dict:
    """Conversations in rows of their own, which show all tokens, or frames, that they bring."""
    batch = cases.batch(ROWS)
    for row in range(ROWS):
        shown = batch["visual_index"][row] >= 0
        batch["visual_index"][row, shown] = np.arange(np.count_nonzero(shown))
    if kind == "visual":
        return {**batch, "visual": cases.bank(ROWS).reshape(ROWS, 2 * cases.FRAMES, 32)}
    random = np.random.default_rng(3)
    frames = random.integers(0, 256, (ROWS, cases.FRAMES, 28, 56, 3)).astype(np.uint8)
    return {**batch, "frames": frames}


def examples(batch: dict) -> list[dict]:
    """Each row of a batch without its padding."""
    found = []
    for row in range(len(batch["tokens"])):
        real = batch["role"][row] != Role.PADDING
        one = {name: batch[name][row][real] for name in ("tokens", "visual_index", "role")}
        for kind, tokens in (("visual", 1), ("frames", 2)):
            if kind in batch:
                shown = np.count_nonzero(one["visual_index"] >= 0) // tokens
                one[kind] = batch[kind][row, :shown]
        found.append(one)
    return found


def joined(batch: dict, sizes=(4, 1, 4, 3), most_frames=8) -> dict:
    """The rows of a batch, `sizes` of them in a row of LENGTH positions."""
    rows = iter(examples(batch))
    rows = [join_examples([next(rows) for _ in range(n)], LENGTH, most_frames, 2) for n in sizes]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@functools.cache
def step(train_vision: bool):
    return jax.jit(
        functools.partial(
            sft_step,
            model=cases.MODEL,
            optimizer=SGD,
            grid=cases.GRID,
            targets=40,
            train_vision=train_vision,
        )
    )


def new_state(train_vision: bool):
    params = jax.tree.map(jnp.asarray, cases.params())
    return init_state(params, SGD, jax.random.key(0), train_vision)


def assert_same(found, wanted, before):
    """Loss, entropy and the gradient of every parameter."""
    assert found[1]["conversations"] == ROWS
    for name, value in wanted[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=2e-5, err_msg=name)

    def check(got, want, old):
        slope = np.asarray(old, np.float64) - want
        bound = 1e-4 * np.abs(slope).max() + 1e-6
        np.testing.assert_allclose(got, want, rtol=0, atol=bound)

    jax.tree.map(check, found[0].params, wanted[0].params, before.params)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), wanted[0].params, before.params)
    assert max(jax.tree.leaves(moved["text"])) > 1e-3


@pytest.mark.parametrize("kind", ["visual", "frames"])
def test_a_step_is_that_on_rows_alone(kind):
    """Also where frames are encoded in the step, and the vision tower trains."""
    batch, train_vision = alone(kind), kind == "frames"
    state = new_state(train_vision)
    wanted = step(train_vision)(state, batch)
    assert "conversations" not in wanted[1]
    assert_same(step(train_vision)(state, joined(batch)), wanted, state)


@pytest.mark.parametrize("axes", [{"fsdp": 4, "context": 2}, {"data": 2, "fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("kind", ["visual", "frames"])
def test_a_mesh_changes_nothing(axes, kind):
    """Rows, positions or heads over eight devices."""
    batch, train_vision = alone(kind), kind == "frames"
    state, rows = new_state(train_vision), joined(batch)
    mesh = make_mesh(axes, jax.devices()[:8], kv_heads=2)
    placed = jax.device_put(
        (state, rows), (state_shardings(state, mesh), batch_shardings(rows, mesh))
    )
    found = jax.device_get(on_mesh(mesh, step(train_vision))(*placed))
    assert_same(found, jax.device_get(step(train_vision)(state, batch)), state)


def test_a_conversation_does_not_see_its_neighbours():
    """Other tokens in the second of each row change its own log-probabilities alone."""
    rows = joined(alone("visual"), sizes=(3, 3, 3, 3))
    targets = find_targets(rows["role"], 40)
    count, most = rows["visual"].shape[:2]
    index = flat_index(jnp.arange(count), rows["visual_index"], most)

    @jax.jit
    def logprobs(tokens):
        found, _ = token_logprobs(
            cases.params(), cases.MODEL, tokens, index, rows["role"],
            rows["visual"].reshape(count * most, -1), targets, cases.GRID, segment=rows["segment"],
        )  # fmt: skip
        return found

    text = (rows["segment"] == 2) & (rows["visual_index"] < 0)
    found = [logprobs(t) for t in (rows["tokens"], (rows["tokens"] + 5 * text) % 64)]
    own = np.take_along_axis(rows["segment"], np.asarray(targets.positions), axis=1) == 2
    changed = np.abs(found[0] - found[1]) > 0
    assert changed[own & targets.mask].all() and not changed[~own].any()
    assert (own & targets.mask).sum() > 4 and (~own & targets.mask).sum() > 8
