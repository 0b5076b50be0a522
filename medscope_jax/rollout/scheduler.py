"""Continuous batching: a free batch slot takes the next request, whose prompt was prefilled once.

    questions     0 1 | 2 3 | 4 5    a few at a time, prefilled into the prefix cache
    requests      0 0 0 1 1 1 ...    in order; the prefix cache is refilled after its last request
    batch slots   a free one takes the next request at once, with a copy of its prompt's cache

A copy is far cheaper than a decode step, so slots are not gathered to be filled together.
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
    """The state in which every request is admitted, each to a batch slot of its own."""
    prompts, group = inputs.prompts, inputs.config.group
    cache = inputs.empty_cache(prompts.length.shape[0], inputs.layout.length)
    prefix_cache = _prefill(inputs, prompts, cache, jnp.int32(0))

    def repeat(array):
        return jnp.repeat(array, group, axis=0)

    state, length = empty_batch(inputs), repeat(prompts.length)
    return state.replace(
        cache=repeat_rows(prefix_cache.cache, group),
        request=jnp.arange(inputs.requests),
        hidden=repeat(prefix_cache.hidden),
        length=length,
        position=repeat(prefix_cache.position),
        phase=jnp.full_like(state.phase, WRITING),
        turn_start=length,
        admitted=jnp.int32(inputs.requests),
    )


def empty_scheduler(inputs: RolloutInputs) -> State:
    """The state in which no request is admitted and no prompt is prefilled."""
    state, count = empty_batch(inputs), inputs.cached_prompts
    prefix_cache = PrefixCache(
        cache=inputs.empty_cache(count, inputs.prompts.tokens.shape[1]),
        hidden=jnp.zeros((count, state.hidden.shape[1]), state.hidden.dtype),
        position=jnp.zeros((count,), jnp.int32),
        first=jnp.int32(-count),  # so that the first prefill begins with question 0
    )
    return state.replace(
        cache=inputs.empty_cache(inputs.slots, inputs.layout.length), prefix_cache=prefix_cache
    )


def ready(inputs: RolloutInputs, state: State) -> tuple[jax.Array, jax.Array]:
    """Two bools []: a batch slot is free and a request waits; its prompt is in the prefix cache."""
    cached = state.prefix_cache
    assert cached is not None  # empty_scheduler has made it
    due = jnp.any(state.phase == DONE) & (state.admitted < inputs.requests)
    return (
        due,
        state.admitted // inputs.config.group < cached.first + inputs.cached_prompts,
    )


def prefill_prompts(inputs: RolloutInputs, state: State) -> State:
    """Prefills the prompts of the next questions into the prefix cache."""
    cached = state.prefix_cache
    assert cached is not None  # empty_scheduler has made it
    first = cached.first + inputs.cached_prompts
    # The last of them may be fewer: copies of the last question, which no request takes, fill up.
    rows = jnp.minimum(
        first + jnp.arange(inputs.cached_prompts), inputs.prompts.length.shape[0] - 1
    )
    part = jax.tree.map(lambda array: array[rows], inputs.prompts)
    return state.replace(prefix_cache=_prefill(inputs, part, cached.cache, first))


def admit_request(inputs: RolloutInputs, state: State) -> State:
    """Gives the next request to a free batch slot; its prompt must be in the prefix cache."""
    cached = state.prefix_cache
    assert state.cache is not None and cached is not None  # empty_scheduler has made them
    slot = jnp.argmax(state.phase == DONE)
    question = state.admitted // inputs.config.group
    row = question - cached.first
    length = inputs.prompts.length[question]
    return state.replace(
        cache=put_rows(state.cache, slot[None], take_rows(cached.cache, row[None])),
        request=state.request.at[slot].set(state.admitted),
        hidden=state.hidden.at[slot].set(cached.hidden[row]),
        length=state.length.at[slot].set(length),
        position=state.position.at[slot].set(cached.position[row]),
        phase=state.phase.at[slot].set(WRITING),
        turn=state.turn.at[slot].set(0),
        turn_start=state.turn_start.at[slot].set(length),
        call_start=state.call_start.at[slot].set(0),
        admitted=state.admitted + 1,
    )


def _prefill(
    inputs: RolloutInputs, prompts: Prompts, cache: Cache, first: jax.Array
) -> PrefixCache:
    """The prompts of Q questions through the model, into a cache of Q rows.

    first: the question in row 0.
    """
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
