"""The agent loop as one compiled program: no host between a question and its answer.

    until every request (one rollout of a question) is done
        is a batch slot free, and does a request wait for one?
            its prompt is in the prefix cache: the request takes the slot
            it is not, and rows there are free: prefill the prompts of the next questions
        do enough rows wait for an observation, or can no other row go on?
            interpret their calls, gather the windows from the bank, prefill them
        else
            sample one token for every batch slot that is writing
    a row that samples </tool_call> waits; a row that samples a token that ends a turn is done

Every row goes at its own pace: one may read its third window while another is in its first turn,
and with fewer batch slots than requests a row that is done makes room for the next one. At most
`prefill_rows` waiting rows are prefilled at a time, so that the cost follows the number of calls.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from medscope_jax.bank import FrameBank, flat_tokens
from medscope_jax.dialogue import Episode, Layout
from medscope_jax.distributed import BATCH, SEQUENCE
from medscope_jax.models import ModelConfig
from medscope_jax.rollout.decode_step import decode_step
from medscope_jax.rollout.observation import SpecialTokens
from medscope_jax.rollout.sampling import sample
from medscope_jax.rollout.scheduler import (
    admit_all,
    admit_request,
    empty_scheduler,
    prefill_prompts,
    ready,
)
from medscope_jax.rollout.state import (
    WAITING,
    WRITING,
    Prompts,
    RolloutConfig,
    RolloutInputs,
    State,
)
from medscope_jax.rollout.tool_step import execute_tools

_STOP, _DECODE, _TOOLS, _ADMIT, _PREFILL = range(5)  # the actions that a step may be


def rollout(
    params: dict,
    bank: FrameBank,
    prompts: Prompts,
    special_tokens: SpecialTokens,
    model: ModelConfig,
    layout: Layout,
    config: RolloutConfig,
    sampler: Callable = sample,
) -> tuple[Episode, dict]:
    """Runs all rollouts of a batch of questions to their end; jit with the last four static.

    A row's tokens depend neither on the number of batch slots nor on what runs beside it.

    Args:
        params: the model's parameters.
        bank: the videos, V of them.
        prompts: P questions, each with its video's row of the bank.
        sampler: chooses each batch slot's next token and gives its log-probability, as
            sampling.sample does.

    Returns:
        (Episode of B = P * group rows of layout.length positions, metrics). Metrics, all []:
        decode_steps; decoded, the tokens that they produced; slot_steps, the tokens that they had
        batch slots for; observation_prefills. decoded / slot_steps is the share of decode work that
        is kept.
    """
    inputs = RolloutInputs(
        params, bank, flat_tokens(bank), prompts, special_tokens, model, layout, config, sampler
    )
    actions = {_TOOLS: execute_tools, _DECODE: decode_step}
    if inputs.slots < inputs.requests:
        state = empty_scheduler(inputs)
        actions = {_PREFILL: prefill_prompts, _ADMIT: admit_request} | actions
    else:
        state = admit_all(inputs)

    def due(kind: int) -> Callable[[State], jax.Array]:
        return lambda state: _next_action(inputs, state) == kind

    def body(state):
        # A loop for each kind of step, not a choice at each step: a compiled conditional copies the
        # whole cache on its way in or out, a loop writes to it in place.
        for kind, action in actions.items():
            with jax.named_scope(action.__name__):
                state = jax.lax.while_loop(
                    due(kind),
                    functools.partial(action, inputs),
                    state,
                )
        return state

    # The loops' names reach the compiled program's text: planning/ knows by them what it counts.
    with jax.named_scope("agent_loop"):
        state = jax.lax.while_loop(lambda s: _next_action(inputs, s) != _STOP, body, state)
    metrics = {
        "decode_steps": state.decode_steps,
        "decoded": state.decoded,
        "slot_steps": state.decode_steps * inputs.slots,
        "observation_prefills": state.observation_prefills,
    }
    return state.episode, metrics


def _next_action(inputs: RolloutInputs, state: State) -> jax.Array:
    """Which of the actions is due."""
    waiting = jnp.sum(state.phase == WAITING)
    writing = jnp.sum(state.phase == WRITING)
    rows = min(inputs.config.prefill_rows, inputs.slots)
    if state.prefilled is None:
        enough = jnp.where(writing > 0, rows, 1)
        action = jnp.where(waiting >= enough, _TOOLS, _DECODE)
        return jnp.where(waiting + writing > 0, action, _STOP)
    # Towards the end, when few rows are left, as many as still write are enough.
    action = jnp.where(waiting >= jnp.clip(writing, 1, rows), _TOOLS, _DECODE)
    action = jnp.where(waiting + writing > 0, action, _STOP)
    due, there, free = ready(inputs, state)
    filling = jnp.where(there, _ADMIT, jnp.where(free, _PREFILL, action))
    return jnp.where(due, filling, action)


def make_rollout(
    mesh,
    model: ModelConfig,
    layout: Layout,
    config: RolloutConfig,
    sampler: Callable = sample,
):
    """The compiled rollout: (params, bank, prompts, special tokens) -> (Episode, metrics).

    See `rollout`. With a mesh, questions are split over its data and fsdp axes, and over context
    too where that divides them; where it does not, each question's rollouts are split over context.
    Every device runs its own loop: no device waits for another's turns, and a row's result does not
    depend on the split. The bank's videos are split as questions are, so a question's video must
    lie in its device's part. Devices along the tensor axis share a loop, each with its heads' part
    of the key-value cache.
    """
    if mesh is None or mesh.size == 1:
        program = functools.partial(
            rollout, model=model, layout=layout, config=config, sampler=sampler
        )
        return jax.jit(program)

    def split_program(params, bank, prompts, special_tokens):
        counts = len(prompts.tokens), len(bank.length)
        axes, within = rollout_axes(mesh, config.group, *counts)
        own_group = config.group // math.prod(mesh.shape[name] for name in within)
        program = functools.partial(
            rollout,
            model=model,
            layout=layout,
            config=dataclasses.replace(config, group=own_group),
            sampler=sampler,
        )
        if not axes + within:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return program(params, bank, prompts, special_tokens)

        def local(params, bank, prompts, special_tokens):
            # A video's row counts over the whole bank outside, over this device's part inside.
            first = bank.length.shape[0] * jax.lax.axis_index(axes) if axes else 0
            prompts = prompts.replace(video=prompts.video - first)
            episode, metrics = program(params, bank, prompts, special_tokens)
            metrics = jax.tree.map(lambda x: jax.lax.psum(x, axes + within), metrics)
            return _on_rows(lambda x, axis: _unfold(x, axis, own_group), episode), metrics

        questions: Any = PartitionSpec(axes or None)  # in the place of the arrays split so
        rows: dict[str, Any] = {
            name: PartitionSpec(*(None,) * axis, axes or None, within or None)
            for name, axis in _row_axes().items()
        }
        spread = jax.tree.map(lambda _: questions, prompts)
        keys = PartitionSpec(axes or None, within or None)
        episode, metrics = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(
                PartitionSpec(),
                questions,
                spread.replace(keys=keys),
                PartitionSpec(),
            ),
            out_specs=(Episode(**rows), PartitionSpec()),
            # Where context divides neither, devices along it repeat the same work.
            axis_names={*axes, *SEQUENCE} & set(mesh.axis_names),
            check_vma=False,
        )(params, bank, prompts, special_tokens)
        return _on_rows(_fold, episode), metrics

    return jax.jit(split_program)


def _on_rows(change: Callable[[Any, int], Any], episode: Episode) -> Episode:
    """An episode whose arrays are changed by a function of each and of the axis of its rows."""
    changed = {
        name: jax.tree.map(lambda x, axis=axis: change(x, axis), getattr(episode, name))
        for name, axis in _row_axes().items()
    }
    return Episode(**changed)


def _row_axes() -> dict[str, int]:
    """The axis of an episode's rows in each of its fields."""
    return {field.name: 0 for field in dataclasses.fields(Episode)} | {"positions": 1}


