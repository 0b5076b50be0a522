"""Batches in two parts, short rows and long ones, so that short rows are not padded to the longest.

The two parts have fixed shapes, so one program is compiled. Together they hold every row: the loss
and its gradients are those of the whole batch, which padding never changes.

    whole  a a a a - - - - -      short  a a a a      long  b b b b b b b b b
           b b b b b b b b b             c c c -            d d d d d d - - -
           c c c - - - - - -
           d d d d d d - - -
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from medscope_jax.dialogue import Role

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
    lengths: np.ndarray, generated: np.ndarray, batch_size: int, length: int, shards: int = 1
) -> LengthBuckets | None:
    """The LengthBuckets that leave the fewest positions to compute; None where none are worth it.

    Args:
        lengths, generated: int [R], positions that each record of the data needs, and how many of
            them are generated.
        batch_size: rows of a batch, drawn from the records at random.
        length: of a row that is not shortened.
        shards: both parts must be a multiple of so many rows.
    """
    draws = np.random.default_rng(_SEED).choice(lengths, (_DRAWS, batch_size))
    longest = np.sort(draws, axis=1).max(axis=0)  # of the k-th shortest row in any of the draws
    best, fewest = None, _WORTH * batch_size * length
    step = np.lcm(shards, max(1, batch_size // 8))
    for rows in range(step, batch_size, step):
        short = -longest[rows - 1] // 8 * -8
        total = rows * short + (batch_size - rows) * length
        if total < fewest and (batch_size - rows) % shards == 0:
            best, fewest = (rows, short), total
    if best is None:
        return None
    most = int(generated[lengths <= best[1]].max())
    return LengthBuckets(int(best[0]), int(best[1]), -most // 8 * -8)


def split_batch(
    batch: Mapping[str, np.ndarray], split: LengthBuckets | None
) -> Mapping[str, np.ndarray] | tuple[dict[str, np.ndarray], ...]:
    """(short rows, long rows) of a batch on the host; the batch itself where they do not fit.

    batch: tokens, visual_index, role [B, L], and other arrays of B rows.
    """
    if split is None:
        return batch
    used = np.sum(batch["role"] != Role.PADDING, axis=1)
    order = np.argsort(used, kind="stable")
    if used[order[split.rows - 1]] > split.length:
        return batch
    short = {name: array[order[: split.rows]] for name, array in batch.items()}
    for name in ("tokens", "visual_index", "role"):
        short[name] = short[name][:, : split.length]
    return short, {name: array[order[split.rows :]] for name, array in batch.items()}
