"""The training steps against direct formulas: NumPy on log-probabilities, the model a black box.

Tolerances in float32: losses 1e-5 (near 4), gradients 1e-4 of each array's largest entry. On
meshes, where only the order of sums differs: losses 2e-5, gradients' norm 1e-4 of itself, and
parameters 2e-5 after a step of AdamW at 1e-2 (0.2% of a step; its eps is large, since it divides a
gradient by its own size, and rounding noise where a true gradient is zero would be a whole step).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medscope_jax import models
from medscope_jax.dialogue import Role
from medscope_jax.distributed import batch_shardings, make_mesh, state_shardings
from medscope_jax.rl import LossConfig
from medscope_jax.training.logprobs import find_targets
from medscope_jax.training.packing import Packing
from medscope_jax.training.steps import ga_grpo_step, sft_step
from medscope_jax.training.train_state import init_state
from tests.training import step_cases as cases

ROWS, TARGETS = 8, 10
SGD = optax.sgd(1.0)  # new parameters = old - gradient
ADAMW = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, eps=1e-3, weight_decay=0.01))
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}


def log_softmax(scores):
    scores = np.asarray(scores, np.float64)
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def new_state(optimizer, train_vision):
    params = jax.tree.map(jnp.asarray, cases.params())
    return init_state(params, optimizer, jax.random.key(5), train_vision)


def assert_gradient(before, after, gradient):
    """before - after is the gradient, to 1e-4 of each array's largest entry."""

    def check(path, old, new, wanted):
        got = np.asarray(old, np.float64) - np.asarray(new)
        bound = 1e-4 * np.abs(wanted).max() + 1e-6
        np.testing.assert_allclose(got, wanted, rtol=0, atol=bound, err_msg=str(path))

    jax.tree_util.tree_map_with_path(check, before, after, gradient)
    assert all(np.abs(leaf).max() > 1e-5 for leaf in jax.tree.leaves(gradient))


def assert_bitwise(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_find_targets():
    """Generated positions are packed to the front, in order; the rest is masked."""
    p, g, o, x = Role.PROMPT, Role.GENERATED, Role.OBSERVATION, Role.PADDING
    role = jnp.array([[p, g, g, o, g, x], [p, p, o, x, x, x], [p, g, o, g, o, o]])
    positions, mask = find_targets(role, 4)
    np.testing.assert_array_equal(positions, [[1, 2, 4, 0], [0, 0, 0, 0], [1, 3, 0, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]])


@functools.cache
def sft():
    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=SGD,
        grid=cases.GRID,
        targets=TARGETS,
        train_vision=False,
    )
    return jax.jit(step)


