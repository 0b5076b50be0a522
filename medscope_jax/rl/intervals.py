"""Unions of time intervals: merging, overlap and reading "[start, end]" from text (seconds)."""

import math
import re
from collections.abc import Iterable, Sequence

Span = tuple[float, float]

# Digits and spaces are bounded: long enough for any video, short enough to stay finite and to keep
# the search linear on hostile text.
CLOCK = r"(?:\d{1,3}:[0-5]\d|\d{1,4}):[0-5]\d(?:\.\d{0,12})?"  # mm:ss or hh:mm:ss
_TIME = rf"({CLOCK}|[-+]?\d{{1,12}}(?:\.\d{{0,12}})?)\s{{0,4}}s?\s{{0,4}}"
_INTERVAL = re.compile(
    rf"\[\s{{0,4}}{_TIME}(?:,|[-\u2013\u2014]|to)\s{{0,4}}{_TIME}\]"
    rf"|(?<![\d:.])({CLOCK})\s{{0,4}}(?:[-\u2013\u2014]|to)\s{{0,4}}({CLOCK})(?![\d:])"
)


def merge_spans(spans: Iterable[Sequence[float]]) -> list[Span]:
    """Sorts spans and joins those that overlap or touch; spans without length vanish.

        [(5, 8), (1, 3), (2, 4)] -> [(1, 4), (5, 8)]

    Raises ValueError for a span that is not finite or that ends before it starts.
    """
    merged: list[Span] = []
    for start, end in sorted((float(start), float(end)) for start, end in spans):
        if not (math.isfinite(start) and math.isfinite(end)) or end < start:
            raise ValueError(f"span [{start}, {end}] must be finite and end after it starts")
        if end == start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def total_length(spans: Iterable[Sequence[float]]) -> float:
    """Seconds covered by the union of the spans."""
    return math.fsum(end - start for start, end in merge_spans(spans))


def interval_iou(spans_a: Iterable[Sequence[float]], spans_b: Iterable[Sequence[float]]) -> float:
    """Intersection over union of two unions of intervals, in [0, 1]; 0 if either is empty."""
    merged_a, merged_b = merge_spans(spans_a), merge_spans(spans_b)
    if not merged_a or not merged_b:
        return 0.0
    overlaps = []
    i = j = 0
    while i < len(merged_a) and j < len(merged_b):
        overlap = min(merged_a[i][1], merged_b[j][1]) - max(merged_a[i][0], merged_b[j][0])
        if overlap > 0:
            overlaps.append(overlap)
        # The interval that ends first cannot meet anything further on.
        if merged_a[i][1] <= merged_b[j][1]:
            i += 1
        else:
            j += 1
    intersection = math.fsum(overlaps)
    union = total_length(merged_a) + total_length(merged_b) - intersection
    return min(1.0, intersection / union)


def clock_seconds(text: str) -> float:
    """Seconds of "75.5", "01:15.5" or "00:01:15.5"; ValueError where a part is no number."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def parse_intervals(text: str) -> list[Span]:
    """Every "[start, end]" in the text with end > start, in order of appearance.

    Accepted spellings: "[30.0, 42.0]", "[30 - 42]", "[30s to 42s]", "[01:05, 01:10]", and of
    clock times (mm:ss, hh:mm:ss) also "01:05 - 01:10". Anything else gives [].
    """
    ends = (
        match.group(1, 2) if match[1] else match.group(3, 4) for match in _INTERVAL.finditer(text)
    )
    found = ((clock_seconds(start), clock_seconds(end)) for start, end in ends)
    return [(start, end) for start, end in found if end > start]
