"""Self-attention by cuDNN's flash attention, for GPUs.

cuDNN knows causal rows of some length, not packed ones. So each conversation of a packed row is
laid out as a row of its own, its real slots first, and what it finds is put back:

    packed    Q Q . a b . d . .    attended to    Q Q a b . .
                                                  Q Q d . . .

A shared prompt is thus attended from once for each conversation, which costs arithmetic: its keys
had to be read for each one anyway. Everything else of a packed row is still done once, and nothing
of length x length ever exists.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from medscope_jax.models.attention.dense import Packed

OLDEST = 8  # the least compute capability (major): Ampere
WIDEST_HEAD, HEAD_STEP = 128, 8  # heads' widths that all of these take


class Conversations(NamedTuple):
    """Where the G conversations of P rows of T slots stand once they are rows of their own."""

    slots: jax.Array  # int32 [P, G, S]: the slot that each place shows, real ones first
    lengths: jax.Array  # int32 [P, G]: how many are real
    places: jax.Array  # int32 [P, T]: of each slot, in [0, G * S); a prompt's with the first one


def takes_cudnn(device: jax.Device, width: int) -> bool:
    """Whether the device has this kernel for heads of a width: NVIDIA's from Ampere on.

    A device without a number for its compute capability (AMD's have names) has it not.
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
    """Attention of each slot to the valid slots that it may see.

    Args:
        query: [B, L, H, hd], bfloat16 or float16; key, value: [B, L, K, hd], H a multiple of K.
        valid: bool [B, T] (causal rows) or Packed, T <= L; slots beyond it are padding.
        implementation: "xla" runs the same call of jax.nn.dot_product_attention anywhere.

    Returns:
        [B, L, H, hd]; slots that are not valid mean nothing, and are finite.
    """
    rows, length = query.shape[:2]
    found = conversations(valid)
    lengths, count = found.lengths.reshape(-1), found.slots.shape[2]
    real = (jnp.arange(count) < lengths[:, None])[..., None, None]

    def lay_out(x: jax.Array) -> jax.Array:
        slots = found.slots.reshape(rows, -1)[..., None, None]
        x = jnp.take_along_axis(x, slots, axis=1, mode="clip").reshape(-1, count, *x.shape[2:])
        # Whatever the kernel makes of padding, and of its gradient, ends here.
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
    """The conversations that rows hold: one each, or those of packed rows."""
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
    slots = jnp.where(order < shared, order, order + later)
    place = jnp.argsort(order, axis=2) + real.shape[2] * jnp.arange(group)[:, None]
    places = [place[:, 0, :shared], place[:, :, shared:].reshape(rows, -1)]
    return Conversations(
        slots.astype(jnp.int32),
        jnp.sum(real, axis=2, dtype=jnp.int32),
        jnp.concatenate(places, axis=1).astype(jnp.int32),
    )
