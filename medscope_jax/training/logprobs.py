"""Log-probabilities of the generated tokens of a batch of episodes, from one forward pass.

Scores over the vocabulary are the largest array of a step by far: 8 rows with 3,000 generated
tokens and a vocabulary of 152,000 take 14.6 GB. So only the generated tokens get scores. Where
these are still too many, they are computed chunk by chunk, reduced to each token's log-probability
and entropy, and dropped; the backward pass computes each chunk anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from medscope_jax.dialogue import Role
from medscope_jax.distributed import BATCH, SEQUENCE, TENSOR, constrain, free_axes, split_size
from medscope_jax.models import (
    Joined,
    ModelConfig,
    embed,
    forward,
    joined_positions,
    logits,
    mrope_positions,
)
from medscope_jax.training.packing import Packing, pack, unpack

# Most float32 scores that a device holds of one chunk. With fewer positions a chunk, reading the
# head's weights would take longer than multiplying by them.
CHUNK_BYTES = 128 * 2**20


class Targets(NamedTuple):
    """The generated tokens of a batch, at most G a row, gathered to the front.

    Only these need scores over the vocabulary, a fraction of an episode's positions.
    """

    positions: jax.Array  # [B, G] int32, of each generated token in its row; 0 where masked
    mask: jax.Array  # [B, G] bool, False beyond a row's generated tokens


def find_targets(role: jax.Array, count: int) -> Targets:
    """The Targets of roles [B, L]; no row may have more than count = G generated tokens."""
    generated = role == Role.GENERATED
    positions = jnp.argsort(~generated, axis=1, stable=True)[:, :count]
    mask = jnp.take_along_axis(generated, positions, axis=1)
    return Targets(jnp.where(mask, positions, 0), mask)


def token_logprobs(
    params: dict,
    model: ModelConfig,
    tokens: jax.Array,
    index: jax.Array,
    role: jax.Array,
    bank: jax.Array,
    targets: Targets,
    grid: tuple[int, int],
    temperature: float = 1.0,
    local: bool = False,
    segment: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the generated tokens, from one forward pass over whole rows.

    Args:
        tokens, role: [B, L], see Episode.
        index: [B, L] what each position shows of the flat bank, see bank.flat_index; -1: text.
        bank: flat bank [R, D].
        temperature: that the tokens were sampled with; 0 (greedy) counts as 1.
        local: on a mesh, a row's visual tokens lie on its own devices, see models.embed.
        segment: int32 [B, L] where rows hold several conversations, see models.Joined.

    Returns:
        (logprobs [B, G], entropy [B, G]), 0 where targets.mask is False.
    """
    valid: jax.Array | Joined
    if segment is None:
        valid, zeros = role != Role.PADDING, jnp.zeros(tokens.shape[:1], jnp.int32)
        positions, _ = mrope_positions(index, valid, grid, zeros)
    else:
        valid, positions = Joined(segment), joined_positions(index, segment, grid)
    inputs = embed(params, model, tokens, index, bank, local)
    hidden = forward(params, model, inputs, positions, valid)
    # A token is predicted from the position before it: a conversation's first is never generated.
    before = jnp.maximum(targets.positions - 1, 0)[..., None]
    hidden = jnp.take_along_axis(hidden, before, axis=1)
    return score_targets(params, model, hidden, tokens, targets, temperature)


def packed_logprobs(
    params: dict,
    model: ModelConfig,
    tokens: jax.Array,
    index: jax.Array,
    role: jax.Array,
    bank: jax.Array,
    targets: Targets,
    grid: tuple[int, int],
    size: Packing,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """As token_logprobs, of rollouts in groups that share a prompt; each prompt is computed once.

    On a mesh, a row's visual tokens must lie in its device's part of the bank, as those of rollouts
    do. size: as of packing.pack.
    """
    inputs, index, positions, packed, begin = pack(tokens, index, role, size, grid)
    inputs = embed(params, model, inputs, index, bank, local=True)
    hidden = constrain(forward(params, model, inputs, positions, packed), BATCH, None, None)
    # Without the constraint, XLA has every device hold all rows' values.
    hidden = constrain(unpack(hidden, targets.positions - 1, begin, size), BATCH, None, None)
    return score_targets(params, model, hidden, tokens, targets, temperature)


def score_targets(
    params: dict,
    model: ModelConfig,
    hidden: jax.Array,
    tokens: jax.Array,
    targets: Targets,
    temperature: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities and entropy [B, G] of the targets.

    Args:
        hidden: [B, G, D], of the position before each target.
        tokens: [B, L].
        chunk_bytes: most bytes of float32 scores on a device. Where all fit, they are computed at
            once; else in chunks of equally many positions of every row, so that rows stay on their
            devices.
    """

    def score(hidden, wanted):
        hidden = constrain(hidden, BATCH, SEQUENCE, None)
        scores = constrain(logits(params, model, hidden), BATCH, SEQUENCE, TENSOR)
        every = jax.nn.log_softmax(scores / (temperature or 1.0))
        chosen = jnp.take_along_axis(every, wanted[..., None], axis=-1)[..., 0]
        return chosen, -jnp.sum(jnp.exp(every) * every, axis=-1)

    wanted = jnp.take_along_axis(tokens, targets.positions, axis=1)
    rows, count = wanted.shape
    position_bytes = 4 * split_size(rows, BATCH)
    position_bytes *= split_size(model.text.vocab_size, TENSOR)
    shards = free_axes().get("context", 1)  # which split a row's positions
    parts = -(-count // (max(1, chunk_bytes // position_bytes) * shards))
    if parts == 1:
        chosen, entropy = score(hidden, wanted)
    else:
        size = -(-count // (parts * shards)) * shards

        def split(x):
            """[B, G, ..] to [parts, B, size, ..]; the last part's padding is dropped below."""
            x = jnp.pad(x, [(0, 0), (0, parts * size - count)] + [(0, 0)] * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(rows, parts, size, *x.shape[2:]), 1, 0)

        part = jax.checkpoint(lambda piece: score(*piece), prevent_cse=False)
        found = jax.lax.map(part, (split(hidden), split(wanted)))
        chosen, entropy = (jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :count] for x in found)
    return jnp.where(targets.mask, chosen, 0.0), jnp.where(targets.mask, entropy, 0.0)
