"""Self-attention by cuDNN's flash attention, for GPUs.

cuDNN takes causal rows of any length, but no packed ones. So each conversation of a packed row is
laid out as a row of its own, its real positions first, and the results are put back:

    packed    Q Q . a b . d . .    attended to    Q Q a b . .
                                                  Q Q d . . .

The queries of a shared prompt are thus computed once for each conversation, which costs arithmetic
but no bytes: its keys are read for each one anyway. All else of a packed row is done once, and no
array of length x length ever exists.

Joined rows (dense.Joined) are left to dense attention, block by block of queries, by
dispatch.attend_self: JAX's call of cuDNN knows one length a row, no segments; laid out as rows of
their own, each of a row's conversations would need as many places as the whole row has; and a mask
would be an array of length x length.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from medscope_jax.models.attention.dense import Packed

OLDEST = 8  # the least compute capability (major): Ampere
WIDEST_HEAD, HEAD_STEP = 128, 8  # heads' widths that all of these take


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
    valid: jax.Array | Packed,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """Attention of each position to the valid positions that it may attend to.

    Args:
        query: [B, L, H, hd], bfloat16 or float16; key, value: [B, L, K, hd], H a multiple of K.
        valid: bool [B, T] (causal rows) or Packed, T <= L; positions beyond it are padding.
        implementation: "xla" runs the same call of jax.nn.dot_product_attention anywhere.

    Returns:
        [B, L, H, hd]; where a position is not valid, finite numbers without a meaning.
    """
    rows, length = query.shape[:2]
    found = conversations(valid)
    lengths, count = found.lengths.reshape(-1), found.positions.shape[2]
    real = (jnp.arange(count) < lengths[:, None])[..., None, None]

    def lay_out(x: jax.Array) -> jax.Array:
        positions = found.positions.reshape(rows, -1)[..., None, None]
        x = jnp.take_along_axis(x, positions, axis=1, mode="clip").reshape(-1, count, *x.shape[2:])
        # Whatever the kernel gives for padding, and for its gradient, is dropped.
        return jnp.where(real, x, 0)

    lengths = jnp.maximum(lengths, 1)  # a softmax over nothing is not a number
    out = jax.nn.dot_product_attention(
        *map(lay_out, (query, key, value)),
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    out = jnp.where(real, out, 0).reshape(rows, -1, *out.shape[2:])
    out = jnp.take_along_axis(out, found.places[..., None, None], axis=1, mode="clip")
    return jnp.pad(out, [(0, 0), (0, length - out.shape[1]), (0, 0), (0, 0)])


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
