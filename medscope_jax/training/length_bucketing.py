"""Batches in two parts, short rows and long ones, so that short rows are not padded to the longest.

The two parts have fixed shapes, so one program is compiled. Together they hold every row: the loss
and its gradients are those of the whole batch, which padding never changes.

    whole  a a a a - - - - -      short  a a a a      long  b b b b b b b b b
           b b b b b b b b b             c c c -            d d d d d d - - -
           c c c - - - - - -
           d d d d d d - - -

Several processes cut the block of rows that each of them holds, all at the same number of rows and
positions; that every block fits is told by the lengths of the whole batch, which all of them know.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from medscope_jax.dialogue import Role

FITS = "fits"
_DRAWS = 2000  # batches that are drawn to see how long their rows are
_SEED = 0  # of those draws; they decide shapes, never numbers
_WORTH = 0.9  # a split that leaves more than this share of the positions is not worth compiling


class LengthBuckets(NamedTuple):
    """Static sizes: the `rows` shortest rows of a batch have `length` positions, the others all.

    targets: most generated tokens of a row that fits that length.
    """

    rows: int
    length: int
    targets: int


def plan_buckets(
    lengths: np.ndarray,
    generated: np.ndarray,
    batch_size: int,
    length: int,
    shards: int = 1,
    blocks: int = 1,
) -> LengthBuckets | None:
    """The LengthBuckets that leave the fewest positions to compute; None where none are worth it.

    Args:
        lengths, generated: int [R], positions that each record of the data needs, and how many of
            them are generated.
        batch_size: rows of a batch, drawn from the records at random.
        length: of a row that is not shortened.
        shards: both parts must be a multiple of so many rows.
        blocks: of equal size that a batch has, each of them cut alike; a divisor of shards.
    """
    draws = np.random.default_rng(_SEED).choice(lengths, (_DRAWS, batch_size))
    draws = draws.reshape(_DRAWS * blocks, -1)
    longest = np.sort(draws, axis=1).max(axis=0)  # of the k-th shortest row in any of the draws
    best, fewest = None, _WORTH * batch_size * length
    step = np.lcm(shards, max(1, batch_size // 8))
    for rows in range(step, batch_size, step):
        short = -longest[rows // blocks - 1] // 8 * -8
        total = rows * short + (batch_size - rows) * length
        if total < fewest and (batch_size - rows) % shards == 0:
            best, fewest = (rows, short), total
    if best is None:
        return None
    most = int(generated[lengths <= best[1]].max())
    return LengthBuckets(int(best[0]), int(best[1]), -most // 8 * -8)


def fits(lengths: np.ndarray, split: LengthBuckets, blocks: int) -> bool:
    """Whether each block of a batch's rows, of these lengths [B], can be cut in two parts."""
    inside = np.sort(lengths.reshape(blocks, -1), axis=1)
    return bool(inside[:, split.rows // blocks - 1].max() <= split.length)


def split_batch(
    batch: Mapping[str, np.ndarray], split: LengthBuckets | None, blocks: int = 1
) -> Mapping[str, np.ndarray] | tuple[dict[str, np.ndarray], ...]:
    """(short rows, long rows) of a batch on the host; the batch itself where they do not fit.

    Args:
        batch: tokens, visual_index, role [R, L], and other arrays of R rows; with several blocks
            also FITS [R], what `fits` says of the whole batch.
        blocks: that the whole batch has; these rows are one of them.
    """
    if split is None:
        return batch
    if FITS in batch:
        told = batch[FITS].all()
        batch = {name: array for name, array in batch.items() if name != FITS}
        if not told:
            return batch
    rows = split.rows // blocks
    used = np.sum(batch["role"] != Role.PADDING, axis=1)
    order = np.argsort(used, kind="stable")
    if used[order[rows - 1]] > split.length:
        return batch
    short = {name: array[order[:rows]] for name, array in batch.items()}
    for name in ("tokens", "visual_index", "role"):
        short[name] = short[name][:, : split.length]
    return short, {name: array[order[rows:]] for name, array in batch.items()}
