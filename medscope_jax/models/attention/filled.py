"""Dense attention to what is filled of a cache, block by block, for devices without a kernel.

A cache has room for whole conversations, and most of it is empty while they are written. A loop
reads blocks of positions as far as the fullest row, and joins what it finds by the log-sum-exp:

    row 0    x x x x | x x x . | . . . . | . . . .      blocks read: 0, 1
    row 1    x x . . | . . . . | . . . . | . . . .

Short caches are read at once: a loop would cost more than it spares.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medscope_jax.models.attention.dense import MASKED, Part, attend_part, merge
from medscope_jax.models.cache import Cache, read

BLOCK = 512  # positions
# Named scopes of the loops, followed by how many blocks there are: over rows' own positions, and
# over those of what they begin with. planning/flops.py counts by them.
OWN_BLOCKS, BEGUN_BLOCKS = "own_blocks", "begun_blocks"


def attend_filled(
    query: jax.Array,
    cache: Cache,
    layer: jax.Array | int,
    last: jax.Array,
    allowed: Callable[[jax.Array], jax.Array],
    exact: jax.lax.PrecisionLike,
    scope: str,
    rows: jax.Array | None = None,
) -> Part:
    """Attention to a layer's own positions, all float32.

    Args:
        query: [B, K, G, N, hd].
        cache: of B rows, or of others where `rows` says which each query reads.
        last: int32 [], the last position that any query attends to.
        allowed: positions [m] of the cache -> bool that broadcasts to [B, N, m].
        scope: OWN_BLOCKS or BEGUN_BLOCKS.
        rows: int32 [B]; None: query b reads row b.
    """
    length = cache.length

    def part(start: jax.Array | int, count: int, first: jax.Array | int) -> Part:
        key, value = read(cache, layer, query.dtype, start, count)
        if rows is not None:
            key, value = key[rows], value[rows]
        positions = start + jnp.arange(count)
        mask = allowed(positions) if start is first else allowed(positions) & (positions >= first)
        return attend_part(query, key, value, mask, exact)

    if length <= 2 * BLOCK:
        return part(0, length, 0)

    def add(number: jax.Array, found: Part) -> Part:
        first = number * BLOCK
        # The last block may begin earlier, so that it is as long as the others.
        return merge(found, part(jnp.minimum(first, length - BLOCK), BLOCK, first))

    shape = query.shape[:-1]
    nothing = Part(
        jnp.zeros(query.shape, jnp.float32),
        jnp.zeros((*shape, 1), jnp.float32),
        jnp.full((*shape, 1), MASKED, jnp.float32),
    )
    with jax.named_scope(f"{scope}_{-(-length // BLOCK)}"):
        return jax.lax.fori_loop(0, last // BLOCK + 1, add, nothing)
