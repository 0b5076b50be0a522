"""The agent loop as one compiled program: no host between a question and its answer.

    prefill prompts (once a question) -> copy their cache to the question's rollouts
    while a row is alive:
        enough rows wait for an observation, or nobody else can go on?
            yes: interpret their calls, gather the windows from the bank, prefill them
            no:  sample one token for every row that is writing
    a row that writes </tool_call> waits; a row that writes <|im_end|> is done

Every row goes at its own pace: one may be reading its third window while another is still thinking.
Prefilling takes `prefill_rows` waiting rows at a time, so that its cost follows the rows that look.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from medscope_jax.dialogue import CallRecord, Episode, Layout, Role
from medscope_jax.models import (
    Cache,
    ModelConfig,
    embed,
    forward_cached,
    init_cache,
    logits,
    mrope_positions,
    put_rows,
    repeat_rows,
    take_rows,
)
from medscope_jax.rollout.observation import Vocabulary, observe
from medscope_jax.rollout.sampling import sample
from medscope_jax.tools import CallStatus, interpret
from medscope_jax.video import FrameBank, flat_tokens

WRITING, WAITING, DONE = 0, 1, 2  # a row's phase
_FEW_LAYERS = 12  # layers that are compiled one by one


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """Static facts of a rollout program."""

    group: int  # rollouts of each question
    turn_tokens: int  # most tokens of an assistant turn; a longer turn ends its row
    call_tokens: int  # most tokens of a call's text; a longer one is NOT_JSON
    prefill_rows: int  # rows whose observations are prefilled together
    temperature: float  # 0: greedy
    top_p: float


@struct.dataclass
class Prompts:
    """P questions, each with its video. Row i's rollouts are rows i * group .. of the episode."""

    tokens: jax.Array  # [P, N] int32
    frame: jax.Array  # [P, N] int32 flat bank index or -1
    length: jax.Array  # [P] int32 real tokens, the rest is padding
    video: jax.Array  # [P] int32 row of the bank
    keys: jax.Array  # [P, group] random keys, one a rollout


@struct.dataclass
class _State:
    """The loop's carry; B rows of L slots."""

    episode: Episode
    cache: Cache
    hidden: jax.Array  # [B, D] after the last slot, from which the next token is sampled
    length: jax.Array  # [B] filled slots
    position: jax.Array  # [B] next M-RoPE position
    phase: jax.Array  # [B] WRITING, WAITING or DONE
    turn: jax.Array  # [B] calls made so far
    turn_start: jax.Array  # [B] slot where the current turn began
    call_start: jax.Array  # [B] slot after the turn's last <tool_call>; 0 if there is none
    decode_steps: jax.Array  # [] decode iterations so far
    decoded: jax.Array  # [] tokens that they produced


def rollout(
    params: dict,
    bank: FrameBank,
    prompts: Prompts,
    words: Vocabulary,
    model: ModelConfig,
    layout: Layout,
    config: RolloutConfig,
) -> tuple[Episode, dict]:
    """Runs all rollouts of a batch of questions to their end; jit with the last three static.

    Returns:
        (Episode of B = P * group rows of layout.length slots, metrics: decode_steps [], decoded
        []).
    """
    state = _prefill_prompts(params, bank, prompts, words, model, layout, config)
    video = jnp.repeat(prompts.video, config.group)
    keys = prompts.keys.reshape(-1)
    flat = flat_tokens(bank)

    def alive(state: _State):
        return jnp.any(state.phase != DONE)

    def step(state: _State):
        waiting = jnp.sum(state.phase == WAITING)
        writing = jnp.any(state.phase == WRITING)
        rows = min(config.prefill_rows, state.phase.shape[0])
        look = (waiting >= rows) | ~writing
        return jax.lax.cond(
            look,
            lambda s: _look(s, params, bank, flat, video, words, model, layout, config, rows),
            lambda s: _write(s, params, keys, words, model, layout, config),
            state,
        )

    state = jax.lax.while_loop(alive, step, state)
    return state.episode, {"decode_steps": state.decode_steps, "decoded": state.decoded}


