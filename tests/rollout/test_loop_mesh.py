"""Rollouts with heads split over devices: the same episodes, and each device has its part of KV."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from medscope_jax.distributed import batch_shardings, make_mesh, param_shardings
from medscope_jax.rollout import RolloutConfig, find_special_tokens, make_rollout
from tests.rollout.rollout_cases import LAYOUT, assert_same, make_prompts, make_world, play

CONFIG = RolloutConfig(2, 24, 40, 3, 0.7, 0.9)


@pytest.fixture(scope="module")
def world():
    return make_world(layers=1, kv_heads=2)


@pytest.fixture(scope="module")
def wanted(world):
    """One device's episode."""
    return play(world, CONFIG)[0]


@pytest.mark.parametrize(
    "axes, rows",
    [
        ({"fsdp": 2, "context": 2}, 2),  # a question a device
        ({"fsdp": 4, "context": 2}, 1),  # a rollout a device
        ({"fsdp": 2, "context": 4}, 4),  # neither four questions nor groups of two are divided
        ({"context": 3}, 8),
    ],
)
def test_rollouts_are_split_over_context(world, wanted, axes, rows):
    """Invariant: a context axis changes nothing; where it divides the four questions, or each
    one's two rollouts, no device has another's rows."""
    tokenizer, model, params, bank, _, _ = world
    mesh = make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values())))], kv_heads=2)
    prompts = make_prompts(world, [0, 1, 2, 3])
    arguments = (
        params,
        bank,
        prompts,
        find_special_tokens(tokenizer, LAYOUT),
    )
    compiled = make_rollout(mesh, model, LAYOUT, CONFIG).lower(*arguments).compile()
    found, metrics = jax.device_get(compiled(*arguments))
    assert_same(found, wanted)
    assert metrics["slot_steps"] == rows * metrics["decode_steps"]
    own = LAYOUT.length - prompts.least
    caches = re.findall(rf"f32\[1,(\d+),2,{own},16\]", compiled.as_text())
    assert max(map(int, caches)) == rows


@pytest.mark.parametrize(
    "axes, slots",
    [({"data": 2, "tensor": 2}, 3), pytest.param({"tensor": 2}, 0, marks=pytest.mark.invariant)],
)
def test_heads_are_split_over_tensor(world, wanted, axes, slots):
    """Invariant: data and tensor axes change nothing; no device holds another's heads or rows."""
    tokenizer, model, params, bank, _, _ = world
    size = int(np.prod(list(axes.values())))
    mesh = make_mesh(axes, jax.devices()[:size], kv_heads=2)
    prompts = make_prompts(world, [0, 1, 2, 3])
    arguments = (
        jax.device_put(params, param_shardings(params, mesh)),
        *jax.device_put((bank, prompts), batch_shardings((bank, prompts), mesh)),
        find_special_tokens(tokenizer, LAYOUT),
    )
    program = make_rollout(mesh, model, LAYOUT, dataclasses.replace(CONFIG, slots=slots))
    compiled = program.lower(*arguments).compile()
    found, metrics = jax.device_get(compiled(*arguments))
    assert_same(found, wanted)
    assert metrics["slot_steps"] == (slots or 8) * metrics["decode_steps"]
    # Caches are the arrays [1, rows, heads, places, 16]: of one head each, and of no more rows.
    own = LAYOUT.length - prompts.least
    shapes = set(re.findall(rf"f32\[1,(\d+),(\d+),{own},16\]", compiled.as_text()))
    rows = {row for row, _ in shapes}
    assert {heads for _, heads in shapes} == {"1"}
    assert str(slots or 8) in rows and max(map(int, rows)) == (slots or 8)