def test_sft_loss_and_gradient():
    """Cross-entropy of the generated tokens by NumPy; its gradient; all else stays bitwise."""
    batch, bank = cases.batch(ROWS), cases.bank(ROWS)
    generated = batch["role"] == Role.GENERATED
    assert 0 in generated.sum(1) and len(set(generated.sum(1))) > 2
    cotangent = np.where(generated, -1 / generated.sum(), 0).astype(np.float32)
    _, scores, gradient = cases.pull_back(cases.params(), cases.flat(batch), bank, cotangent)
    every = log_softmax(scores)
    losses, entropies = [], []
    for row, at in zip(*np.nonzero(generated), strict=True):
        before = every[row, at - 1]
        losses.append(-before[batch["tokens"][row, at]])
        entropies.append(-(np.exp(before) * before).sum())
    state = new_state(SGD, False)
    after, metrics = sft()(state, cases.sft_batch(ROWS))
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), atol=1e-5)
    np.testing.assert_allclose(metrics["entropy"], np.mean(entropies), atol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    assert_gradient(state.params["text"], after.params["text"], gradient)
    assert_bitwise(state.params["vision"], after.params["vision"])
    assert_bitwise(jax.random.key_data(state.key), jax.random.key_data(after.key))
    assert after.step == 1


def test_only_generated_tokens_are_targets():
    """Observations after the last turn, and padding, could only enter as targets: they do not."""
    batch = cases.sft_batch(ROWS)
    state = new_state(SGD, False)
    after, metrics = sft()(state, batch)
    other = {name: array.copy() for name, array in batch.items()}
    changed = 0
    for row in range(ROWS):
        positions = np.nonzero(batch["role"][row] == Role.GENERATED)[0]
        rest = np.arange(cases.LENGTH) > (positions[-1] if len(positions) else -1)
        rest &= batch["visual_index"][row] < 0
        other["tokens"][row, rest] = (batch["tokens"][row, rest] + 11) % 64
        changed += np.sum(rest & (batch["role"][row] == Role.OBSERVATION))
    assert changed > 4
    same, same_metrics = sft()(state, other)
    assert_bitwise(after.params, same.params)
    assert_bitwise(metrics, same_metrics)
    # While a generated token is a target: another one gives another loss.
    row, at = np.argwhere(batch["role"] == Role.GENERATED)[-1]
    other["tokens"][row, at] += 1
    assert abs(sft()(state, other)[1]["loss"] - metrics["loss"]) > 1e-3


def test_gradients_reach_the_vision_tower_when_it_trains():
    """Stage 1: each row's frames are encoded inside the step; a direct loss gives the gradient."""
    batch = cases.batch(4)
    random = np.random.default_rng(3)
    batch["frames"] = random.integers(0, 256, (4, cases.FRAMES, 28, 56, 3)).astype(np.uint8)
    generated = batch["role"] == Role.GENERATED

    def direct(params):
        total = 0.0
        for row in range(4):
            visual = models.encode_frames(params, cases.MODEL, batch["frames"][row])
            arrays = (batch[name][row : row + 1] for name in ("tokens", "visual_index", "role"))
            found, _ = cases.chosen_logprobs(params, *arrays, visual.reshape(-1, 32))
            total -= jnp.sum(jnp.where(generated[row], found[0], 0))
        return total / generated.sum()

    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=SGD,
        grid=cases.GRID,
        targets=TARGETS,
        train_vision=True,
    )
    state = new_state(SGD, True)
    after, metrics = jax.jit(step)(state, batch)
    loss, gradient = jax.jit(jax.value_and_grad(direct))(state.params)
    np.testing.assert_allclose(metrics["loss"], loss, atol=1e-5)
    assert_gradient(state.params, after.params, gradient)


def test_a_frozen_vision_tower_is_read_all_the_same():
    """Frames encoded inside the step, or before it, as the tower stands: one loss, one update."""
    batch = cases.batch(4)
    random = np.random.default_rng(3)
    frames = random.integers(0, 256, (4, cases.FRAMES, 28, 56, 3)).astype(np.uint8)
    visual = jnp.stack([models.encode_frames(cases.params(), cases.MODEL, f) for f in frames])
    state = new_state(SGD, False)
    inside, metrics = sft()(state, {**batch, "frames": frames})
    before, wanted = sft()(state, {**batch, "visual": visual.reshape(4, -1, 32)})
    blind = sft()(state, {**batch, "visual": np.zeros((4, cases.FRAMES * 2, 32), np.float32)})[1]
    assert abs(blind["loss"] - wanted["loss"]) > 1e-3
    np.testing.assert_allclose(metrics["loss"], wanted["loss"], atol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (inside.params, before.params)), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


CLIP = LossConfig(clip_low=0.2, clip_high=0.3, dual_clip=2.0)


@functools.cache
def trajectories(temperature=0.7):
    """A batch of rollouts whose policy has moved since: (arrays, bank, logprobs now, then, A)."""
    batch, bank = cases.batch(ROWS), cases.bank(ROWS)
    zeros = np.zeros(batch["role"].shape, np.float32)
    now, _, _ = cases.pull_back(cases.params(), cases.flat(batch), bank, zeros, temperature)
    random = np.random.default_rng(4)
    then = np.asarray(now, np.float64) + random.normal(0, 0.6, zeros.shape)
    advantages = np.array([1.1, -0.7, 0.4, 3.0, -1.3, 0.8, -0.2, -2.0], np.float32)
    return batch, bank, np.asarray(now, np.float64), then.astype(np.float32), advantages


