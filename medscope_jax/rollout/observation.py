"""Observations on the device: from an interpreted call to the tokens that the model reads next."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank import FrameBank
from medscope_jax.dialogue import Layout, Tokenizer, frame_text_ids, protocol
from medscope_jax.tools import CallStatus, byte_table, error_text, select_frames


class SpecialTokens(NamedTuple):
    """The token ids that the compiled loop needs, as device arrays. -1 pads rows of ids."""

    table: object  # tools.byte_table: the bytes of every id
    image: jax.Array  # [] id at visual positions
    ends: jax.Array  # [E] ids that end an assistant turn
    call_open: jax.Array  # [] <tool_call>
    call_close: jax.Array  # [] </tool_call>
    opening: jax.Array  # [O] ids before an observation's content
    closing: jax.Array  # [C] ids after it
    frame_text: jax.Array  # [F] ids on the side of a frame's visual tokens that has no time
    errors: jax.Array  # [statuses, M] ids of each CallStatus's error text


def find_special_tokens(tokenizer: Tokenizer, layout: Layout) -> SpecialTokens:
    """Builds the SpecialTokens of a tokenizer once, outside the loop."""
    errors = [tokenizer.encode(error_text(status)) for status in CallStatus]
    padded = np.full((len(errors), max(map(len, errors))), -1, np.int32)
    for row, error in zip(padded, errors, strict=True):
        row[: len(error)] = error

    def ids(text: str) -> jax.Array:
        return jnp.asarray(tokenizer.encode(text), jnp.int32)

    opening, closing = protocol.observation_frame(layout.response_format)
    return SpecialTokens(
        table=byte_table(tokenizer.pieces),
        image=jnp.int32(tokenizer.tag(protocol.IMAGE)),
        ends=jnp.asarray(tokenizer.ends, jnp.int32),
        call_open=jnp.int32(tokenizer.tag(protocol.TOOL_CALL)),
        call_close=jnp.int32(tokenizer.tag(protocol.TOOL_CALL_END)),
        opening=ids(opening),
        closing=ids(closing),
        frame_text=jnp.asarray(frame_text_ids(tokenizer, layout), jnp.int32),
        errors=jnp.asarray(padded),
    )


def observe(
    call, video: jax.Array, bank: FrameBank, special_tokens: SpecialTokens, layout: Layout
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The observation of each row's call.

    Args:
        call: tools.Call of arrays [R].
        video: [R] int32, each row's video in the bank.

    Returns:
        (tokens [R, M], visual_index [R, M], count [R]): real entries come first, in reading order;
        M is static: the longest observation that the layout allows.
    """

    def one(tool, start, end, status, video):
        indices, count = select_frames(
            tool, start, end, bank.times[video], bank.length[video], layout.window_frames
        )
        tokens, visual_index = _frames(
            indices, count, video, bank, special_tokens, layout.stamp_first
        )
        good = status == CallStatus.OK
        error = special_tokens.errors[status]
        tokens = jnp.concatenate(
            [
                special_tokens.opening,
                jnp.where(good, tokens, -1),
                jnp.where(good, -1, error),
                special_tokens.closing,
            ]
        )
        pads = [(len(special_tokens.opening), len(error) + len(special_tokens.closing))]
        visual_index = jnp.pad(jnp.where(good, visual_index, -1), pads, constant_values=-1)
        return _compact(tokens, visual_index)

    return jax.vmap(one)(call.tool, call.start, call.end, call.status, video)


def _frames(
    indices, count, video, bank: FrameBank, special_tokens: SpecialTokens, stamp_first: bool
):
    """Stamp, visual tokens and constant text of each selected frame: ids and visual indices."""
    size = bank.tokens.shape[2]
    selected = jnp.arange(indices.shape[0]) < count
    stamps = bank.stamps[video, indices]  # [F, W]
    visual = indices[:, None] * size + jnp.arange(size)  # [F, S]
    texts = jnp.broadcast_to(
        special_tokens.frame_text, (indices.shape[0], len(special_tokens.frame_text))
    )
    parts = [stamps, jnp.full_like(visual, special_tokens.image), texts]
    indices_of = [jnp.full_like(stamps, -1), visual, jnp.full_like(texts, -1)]
    order = 1 if stamp_first else -1
    tokens = jnp.concatenate(parts[::order], axis=1)
    visual_index = jnp.concatenate(indices_of[::order], axis=1)
    return (
        jnp.where(selected[:, None], tokens, -1).reshape(-1),
        jnp.where(selected[:, None], visual_index, -1).reshape(-1),
    )


def _compact(tokens: jax.Array, visual_index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Moves the entries with tokens >= 0 of one row [M] to the front, keeping their order."""
    real = tokens >= 0
    # Dropped entries aim one past the end, where the scatter discards them.
    target = jnp.where(real, jnp.cumsum(real) - 1, tokens.shape[0])
    compacted = jnp.zeros_like(tokens).at[target].set(tokens, mode="drop")
    indices = jnp.full_like(visual_index, -1).at[target].set(visual_index, mode="drop")
    return compacted, indices, jnp.sum(real).astype(jnp.int32)
