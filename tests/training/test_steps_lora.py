"""The training steps with adapters: what trains, what never moves, and what a KL penalty pulls to.

Gradients are compared with those of the same step on merged weights without adapters. Tolerances in
float32 as in test_steps: losses 1e-5, gradients 1e-4 of each array's largest entry; on meshes
losses 2e-5 and parameters 2e-5 after a step of AdamW at 1e-2.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medscope_jax import models
from medscope_jax.dialogue import Role
from medscope_jax.distributed import batch_shardings, make_mesh, param_shardings, state_shardings
from medscope_jax.rl import LossConfig
from medscope_jax.training.packing import Packing
from medscope_jax.training.steps import ga_grpo_step, sft_step
from medscope_jax.training.train_state import (
    init_state,
    kl_reference,
    make_optimizer,
    stage_params,
    trained,
)
from tests.training import step_cases as cases

ROWS, TARGETS = 8, 10
SGD = optax.sgd(1.0)  # new parameters = old - gradient
ADAMW = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, eps=1e-3, weight_decay=0.01))
LORA = models.LoraConfig(rank=4, alpha=6.0, base="float32")
MODEL = dataclasses.replace(cases.MODEL, lora=LORA)
STAGE = {"lora": True, "train_vision": False}
QUICK = {"xla_llvm_disable_expensive_passes": True}  # half the compile time
SLOW = [pytest.mark.slow, pytest.mark.invariant]


def params(base="float32", train_vision=False):
    """The tiny model's weights as a stage with adapters starts from them; no adapter is zero."""
    model = dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, base=base))
    weights = jax.tree.map(jnp.asarray, cases.params())
    stage = STAGE | {"train_vision": train_vision}
    whole = stage_params(weights, model, stage, jax.random.key(0))
    random = np.random.default_rng(3)
    change = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), jnp.float32),
        models.split_lora(whole)[1],
    )
    return models.join_params(whole, change)


def sft(model, optimizer, train_vision=False):
    step = functools.partial(
        sft_step,
        model=model,
        optimizer=optimizer,
        grid=cases.GRID,
        targets=TARGETS,
        train_vision=train_vision,
    )
    return jax.jit(step, compiler_options=QUICK)


def policy(model, optimizer, kl=0.0, micro_batch=8):
    step = functools.partial(
        ga_grpo_step,
        model=model,
        optimizer=optimizer,
        grid=cases.GRID,
        size=Packing(group=1, prompt=16, rest=cases.LENGTH),
        targets=TARGETS,
        loss=LossConfig(),
        temperature=0.7,
        kl_coefficient=kl,
        micro_batch=micro_batch,
    )
    return jax.jit(step, compiler_options=QUICK)


def new_state(weights, optimizer, train_vision=False):
    return init_state(weights, optimizer, jax.random.key(5), train_vision)


def rollouts(rows=ROWS):
    """(episode, advantages, bank) whose recorded log-probabilities are near a random model's."""
    random = np.random.default_rng(7)
    batch = cases.batch(rows)
    old = random.normal(-4, 0.5, batch["role"].shape)
    advantages = random.normal(size=rows).astype(np.float32)
    return cases.episode(batch, old), advantages, cases.bank(rows)


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def moved(before, after):
    return [
        float(np.abs(np.asarray(a) - b).max())
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ]


def test_a_step_follows_the_gradient_of_the_merged_weights():
    """With W = K + s A B: dL/dA = s dL/dW B^T, dL/dB = s A^T dL/dW; the base stays bitwise."""
    batch = cases.sft_batch(ROWS)
    state = new_state(params(), SGD)
    after, metrics = sft(MODEL, SGD)(state, batch)
    base, adapters = models.split_lora(state.params)
    after_base, after_adapters = models.split_lora(after.params)
    assert_bitwise(base, after_base)
    whole = new_state(models.merge_lora(params(), MODEL), SGD)
    whole_after, whole_metrics = sft(cases.MODEL, SGD)(whole, batch)
    np.testing.assert_allclose(metrics["loss"], whole_metrics["loss"], atol=1e-5)
    np.testing.assert_allclose(metrics["entropy"], whole_metrics["entropy"], atol=1e-5)
    norm = 0.0
    for part, projections in adapters["text"]["layers"].items():
        for name, pair in projections.items():
            kernels = (
                np.asarray(tree.params["text"]["layers"][part][name]["kernel"], np.float64)
                for tree in (whole, whole_after)
            )
            gradient = next(kernels) - next(kernels)
            down, up = (np.asarray(pair[leaf], np.float64) for leaf in ("lora_a", "lora_b"))
            wanted = {
                "lora_a": 1.5 * gradient @ up.swapaxes(1, 2),
                "lora_b": 1.5 * down.swapaxes(1, 2) @ gradient,
            }
            for leaf, value in wanted.items():
                new = after_adapters["text"]["layers"][part][name][leaf]
                got = np.asarray(pair[leaf], np.float64) - np.asarray(new)
                bound = 1e-4 * np.abs(value).max() + 1e-6
                np.testing.assert_allclose(got, value, rtol=0, atol=bound, err_msg=name)
                norm += (value**2).sum()
    np.testing.assert_allclose(metrics["gradient_norm"], norm**0.5, rtol=1e-4)


