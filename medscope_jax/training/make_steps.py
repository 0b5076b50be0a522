"""The jitted programs of a run's stages, each made in one place.

A stage runs what its function here gives, and `plan` compiles the very same: its static values,
the arguments whose memory it takes over, and where its results lie. The fourth program, the
rollout, is that of rollout/engine.py.
"""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.dialogue import Layout
from medscope_jax.models import ModelConfig, encode_frames
from medscope_jax.rl import LossConfig
from medscope_jax.training.steps import ga_grpo_step, sft_step
from medscope_jax.training.train_state import optimizer_of, shardings_of


@functools.cache
def make_encode(model: ModelConfig) -> Callable:
    """The vision tower: (parameters {"vision": ...}, frames) -> tokens, as models.encode_frames.

    The same one for the same model, so that it compiles once for all banks.
    """

    def encode(params: dict, frames: jax.Array) -> jax.Array:
        return encode_frames(params, model, frames)

    return jax.jit(encode)


def make_sft_step(
    config: ConfigDict,
    name: str,
    model: ModelConfig,
    mesh: Mesh,
    layout: Layout,
    targets: tuple[int, ...],
) -> Callable:
    """A supervised stage's step: (state, batch) -> (state, metrics), see steps.sft_step.

    It takes over the memory of the state that it is given.

    Args:
        name: the stage: warm_up, cold_start or passive.
        targets: most generated tokens of a row, of each part that a batch may come in.
    """
    step = functools.partial(
        sft_step,
        model=model,
        optimizer=optimizer_of(config, name),
        grid=layout.grid,
        targets=targets,
        train_vision=config[name].train_vision,
        micro_batch=config[name].micro_batch,
    )
    shardings = shardings_of(config, model, mesh, name)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def make_ga_grpo_step(
    config: ConfigDict, model: ModelConfig, mesh: Mesh, layout: Layout
) -> Callable:
    """Stage 3's step: (state, episode, advantages, bank, reference, *, size, targets) ->
    (state, metrics), see steps.ga_grpo_step.

    It takes over the memory of the state that it is given; size and targets are static.
    """
    step = functools.partial(
        ga_grpo_step,
        model=model,
        optimizer=optimizer_of(config, "ga_grpo"),
        grid=layout.grid,
        loss=LossConfig(**config.loss),
        temperature=config.rollout.temperature,
        kl_coefficient=config.rl.kl_coefficient,
        micro_batch=config.rl.micro_batch,
    )
    return jax.jit(
        step,
        static_argnames=("size", "targets"),
        donate_argnums=0,
        out_shardings=(shardings_of(config, model, mesh, "ga_grpo"), None),
    )
