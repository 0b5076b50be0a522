"""Leaks between splits: what a test shows that training has shown already."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from medscope_jax.rl.intervals import interval_iou
from medscope_jax.rl.words import normalize_answer
from tfds_builders.card.near_duplicates import Look, compare, last_alike
from tfds_builders.card.stats import CardRow

# Seconds shown before and after the evidence, when two pieces of evidence are compared.
_MARGIN = 10
# Seconds by which the ends of the same evidence may differ.
_SLACK = 1.0


@dataclasses.dataclass(frozen=True)
class Leak:
    """One thing that two splits share.

    Attributes:
      kind: "same video", "near-duplicate video" or "same question".
      first, second: "split: id" of what they share, a video's or a record's id.
      detail: how alike they are; "" where that says itself.
    """

    kind: str
    first: str
    second: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"leak, {self.kind}: {self.first} and {self.second}{detail}"


# (split, video id) -> what the video looks like.
Looks = Mapping[tuple[str, str], Look]


def find_leaks(rows: Sequence[CardRow], looks: Looks) -> list[Leak]:
    """All leaks between splits, each once: videos first, then questions about other videos."""
    return [
        *same_videos(rows, looks),
        *near_duplicates(looks),
        *same_questions(rows, looks),
    ]


def same_videos(rows: Iterable[CardRow], looks: Looks) -> Iterator[Leak]:
    """Video ids that occur in two splits, in records or among the frames."""
    splits = collections.defaultdict(set)
    for split, video in looks:
        splits[video].add(split)
    for row in rows:
        splits[row.video].add(row.split)
    for video, found in sorted(splits.items()):
        for a, b in itertools.combinations(sorted(found), 2):
            yield Leak("same video", f"{a}: {video}", f"{b}: {video}")


def near_duplicates(looks: Looks) -> Iterator[Leak]:
    """Videos of different ids and splits that look the same (see card_hash)."""
    # By duration: only neighbours can be copies.
    order = sorted(looks.items(), key=lambda item: (item[1].duration, item[0]))
    for i, ((split_a, video_a), look_a) in enumerate(order):
        for (split_b, video_b), look_b in order[i + 1 :]:
            if not last_alike(look_a, look_b):
                break
            if split_a == split_b or video_a == video_b:
                continue
            likeness = compare(look_a, look_b)
            if likeness.same:
                yield _pair(
                    "near-duplicate video", (split_a, video_a), (split_b, video_b), likeness.bits
                )


def _pair(kind: str, a: tuple[str, str], b: tuple[str, str], bits: float) -> Leak:
    first, second = (f"{split}: {name}" for split, name in sorted((a, b)))
    detail = "neither moves" if math.isnan(bits) else f"{100 * bits:.0f}% of bits differ"
    return Leak(kind, first, second, detail)


def same_questions(rows: Sequence[CardRow], looks: Looks) -> Iterator[Leak]:
    """Questions asked in two splits with the same answer about the same evidence.

    The same evidence: in one video, spans or moments that overlap by half or lie within a second;
    in videos of different ids, stretches that look the same. Questions in different videos without
    evidence, or whose evidence merely lies at the same time, are no leak.
    """
    asked: dict[tuple[str, str], list[CardRow]] = collections.defaultdict(list)
    for row in rows:
        asked[normalize_answer(row.question), _answer_key(row)].append(row)
    found = set()
    for group in asked.values():
        by_split = collections.defaultdict(dict)
        for row in group:
            # A question of several parts once.
            by_split[row.split].setdefault((row.video, row.spans, row.frame_time), row)
        for a, b in itertools.combinations(sorted(by_split), 2):
            for first, second in itertools.product(by_split[a].values(), by_split[b].values()):
                key = tuple(sorted((f"{a}: {first.id}", f"{b}: {second.id}")))
                detail = None if key in found else _same_evidence(first, second, looks)
                if detail is not None:
                    found.add(key)
                    yield Leak("same question", *key, detail)


def _answer_key(row: CardRow) -> str:
    """An answer to compare by: a time in a cut copy is another one, so times do not count."""
    return "" if row.task == "grounding" else normalize_answer(row.answer)


def _same_evidence(a: CardRow, b: CardRow, looks: Looks) -> str | None:
    """How the evidence of two rows is the same; None if it is not."""
    if a.video == b.video:
        return "one video, the same evidence" if _overlap(a, b) else None
    look_a, look_b = looks.get((a.split, a.video)), looks.get((b.split, b.video))
    stretch_a, stretch_b = _stretch(a), _stretch(b)
    if look_a is None or look_b is None or stretch_a is None or stretch_b is None:
        return None
    (start_a, end_a), (start_b, end_b) = stretch_a, stretch_b
    if abs((end_a - start_a) - (end_b - start_b)) > _SLACK:
        return None
    # As much around the evidence as both recordings have.
    before = math.floor(min(_MARGIN, start_a, start_b))
    after = math.floor(min(_MARGIN, a.duration - end_a, b.duration - end_b))
    length = before + math.ceil(end_a - start_a) + max(after, 0) + 1
    likeness = compare(
        look_a.part(round(start_a) - before, length), look_b.part(round(start_b) - before, length)
    )
    if not likeness.same:
        return None
    return "other videos whose evidence looks the same"


def _overlap(a: CardRow, b: CardRow) -> bool:
    if a.frame_time is not None and b.frame_time is not None:
        return abs(a.frame_time - b.frame_time) <= _SLACK
    if a.spans and b.spans:
        return interval_iou(a.spans, b.spans) >= 0.5
    return a.has_evidence == b.has_evidence


def _stretch(row: CardRow) -> tuple[float, float] | None:
    """First and last second of a row's evidence."""
    if row.frame_time is not None:
        return row.frame_time, row.frame_time
    return (row.spans[0][0], row.spans[-1][1]) if row.spans else None
