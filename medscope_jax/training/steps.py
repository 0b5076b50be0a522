"""The training steps, as pure functions: supervised (stages 1 and 2) and GA-GRPO (stage 3).

Both compute the same of an episode: embed tokens and visual tokens, one causal forward pass,
log-probabilities of the generated tokens.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from medscope_jax.bank import flat_index
from medscope_jax.dialogue import Episode
from medscope_jax.distributed import BATCH, constrain
from medscope_jax.models import ModelConfig, encode_frames, join_params, split_lora
from medscope_jax.rl import LossConfig, loss_normalizer, policy_loss, reference_kl
from medscope_jax.training.logprobs import find_targets, packed_logprobs, token_logprobs
from medscope_jax.training.packing import Packing
from medscope_jax.training.train_state import TrainState, apply_gradients, trained


def sft_step(
    state: TrainState,
    batch: dict | tuple[dict, ...],
    *,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    grid: tuple[int, int],
    targets: int | tuple[int, ...],
    train_vision: bool,
    micro_batch: int = 0,
) -> tuple[TrainState, dict]:
    """One supervised step: cross-entropy of the generated tokens, a mean over those of all rows.

    Args:
        batch: tokens, visual_index, role [B, L], and the visual tokens of each row: visual
            [B, M, D], M a multiple of a frame's tokens, or frames uint8 [B, F, H, W, 3], which are
            encoded inside the step, so that gradients reach a vision tower that trains. Where rows
            hold several conversations, segment [B, L] too, see models.Joined; their visual tokens
            or frames stand one behind the other. Or the batch in parts of other B and L each, see
            length_bucketing.py.
        targets: G, most generated tokens of a row; of each part, the last being the whole batch's.
        train_vision: whether the vision tower trains too.
        micro_batch: rows of one forward and backward pass, of a batch that is one dict; gradients
            add up over the batch, and the result does not depend on it. 0: all rows.

    Returns:
        (state, metrics: loss, entropy, gradient_norm; conversations, of rows that hold several).
    """

    def sums_of(params: dict, rows: dict, most: int) -> jax.Array:
        """[3]: log-probabilities, entropies and number of the generated tokens of some rows."""
        tokens, role = rows["tokens"], rows["role"]
        # It lies in parts over all of a row's chips, and comes together for these rows alone.
        if "visual" in rows:
            visual = constrain(rows["visual"], BATCH, None, None)
        else:
            frames = constrain(rows["frames"], BATCH, *[None] * (rows["frames"].ndim - 1))
            visual = encode_frames(params, model, frames.reshape(-1, *frames.shape[2:]))
        visual = visual.reshape(-1, visual.shape[-1])
        count = len(tokens)
        index = flat_index(jnp.arange(count), rows["visual_index"], len(visual) // count)
        wanted = find_targets(role, most)
        logprobs, entropy = token_logprobs(
            params,
            model,
            tokens,
            index,
            role,
            visual,
            wanted,
            grid,
            local=True,
            segment=rows.get("segment"),
        )
        return jnp.stack([jnp.sum(logprobs), jnp.sum(entropy), jnp.sum(wanted.mask)])

    most = targets if isinstance(targets, tuple) else (targets,)

    def loss_of(part: dict, batch: dict | tuple[dict, ...], count: jax.Array | None = None):
        """(loss, entropy); the share of some rows, where `count` is the tokens of all."""
        params = join_params(state.params, part)
        parts = batch if isinstance(batch, tuple) else (batch,)
        sums = map(functools.partial(sums_of, params), parts, most[-len(parts) :])
        total: Any = sum(sums)
        logprobs, entropy, found = total
        count = jnp.maximum(found if count is None else count, 1)
        return -logprobs / count, entropy / count

    part = trained(state.params, train_vision)
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if isinstance(batch, tuple) or micro_batch in (0, len(batch["role"])):
        (loss, entropy), gradients = gradient(part, batch)
    else:
        count = jnp.sum(find_targets(batch["role"], most[-1]).mask)
        (loss, entropy), gradients = _sum_over_parts(
            lambda rows: gradient(part, rows, count), batch, micro_batch
        )
    state, norm = apply_gradients(state, gradients, optimizer, loss)
    metrics = {"loss": loss, "entropy": entropy, "gradient_norm": norm}
    if isinstance(batch, dict) and "segment" in batch:
        metrics["conversations"] = jnp.sum(jnp.max(batch["segment"], axis=1))
    return state, metrics


def _sum_over_parts(function: Callable[[dict], Any], batch: dict, rows: int) -> Any:
    """The sum of what a function gives of each part of a batch, one part after the other.

    Row i is in part i % parts, so that a part is split over the devices as the whole batch is. Sums
    are float32 at least, whatever their terms are.

    Args:
        function: of so many rows -> arrays.
        batch: arrays of all rows.
    """
    parts, rest = divmod(len(batch["role"]), rows)
    if rest:
        raise ValueError(f"{len(batch['role'])} rows do not split into parts of {rows}")

    def apart(x: jax.Array) -> jax.Array:
        # One TPU chip lays the three colours of whole pictures out with eight times their bytes.
        shape = (-1,) if x.dtype == jnp.uint8 else x.shape[1:]
        return x.reshape(rows, parts, *shape)

    split = jax.tree.map(apart, batch)

    def part(number):
        def take(x: jax.Array, whole: jax.Array) -> jax.Array:
            x = jax.lax.dynamic_index_in_dim(x, number, axis=1, keepdims=False)
            return x.reshape(rows, *whole.shape[1:])

        return function(jax.tree.map(take, split, batch))

    def add(sums, number):
        return jax.tree.map(jnp.add, sums, part(number)), None

    shapes = jax.eval_shape(part, jax.ShapeDtypeStruct((), jnp.int32))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, "f4")), shapes)
    sums, _ = jax.lax.scan(add, zeros, jnp.arange(parts))
    return jax.tree.map(lambda x, like: x.astype(like.dtype), sums, shapes)


def ga_grpo_step(
    state: TrainState,
    episode: Episode,
    advantages: jax.Array,
    bank: jax.Array,
    reference: dict | None,
    *,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    grid: tuple[int, int],
    size: Packing,
    targets: int,
    loss: LossConfig,
    temperature: float,
    kl_coefficient: float,
    micro_batch: int,
) -> tuple[TrainState, dict]:
    """One policy-gradient step on a batch of rollouts.

    Args:
        episode: B rows as sampled; each size.group in a row share a prompt and a video.
        advantages: [B].
        bank: flat bank [P * T * S, D] of the groups' videos, in the groups' order.
        reference: the policy that a KL penalty pulls to, as the leaves that it has in place of the
            trained ones or beside the frozen ones: its trained part, {} for the model without its
            adapters, or all of its parameters. None without a penalty.
        micro_batch: most rows of one forward and backward pass (but never less than a group);
            gradients add up over the batch, and the result does not depend on it.

    Returns:
        (state, metrics). Old log-probabilities are those of the episode, as sampled, however many
        steps are taken on it: ratio_mean and ratio_max are to them, logprob_gap_mean and
        logprob_gap_max the distance from them. Before the first step that distance is the error
        between sampler and trainer.
    """
    groups = advantages.shape[0] // size.group
    parts = -(-groups // max(1, micro_batch // size.group))
    if groups % parts:
        raise ValueError(
            f"{groups} groups of {size.group} rollouts do not split into micro batches of "
            f"{micro_batch} rows"
        )
    wanted = find_targets(episode.role, targets)
    normalizer = loss_normalizer(wanted.mask, loss.aggregation, loss.horizon)
    total = jnp.maximum(jnp.sum(wanted.mask), 1)
    old = jnp.take_along_axis(episode.logprobs, wanted.positions, axis=1)
    video = jnp.arange(len(advantages)) // size.group
    index = flat_index(video, episode.visual_index, len(bank) // groups)
    data = (episode.tokens, index, episode.role, wanted, old, advantages)

    def split(x):
        """Group i goes to part i % parts, so that a part is split over the devices as all are."""
        x = x.reshape(groups // parts, parts, size.group, *x.shape[1:]).swapaxes(0, 1)
        return x.reshape(parts, -1, *x.shape[3:])

    data = jax.tree.map(split, data)

    def loss_of(part: dict, piece):
        tokens, index, role, wanted, old, advantages = piece
        params = join_params(state.params, part)
        evaluate = functools.partial(
            packed_logprobs,
            model=model,
            tokens=tokens,
            index=index,
            role=role,
            bank=bank,
            targets=wanted,
            grid=grid,
            size=size,
            temperature=temperature,
        )
        logprobs, entropy = evaluate(params)
        value, metrics = policy_loss(logprobs, old, advantages, wanted.mask, loss, normalizer)
        gap = jnp.where(wanted.mask, jnp.abs(logprobs - old), 0.0)
        largest = {"ratio_max": metrics.pop("ratio_max"), "logprob_gap_max": jnp.max(gap)}
        share = jnp.sum(wanted.mask) / total
        metrics = {name: number * share for name, number in metrics.items()}
        if loss.entropy:
            value -= loss.entropy * jnp.sum(entropy) / total
        if reference is not None:
            anchor, _ = evaluate(join_params(split_lora(state.params)[0], reference))
            kl = reference_kl(logprobs, anchor, wanted.mask, loss, normalizer)
            value, metrics["kl"] = value + kl_coefficient * kl, kl
        metrics |= {
            "policy_loss": value,
            "entropy": jnp.sum(entropy) / total,
            "logprob_gap_mean": jnp.sum(gap) / total,
        }
        return value, (metrics, largest)

    part = trained(state.params, train_vision=False)
    gradient = jax.grad(loss_of, has_aux=True)

    def accumulate(carry, piece):
        gradients, (metrics, largest) = gradient(part, piece)
        carried, carried_metrics, carried_largest = carry
        add = functools.partial(jax.tree.map, jnp.add)
        return (
            add(carried, gradients),
            add(carried_metrics, metrics),
            jax.tree.map(jnp.maximum, carried_largest, largest),
        ), None

    first = jax.tree.map(lambda x: x[0], data)
    shapes = jax.eval_shape(gradient, part, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], *shapes[1]))
    (gradients, metrics, largest), _ = jax.lax.scan(accumulate, zeros, data)
    state, norm = apply_gradients(state, gradients, optimizer, metrics["policy_loss"])
    return state, {**metrics, **largest, "gradient_norm": norm}
