"""Rollouts of one question, packed: their prompt once, then the rest of each.

    rows      Q Q Q a b o c        packed    Q Q | Q a b o c | Q d e . .
              Q Q Q d e . .

Most of a rollout is its prompt (the preview), which its group shares: a policy step on packed rows
computes it once. A rest begins with the prompt's last token, from which its first one is predicted.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.dialogue import Role
from medscope_jax.models import Packed, mrope_positions


@dataclasses.dataclass(frozen=True)
class Packing:
    """Static sizes of packed rows: `group` rests of `rest` positions after `prompt` positions."""

    group: int
    prompt: int
    rest: int


def measure_packing(role: np.ndarray, group: int, width: int, step: int = 32) -> Packing:
    """The Packing that holds rollouts of roles [B, L], on the host.

    Args:
        group: rows of each question, one after the other.
        width: positions that hold every prompt.
        step: of few_sizes, to which the rests' size is rounded up.
    """
    prompts = np.sum(role == Role.PROMPT, axis=1)
    rest = int(np.max(np.sum(role != Role.PADDING, axis=1) - np.maximum(prompts - 1, 0)))
    return Packing(group, width, few_sizes(rest, step))


def few_sizes(size: int, step: int) -> int:
    """The size rounded up to one of a few, so that few shapes are ever compiled.

    Multiples of `step` up to 16 steps, then eight sizes an octave: at most an eighth more than
    asked for, and 64 sizes up to 1,024 steps.
    """
    step = max(step, 2 ** (max(size - 1, 1).bit_length() - 1) // 8)
    return -size // step * -step


def pack(
    tokens: jax.Array, index: jax.Array, role: jax.Array, size: Packing, grid: tuple[int, int]
) -> tuple[jax.Array, jax.Array, jax.Array, Packed, jax.Array]:
    """Packs rollouts [B, L], of which `size.group` consecutive rows begin with one prompt.

    Args:
        tokens, role: as in Episode; index: as in models.embed.

    Returns:
        (tokens [P, T], index [P, T], M-RoPE positions [3, P, T], Packed, begin [B]), of P = B /
        group packed rows of T = prompt + group * rest positions. begin: the position in its row
        where each rest begins.
    """
    batch, length = tokens.shape
    valid = role != Role.PADDING
    zeros = jnp.zeros((batch,), jnp.int32)
    positions, _ = mrope_positions(index, valid, grid, zeros)
    begin = jnp.maximum(jnp.sum(role == Role.PROMPT, axis=1) - 1, 0)
    own = begin[:, None] + jnp.arange(size.rest)  # positions of a row's rest
    inside = jnp.minimum(own, length - 1)

    def rows(array):
        """[.., B, L] to [.., P, T]."""
        lead = array.shape[:-2]
        head = array[..., :: size.group, : size.prompt]
        places = jnp.broadcast_to(inside, (*lead, *inside.shape))
        rest = jnp.take_along_axis(array, places, axis=-1)
        rest = rest.reshape(*lead, batch // size.group, size.group * size.rest)
        return jnp.concatenate([head, rest], axis=-1)

    prompt = jnp.arange(min(size.prompt, length)) < begin[:: size.group, None]
    rest = (own < length) & jnp.take_along_axis(valid, inside, axis=1)
    packed = Packed(prompt, rest.reshape(-1, size.group, size.rest))
    return rows(tokens), rows(index), rows(positions), packed, begin


def unpack(packed: jax.Array, positions: jax.Array, begin: jax.Array, size: Packing) -> jax.Array:
    """Values [B, G, D] at positions [B, G] of the rows, from packed values [P, T, D]."""
    rest = packed[:, -size.group * size.rest :].reshape(len(begin), size.rest, -1)
    place = jnp.clip(positions - begin[:, None], 0, size.rest - 1)
    return jnp.take_along_axis(rest, place[..., None], axis=1)
