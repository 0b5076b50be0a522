"""One tool step: executes the calls of waiting rows and prefills their observations."""

import jax.numpy as jnp

from medscope_jax.dialogue import CallRecord, Role
from medscope_jax.models import mrope_positions, put_rows, take_rows
from medscope_jax.rollout.observation import observe
from medscope_jax.rollout.prefill import chunked_prefill
from medscope_jax.rollout.state import DONE, WAITING, WRITING, RolloutInputs, State
from medscope_jax.tools import CallStatus, interpret


def execute_tools(inputs: RolloutInputs, state: State) -> State:
    """Executes the calls of up to `prefill_rows` waiting rows and prefills the observations."""
    layout, rows = inputs.layout, min(inputs.config.prefill_rows, inputs.slots)
    waiting = state.phase == WAITING
    chosen = jnp.argsort(~waiting, stable=True)[:rows]
    active = waiting[chosen]
    episode, request, length = state.episode, state.request[chosen], state.length[chosen]
    video = inputs.video(request)
    call = _read_calls(inputs, state, chosen, video)
    tokens, visual_index, count = observe(call, video, inputs.bank, inputs.special_tokens, layout)

    # An observation that leaves no position for an answer ends the row, none of it being shown.
    fits = length + count < layout.length
    count = jnp.where(active & fits, count, 0)
    inside = jnp.arange(tokens.shape[1]) < count[:, None]
    positions, following = mrope_positions(
        visual_index, inside, layout.grid, state.position[chosen]
    )
    place = jnp.where(inside, length[:, None] + jnp.arange(tokens.shape[1]), layout.length)

    def put(array, value):
        return array.at[request[:, None], place].set(value, mode="drop")

    # Rows that were chosen but do not wait aim past the last call, where the scatter drops them.
    entry = jnp.where(active, state.turn[chosen], layout.max_tool_turns)
    record = (call.tool, call.start, call.end, call.status, length - 1)
    calls = CallRecord(
        *(
            array.at[request, entry].set(value.astype(array.dtype), mode="drop")
            for array, value in zip(episode.calls, record, strict=True)
        )
    )
    episode = episode.replace(
        tokens=put(episode.tokens, tokens),
        visual_index=put(episode.visual_index, visual_index),
        role=put(episode.role, int(Role.OBSERVATION)),
        positions=episode.positions.at[:, request[:, None], place].set(positions, mode="drop"),
        calls=calls,
    )
    assert state.cache is not None  # the first prefill has made it
    part = take_rows(state.cache, chosen)
    last, part = chunked_prefill(
        inputs, part, tokens, visual_index, video, positions, length, count
    )
    goes_on = active & fits
    phase = jnp.where(goes_on, WRITING, DONE)

    def update(array, value, where):
        keep = where.reshape((-1,) + (1,) * (value.ndim - 1))
        return array.at[chosen].set(jnp.where(keep, value, array[chosen]))

    return state.replace(
        episode=episode,
        cache=put_rows(state.cache, chosen, part),
        hidden=update(state.hidden, last, goes_on),
        length=update(state.length, length + count, active),
        position=update(state.position, following, goes_on),
        phase=update(state.phase, phase, active),
        turn=update(state.turn, state.turn[chosen] + 1, active),
        turn_start=update(state.turn_start, length + count, active),
        call_start=update(state.call_start, jnp.zeros_like(length), active),
        observation_prefills=state.observation_prefills + 1,
    )


def _read_calls(inputs: RolloutInputs, state: State, chosen, video):
    """Interprets the text between <tool_call> and </tool_call> of the chosen batch slots [R]."""
    begin, end = state.call_start[chosen], state.length[chosen] - 1  # end: of </tool_call>
    size = end - begin
    positions = jnp.clip(begin[:, None] + jnp.arange(inputs.config.call_tokens), 0, None)
    tokens = state.episode.tokens[state.request[chosen]]
    text = jnp.take_along_axis(tokens, positions, axis=1, mode="clip")
    # Without a <tool_call> in this turn, or with too long a text, nothing is read: NOT_JSON.
    readable = (begin > 0) & (size <= inputs.config.call_tokens)
    size = jnp.where(readable, size, 0)
    call = interpret(text, size, inputs.bank.duration[video], inputs.special_tokens.table)
    return call._replace(status=jnp.where(readable, call.status, int(CallStatus.NOT_JSON)))
