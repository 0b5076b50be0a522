"""Giving items to slots: a prompt is read once, its cache copied to each of its rollouts.

    questions   0 1 | 2 3 | 4 5      read a few at a time, into a pool
    items       0 0 0 1 1 1 ...      in order: a pool is done with when its last item has begun
    slots       a free one takes the next item at once, one row at a time

A copy is far cheaper than a decode step, so that a free slot need not wait for company.
"""

import jax
import jax.numpy as jnp

from medscope_jax.models import Cache, mrope_positions, put_rows, repeat_rows, take_rows
from medscope_jax.rollout.prefill import chunked_prefill
from medscope_jax.rollout.state import (
    DONE,
    WRITING,
    PrefixCache,
    Prompts,
    RolloutInputs,
    State,
    empty_batch,
)


def admit_all(inputs: RolloutInputs) -> State:
    """The state in which every item has begun, each in a slot of its own."""
    prompts, group = inputs.prompts, inputs.config.group
    cache = inputs.empty_cache(prompts.length.shape[0], inputs.layout.length)
    prefix_cache = _read(inputs, prompts, cache, jnp.int32(0))

    def spread(array):
        return jnp.repeat(array, group, axis=0)

    state, length = empty_batch(inputs), spread(prompts.length)
    return state.replace(
        cache=repeat_rows(prefix_cache.cache, group),
        request=jnp.arange(inputs.requests),
        hidden=spread(prefix_cache.hidden),
        length=length,
        position=spread(prefix_cache.position),
        phase=jnp.full_like(state.phase, WRITING),
        turn_start=length,
        begun=jnp.int32(inputs.requests),
    )


def empty_scheduler(inputs: RolloutInputs) -> State:
    """The state in which no item has begun and no question has been read."""
    state, count = empty_batch(inputs), inputs.cached_prompts
    prefix_cache = PrefixCache(
        cache=inputs.empty_cache(count, inputs.prompts.tokens.shape[1]),
        hidden=jnp.zeros((count, state.hidden.shape[1]), state.hidden.dtype),
        position=jnp.zeros((count,), jnp.int32),
        first=jnp.int32(-count),  # the first pool begins where this one ends
    )
    return state.replace(
        cache=inputs.empty_cache(inputs.slots, inputs.layout.length), prefix_cache=prefix_cache
    )


def ready(inputs: RolloutInputs, state: State) -> tuple[jax.Array, jax.Array]:
    """(a slot is free and an item has not begun, that item's question is in the pool): bools []."""
    due = jnp.any(state.phase == DONE) & (state.begun < inputs.requests)
    return (
        due,
        state.begun // inputs.config.group < state.prefix_cache.first + inputs.cached_prompts,
    )


def prefill_prompts(inputs: RolloutInputs, state: State) -> State:
    """Reads the prompts of the next questions into the pool."""
    first = state.prefix_cache.first + inputs.cached_prompts
    # The last pool may have fewer questions: it ends with copies that nobody asks for.
    rows = jnp.minimum(
        first + jnp.arange(inputs.cached_prompts), inputs.prompts.length.shape[0] - 1
    )
    part = jax.tree.map(lambda array: array[rows], inputs.prompts)
    return state.replace(prefix_cache=_read(inputs, part, state.prefix_cache.cache, first))


def admit_request(inputs: RolloutInputs, state: State) -> State:
    """Gives the next item to a free slot; its question has to be in the pool."""
    slot = jnp.argmax(state.phase == DONE)
    question = state.begun // inputs.config.group
    row = question - state.prefix_cache.first
    length = inputs.prompts.length[question]
    return state.replace(
        cache=put_rows(state.cache, slot[None], take_rows(state.prefix_cache.cache, row[None])),
        request=state.request.at[slot].set(state.begun),
        hidden=state.hidden.at[slot].set(state.prefix_cache.hidden[row]),
        length=state.length.at[slot].set(length),
        position=state.position.at[slot].set(state.prefix_cache.position[row]),
        phase=state.phase.at[slot].set(WRITING),
        turn=state.turn.at[slot].set(0),
        turn_start=state.turn_start.at[slot].set(length),
        call_start=state.call_start.at[slot].set(0),
        begun=state.begun + 1,
    )


def _read(inputs: RolloutInputs, prompts: Prompts, cache: Cache, first: jax.Array) -> PrefixCache:
    """The prompts of Q questions through the model, into a cache of Q rows."""
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
    return PrefixCache(cache, last, following, first)
