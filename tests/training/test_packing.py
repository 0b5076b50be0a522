"""Packed rollouts against rows computed one by one, and the host's sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.dialogue import Role
from medscope_jax.distributed import make_mesh, on_mesh
from medscope_jax.training.logprobs import find_targets, packed_logprobs
from medscope_jax.training.packing import Packing, measure_packing, pack
from tests.training import step_cases as cases

TARGETS = 10


def grouped(rows: int, group: int, seed: int = 1) -> dict:
    """A batch in which each `group` rows begin with the prompt of the first of them.

    They see one video, as rollouts do: the batch is for a bank of rows / group videos.
    """
    batch = cases.batch(rows, seed=seed)
    for first in range(0, rows, group):
        prompt = int(np.sum(batch["role"][first] == Role.PROMPT))
        for row in range(first + 1, first + group):
            own = int(np.sum(batch["role"][row] == Role.PROMPT))
            for name, array in batch.items():
                rest = array[row, own:].copy()
                kept = min(len(rest), cases.LENGTH - prompt)
                array[row] = 0 if name != "visual_index" else -1
                array[row, :prompt] = array[first, :prompt]
                array[row, prompt : prompt + kept] = rest[:kept]
    return cases.flat(batch, group)


@functools.partial(jax.jit, static_argnames="size")
def packed(text, batch, bank, cotangent, size):
    """(log-probabilities [B, L], gradient of sum(cotangent * them)) by the packed pass."""
    targets = find_targets(batch["role"], TARGETS)

    def of(text):
        params = {**cases.params(), "text": text}
        found, _ = packed_logprobs(
            params, cases.MODEL, **batch, bank=bank, targets=targets, grid=cases.GRID, size=size,
            temperature=0.7,
        )  # fmt: skip
        rows = jnp.arange(len(found))[:, None]
        # Masked targets hold 0 and aim at position 0, which is never generated.
        return jnp.zeros(batch["role"].shape).at[rows, targets.positions].add(found)

    values, pull = jax.vjp(of, text)
    return values, pull(cotangent)[0]


def assert_close(slope, gradient):
    def check(got, wanted):
        np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max() + 1e-6)

    jax.tree.map(check, slope, gradient)


@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_packed_rows_equal_rows_alone(group):
    batch, bank = grouped(8, group), cases.bank(8 // group)
    generated = batch["role"] == Role.GENERATED
    assert len(set(generated.sum(1))) > 2 and 0 in generated.sum(1)
    cotangent = np.random.default_rng(9).normal(size=generated.shape).astype(np.float32)
    cotangent = np.where(generated, cotangent, 0)
    values, _, gradient = cases.pull_back(cases.params(), batch, bank, cotangent, 0.7)
    size = measure_packing(batch["role"], group, 16, step=4)
    text = jax.tree.map(jnp.asarray, cases.params()["text"])
    found, slope = packed(text, batch, bank, cotangent, size)
    np.testing.assert_allclose(found, np.where(generated, values, 0), atol=2e-5)

    assert_close(slope, gradient)


@pytest.mark.parametrize(
    "axes", [{"fsdp": 2, "context": 2, "tensor": 2}, {"data": 2, "context": 4}, {"fsdp": 4}]
)
def test_packed_rows_on_a_mesh(axes):
    """Positions split over a context axis, heads and rows over others: the same numbers."""
    batch, bank = grouped(8, 2), cases.bank(4)
    generated = batch["role"] == Role.GENERATED
    cotangent = np.random.default_rng(9).normal(size=generated.shape).astype(np.float32)
    cotangent = np.where(generated, cotangent, 0)
    size = measure_packing(batch["role"], 2, 15, step=4)
    text = cases.params()["text"]
    values, gradient = packed(text, batch, bank, cotangent, size)
    mesh = make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values())))], kv_heads=2)
    run = on_mesh(mesh, packed)
    found, slope = jax.device_get(run(text, batch, bank, cotangent, size))
    np.testing.assert_allclose(found, values, atol=2e-5)
    assert_close(slope, gradient)


def test_a_rest_sees_its_prompt_and_itself_only():
    batch, bank = grouped(8, 4), cases.bank(2)
    size = measure_packing(batch["role"], 4, 16, step=4)
    text = jax.tree.map(jnp.asarray, cases.params()["text"])
    zeros = np.zeros(batch["role"].shape, np.float32)
    before, _ = packed(text, batch, bank, zeros, size)
    other = {name: array.copy() for name, array in batch.items()}
    rest = (other["role"][1] != Role.PROMPT) & (other["index"][1] < 0)
    other["tokens"][1, rest] = (other["tokens"][1, rest] + 5) % 64
    after, _ = packed(text, other, bank, zeros, size)
    changed = np.any(np.asarray(before) != after, axis=1)
    assert changed.tolist() == [row == 1 for row in range(8)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.sampled_from([1, 2, 4]))
def test_packing_keeps_every_token_once(seed, group):
    batch = grouped(4, group, seed)
    size = measure_packing(batch["role"], group, 16, step=4)
    tokens, index, positions, valid, begin = pack(
        *(jnp.asarray(batch[name]) for name in ("tokens", "index", "role")), size, cases.GRID
    )
    assert tokens.shape == index.shape == positions.shape[1:] == valid.flat().shape
    assert tokens.shape == (4 // group, 16 + group * size.rest)
    flat = np.asarray(valid.flat())
    for question in range(4 // group):
        rows = range(question * group, (question + 1) * group)
        prompt = int(begin[rows[0]])
        real = [int(np.sum(batch["role"][row] != Role.PADDING)) for row in rows]
        wanted = [batch["tokens"][rows[0], :prompt]]
        wanted += [batch["tokens"][r, prompt:n] for r, n in zip(rows, real, strict=True)]
        np.testing.assert_array_equal(
            np.asarray(tokens)[question][flat[question]], np.concatenate(wanted)
        )


def test_sizes():
    role = np.zeros((4, 80), np.int32)
    role[:, :9] = Role.PROMPT
    role[2, 9:40] = Role.GENERATED
    # The rest of row 2 begins with the prompt's last token: 32 positions.
    assert measure_packing(role, 2, 16) == Packing(2, 16, 32)
    role[3, 9:42] = Role.OBSERVATION
    assert measure_packing(role, 2, 16) == Packing(2, 16, 64)