def direct_objective(now, then, advantages, generated, aggregation, anchor=None, kl=0.0):
    """(loss, its derivative by the log-probabilities [B, L], branches seen, KL) in plain NumPy."""
    tokens = generated.sum(1)
    rows = (tokens > 0).sum()
    loss, total_kl, slope, branches = 0.0, 0.0, np.zeros(now.shape), set()
    for row, at in np.argwhere(generated):
        weight = {
            "token-mean": 1 / tokens.sum(),
            "seq-mean-token-sum": 1 / rows,
            "seq-mean-token-mean": 1 / rows / tokens[row],
        }[aggregation]
        a, ratio = float(advantages[row]), np.exp(now[row, at] - then[row, at])
        if a >= 0 and ratio > 1 + CLIP.clip_high:
            branch, value, d = "high", -a * (1 + CLIP.clip_high), 0.0
        elif a < 0 and ratio < 1 - CLIP.clip_low:
            branch, value, d = "low", -a * (1 - CLIP.clip_low), 0.0
        elif a < 0 and ratio > CLIP.dual_clip:
            branch, value, d = "dual", -a * CLIP.dual_clip, 0.0
        else:
            branch, value, d = "free", -a * ratio, -a * ratio
        branches.add(branch)
        loss += weight * value
        slope[row, at] += weight * d
        if anchor is not None:
            gap = anchor[row, at] - now[row, at]
            total_kl += weight * (np.exp(gap) - gap - 1)
            slope[row, at] += kl * weight * (1 - np.exp(gap))
    return loss + kl * total_kl, slope.astype(np.float32), branches, total_kl


def policy_step(micro_batch, aggregation="token-mean", kl=0.0, targets=TARGETS, optimizer=SGD):
    loss = LossConfig(CLIP.clip_low, CLIP.clip_high, CLIP.dual_clip, aggregation)
    step = functools.partial(
        ga_grpo_step,
        model=cases.MODEL,
        optimizer=optimizer,
        grid=cases.GRID,
        size=Packing(group=1, prompt=16, rest=cases.LENGTH),
        targets=targets,
        loss=loss,
        temperature=0.7,
        kl_coefficient=kl,
        micro_batch=micro_batch,
    )
    return jax.jit(step)


@pytest.mark.parametrize(
    "micro_batch, aggregation, kl",
    [
        (8, "token-mean", 0.0),
        (4, "token-mean", 0.0),
        (2, "token-mean", 0.5),
        (4, "seq-mean-token-mean", 0.5),
    ],
)
def test_policy_loss_and_gradient(micro_batch, aggregation, kl):
    """In one, two and four parts: the full batch's objective, by NumPy, and its gradient."""
    batch, bank, now, then, advantages = trajectories()
    generated = batch["role"] == Role.GENERATED
    reference, anchor = None, None
    if kl:
        reference = jax.tree.map(lambda x: x * 0.9, cases.params())
        zeros = np.zeros(now.shape, np.float32)
        anchor = np.asarray(
            cases.pull_back(reference, cases.flat(batch), bank, zeros, 0.7)[0], np.float64
        )
    wanted, slope, branches, total_kl = direct_objective(
        now, then, advantages, generated, aggregation, anchor, kl
    )
    assert branches == {"high", "low", "dual", "free"}
    _, _, gradient = cases.pull_back(cases.params(), cases.flat(batch), bank, slope, 0.7)
    state = new_state(SGD, False)
    after, metrics = policy_step(micro_batch, aggregation, kl)(
        state, cases.episode(batch, then), advantages, bank, reference
    )
    np.testing.assert_allclose(metrics["policy_loss"], wanted, atol=1e-5)
    assert_gradient(state.params["text"], after.params["text"], gradient)
    assert_bitwise(state.params["vision"], after.params["vision"])
    moved = (now - then)[generated]
    expected = {
        "logprob_gap_mean": np.abs(moved).mean(),
        "logprob_gap_max": np.abs(moved).max(),
        "ratio_mean": np.exp(moved).mean(),
        "ratio_max": np.exp(moved).max(),
        "approx_kl": -moved.mean(),
    }
    for name, number in expected.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-4, atol=1e-5, err_msg=name)
    if kl:
        assert total_kl > 0.01
        np.testing.assert_allclose(metrics["kl"], total_kl, atol=1e-5)