def _prefill_prompts(params, bank, prompts, words, model, layout, config) -> _State:
    """Each question's prompt through the model once, its cache copied to its rollouts."""
    count, width = prompts.tokens.shape
    zeros = jnp.zeros_like(prompts.length)
    valid = jnp.arange(width) < prompts.length[:, None]
    positions, following = mrope_positions(prompts.frame, valid, layout.grid, zeros)
    inputs = embed(params, model, prompts.tokens, prompts.frame, flat_tokens(bank))
    # One array a layer: a decode step then updates each in place, at the price of compiling each.
    few = model.text.num_hidden_layers <= _FEW_LAYERS
    cache = init_cache(model, count, layout.length, per_layer=few)
    hidden, cache = forward_cached(params, model, inputs, positions, cache, zeros, prompts.length)
    last = jnp.take_along_axis(hidden, prompts.length[:, None, None] - 1, axis=1)[:, 0]

    def spread(array, axis=0):
        return jnp.repeat(array, config.group, axis=axis)

    def slots(array, axis, fill):
        """[.., N] to [.., L] and one row a rollout."""
        pads = [(0, 0)] * array.ndim
        pads[-1] = (0, layout.length - width)
        return spread(jnp.pad(array, pads, constant_values=fill), axis)

    rows = count * config.group
    none = jnp.zeros((rows,), jnp.int32)
    empty = jnp.full((rows, layout.max_tool_turns), -1, jnp.int32)
    calls = CallRecord(empty * 0, empty * 0.0, empty * 0.0, empty, empty)
    role = jnp.where(valid, int(Role.PROMPT), int(Role.PADDING))
    episode = Episode(
        tokens=slots(jnp.where(valid, prompts.tokens, 0), 0, 0),
        frame=slots(jnp.where(valid, prompts.frame, -1), 0, -1),
        role=slots(role.astype(jnp.int32), 0, 0),
        positions=slots(jnp.where(valid, positions, 0), 1, 0),
        logprobs=jnp.zeros((rows, layout.length), jnp.float32),
        calls=calls,
    )
    length = spread(prompts.length)
    return _State(
        episode=episode,
        cache=repeat_rows(cache, config.group),
        hidden=spread(last),
        length=length,
        position=spread(following),
        phase=none,
        turn=none,
        turn_start=length,
        call_start=none,
        decode_steps=jnp.int32(0),
        decoded=jnp.int32(0),
    )


def _write(state: _State, params, keys, words, model, layout, config) -> _State:
    """One token for every writing row; the others stand still."""
    writing = state.phase == WRITING
    scores = logits(params, model, state.hidden)
    token, logprob = sample(scores, keys, state.length, config.temperature, config.top_p)
    rows = jnp.arange(token.shape[0])
    # Rows that stand still aim one past the end, where the scatter discards them.
    slot = jnp.where(writing, state.length, layout.length)

    def put(array, value):
        return array.at[rows, slot].set(value, mode="drop")

    episode = state.episode.replace(
        tokens=put(state.episode.tokens, token),
        role=put(state.episode.role, int(Role.GENERATED)),
        logprobs=put(state.episode.logprobs, logprob),
        positions=state.episode.positions.at[:, rows, slot].set(state.position, mode="drop"),
    )
    # A token that a model samples is text, even the image placeholder: it has no frame behind it.
    none = jnp.full((token.shape[0], 1), -1)
    inputs = embed(params, model, token[:, None], none, jnp.zeros((0, state.hidden.shape[-1])))
    positions = jnp.broadcast_to(state.position[:, None], (3, token.shape[0], 1))
    hidden, cache = forward_cached(
        params, model, inputs, positions, state.cache, state.length, writing.astype(jnp.int32)
    )
    length = state.length + writing
    full = (length >= layout.length) | (length - state.turn_start >= config.turn_tokens)
    called = token == words.call_close
    tired = called & (state.turn >= layout.max_tool_turns)
    phase = jnp.where(called, WAITING, WRITING)
    phase = jnp.where((token == words.im_end) | full | tired, DONE, phase)
    return state.replace(
        episode=episode,
        cache=cache,
        hidden=jnp.where(writing[:, None], hidden[:, 0], state.hidden),
        length=length,
        position=state.position + writing,
        phase=jnp.where(writing, phase, state.phase),
        call_start=jnp.where(writing & (token == words.call_open), length, state.call_start),
        decode_steps=state.decode_steps + 1,
        decoded=state.decoded + jnp.sum(writing),
    )


