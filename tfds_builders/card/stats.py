"""What a suite holds, in numbers: counts, and how its samples, windows and captions spread."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medscope_jax.rl.intervals import Span, merge_spans, total_length


@dataclasses.dataclass(frozen=True, slots=True)
class CardRow:
    """What the card needs of one record.

    Attributes:
      id, part, split, source, task, video, question, answer: as in the record; split is the one
        that it is stored in.
      options: choices of a multiple-choice question.
      spans: evidence in seconds, merged.
      frame_time: evidence that is a single moment, seconds; None where it is not.
      window: the clip shown, seconds; None for the whole video.
      duration: seconds of the video.
    """

    id: str
    part: str
    split: str
    source: str
    task: str
    video: str
    question: str
    answer: str
    options: tuple[str, ...]
    spans: tuple[Span, ...]
    frame_time: float | None
    window: Span | None
    duration: float

    @property
    def has_evidence(self) -> bool:
        """Whether a span or a moment of the video is named."""
        return bool(self.spans) or self.frame_time is not None


def make_row(record: Mapping[str, Any], split: str) -> CardRow:
    """The CardRow of a record (fields as tfds_builders.record.make_record has them)."""
    moment = float(record["evidence_time"])
    start, end = (float(value) for value in record["window"])
    return CardRow(
        **{name: record[name] for name in ("id", "part", "source", "task", "video")},
        split=split,
        question=record["question"],
        answer=record["answer"],
        options=tuple(record["options"]),
        spans=tuple(merge_spans(record["evidence"])),
        frame_time=moment if moment >= 0 else None,
        window=(start, end) if start >= 0 else None,
        duration=float(record["duration"]),
    )


@dataclasses.dataclass(frozen=True)
class Summary:
    """How some numbers spread; `values` keeps them for a plot."""

    values: tuple[float, ...]

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean; NaN for none."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def median(self) -> float:
        """Their median; NaN for none."""
        return statistics.median(self.values) if self.values else math.nan

    @property
    def most(self) -> float:
        """The largest; NaN for none."""
        return max(self.values, default=math.nan)


Summaries = dict[str, Summary]


def record_counts(rows: Iterable[CardRow]) -> dict[tuple[str, str, str, str], int]:
    """How many records each (part, split, task, source) has, sorted."""
    counts = collections.Counter((row.part, row.split, row.task, row.source) for row in rows)
    return dict(sorted(counts.items()))


def samples_per_video(rows: Iterable[CardRow]) -> Summaries:
    """By source: how many records (of all parts) a video has that has any."""
    counts = collections.Counter((row.source, row.video) for row in rows)
    return _by_source((source, count) for (source, _), count in counts.items())


def window_seconds(rows: Iterable[CardRow]) -> Summaries:
    """By source: seconds of evidence (the union of its spans) of each record that has spans."""
    return _by_source((row.source, total_length(row.spans)) for row in rows if row.spans)


def clip_seconds(rows: Iterable[CardRow]) -> Summaries:
    """By source: seconds of the clip of each record that shows one."""
    clips = ((row.source, row.window[1] - row.window[0]) for row in rows if row.window)
    return _by_source(clips)


def caption_words(rows: Iterable[CardRow]) -> Summaries:
    """By source: words of each caption (answers of the cap part), parted at white space."""
    return _by_source((row.source, len(row.answer.split())) for row in rows if row.part == "cap")


def evidence_share(rows: Iterable[CardRow]) -> Summaries:
    """By source: 1 for each record with evidence, 0 for each without; captions do not count."""
    return _by_source((row.source, row.has_evidence) for row in rows if row.part != "cap")


def evidence_coverage(rows: Iterable[CardRow]) -> Summaries:
    """By source: the share of each video's length that lies in some record's evidence spans.

    Videos with no spans at all count as 0.
    """
    spans: dict[tuple[str, str], list[Span]] = collections.defaultdict(list)
    durations: dict[tuple[str, str], float] = {}
    for row in rows:
        spans[row.source, row.video] += row.spans
        durations[row.source, row.video] = row.duration
    return _by_source(
        (source, total_length(spans[source, video]) / duration)
        for (source, video), duration in durations.items()
        if duration > 0
    )


def video_seconds(videos: Iterable[tuple[str, float]]) -> Summaries:
    """By source: seconds of each video, given as (source, duration)."""
    return _by_source(videos)


def _by_source(values: Iterable[tuple[str, float]]) -> Summaries:
    grouped: dict[str, list[float]] = collections.defaultdict(list)
    for source, value in values:
        grouped[source].append(float(value))
    return {source: Summary(tuple(grouped[source])) for source in sorted(grouped)}


def histogram(values: Sequence[float], bins: int = 24) -> tuple[list[float], list[int]]:
    """Edges [bins + 1] and counts [bins] over the values' range; the last bin holds its end."""
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / width))] += 1
    return [low + width * i for i in range(bins + 1)], counts
