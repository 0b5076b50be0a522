"""One file of a dataset: a job that a worker does, whatever other workers do."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class Rejected:
    """What can't become an example, or (kept) became one with a change; see Quarantine.add."""

    source: str
    place: str
    reason: str
    video: str = ""
    kept: bool = False


@dataclasses.dataclass(frozen=True)
class Shard:
    """A job: one file of a dataset, picklable.

    Attributes:
      split, number: where the file belongs; numbers may have gaps.
      path: where to write it.
      file_format: of TFDS's, "array_record".
      features: gives the features; a function of a module.
      make: gives the examples, and what was rejected on the way.
    """

    split: str
    number: int
    path: str
    file_format: str
    features: Callable[[], tfds.features.FeaturesDict]
    make: Callable[[], Iterable[dict[str, Any] | Rejected]]


@dataclasses.dataclass(frozen=True)
class Written:
    """What a worker says of a shard."""

    split: str
    number: int
    path: str
    num_examples: int
    num_bytes: int
    rejected: tuple[Rejected, ...]


def write_shard(shard: Shard) -> Written:
    """Writes a shard's file; one example is in memory at a time."""
    features, rejected, sizes = shard.features(), [], []
    serializer = tfds.core.ExampleSerializer(features.get_serialized_info())

    def serialized() -> Iterator[tuple[int, bytes]]:
        for item in shard.make():
            if isinstance(item, Rejected):
                rejected.append(item)
                continue
            message = serializer.get_tf_example(features.encode_example(item))
            # An example is a map; else each process would write it in an order of its own.
            example = message.SerializeToString(deterministic=True)
            sizes.append(len(example))
            yield len(sizes), example

    writer = tfds.core.ExampleWriter(tfds.core.FileFormat(shard.file_format))
    writer.write(shard.path, serialized())
    place = (shard.split, shard.number, shard.path)
    return Written(*place, len(sizes), sum(sizes), tuple(rejected))
