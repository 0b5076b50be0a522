"""Giving items to slots: a prompt is read once, its cache copied to each of its rollouts.

    questions   0 1 | 2 3 | 4 5      read a few at a time, into a pool
    items       0 0 0 1 1 1 ...      in order: a pool is done with when its last item has begun
    slots       a free one takes the next item at once, one row at a time

A copy is far cheaper than a decode step, so that a free slot need not wait for company.
"""

import jax
import jax.numpy as jnp

from medscope_jax.models import Cache, mrope_positions, put_rows, repeat_rows, take_rows
from medscope_jax.rollout.prefill import feed
from medscope_jax.rollout.state import DONE, WRITING, Pool, Prompts, Scene, State, empty_slots


def fill_all(scene: Scene) -> State:
    """The state in which every item has begun, each in a slot of its own."""
    prompts, group = scene.prompts, scene.config.group
    cache = scene.empty_cache(prompts.length.shape[0], scene.layout.length)
    pool = _read(scene, prompts, cache, jnp.int32(0))

    def spread(array):
        return jnp.repeat(array, group, axis=0)

    state, length = empty_slots(scene), spread(prompts.length)
    return state.replace(
        cache=repeat_rows(pool.cache, group),
        item=jnp.arange(scene.items),
        hidden=spread(pool.hidden),
        length=length,
        position=spread(pool.position),
        phase=jnp.full_like(state.phase, WRITING),
        turn_start=length,
        begun=jnp.int32(scene.items),
    )


def open_slots(scene: Scene) -> State:
    """The state in which no item has begun and no question has been read."""
    state, count = empty_slots(scene), scene.pooled
    pool = Pool(
        cache=scene.empty_cache(count, scene.prompts.tokens.shape[1]),
        hidden=jnp.zeros((count, state.hidden.shape[1]), state.hidden.dtype),
        position=jnp.zeros((count,), jnp.int32),
        first=jnp.int32(-count),  # the first pool begins where this one ends
    )
    return state.replace(cache=scene.empty_cache(scene.slots, scene.layout.length), pool=pool)


def ready(scene: Scene, state: State) -> tuple[jax.Array, jax.Array]:
    """(a slot is free and an item has not begun, that item's question is in the pool): bools []."""
    due = jnp.any(state.phase == DONE) & (state.begun < scene.items)
    return due, state.begun // scene.config.group < state.pool.first + scene.pooled


def read_questions(scene: Scene, state: State) -> State:
    """Reads the prompts of the next questions into the pool."""
    first = state.pool.first + scene.pooled
    # The last pool may have fewer questions: it ends with copies that nobody asks for.
    rows = jnp.minimum(first + jnp.arange(scene.pooled), scene.prompts.length.shape[0] - 1)
    part = jax.tree.map(lambda array: array[rows], scene.prompts)
    return state.replace(pool=_read(scene, part, state.pool.cache, first))


def refill(scene: Scene, state: State) -> State:
    """Gives the next item to a free slot; its question has to be in the pool."""
    slot = jnp.argmax(state.phase == DONE)
    question = state.begun // scene.config.group
    row = question - state.pool.first
    length = scene.prompts.length[question]
    return state.replace(
        cache=put_rows(state.cache, slot[None], take_rows(state.pool.cache, row[None])),
        item=state.item.at[slot].set(state.begun),
        hidden=state.hidden.at[slot].set(state.pool.hidden[row]),
        length=state.length.at[slot].set(length),
        position=state.position.at[slot].set(state.pool.position[row]),
        phase=state.phase.at[slot].set(WRITING),
        turn=state.turn.at[slot].set(0),
        turn_start=state.turn_start.at[slot].set(length),
        call_start=state.call_start.at[slot].set(0),
        begun=state.begun + 1,
    )


def _read(scene: Scene, prompts: Prompts, cache: Cache, first: jax.Array) -> Pool:
    """The prompts of Q questions through the model, into a cache of Q rows."""
    zeros = jnp.zeros_like(prompts.length)
    valid = jnp.arange(prompts.tokens.shape[1]) < prompts.length[:, None]
    positions, following = mrope_positions(prompts.frame, valid, scene.layout.grid, zeros)
    last, cache = feed(
        scene, cache, prompts.tokens, prompts.frame, positions, zeros, prompts.length
    )
    return Pool(cache, last, following, first)