def _look(
    state: _State, params, bank, flat, video, words, model, layout, config, rows: int
) -> _State:
    """Executes the calls of up to `rows` waiting rows and prefills what they see."""
    waiting = state.phase == WAITING
    chosen = jnp.argsort(~waiting, stable=True)[:rows]
    active = waiting[chosen]
    episode, length = state.episode, state.length[chosen]
    call = _read_calls(state, chosen, video, bank, words, config)
    tokens, frame, count = observe(call, video[chosen], bank, words, layout)

    # An observation that leaves no slot for an answer ends the row: nothing is half shown.
    fits = length + count < layout.length
    count = jnp.where(active & fits, count, 0)
    inside = jnp.arange(tokens.shape[1]) < count[:, None]
    positions, following = mrope_positions(frame, inside, layout.grid, state.position[chosen])
    slot = jnp.where(inside, length[:, None] + jnp.arange(tokens.shape[1]), layout.length)

    def put(array, value):
        return array.at[chosen[:, None], slot].set(value, mode="drop")

    # Rows that were chosen but do not wait aim past the calls' end.
    entry = jnp.where(active, state.turn[chosen], layout.max_tool_turns)
    record = (call.tool, call.start, call.end, call.status, length - 1)
    calls = CallRecord(
        *(
            array.at[chosen, entry].set(value.astype(array.dtype), mode="drop")
            for array, value in zip(episode.calls, record, strict=True)
        )
    )
    episode = episode.replace(
        tokens=put(episode.tokens, tokens),
        frame=put(episode.frame, frame),
        role=put(episode.role, int(Role.OBSERVATION)),
        positions=episode.positions.at[:, chosen[:, None], slot].set(positions, mode="drop"),
        calls=calls,
    )
    inputs = embed(params, model, tokens, frame, flat)
    part = take_rows(state.cache, chosen)
    hidden, part = forward_cached(params, model, inputs, positions, part, length, count)
    last = jnp.take_along_axis(hidden, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]
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
    )


def _read_calls(state: _State, chosen, video, bank, words, config):
    """Interprets the text between <tool_call> and </tool_call> of the chosen rows."""
    begin, end = state.call_start[chosen], state.length[chosen] - 1  # end: </tool_call>'s slot
    size = end - begin
    slots = jnp.clip(begin[:, None] + jnp.arange(config.call_tokens), 0, None)
    text = jnp.take_along_axis(state.episode.tokens[chosen], slots, axis=1, mode="clip")
    # No <tool_call> in this turn, or too long a text: nothing is read, which is NOT_JSON.
    readable = (begin > 0) & (size <= config.call_tokens)
    size = jnp.where(readable, size, 0)
    call = interpret(text, size, bank.duration[video[chosen]], words.table)
    return call._replace(status=jnp.where(readable, call.status, int(CallStatus.NOT_JSON)))


def make_rollout(mesh, model: ModelConfig, layout: Layout, config: RolloutConfig):
    """The compiled rollout: (params, bank, prompts, words) -> (Episode, metrics).

    With a mesh, questions are split over its data and fsdp axes and every device runs its own loop:
    no device waits for another's turns, and a row's result does not depend on the split. The bank's
    videos are split alike, so a question's video must lie in its device's part.
    """
    program = functools.partial(rollout, model=model, layout=layout, config=config)
    if mesh is None or mesh.size == 1:
        return jax.jit(program)
    axes = tuple(name for name in ("data", "fsdp") if mesh.shape.get(name, 1) > 1)
    if not axes:
        return jax.jit(program)

    def local(params, bank, prompts, words):
        # Indices count over the whole bank outside, over this device's part of it inside.
        videos = bank.length.shape[0] * jax.lax.axis_index(axes)
        stride = bank.tokens.shape[1] * bank.tokens.shape[2]

        def move(frame, by):
            return jnp.where(frame >= 0, frame + by * stride, -1)

        prompts = prompts.replace(video=prompts.video - videos, frame=move(prompts.frame, -videos))
        episode, metrics = program(params, bank, prompts, words)
        episode = episode.replace(frame=move(episode.frame, videos))
        return episode, jax.tree.map(lambda x: jax.lax.psum(x, axes), metrics)

    split, whole = PartitionSpec(axes), PartitionSpec()
    episode = Episode(
        tokens=split,
        frame=split,
        role=split,
        positions=PartitionSpec(None, axes),
        logprobs=split,
        calls=split,
    )
    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(whole, split, split, whole),
            out_specs=(episode, whole),
            axis_names=set(axes),
            check_vma=False,
        )
    )
