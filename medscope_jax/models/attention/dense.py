"""Dense attention with grouped key-value heads.

Heads of one group share a key, so their queries are folded into rows: one [group * N, hd] x
[hd, M] product for each key-value head. Causal attention goes block by block of queries: a block
looks at the keys up to its own end only, which saves nearly half the work, and its scores are
recomputed in the backward pass instead of stored: memory grows with the length, not its square.

    block 0   x . . . | . . . . | not computed
              x x . . | . . . .
    block 1   x x x . | . . . .
              x x x x | ...

Conversations that begin alike are packed: their prompt once, then the rest of each, which attends
to the prompt and to itself. G rollouts of a question cost one prompt instead of G.

    prompt    x . . . . . .
              x x . . . . .
    rest 1    x x x . . . .
              x x x x . . .
    rest 2    x x . . x . .
              x x . . x x .

Conversations that have nothing in common are joined: one behind the other, each attends to itself.

    first     x . . . .
              x x . . .
    second    . . x . .
              . . x x .
              . . x x x
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite
_FEWEST, _MOST = 128, 512  # queries a block


class Packed(NamedTuple):
    """Which positions of P packed rows are real: N of a prompt, then G rests of M positions."""

    prompt: jax.Array  # bool [P, N]
    rest: jax.Array  # bool [P, G, M]

    def flat(self) -> jax.Array:
        """bool [P, N + G * M], in the order of a packed row."""
        return jnp.concatenate([self.prompt, self.rest.reshape(len(self.rest), -1)], axis=1)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array | None,
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """Softmax attention; scores and softmax in float32.

    Args:
        query: [B, N, H, hd].
        key, value: [B, K, M, hd], K key-value heads, H a multiple of K.
        allowed: bool, broadcastable to [B, N, M]; None allows everything.
        exact: precision of the two matrix products.

    Returns:
        [B, N, H, hd] in query's dtype.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[1]
    query = query.reshape(batch, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    out = _attend(query, key, value, allowed, exact)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


class Joined(NamedTuple):
    """Which conversation of its row each position is of."""

    segment: jax.Array  # int32 [B, L]: 1, 2, ... one behind the other; 0: padding


def segments(valid: jax.Array | Packed | Joined) -> jax.Array:
    """int32 [B, L], 0 where a position is padding; attention never crosses from one to another.

    Only Joined rows have several; those of Packed rows are told apart by a RowPlan.
    """
    if isinstance(valid, Joined):
        return valid.segment
    return (valid.flat() if isinstance(valid, Packed) else valid).astype(jnp.int32)


class RowPlan(NamedTuple):
    """How a row is divided: `prompt` positions, then rests of `rest` positions each."""

    prompt: int
    rest: int


_Array = TypeVar("_Array", jax.Array, np.ndarray)


def sees(query: _Array, key: _Array, plan: RowPlan) -> _Array:
    """Whether position `query` attends to position `key`: int32 arrays of shapes that broadcast.

    A position of a rest attends to the prompt and to its own rest up to itself, as drawn above.
    """
    own = plan.prompt + (query - plan.prompt) // plan.rest * plan.rest  # where its rest begins
    return (key <= query) & ((key < plan.prompt) | (key >= own))


def attend_causal(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: jax.Array,
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """Attention of each position to the valid ones up to it: as attend, M = N, valid [B, N]."""

    def allowed(start: int, end: int) -> jax.Array:
        order = jnp.arange(start, end)[:, None] >= jnp.arange(end)
        return order & valid[:, None, :end]

    return attend_blocks(query, key, value, allowed, exact)


def attend_joined(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment: jax.Array,
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """Attention of each position to those up to it of its own segment: as attend, M = N, segment
    int32 [B, N]."""

    def allowed(start: int, end: int) -> jax.Array:
        order = jnp.arange(start, end)[:, None] >= jnp.arange(end)
        return order & (segment[:, start:end, None] == segment[:, None, :end])

    return attend_blocks(query, key, value, allowed, exact)


def attend_blocks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: Callable[[int, int], jax.Array],
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """As attend, block by block of queries: only one block's scores exist at a time.

    allowed: (start, end) -> bool [B, end - start, m]: to which of the first m keys the queries
        start to end - 1 attend.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[1]
    query = query.reshape(batch, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    size = min(max(-(-length // 4), _FEWEST), _MOST)
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        mask = allowed(start, end)
        seen = mask.shape[-1]
        block = jax.checkpoint(_attend, static_argnums=4, prevent_cse=False)
        part = query[:, :, :, start:end], key[:, :, :seen], value[:, :, :seen], mask, exact
        blocks.append(block(*part))
    out = jnp.concatenate(blocks, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def attend_packed(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: Packed,
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """Causal attention within the prompt, and of each rest to the prompt and itself.

    As attend_causal, with rows of N + G * M positions in query [P, N + G * M, H, hd] and key, value
    [P, K, N + G * M, hd].
    """
    rows, _, heads, width = query.shape
    kv_heads, count = key.shape[1], valid.prompt.shape[1]
    groups, length = valid.rest.shape[1:]
    prompt = attend_causal(
        query[:, :count], key[:, :, :count], value[:, :, :count], valid.prompt, exact
    )
    query = query[:, count:].reshape(rows, groups, length, kv_heads, -1, width)
    query = query.transpose(0, 3, 1, 4, 2, 5)  # [P, K, G, H / K, M, hd]
    own = [x[:, :, count:].reshape(rows, kv_heads, groups, length, width) for x in (key, value)]
    shared = key[:, :, :count], value[:, :, :count]
    size = min(max(-(-length // 4), _FEWEST), _MOST)
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        order = jnp.arange(start, end)[:, None] >= jnp.arange(end)
        allowed = order & valid.rest[:, :, None, :end]
        block = jax.checkpoint(_attend_rest, static_argnums=7, prevent_cse=False)
        part = query[..., start:end, :], *shared, valid.prompt, *(x[..., :end, :] for x in own)
        blocks.append(block(*part, allowed, exact))
    out = jnp.concatenate(blocks, axis=4).transpose(0, 2, 4, 1, 3, 5)
    out = out.reshape(rows, groups * length, heads, width)
    return jnp.concatenate([prompt, out], axis=1)


def _attend_rest(
    query: jax.Array,
    prompt_key: jax.Array,
    prompt_value: jax.Array,
    prompt_valid: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array,
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """query [P, K, G, H/K, n, hd], prompt_* [P, K, N, hd], key, value [P, K, G, m, hd]."""
    rows, kv_heads, groups, heads, length, width = query.shape
    product = functools.partial(jnp.einsum, precision=exact, preferred_element_type=jnp.float32)
    query = query * width**-0.5
    # All rests of a question read its prompt in one product, and no key is repeated.
    scores = product(
        "bkrd,bkmd->bkrm", query.reshape(rows, kv_heads, -1, width), prompt_key
    ).reshape(*query.shape[:-1], -1)
    scores += jnp.where(prompt_valid, 0.0, MASKED)[:, None, None, None, None]
    query = query.reshape(rows, kv_heads, groups, -1, width)
    inner = product("bkgrd,bkgmd->bkgrm", query, key)
    inner = inner.reshape(rows, kv_heads, groups, heads, length, -1)
    inner += jnp.where(allowed, 0.0, MASKED)[:, None, :, None]
    scores = jnp.concatenate([scores, inner], axis=-1)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    count = prompt_key.shape[2]
    outer = weights[..., :count].reshape(rows, kv_heads, -1, count)
    inner = weights[..., count:].reshape(rows, kv_heads, groups, heads * length, -1)
    out = product("bkrm,bkmd->bkrd", outer, prompt_value).reshape(*scores.shape[:-1], width)
    out += product("bkgrm,bkgmd->bkgrd", inner, value).reshape(*scores.shape[:-1], width)
    return (out / total).astype(value.dtype)


class Part(NamedTuple):
    """Attention to some of the keys that a query sees, to be joined with that to the others."""

    values: jax.Array  # float32 [.., hd]: values by their weights, not yet divided
    total: jax.Array  # float32 [.., 1]: the sum of the weights
    top: jax.Array  # float32 [.., 1]: the score whose weight is 1


def merge(first: Part, second: Part) -> Part:
    """Attention to the keys of both parts."""
    top = jnp.maximum(first.top, second.top)
    one, other = jnp.exp(first.top - top), jnp.exp(second.top - top)
    values = first.values * one + second.values * other
    return Part(values, first.total * one + second.total * other, top)


def join(first: Part, second: Part) -> jax.Array:
    """Attention to the keys of both parts, float32 [.., hd]."""
    both = merge(first, second)
    return both.values / both.total


def attend_part(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array | None,
    exact: jax.lax.PrecisionLike,
) -> Part:
    """Attention to some keys: query [B, K, G, N, hd], key and value [B, K, M, hd], allowed bool
    that broadcasts to [B, N, M] -> a Part of [B, K, G, N, .]."""
    batch, kv_heads, group, length, width = query.shape
    rows = (query * width**-0.5).reshape(batch, kv_heads, group * length, width)
    scores = jnp.einsum(
        "bkrd,bkmd->bkrm", rows, key, precision=exact, preferred_element_type=jnp.float32
    )
    scores = scores.reshape(batch, kv_heads, group, length, -1)
    if allowed is not None:
        scores += jnp.where(allowed, 0.0, MASKED)[:, None, None]
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype).reshape(batch, kv_heads, group * length, -1)
    out = jnp.einsum(
        "bkrm,bkmd->bkrd", weights, value, precision=exact, preferred_element_type=jnp.float32
    )
    return Part(out.reshape(batch, kv_heads, group, length, width), total, top)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    allowed: jax.Array | None,
    exact: jax.lax.PrecisionLike,
) -> jax.Array:
    """query [B, K, G, N, hd], key and value [B, K, M, hd] -> [B, K, G, N, hd]."""
    # The sum divides the (narrow) output instead of the (wide) weights.
    part = attend_part(query, key, value, allowed, exact)
    return (part.values / part.total).astype(value.dtype)