def test_padding_rows_and_positions_are_invisible():
    """Twice the rows, empty and with any advantage, more positions and targets: the same."""
    batch, bank, _, then, advantages = trajectories()
    state = new_state(SGD, False)
    after, metrics = policy_step(4)(state, cases.episode(batch, then), advantages, bank, None)
    random = np.random.default_rng(6)
    shape = (2 * ROWS, cases.LENGTH + 8)
    wide = {
        "tokens": random.integers(0, 64, shape).astype(np.int32),
        "visual_index": np.full(shape, -1, np.int32),
        "role": np.zeros(shape, np.int32),
    }
    rows = random.permutation(2 * ROWS)[:ROWS]
    for name, array in wide.items():
        array[rows, : cases.LENGTH] = batch[name]
    videos = random.normal(size=(2 * ROWS, cases.FRAMES * 2, 32)).astype(np.float32)
    videos[rows] = bank.reshape(ROWS, -1, 32)
    old = random.normal(size=shape)
    old[rows, : cases.LENGTH] = then
    signals = np.full(2 * ROWS, np.nan, np.float32)
    signals[rows] = advantages
    other, other_metrics = policy_step(4, targets=TARGETS + 6)(
        state, cases.episode(wide, old), signals, videos.reshape(-1, 32), None
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(other_metrics[name], value, atol=1e-5, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, other.params
    )


def test_rows_that_do_not_split_are_an_error():
    batch, bank, _, then, advantages = trajectories()
    with pytest.raises(ValueError, match="8 groups of 1 .* into micro batches of 3 rows"):
        policy_step(3)(new_state(SGD, False), cases.episode(batch, then), advantages, bank, None)


@functools.cache
def inputs(kind):
    """(compiled step, state, arguments) of one kind of step on 16 rows, on one device."""
    random = np.random.default_rng(7)
    bank = cases.bank(16)
    if kind == "ga_grpo":
        batch = cases.batch(16)
        old = random.normal(-4, 0.5, batch["role"].shape)
        advantages = random.normal(size=16).astype(np.float32)
        reference = jax.tree.map(lambda x: x * 0.9, cases.params())
        step = policy_step(8, kl=0.1, optimizer=ADAMW)
        arguments = (cases.episode(batch, old), advantages, bank, reference)
        return step, new_state(ADAMW, False), arguments
    batch = cases.batch(16)
    batch["frames"] = random.integers(0, 256, (16, cases.FRAMES, 28, 56, 3)).astype(np.uint8)
    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=ADAMW,
        grid=cases.GRID,
        targets=TARGETS,
        train_vision=True,
    )
    return jax.jit(step), new_state(ADAMW, True), (batch,)


@functools.cache
def on_one_device(kind):
    step, state, arguments = inputs(kind)
    return jax.device_get(step(state, *arguments))


SLOW = [pytest.mark.slow, pytest.mark.invariant]


@pytest.mark.parametrize("kind", ["sft", "ga_grpo"])
@pytest.mark.parametrize(
    "mesh", [pytest.param("data", marks=SLOW), pytest.param("fsdp", marks=SLOW), "mixed"]
)
def test_sharding_changes_nothing(mesh, kind):
    """Invariant: eight devices, split in any way, make the step that one device makes."""
    mesh = make_mesh(MESHES[mesh])
    step, state, arguments = inputs(kind)
    placed = jax.device_put(state, state_shardings(state, mesh))
    if kind == "ga_grpo":
        episode, advantages, bank, reference = arguments
        first = jax.device_put(
            (episode, advantages, bank), batch_shardings((episode, advantages, bank), mesh)
        )
        anchor = jax.device_put(reference, state_shardings(reference, mesh))
        arguments = (*first, anchor)
    else:
        arguments = jax.device_put(arguments, batch_shardings(arguments, mesh))
    kernel = placed.params["text"]["layers"]["mlp"]["up_proj"]["kernel"]
    split = mesh.shape["fsdp"] * mesh.shape["tensor"]
    assert kernel.addressable_shards[0].data.size * split == kernel.size
    after, metrics = jax.device_get(step(placed, *arguments))
    wanted, wanted_metrics = on_one_device(kind)
    for name, value in wanted_metrics.items():
        relative = name in ("gradient_norm", "ratio_mean", "ratio_max")  # these may be large
        bound = {"rtol": 1e-4} if relative else {"atol": 2e-5}
        np.testing.assert_allclose(metrics[name], value, **bound, err_msg=name)

    def check(path, got, want):
        np.testing.assert_allclose(got, want, atol=2e-5, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, after.params, wanted.params)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), wanted.params, cases.params())
    assert all(step > 1e-3 for step in jax.tree.leaves(moved["text"]))
    if kind == "ga_grpo":
        assert_bitwise(after.params["vision"], cases.params()["vision"])
