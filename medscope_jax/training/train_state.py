"""The training state, its optimizer, and which parameters a stage trains."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.distributed import abstract, state_shardings
from medscope_jax.models import (
    ModelConfig,
    add_lora,
    cast_params,
    freeze,
    init_params,
    join_params,
    merge_lora,
    pick_params,
    plain_kernels,
    split_lora,
)

KL_REFERENCES = ("start", "base")
SKIPS_TO_STOP = 3  # steps in a row without a finite loss and gradient


class TrainState(struct.PyTreeNode):
    """All that a stage changes from step to step."""

    step: jax.Array  # [] int32 optimizer steps tried: those taken and those skipped
    params: dict  # the whole model, {"vision": ..., "text": ...}
    opt_state: optax.OptState  # of the trained part only; its counts are of steps taken
    key: jax.Array  # [] the stage's random key; step k takes fold_in(key, k)
    skipped: jax.Array | np.int32 = np.int32(0)  # [] steps whose loss or gradient was not finite
    skipped_in_row: jax.Array | np.int32 = np.int32(
        0
    )  # [] of these, the ones since the last step taken
    # With rl.lag: the trained part before the last batch, which the next one is rolled out by.
    sampler: dict | None = None


def trained(params: Mapping, train_vision: bool) -> dict:
    """The part of the parameters that a stage trains, as a tree of these leaves alone.

    The adapters where there are any, else the whole decoder; with train_vision the vision tower.
    """
    part = split_lora(params)[1] or {"text": params["text"]}
    return {**part, "vision": params["vision"]} if train_vision else part


def stage_params(params: dict, model: ModelConfig, stage: Mapping, key: jax.Array) -> dict:
    """The parameters that a stage starts from, in the form that it trains.

    A model that never has adapters: as they are. A stage with adapters: the base frozen as
    model.lora.base says, a vision tower that trains in model.param_dtype, and float32 adapters,
    those of the stage before or new ones; one adapter thus goes through all stages on one base. A
    stage without: every weight in model.param_dtype, the adapters of the stage before merged.

    Args:
        params: of the stage before.
        stage: a config's stage section, of which lora and train_vision are read.
        key: random key of new adapters.
    """
    if model.lora is None:
        return params
    if not stage["lora"]:
        return cast_params(plain_kernels(merge_lora(params, model)), model.param_dtype)
    base, adapters = split_lora(params)
    frozen = freeze(base, model.lora.base)
    if stage["train_vision"]:
        frozen["vision"] = cast_params(base["vision"], model.param_dtype)
    return join_params(frozen, adapters) if adapters else add_lora(frozen, model, key)


def kl_reference(params: dict, section: Mapping) -> dict | None:
    """The policy that stage 3's KL penalty pulls to, as the `reference` of ga_grpo_step.

    Args:
        params: that stage 3 starts from.
        section: a config's rl section. kl_reference "start" is the policy that stage 3 starts from,
            of which the trained part is enough; copy it before updates donate it. "base" is the
            model without its adapters, which takes no memory.
    """
    if not section["kl_coefficient"]:
        return None
    return {} if section["kl_reference"] == "base" else trained(params, train_vision=False)


def make_schedule(stage: Mapping, steps: int) -> optax.Schedule:
    """The learning rate of step k < `steps`: linear warm-up, then half a cosine."""
    peak = stage["learning_rate"]
    warmup = max(1, round(stage["warmup"] * steps))
    return optax.warmup_cosine_decay_schedule(
        peak / warmup, peak, warmup, max(steps, warmup + 1), peak * stage["final_scale"]
    )


def make_optimizer(stage: Mapping, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay, from a config's stage section.

    steps: optimizer steps in all. Weight decay is on norm scales and biases too, as in the peers'
    recipes.
    """
    return optax.chain(
        optax.clip_by_global_norm(stage["clip_norm"]),
        optax.adamw(make_schedule(stage, steps), b2=0.98, weight_decay=stage["weight_decay"]),
    )


def init_state(
    params: dict, optimizer: optax.GradientTransformation, key: jax.Array, train_vision: bool
) -> TrainState:
    """A stage's first state."""
    opt_state = optimizer.init(trained(params, train_vision))
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=opt_state,
        key=key,
        skipped=jnp.int32(0),
        skipped_in_row=jnp.int32(0),
    )


def with_sampler(state: TrainState) -> TrainState:
    """The state whose sampler is the trained part as it is now, the very arrays."""
    return state.replace(sampler=trained(state.params, train_vision=False))


def updates_of(config: ConfigDict, name: str) -> int:
    """Optimizer steps of a stage in all."""
    return config[name].steps * (config.rl.updates if name == "ga_grpo" else 1)


def optimizer_of(config: ConfigDict, name: str) -> optax.GradientTransformation:
    """A stage's optimizer."""
    return make_optimizer(config[name], updates_of(config, name))


def abstract_state(config: ConfigDict, model: ModelConfig, mesh: Mesh, name: str) -> TrainState:
    """A stage's state as shapes with shardings; allocates nothing."""
    section = config[name]
    optimizer = optimizer_of(config, name)

    def create(key):
        params = stage_params(init_params(model, key), model, section, key)
        return init_state(params, optimizer, key, section.train_vision)

    shapes = jax.eval_shape(create, jax.eval_shape(lambda: jax.random.key(0)))
    return abstract(shapes, state_shardings(shapes, mesh))


def shardings_of(config: ConfigDict, model: ModelConfig, mesh: Mesh, name: str) -> TrainState:
    """The NamedSharding of everything in a stage's state.

    Its step gives its state back so: without being told, XLA may name the same placement
    differently, and the second step would be compiled afresh.
    """
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, model, mesh, name))


def apply_gradients(
    state: TrainState,
    gradients: dict,
    optimizer: optax.GradientTransformation,
    loss: jax.Array | float = 0.0,
) -> tuple[TrainState, jax.Array]:
    """One optimizer step, or none where the loss or the gradients' norm is not finite.

    A skipped step leaves parameters and optimizer, its schedule included, bitwise as they are. It
    is counted, and the state's step, and with it the random keys, goes on. After SKIPS_TO_STOP of
    them in a row nothing changes any more. The device decides this, so that a host that reads the
    counters only now and then finds the state, and the step, at which the run was to stop.

    Returns:
        (state, global norm of the gradients before clipping).
    """
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    going = state.skipped_in_row < SKIPS_TO_STOP
    taken, skipped = going & finite, (going & ~finite).astype(jnp.int32)

    def choose(new: dict, old: dict):
        return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)

    part = pick_params(state.params, gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, part)
    state = state.replace(
        step=state.step + going,
        params=join_params(state.params, choose(optax.apply_updates(part, updates), part)),
        opt_state=choose(opt_state, state.opt_state),
        skipped=state.skipped + skipped,
        skipped_in_row=jnp.where(taken, 0, state.skipped_in_row + skipped),
    )
    return state, norm