@pytest.mark.parametrize("base", ["bfloat16", pytest.param("int8", marks=SLOW)])
def test_a_narrow_base_stays_bitwise_and_only_adapters_have_moments(base):
    """Three AdamW steps: float32 adapters and moments move, nothing else does, or has moments."""
    model = dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, base=base))
    section = {"learning_rate": 1e-2, "warmup": 0.1, "weight_decay": 0.01, "clip_norm": 1.0}
    optimizer = make_optimizer(section | {"final_scale": 0.1}, 3)
    state = new_state(params(base), optimizer)
    frozen, adapters = models.split_lora(jax.tree.map(np.array, state.params))
    kernel = frozen["text"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.dtype == (jnp.int8 if base == "int8" else jnp.bfloat16)
    count = sum(leaf.size for leaf in jax.tree.leaves(adapters))
    text = MODEL.text
    width, inner = text.hidden_size, text.intermediate_size  # heads x head width = width
    assert count == 2 * 4 * (4 * 2 * width + 3 * (width + inner))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * count
    assert all(leaf.dtype == jnp.float32 for leaf in moments)
    step, losses = sft(model, optimizer), []
    for _ in range(3):
        state, metrics = step(state, cases.sft_batch(ROWS))
        losses.append(float(metrics["loss"]))
    assert losses[0] > losses[1] > losses[2]
    after_base, after = models.split_lora(state.params)
    assert_bitwise(after_base, frozen)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after))
    assert min(moved(adapters, after)) > 1e-4


def test_the_vision_tower_trains_beside_adapters_if_asked():
    weights = params("bfloat16", train_vision=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(weights["vision"])} == {jnp.dtype("float32")}
    part = trained(weights, True)
    assert jax.tree.structure(part["vision"]) == jax.tree.structure(weights["vision"])
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(part["text"])} == {
        "lora_a",
        "lora_b",
    }
    batch = cases.batch(2)
    random = np.random.default_rng(7)
    batch["frames"] = random.integers(0, 256, (2, cases.FRAMES, 28, 56, 3)).astype(np.uint8)
    state = new_state(weights, ADAMW, True)
    after, _ = sft(MODEL, ADAMW, True)(state, batch)
    assert_bitwise(
        models.split_lora(after.params)[0]["text"], models.split_lora(weights)[0]["text"]
    )
    assert min(moved(weights["vision"], after.params["vision"])) > 0
    assert min(moved(trained(weights, False), trained(after.params, False))) > 0


@pytest.mark.parametrize("kind", ["start", "base"])
def test_the_kl_penalty_needs_no_second_copy_of_the_model(kind):
    """Its reference, adapters or nothing, gives the penalty that a whole copy would."""
    episode, advantages, bank = rollouts()
    begin = params()
    base, adapters = models.split_lora(begin)
    reference = kl_reference(begin, {"kl_coefficient": 0.5, "kl_reference": kind})
    assert jax.tree.structure(reference) == jax.tree.structure(adapters if kind == "start" else {})
    # A policy that has moved away since.
    now = jax.tree.map(lambda leaf: 1.3 * leaf, adapters)
    state = new_state(models.join_params(begin, now), SGD)
    step = policy(MODEL, SGD, kl=0.5)
    _, metrics = step(state, episode, advantages, bank, reference)
    assert metrics["kl"] > 0.01
    # By NumPy, from two whole models that never had adapters.
    copy = models.merge_lora(begin, MODEL) if kind == "start" else base
    zeros = np.zeros(episode.role.shape, np.float32)
    arrays = cases.flat(dataclasses.asdict(episode))
    anchor, current = (
        np.asarray(cases.pull_back(whole, arrays, bank, zeros, 0.7)[0], np.float64)
        for whole in (copy, models.merge_lora(state.params, MODEL))
    )
    gap = (anchor - current)[episode.role == Role.GENERATED]
    np.testing.assert_allclose(metrics["kl"], np.mean(np.expm1(gap) - gap), rtol=1e-4)


