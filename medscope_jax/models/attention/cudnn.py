"""Self-attention by cuDNN's flash attention, for GPUs.

cuDNN takes causal rows of any length, but no packed ones. So each conversation of a packed row is
laid out as a row of its own, its real positions first, and the results are put back:

    packed    Q Q . a b . d . .    attended to    Q Q a b . .
                                                  Q Q d . . .

The queries of a shared prompt are thus computed once for each conversation, which costs arithmetic
but no bytes: its keys are read for each one anyway. All else of a packed row is done once, and no
array of length x length ever exists.

The conversations of joined rows (dense.Joined) are attended to one after the other: the first of
all rows, then the second, as often as the fullest row of the batch has conversations.

    joined    a b . d e f    1st    a b . . . .    2nd    d e f . . .
              g h i j . .           g h i j . .           . . . . . .

JAX's call knows one length a row, so each pass moves whole rows, but the kernel's arithmetic is
that of their lengths. The backward pass attends again instead of keeping what each pass made.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from medscope_jax.models.attention.dense import Joined, Packed

OLDEST = 8  # the least compute capability (major): Ampere
WIDEST_HEAD, HEAD_STEP = 128, 8  # heads' widths that all of these take
Implementation = Literal["cudnn", "xla"]


class Conversations(NamedTuple):
    """How the G conversations of P packed rows of T positions become rows of S places each.

    Attributes:
        positions: int32 [P, G, S], of each place in its packed row, real ones first.
        lengths: int32 [P, G], how many of the places are real.
        places: int32 [P, T], of each position, in [0, G * S); a prompt's are conversation 0's.
    """

    positions: jax.Array
    lengths: jax.Array
    places: jax.Array


def takes_cudnn(device: jax.Device, width: int) -> bool:
    """Whether the device has this kernel for heads of a width: NVIDIA's from Ampere on.

    A device whose compute capability is no number (AMD's is a name) does not have it.
    """
    major = str(getattr(device, "compute_capability", "")).split(".")[0]
    fits = width <= WIDEST_HEAD and width % HEAD_STEP == 0
    return device.platform == "gpu" and major.isdigit() and int(major) >= OLDEST and fits


def attend_cudnn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: jax.Array | Packed | Joined,
    implementation: Implementation = "cudnn",
) -> jax.Array:
    """Attention of each position to the valid positions that it may attend to.

    Args:
        query: [B, L, H, hd], bfloat16 or float16; key, value: [B, L, K, hd], H a multiple of K.
        valid: bool [B, T] (causal rows), Packed or Joined, T <= L; positions beyond it are padding.
        implementation: "xla" runs the same call of jax.nn.dot_product_attention anywhere.

    Returns:
        [B, L, H, hd]; where a position is not valid, finite numbers without a meaning.
    """
    rows, length = query.shape[:2]
    if isinstance(valid, Joined):
        segment = jnp.pad(valid.segment, [(0, 0), (0, length - valid.segment.shape[1])])
        return _attend_joined(implementation, query, key, value, segment)
    found = conversations(valid)
    lengths, count = found.lengths.reshape(-1), found.positions.shape[2]

    def lay_out(x: jax.Array) -> jax.Array:
        positions = found.positions.reshape(rows, -1)[..., None, None]
        x = jnp.take_along_axis(x, positions, axis=1, mode="clip")
        return x.reshape(-1, count, *x.shape[2:])

    out = _attend_first(lengths, implementation, *map(lay_out, (query, key, value)))
    out = out.reshape(rows, -1, *out.shape[2:])
    out = jnp.take_along_axis(out, found.places[..., None, None], axis=1, mode="clip")
    return jnp.pad(out, [(0, 0), (0, length - out.shape[1]), (0, 0), (0, 0)])


def _attend_first(
    lengths: jax.Array,
    implementation: Implementation,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
) -> jax.Array:
    """Causal attention [B, L, H, hd] among each row's first lengths [B] positions; 0 behind them.

    Whatever the kernel gives for padding, and for its gradient, is dropped.
    """
    real = (jnp.arange(query.shape[1]) < lengths[:, None])[..., None, None]
    lengths = jnp.maximum(lengths, 1)  # a softmax over nothing is not a number
    out = jax.nn.dot_product_attention(
        *(jnp.where(real, x, 0) for x in (query, key, value)),
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return jnp.where(real, out, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_joined(
    implementation: Implementation,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment: jax.Array,
) -> jax.Array:
    """attend_cudnn of joined rows, segment [B, L]. How many passes a loop takes is data, and such a
    loop has no gradient of JAX's own."""

    def add(number: jax.Array, out: jax.Array) -> jax.Array:
        begin, lengths = _conversation(segment, number)
        inputs = (_shift(x, begin) for x in (query, key, value))
        return out + _shift(_attend_first(lengths, implementation, *inputs), -begin)

    return jax.lax.fori_loop(1, segment.max() + 1, add, jnp.zeros_like(query))


def _forward(implementation, query, key, value, segment):
    out = _attend_joined(implementation, query, key, value, segment)
    return out, (query, key, value, segment)


def _backward(implementation, kept, slope):
    *inputs, segment = kept

    def add(number: jax.Array, slopes: list[jax.Array]) -> list[jax.Array]:
        begin, lengths = _conversation(segment, number)

        def attend(*inputs: jax.Array) -> jax.Array:
            return _attend_first(lengths, implementation, *inputs)

        pull = jax.vjp(attend, *(_shift(x, begin) for x in inputs))[1]
        own = pull(_shift(slope, begin))
        return [x + _shift(y, -begin) for x, y in zip(slopes, own, strict=True)]

    slopes = jax.lax.fori_loop(1, segment.max() + 1, add, [jnp.zeros_like(x) for x in inputs])
    return (*slopes, None)


_attend_joined.defvjp(_forward, _backward)


def _conversation(segment: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where a conversation begins in each row, and its positions there: int32 [B] each."""
    own = segment == number
    return own.argmax(axis=1), own.sum(axis=1, dtype=jnp.int32)


def _shift(x: jax.Array, by: jax.Array) -> jax.Array:
    """Rows x [B, L, ...] whose position `by` [B] comes first, what was before it last."""
    places = (jnp.arange(x.shape[1]) + by[:, None]) % x.shape[1]
    return jnp.take_along_axis(x, places[..., None, None], axis=1, mode="clip")


def conversations(valid: jax.Array | Packed) -> Conversations:
    """The conversations of rows: one each, or several of packed rows."""
    if isinstance(valid, Packed):
        prompt, rest = valid
    else:
        prompt, rest = valid, jnp.zeros((len(valid), 1, 0), bool)
    (rows, shared), (_, group, own) = prompt.shape, rest.shape
    prompt = jnp.broadcast_to(prompt[:, None], (rows, group, shared))
    real = jnp.concatenate([prompt, rest], axis=2)
    order = jnp.argsort(~real, axis=2, stable=True)
    # Behind the prompt, the rest of conversation g begins g rests later.
    later = own * jnp.arange(group)[:, None]
    positions = jnp.where(order < shared, order, order + later)
    place = jnp.argsort(order, axis=2) + real.shape[2] * jnp.arange(group)[:, None]
    places = [place[:, 0, :shared], place[:, :, shared:].reshape(rows, -1)]
    return Conversations(
        positions.astype(jnp.int32),
        jnp.sum(real, axis=2, dtype=jnp.int32),
        jnp.concatenate(places, axis=1).astype(jnp.int32),
    )