def _unfold(array: jax.Array, axis: int, group: int) -> jax.Array:
    """[.., P * group, ..] to [.., P, group, ..]."""
    shape = array.shape
    return array.reshape(*shape[:axis], -1, group, *shape[axis + 1 :])


def _fold(array: jax.Array, axis: int) -> jax.Array:
    """[.., P, group, ..] to [.., P * group, ..]."""
    shape = array.shape
    return array.reshape(*shape[:axis], -1, *shape[axis + 2 :])


def rollout_axes(mesh: Mesh, group: int, *counts: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mesh axes that a rollout's questions (and their videos) are split over, and those that
    each question's rollouts are.

    Args:
        group: rollouts of a question.
        counts: numbers of questions and of videos. Where context does not divide them, it splits
            each group; where it does not divide that either, it splits nothing.
    """
    axes = tuple(name for name in BATCH + SEQUENCE if mesh.shape.get(name, 1) > 1)
    size = math.prod(mesh.shape[name] for name in axes)
    if all(count % size == 0 for count in counts):
        return axes, ()
    within = tuple(name for name in axes if name in SEQUENCE)
    parts = math.prod(mesh.shape[name] for name in within)
    outer = tuple(name for name in axes if name not in SEQUENCE)
    return outer, () if group % parts else within


def device_rollouts(mesh: Mesh, questions: int, group: int) -> tuple[int, int]:
    """(questions, rollouts of each) of one device's part of a batch."""
    axes, within = rollout_axes(mesh, group, questions)
    parts = math.prod(mesh.shape[name] for name in axes)
    return max(1, questions // parts), group // math.prod(mesh.shape[name] for name in within)
