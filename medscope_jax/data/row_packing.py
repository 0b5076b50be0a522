"""Which records share a row of a supervised batch, and how their conversations are joined there.

A clip of a minute fills less than half of the positions that the longest one needs; with several
conversations a row, one behind the other, nearly all positions are used. Attention, positions and
loss know where a conversation ends (models.Joined), so that each counts as in a row of its own.

    lengths 5 3 4 2 4, rows of 10     row 0   a a a a a b b b d d
                                      row 1   c c c c e e e e . .
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from medscope_jax.dialogue import Role

OPEN_ROWS = 64  # that a record may still join: more of them pad less, but shuffle less
_SPARE = 1.05  # frames a row has room for, of those that its records show on average


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """The records of each row: row k holds records[first[k] : first[k + 1]], in that order."""

    records: np.ndarray  # int64 [N], each record's number once
    first: np.ndarray  # int64 [R + 1]

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.records[self.first[row] : self.first[row + 1]]

    def sums(self, sizes: np.ndarray) -> np.ndarray:
        """int64 [R]: the sum of sizes [N] over the records of each row."""
        return np.add.reduceat(sizes[self.records].astype(np.int64), self.first[:-1])


def pack_records(
    lengths: np.ndarray, frames: np.ndarray, length: int, most_frames: int, seed: int
) -> PackedRows:
    """Packs records into rows, first fit: each joins the first open row that has room for it.

    Records come in shuffled order. Where none of OPEN_ROWS rows has room, the fullest is closed and
    another opened, so that a row's records are near each other in that order: what stands together
    is left to chance, but for what fits. The rows are shuffled once more, as the last ones opened
    hold less. A function of its arguments alone: the same on every process, and in a run that goes
    on.

    Args:
        lengths: int [N], positions that each record needs.
        frames: int [N], frames that each shows.
        length: positions of a row.
        most_frames: that a row has room for.
        seed: decides the order.

    Raises:
        ValueError: a record alone does not fit a row.
    """
    lengths, frames = np.asarray(lengths), np.asarray(frames)
    if lengths.max(initial=0) > length or frames.max(initial=0) > most_frames:
        raise ValueError(
            f"records need up to {lengths.max()} positions and {frames.max()} frames, but a row "
            f"has {length} and {most_frames}"
        )
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    least = int(lengths.min(initial=length))
    free: list[int] = []  # positions of each open row, the oldest first
    room: list[int] = []  # for frames
    inside: list[list[int]] = []  # its records
    closed: list[list[int]] = []

    def left(place: int) -> int:
        return min(free[place] * most_frames, room[place] * length)

    def close(place: int) -> None:
        del free[place], room[place]
        closed.append(inside.pop(place))

    # Plain lists: so few rows are looked through faster than NumPy could be called.
    needs = zip(order.tolist(), lengths[order].tolist(), frames[order].tolist(), strict=True)
    for record, positions, images in needs:
        for place in range(len(free)):
            if free[place] >= positions and room[place] >= images:
                break
        else:
            if len(free) == OPEN_ROWS:
                close(min(range(OPEN_ROWS), key=left))
            place = len(free)
            free.append(length)
            room.append(most_frames)
            inside.append([])
        free[place] -= positions
        room[place] -= images
        inside[place].append(record)
        if free[place] < least:
            close(place)
    closed += inside
    rows = [closed[k] for k in random.permutation(len(closed))]
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    records = np.fromiter((r for row in rows for r in row), np.int64, len(lengths))
    return PackedRows(records, np.concatenate([[0], np.cumsum(sizes)]))


def frames_of_rows(lengths: np.ndarray, frames: np.ndarray, length: int) -> int:
    """Frames that a row of `length` positions needs room for: what the records in it show on
    average and a little more, or what one record shows.

    So neither positions nor frames are padded much. Not more than a row can show, but a multiple of
    8, so that a row's devices can share them.

    Args:
        lengths, frames, length: as of pack_records; no length is 0.
    """
    average = length * np.sum(frames) / max(np.sum(lengths), 1)
    most = int(length * np.max(frames / lengths, initial=0))
    room = max(min(int(np.ceil(_SPARE * average)), most), int(np.max(frames, initial=0)))
    return room + -room % 8


def join_examples(
    examples: Sequence[Mapping[str, np.ndarray]],
    length: int,
    most_frames: int,
    tokens_per_frame: int,
) -> dict[str, np.ndarray]:
    """One row of several conversations; each counts its own visual tokens, the row all of them:

        tokens        a <img> <img> b    c <img> d       a <img> <img> b c <img> d 0
        visual_index -1   0     1  -1   -1   0  -1      -1   0     1  -1 -1   2 -1 -1
        segment                                          1   1     1   1  2   2  2  0

    Args:
        examples: of one conversation each, without padding: tokens, visual_index, role [l], and
            `visual` [n, D] or `frames` [f, H, W, 3] in the order in which they are shown.
        length: positions of the row.
        most_frames: that it has room for.
        tokens_per_frame: S.

    Returns:
        tokens, visual_index, role and segment [length], and visual [most_frames * S, D] or frames
        [most_frames, H, W, 3], padded with zeros (visual_index with -1).

    Raises:
        ValueError: they do not fit, or one begins with a generated token, which would be predicted
            from the conversation before it.
    """
    kind, most = "frames", most_frames
    if "visual" in examples[0]:
        kind, most = "visual", most_frames * tokens_per_frame
    images = np.concatenate([example[kind] for example in examples])
    total = sum(len(example["tokens"]) for example in examples)
    if total > length or len(images) > most:
        raise ValueError(f"{total} positions and {len(images)} {kind} do not fit {length}, {most}")
    if any(example["role"][0] == Role.GENERATED for example in examples):
        raise ValueError("a conversation begins with a generated token")
    joined = {name: np.zeros(length, np.int32) for name in ("tokens", "role", "segment")}
    joined["visual_index"] = np.full(length, -1, np.int32)
    start = seen = 0
    for number, example in enumerate(examples, 1):
        place, index = slice(start, start + len(example["tokens"])), example["visual_index"]
        joined["tokens"][place], joined["role"][place] = example["tokens"], example["role"]
        joined["visual_index"][place] = np.where(index >= 0, index + seen, -1)
        joined["segment"][place] = number
        start, seen = place.stop, seen + int(np.count_nonzero(index >= 0))
    padded = np.zeros((most, *images.shape[1:]), images.dtype)
    padded[: len(images)] = images
    return {**joined, kind: padded}
