"""Continuous batching: a free batch slot takes the next request, whose prompt was prefilled once.

    questions     0 1 | 2 3 | 4 5    a few at a time, prefilled into rows of the prefix cache
    requests      0 0 0 1 1 1 ...    in order
    batch slots   a free one takes the next request at once: it reads its prompt's row

A row is free when all rollouts of its question are done. If those of one take so long that no row
is, free slots wait.
"""

import jax
import jax.numpy as jnp

from medscope_jax.models import Cache, Prefix, mrope_positions, put_rows
from medscope_jax.rollout.prefill import chunked_prefill
from medscope_jax.rollout.state import (
    DONE,
    WRITING,
    Prefilled,
    Prompts,
    RolloutInputs,
    State,
    empty_batch,
)


def admit_all(inputs: RolloutInputs) -> State:
    """The state in which every request is admitted, each to a batch slot of its own."""
    prompts, group = inputs.prompts, inputs.config.group
    count, width = prompts.tokens.shape
    begun = inputs.empty_cache(count, width)
    hidden, position, begun = _prefill(inputs, prompts, begun)

    def repeat(array):
        return jnp.repeat(array, group, axis=0)

    state, length = empty_batch(inputs), repeat(prompts.length)
    prefix = Prefix(begun, repeat(jnp.arange(count)), length, group)
    return state.replace(
        cache=inputs.empty_cache(inputs.requests, inputs.own_length).replace(prefix=prefix),
        request=jnp.arange(inputs.requests),
        hidden=repeat(hidden),
        length=length,
        position=repeat(position),
        phase=jnp.full_like(state.phase, WRITING),
        turn_start=length,
        admitted=jnp.int32(inputs.requests),
    )


def empty_scheduler(inputs: RolloutInputs) -> State:
    """The state in which no request is admitted and no prompt is prefilled."""
    state, count = empty_batch(inputs), inputs.cached_prompts
    none = jnp.zeros((inputs.slots,), jnp.int32)
    begun = inputs.empty_cache(count, inputs.prompts.tokens.shape[1])
    cache = inputs.empty_cache(inputs.slots, inputs.own_length)
    return state.replace(
        cache=cache.replace(prefix=Prefix(begun, none, none)),
        prefilled=Prefilled(
            hidden=jnp.zeros((count, state.hidden.shape[1]), state.hidden.dtype),
            position=jnp.zeros((count,), jnp.int32),
            question=jnp.full((count,), -1, jnp.int32),
        ),
    )


def ready(inputs: RolloutInputs, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three bools []: a batch slot is free and a request waits; its prompt is in the prefix cache;
    there are free rows for the next prompts."""
    assert state.prefilled is not None  # empty_scheduler has made it
    due = jnp.any(state.phase == DONE) & (state.admitted < inputs.requests)
    there = jnp.any(state.prefilled.question == state.admitted // inputs.config.group)
    rows = jnp.sum(~_needed(inputs, state), dtype=jnp.int32) >= inputs.prefilled_prompts
    return due, there, rows


def _needed(inputs: RolloutInputs, state: State) -> jax.Array:
    """bool [Q]: rows of the prefix cache whose question has rollouts that are not done."""
    assert state.prefilled is not None  # empty_scheduler has made it
    question, group = state.prefilled.question, inputs.config.group
    used = (question[:, None] == state.request // group) & (state.phase != DONE)
    return jnp.any(used, axis=1) | (question >= state.admitted // group)


def prefill_prompts(inputs: RolloutInputs, state: State) -> State:
    """Prefills the prompts of the next questions into free rows of the prefix cache."""
    prefilled, cache = state.prefilled, state.cache
    assert prefilled is not None and cache is not None and cache.prefix is not None
    count, last = inputs.prefilled_prompts, inputs.prompts.length.shape[0] - 1
    # After all that are there already: none but the last may be prefilled for the next request.
    question = jnp.maximum(jnp.max(prefilled.question) + 1, 0) + jnp.arange(count)
    rows = jnp.argsort(_needed(inputs, state), stable=True)[:count]
    # The last of them may be fewer: copies of the last question, which no request takes, fill up.
    part = jax.tree.map(lambda array: array[jnp.minimum(question, last)], inputs.prompts)
    begun = inputs.empty_cache(count, inputs.prompts.tokens.shape[1])
    hidden, position, begun = _prefill(inputs, part, begun)
    prefix = cache.prefix.replace(cache=put_rows(cache.prefix.cache, rows, begun))
    return state.replace(
        cache=cache.replace(prefix=prefix),
        prefilled=Prefilled(
            hidden=prefilled.hidden.at[rows].set(hidden),
            position=prefilled.position.at[rows].set(position),
            question=prefilled.question.at[rows].set(question),
        ),
    )


def admit_request(inputs: RolloutInputs, state: State) -> State:
    """Gives the next request to a free batch slot; its prompt must be in the prefix cache."""
    prefilled, cache = state.prefilled, state.cache
    assert prefilled is not None and cache is not None and cache.prefix is not None
    slot = jnp.argmax(state.phase == DONE)
    question = state.admitted // inputs.config.group
    row = jnp.argmax(prefilled.question == question)
    length = inputs.prompts.length[question]
    prefix = cache.prefix.replace(
        row=cache.prefix.row.at[slot].set(row), length=cache.prefix.length.at[slot].set(length)
    )
    return state.replace(
        cache=cache.replace(prefix=prefix),
        request=state.request.at[slot].set(state.admitted),
        hidden=state.hidden.at[slot].set(prefilled.hidden[row]),
        length=state.length.at[slot].set(length),
        position=state.position.at[slot].set(prefilled.position[row]),
        phase=state.phase.at[slot].set(WRITING),
        turn=state.turn.at[slot].set(0),
        turn_start=state.turn_start.at[slot].set(length),
        call_start=state.call_start.at[slot].set(0),
        admitted=state.admitted + 1,
    )


def _prefill(
    inputs: RolloutInputs, prompts: Prompts, cache: Cache
) -> tuple[jax.Array, jax.Array, Cache]:
    """The prompts of Q questions through the model, into a cache of Q rows: (hidden [Q, D] after
    each one's last token, the M-RoPE position [Q] that follows, the cache)."""
    zeros = jnp.zeros_like(prompts.length)
    valid = jnp.arange(prompts.tokens.shape[1]) < prompts.length[:, None]
    positions, following = mrope_positions(prompts.visual_index, valid, inputs.layout.grid, zeros)
    last, cache = chunked_prefill(
        inputs,
        cache,
        prompts.tokens,
        prompts.visual_index,
        prompts.video,
        positions,
        zeros,
        prompts.length,
    )
    return last, following, cache
