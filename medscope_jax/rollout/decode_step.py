"""One decode step: samples a token for every batch slot that is writing."""

import jax.numpy as jnp

from medscope_jax.dialogue import Role
from medscope_jax.models import embed, forward_cached, logits
from medscope_jax.rollout.state import DONE, WAITING, WRITING, RolloutInputs, State


def decode_step(inputs: RolloutInputs, state: State) -> State:
    """The state after one more token for every writing batch slot; the others stay as they are.

    </tool_call> makes a row wait for its observation. A row ends with one of special_tokens.ends,
    when it is full, when a turn is too long, and with a call beyond layout.max_tool_turns.
    """
    config, layout, special_tokens = inputs.config, inputs.layout, inputs.special_tokens
    writing = state.phase == WRITING
    scores = logits(inputs.params, inputs.model, state.hidden)
    keys = inputs.prompts.keys.reshape(-1)[state.request]
    token, logprob = inputs.sampler(scores, keys, state.length, config.temperature, config.top_p)
    # Rows that do not write aim one past the end, where the scatter discards them.
    place = jnp.where(writing, state.length, layout.length)

    def put(array, value):
        return array.at[state.request, place].set(value, mode="drop")

    episode = state.episode
    episode = episode.replace(
        tokens=put(episode.tokens, token),
        role=put(episode.role, int(Role.GENERATED)),
        logprobs=put(episode.logprobs, logprob),
        positions=episode.positions.at[:, state.request, place].set(state.position, mode="drop"),
    )
    # A sampled token is text, even the image placeholder: it shows no frame.
    none = jnp.full((token.shape[0], 1), -1)
    nothing = jnp.zeros((0, state.hidden.shape[-1]))
    embedded = embed(inputs.params, inputs.model, token[:, None], none, nothing)
    positions = jnp.broadcast_to(state.position[:, None], (3, token.shape[0], 1))
    count = writing.astype(jnp.int32)
    assert state.cache is not None  # the first prefill has made it
    hidden, cache = forward_cached(
        inputs.params, inputs.model, embedded, positions, state.cache, state.length, count
    )
    length = state.length + writing
    full = (length >= layout.length) | (length - state.turn_start >= config.turn_tokens)
    opened, called = token == special_tokens.call_open, token == special_tokens.call_close
    ended = jnp.any(token[:, None] == special_tokens.ends, axis=1)
    out_of_turns = called & (state.turn >= layout.max_tool_turns)
    phase = jnp.where(called, WAITING, WRITING)
    phase = jnp.where(ended | full | out_of_turns, DONE, phase)
    return state.replace(
        episode=episode,
        cache=cache,
        hidden=jnp.where(writing[:, None], hidden[:, 0], state.hidden),
        length=length,
        position=state.position + writing,
        phase=jnp.where(writing, phase, state.phase),
        call_start=jnp.where(writing & opened, length, state.call_start),
        decode_steps=state.decode_steps + 1,
        decoded=state.decoded + jnp.sum(writing),
    )
