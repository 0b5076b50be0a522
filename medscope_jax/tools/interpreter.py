"""The tool interpreter on device: sampled token ids in, a call or a typed error out.

ids -> bytes -> JSON automaton with a stack of bits -> places of the name and the times -> exact
decimals to float32 -> the rules of `grammar.parse_call`, which is this module's specification. No
host, no callback, no float64: it runs inside the rollout's compiled loop.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.tools import automaton as A
from medscope_jax.tools.decimals import Decimals, read_decimals
from medscope_jax.tools.grammar import MAX_DEPTH, Call, CallStatus, Tool

_SPACE, _INVALID = 0x20, 0xFF  # 0xFF occurs in no UTF-8
_TIMES = (A.WORD_START, A.WORD_END, A.WORD_TIMESTAMP)


class ByteTable(flax.struct.PyTreeNode):
    """The bytes of each token id i: `data[start[i] : start[i] + size[i]]`. A pytree."""

    data: jax.Array  # uint8, all pieces one after the other
    start: jax.Array  # int32 [vocabulary]
    size: jax.Array  # int32 [vocabulary], bytes
    longest: int = flax.struct.field(pytree_node=False)  # bytes of the longest piece


def byte_table(pieces: Sequence[bytes]) -> ByteTable:
    """Table for `interpret`; `pieces[i]` holds the bytes of token id i (b"" for one without text).

    Pieces may split UTF-8 characters anywhere. Raises ValueError on an empty vocabulary.
    """
    if not pieces:
        raise ValueError("byte_table: no pieces; give one bytes object for each token id.")
    size = np.array([len(piece) for piece in pieces], np.int32)
    data = np.frombuffer(b"".join(pieces) + b" ", np.uint8)  # never empty: gathers need a target
    start = np.cumsum(size, dtype=np.int32) - size
    return ByteTable(
        jnp.asarray(data), jnp.asarray(start), jnp.asarray(size), longest=int(size.max())
    )


def token_bytes(
    tokens: jax.Array, lengths: jax.Array, table: ByteTable
) -> tuple[jax.Array, jax.Array]:
    """Bytes of each row: (text [B, N * longest + 1] int32 ending in spaces, size [B] int32).

    Any N tokens fit. An id outside the table stands for one byte that is not UTF-8. `lengths`
    beyond [0, N] are clipped.
    """
    batch, num_tokens = tokens.shape
    known = (tokens >= 0) & (tokens < table.size.shape[0])
    ids = jnp.where(known, tokens, 0)
    used = jnp.arange(num_tokens) < lengths[:, None]
    sizes = jnp.where(used, jnp.where(known, table.size[ids], 1), 0)
    ends = jnp.cumsum(sizes, axis=1, dtype=jnp.int32)
    begins = ends - sizes
    width = num_tokens * max(table.longest, 1) + 1
    # The owner of a byte is the last token that begins at or before it (tokens without bytes begin
    # where the next one does, so they own nothing).
    rows = jnp.arange(batch)[:, None]
    marks = jnp.zeros((batch, width), jnp.int32).at[rows, begins].add(1)
    owner = jnp.cumsum(marks, axis=1) - 1
    place = jnp.arange(width, dtype=jnp.int32)
    offset = place - jnp.take_along_axis(begins, owner, axis=1)
    source = jnp.take_along_axis(table.start[ids], owner, axis=1) + offset
    inside = place < ends[:, -1:]
    text = table.data[jnp.where(inside, source, 0)].astype(jnp.int32)
    text = jnp.where(jnp.take_along_axis(known, owner, axis=1), text, _INVALID)
    return jnp.where(inside, text, _SPACE), ends[:, -1]


class _State(NamedTuple):
    """The automaton of each row, arrays [B] int32 unless said otherwise."""

    state: jax.Array
    depth: jax.Array  # open containers
    stack: tuple[jax.Array, jax.Array]  # uint32 (low, high): bit 0 is the innermost, 1 = object
    node: jax.Array  # trie node of the string being read
    unit: jax.Array  # UTF-16 unit of the \u escape being read
    word: jax.Array  # last key, at depth 1 or inside the arguments object
    in_arguments: jax.Array  # bool: the container at depth 2 is the arguments object
    tool: jax.Array  # Tool; -1 before there is a name
    has_arguments: jax.Array  # bool: the last "arguments" is an object
    places: jax.Array  # [B, 3]: where start_time, end_time, timestamp begin; -1: missing


def _step(s: _State, byte: jax.Array, position: jax.Array) -> _State:
    """One byte [B] for every row."""
    entry = jnp.asarray(A.TRANSITIONS.ravel())[s.state * 256 + byte]

    def flag(bit):
        return (entry & bit) != 0

    is_object, push, pop, comma = flag(A.OBJECT), flag(A.PUSH), flag(A.POP), flag(A.COMMA)
    low, high = s.stack
    top_object = (low & 1) > 0
    wrong_close = pop & ((s.depth == 0) | (top_object != is_object))
    error = wrong_close | (comma & (s.depth == 0)) | (push & (s.depth == MAX_DEPTH))
    state = entry & (2**A.STATE_BITS - 1)
    state = jnp.where(comma & top_object, A.KEY, state)
    state = jnp.where(error, A.ERROR, state)
    pushed = (low << 1) | is_object.astype(jnp.uint32), (high << 1) | (low >> 31)
    popped = (low >> 1) | (high << 31), high >> 1
    new_low, new_high = (
        jnp.where(push, up, jnp.where(pop, down, same))
        for up, down, same in zip(pushed, popped, s.stack, strict=True)
    )

    payload = (entry >> A.PAYLOAD_SHIFT) & A.PAYLOAD_MASK
    unit = jnp.where(flag(A.HEX), (s.unit * 16 + payload) & 0xFFFF, s.unit)
    char = jnp.where(flag(A.HEX_END), jnp.minimum(unit, A.BEYOND_ASCII), payload)
    char = jnp.minimum(char, A.BEYOND_ASCII)
    fed = jnp.asarray(A.WORDS.ravel())[s.node * A.WORDS.shape[1] + char]
    node = jnp.where(flag(A.FEED | A.HEX_END), fed, s.node)
    node = jnp.where(flag(A.BEGIN_STRING), 0, node)

    read = jnp.where(s.node < A.NO_WORD, s.node, 0)  # unfinished words lie beyond NO_WORD
    # Keys elsewhere must not count: in [{"name": 1}, "get_frame"] no value belongs to "name".
    keyed = (s.depth == 1) | ((s.depth == 2) & s.in_arguments)
    word = jnp.where(flag(A.KEY_END) & keyed, read, s.word)

    begin = flag(A.BEGIN_VALUE)
    outer, inner = begin & (s.depth == 1), begin & (s.depth == 2) & s.in_arguments
    is_name, is_arguments = s.word == A.WORD_NAME, s.word == A.WORD_ARGUMENTS
    tool = jnp.where(outer & is_name, Tool.NONE, s.tool)
    named = flag(A.TEXT_END) & (s.depth == 1) & is_name
    tool = jnp.where(named & (read == A.WORD_CROP), Tool.CROP_VIDEO, tool)
    tool = jnp.where(named & (read == A.WORD_FRAME), Tool.GET_FRAME, tool)
    # A repeated "arguments" replaces the former one as a whole.
    renewed = outer & is_arguments
    is_time = s.word[:, None] == jnp.array(_TIMES, jnp.int32)
    places = jnp.where(renewed[:, None], -1, s.places)
    places = jnp.where(inner[:, None] & is_time, position, places)
    return _State(
        state=state,
        depth=s.depth + push - pop,
        stack=(new_low, new_high),
        node=node,
        unit=unit,
        word=word,
        in_arguments=jnp.where(push & (s.depth == 1), is_object & is_arguments, s.in_arguments),
        tool=tool,
        has_arguments=jnp.where(renewed, is_object, s.has_arguments),
        places=places,
    )


def _scan(text: jax.Array, sizes: jax.Array) -> _State:
    """Run the automaton over the rows of `text`, as far as the longest one that still parses."""
    batch = text.shape[0]
    zero, no = jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), jnp.bool_)
    empty = jnp.zeros((batch,), jnp.uint32)
    state = _State(
        state=zero + A.VALUE,
        depth=zero,
        stack=(empty, empty),
        node=zero,
        unit=zero,
        word=zero,
        in_arguments=no,
        tool=zero - 1,
        has_arguments=no,
        places=jnp.full((batch, len(_TIMES)), -1, jnp.int32),
    )
    columns = text.T
    # Rows that ended read spaces, which change nothing after a complete value.
    end = jnp.max(sizes)

    def unfinished(carry):
        position, s = carry
        return (position < end) & jnp.any(s.state != A.ERROR)

    def advance(carry):
        position, s = carry
        byte = jax.lax.dynamic_index_in_dim(columns, position, keepdims=False)
        return position + 1, _step(s, byte, position)

    return jax.lax.while_loop(unfinished, advance, (jnp.int32(0), state))[1]


@jax.jit
def interpret(
    tokens: jax.Array, lengths: jax.Array, durations: jax.Array, table: ByteTable
) -> Call:
    """Read each row's tokens as a call: `Call` of arrays [B], equal to `parse_call` of their bytes.

    `tokens` [B, N] int32 and `lengths` [B]: the ids between the tool_call tags. `durations` [B]
    seconds, finite and not negative. Ids outside the table make a row NOT_JSON. Calls of any
    length that N tokens can spell are read in full.
    """
    text, sizes = token_bytes(tokens, lengths, table)
    end_state = _scan(text, sizes)
    return _judge(end_state, read_decimals(text, end_state.places), durations)


def _judge(s: _State, times: Decimals, durations: jax.Array) -> Call:
    """Apply the rules in the order of `CallStatus`. Times are compared as the bit patterns of
    non-negative floats, which order as they do: some devices flush denormals, integers stay."""
    # At depth 0 a finished value has a state of its own; a bare number there has no name anyway.
    well_formed = (s.state == A.AFTER) & (s.depth == 0) & (s.tool >= 0) & s.has_arguments
    is_crop = s.tool == Tool.CROP_VIDEO

    def both(of_times):
        """[B] from [B, 3]: true of each time that the tool takes."""
        return jnp.where(is_crop, of_times[:, 0] & of_times[:, 1], of_times[:, 2])

    durations = jnp.maximum(durations.astype(jnp.float32), 0)
    limit = jax.lax.bitcast_convert_type(durations, jnp.int32)
    start = jnp.where(is_crop, times.bits[:, 0], times.bits[:, 2])
    negative = jnp.where(is_crop, times.is_negative[:, 0], times.is_negative[:, 2])
    empty = times.is_negative[:, 1] | (times.bits[:, 1] <= start)
    end = jnp.where(is_crop, jnp.minimum(times.bits[:, 1], limit), start)
    rules = (
        (~well_formed, CallStatus.NOT_JSON),
        (s.tool <= Tool.NONE, CallStatus.UNKNOWN_TOOL),
        (~both(s.places >= 0), CallStatus.MISSING_ARGUMENT),
        (~both(times.is_finite), CallStatus.NOT_A_NUMBER),
        (negative, CallStatus.NEGATIVE_TIME),
        (start >= limit, CallStatus.BEYOND_DURATION),
        (is_crop & empty, CallStatus.EMPTY_WINDOW),
    )
    status = jnp.select(
        [broken for broken, _ in rules], [jnp.int32(code) for _, code in rules], CallStatus.OK
    ).astype(jnp.int32)
    good = status == CallStatus.OK

    def seconds(bits):
        return jax.lax.bitcast_convert_type(jnp.where(good, bits, 0), jnp.float32)

    tool = jnp.where(status <= CallStatus.UNKNOWN_TOOL, jnp.where(good, s.tool, Tool.NONE), s.tool)
    return Call(tool.astype(jnp.int32), seconds(start), seconds(end), status)
