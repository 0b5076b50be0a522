"""Batches of training records: shuffled, sharded over processes, and exact to resume (Grain).

The order of records is a function of the seed and the position alone, so an iterator's state is one
small number, and a killed run continues with the very batches it would have seen.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.workers import available_processes

_TOLD = 64  # batches that rows are made of at a time, and more


class RandomAccess(Protocol):
    """What records come from: a TFDS data source, a list, a `Mixture`, ..."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def make_batches(
    records: RandomAccess,
    transform: Callable[[Any], Mapping[str, Any]],
    batch_size: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
    epochs: int | None = None,
    threads: int | None = None,
    prefetch: int = 4,
    beside: Callable[[list], Mapping[str, Any]] | None = None,
) -> grain.DatasetIterator:
    """Returns an iterator over this process's rows of each global batch.

    Every epoch is shuffled anew; a batch may span two epochs, and rows left at the very end that
    do not fill a batch are dropped. Several processes read the rows of the batch that one process
    would see, each those that its devices need (see distributed.local_rows):

        records in shuffled order   3 1 0 2 | 4 7 5 6      batch_size 4
        process 0, rows 0 1         3 1     | 4 7
        process 1, rows 2 3         0 2     | 5 6

    `get_state()` is a small JSON-able dict, the same on every process and for every number of
    processes; `set_state(state)` continues from exactly there.

    Args:
      records: random-access sequence; read from several threads.
      transform: a pure function of one record; gives a dict of arrays (or scalars, or strings) of
        fixed shapes, which are stacked.
      batch_size: rows of the global batch.
      seed: decides the order.
      rows: which rows of each batch to read, ascending; None: all.
      epochs: how often each record is seen; None repeats for ever.
      threads: how many threads read and transform, a batch each; one a core, or two, if None.
      prefetch: how many batches are made ahead.
      beside: a function of all records of a global batch; what it gives stands beside each row, so
        that every process knows something of the rows that it does not read.

    Raises:
      UserError: no records, or fewer than one batch.
    """
    wanted = np.arange(batch_size) if rows is None else np.asarray(rows)
    if not len(wanted) or wanted.min() < 0 or wanted.max() >= batch_size:
        raise ValueError(f"rows {wanted.tolist()} are not within a batch of {batch_size}")
    if len(records) * (epochs or 1) < (batch_size if epochs else 1):
        raise UserError(f"{len(records)} records do not make a batch of {batch_size}")
    order = grain.MapDataset.source(records).shuffle(seed=seed % 2**32).repeat(epochs)
    dataset = _Rows(order, batch_size, wanted)
    if beside is None:
        dataset = dataset.map(transform)
    else:
        told = functools.lru_cache(_TOLD)(lambda batch: beside(_batch(order, batch_size, batch)))
        dataset = dataset.map_with_index(
            lambda index, record: {**transform(record), **told(index // len(wanted))}
        )
    threads = min(max(available_processes(), 2) if threads is None else threads, prefetch)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return iter(dataset.batch(len(wanted), drop_remainder=True).to_iter_dataset(options))


def _batch(order: grain.MapDataset, batch_size: int, batch: int) -> list:
    return [order[batch * batch_size + row] for row in range(batch_size)]


class _Rows(grain.MapDataset):
    """Some rows of each global batch, batch after batch."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: np.ndarray):
        super().__init__(parent)
        self._batch_size = batch_size
        self._rows = rows

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + int(self._rows[row])]


def mix(sequences: Sequence[RandomAccess], weights: Sequence[float] | None = None) -> "Mixture":
    """Mixes sequences into one, evenly interleaved in proportion to their weights.

    The sequence that is longest for its weight is seen once, the others start over as often as
    their weight asks for:  mix([abcd, xy], [1, 1]) -> a x b y c x d y.  Weights default to the
    lengths, which shows everything exactly once:  mix([abcd, xy]) -> a x b c y d.

    Raises:
      UserError: no sequence, an empty one, or a weight that is not positive.
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    shares = np.asarray(lengths if weights is None else weights, np.float64)
    if not len(lengths) or shares.shape != lengths.shape or not (shares > 0).all():
        raise UserError(f"can't mix {len(lengths)} sequences with weights {shares.tolist()}")
    if not lengths.all():
        raise UserError(f"can't mix an empty sequence; lengths are {lengths.tolist()}")
    counts = np.maximum(1, np.round(shares * np.max(lengths / shares))).astype(np.int64)
    # Item j of n stands at (j + 1/2) / n of the way; sorting by that interleaves evenly.
    source = np.repeat(np.arange(len(counts)), counts)
    item = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((item + 0.5) / counts[source], kind="stable")
    return Mixture(tuple(sequences), source[order], item[order] % lengths[source[order]])


class Mixture:
    """Several sequences as one: element k is `sequences[source[k]][item[k]]`."""

    def __init__(self, sequences: Sequence[RandomAccess], source: np.ndarray, item: np.ndarray):
        self._sequences, self._source, self._item = sequences, source, item

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        return self._sequences[self._source[index]][int(self._item[index])]

    def spread(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Of arrays [N_s, ...], one a sequence, the item that belongs to each element."""
        first = np.cumsum([0, *map(len, columns[:-1])])
        return np.concatenate(columns)[first[self._source] + self._item]

    def __repr__(self) -> str:
        return f"Mixture of {len(self._sequences)} sequences, {len(self)} records"