def test_no_penalty_no_reference():
    assert kl_reference(params(), {"kl_coefficient": 0.0, "kl_reference": "base"}) is None


def test_from_stage_to_stage():
    """One adapter goes through all stages on one base; a stage without adapters merges it."""
    weights = jax.tree.map(jnp.asarray, cases.params())
    for base in ("bfloat16", "int8"):
        model = dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, base=base))
        first = params(base)
        assert_bitwise(stage_params(first, model, STAGE, jax.random.key(9)), first)
    whole = stage_params(params(), MODEL, STAGE | {"lora": False}, jax.random.key(9))
    assert_bitwise(whole, models.merge_lora(params(), MODEL))
    model = dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, base="int8"))
    whole = stage_params(params("int8"), model, STAGE | {"lora": False}, jax.random.key(9))
    assert jax.tree.structure(whole) == jax.tree.structure(weights)
    assert {leaf.dtype for leaf in jax.tree.leaves(whole)} == {jnp.dtype("float32")}
    # A model that never has adapters keeps the very arrays.
    same = stage_params(weights, cases.MODEL, {}, jax.random.key(9))
    assert same is weights
    # New adapters leave the model what it was.
    fresh = stage_params(weights, MODEL, STAGE, jax.random.key(9))
    assert_bitwise(models.split_lora(fresh)[0], weights)


@pytest.mark.parametrize(
    "base, axes",
    [
        ("int8", {"data": 2, "fsdp": 2, "tensor": 2}),
        ("float32", {"fsdp": 4, "tensor": 2}),
        ("bfloat16", {"fsdp": 8}),
    ],
)
@pytest.mark.slow
@pytest.mark.invariant
def test_sharding_changes_nothing(base, axes):
    """Invariant: eight devices make the step with adapters and a KL penalty that one makes."""
    model = dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, base=base))
    mesh = make_mesh(axes)
    episode, advantages, bank = rollouts(16)
    weights = params(base)
    reference = kl_reference(
        jax.tree.map(lambda x: x * 0.9, models.split_lora(weights)[1]),
        {"kl_coefficient": 0.1, "kl_reference": "start"},
    )
    state = new_state(weights, ADAMW)
    step = policy(model, ADAMW, kl=0.1)
    wanted, wanted_metrics = jax.device_get(step(state, episode, advantages, bank, reference))
    param_shardings(weights, mesh)  # every leaf has a line of its own
    placed = jax.device_put(state, state_shardings(state, mesh))
    projection = placed.params["text"]["layers"]["mlp"]["up_proj"]
    for leaf, split in (
        ("kernel", mesh.shape["fsdp"] * mesh.shape["tensor"]),
        ("lora_a", mesh.shape["fsdp"]),
        ("lora_b", mesh.shape["tensor"]),
        ("kernel_scale", mesh.shape["tensor"]),
    ):
        if leaf in projection:
            array = projection[leaf]
            assert array.addressable_shards[0].data.size * split == array.size, leaf
    moment = placed.opt_state[1][0].mu["text"]["layers"]["mlp"]["up_proj"]["lora_a"]
    assert moment.sharding == projection["lora_a"].sharding
    arrays = (episode, advantages, bank)
    arrays = jax.device_put(arrays, batch_shardings(arrays, mesh))
    anchor = jax.device_put(reference, state_shardings(reference, mesh))
    after, metrics = jax.device_get(step(placed, *arrays, anchor))
    for name, value in wanted_metrics.items():
        relative = name in ("gradient_norm", "ratio_mean", "ratio_max")  # these may be large
        bound = {"rtol": 1e-4} if relative else {"atol": 2e-5}
        np.testing.assert_allclose(metrics[name], value, **bound, err_msg=name)
    assert_bitwise(models.split_lora(after.params)[0], models.split_lora(wanted.params)[0])
    for got, want in zip(
        *(jax.tree.leaves(trained(s.params, False)) for s in (after, wanted)), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=2e-5)
    assert min(moved(trained(weights, False), trained(wanted.params, False))) > 1e-3
