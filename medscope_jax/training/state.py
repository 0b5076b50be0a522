"""What training changes, and how: the state, its optimizer and which parameters it may touch."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """All that a stage changes from step to step."""

    step: jax.Array  # [] int32 optimizer steps done
    params: dict  # the whole model, {"vision": ..., "text": ...}
    opt_state: optax.OptState  # of the trained part only
    key: jax.Array  # [] the stage's random key; step k uses fold_in(key, k)


def trained(params: Mapping, train_vision: bool) -> dict:
    """The part of the parameters that a stage trains."""
    return {name: params[name] for name in (("vision", "text") if train_vision else ("text",))}


def make_optimizer(stage: Mapping, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay, from a config's stage section.

    steps: optimizer steps in all. Norm scales and biases decay like all else, as in the reference
    recipe of the peers.
    """
    peak = stage["learning_rate"]
    warmup = max(1, round(stage["warmup"] * steps))
    schedule = optax.warmup_cosine_decay_schedule(
        peak / warmup, peak, warmup, max(steps, warmup + 1), peak * stage["final_scale"]
    )
    return optax.chain(
        optax.clip_by_global_norm(stage["clip_norm"]),
        optax.adamw(schedule, b2=0.98, weight_decay=stage["weight_decay"]),
    )


def init_state(
    params: dict, optimizer: optax.GradientTransformation, key: jax.Array, train_vision: bool
) -> TrainState:
    """A stage's first state."""
    opt_state = optimizer.init(trained(params, train_vision))
    return TrainState(step=jnp.int32(0), params=params, opt_state=opt_state, key=key)


def apply_gradients(
    state: TrainState, gradients: dict, optimizer: optax.GradientTransformation
) -> tuple[TrainState, jax.Array]:
    """One optimizer step. Returns (state, global norm of the gradients before clipping)."""
    part = {name: state.params[name] for name in gradients}
    updates, opt_state = optimizer.update(gradients, state.opt_state, part)
    params = {**state.params, **optax.apply_updates(part, updates)}
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, optax.tree.norm(gradients)
