"""How sure a number is: 95 % intervals with questions clustered by video, and paired differences.

Questions about one video rise and fall together, so videos, not questions, are what was sampled.

- A mean: its cluster-robust standard error and Student's t with one degree of freedom fewer than
  there are videos. A share (values 0 and 1) has Wilson's interval for as many independent questions
  as that error stands for: it stays within [0, 1], and 20 of 20 is not certain.
- Anything else of sums over questions (BLEU, METEOR): the percentile bootstrap over videos.

Questions without a value (NaN) are left out and counted.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import special

Group = TypeVar("Group", bound=Hashable)

LEVEL = 0.95
DRAWS = 2000
# The sums of each draw, [draws, columns], to a value of each, [draws].
Statistic = Callable[[np.ndarray], np.ndarray]
# What each question adds to the sums, [questions, columns]; NaN where it was not measured.
Rows = Sequence[Sequence[float]] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
      value: the mean or statistic; NaN where nothing was measured.
      low, high: ends of its 95 % interval; NaN where there is none, as with a single video.
      count: questions measured.
      videos: videos that they are of.
      missing: questions that have no value and are left out.
    """

    value: float
    low: float
    high: float
    count: int
    videos: int
    missing: int = 0


@dataclasses.dataclass(frozen=True)
class Difference:
    """The second model's mean minus the first's, on the questions that both have a value of.

    Attributes:
      value, low, high, count, videos: as in Estimate.
      p_value: of no difference, two-sided; NaN where there is no interval.
      missing: questions that at least one of them has no value of.
    """

    value: float
    low: float
    high: float
    p_value: float
    count: int
    videos: int
    missing: int = 0


def mean_estimate(values: Sequence[float], videos: Sequence[Hashable]) -> Estimate:
    """The mean of questions' values, with its interval.

    Args:
      values: one a question; NaN where it was not measured.
      videos: the video of each question.
    """
    known, groups, missing = _known(np.asarray(values, float)[:, None], videos)
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan, 0, 0, missing)
    measured, count = known[:, 0], len(known)
    mean, clusters = math.fsum(measured) / count, int(groups.max()) + 1
    low = high = math.nan
    if clusters > 1:
        error = _error(measured, groups)
        if set(measured.tolist()) <= {0.0, 1.0}:
            low, high = _wilson(mean, error, count, clusters)
        else:
            reach = _quantile(clusters) * error
            low, high = mean - reach, mean + reach
    return Estimate(mean, low, high, count, clusters, missing)


def estimates(
    rows: Sequence[Mapping[str, float]], videos: Sequence[Hashable], groups: Sequence[Group]
) -> dict[Group, dict[str, Estimate]]:
    """The mean of every value by group, such as a task, a source or a length, in order of coming.

    Args:
      rows: values of each question by name; a name that others of its group have and it lacks is
        missing there.
      videos, groups: of each question.

    Raises:
      ValueError: they are not as many.
    """
    if not len(rows) == len(videos) == len(groups):
        raise ValueError(f"{len(rows)} questions, {len(videos)} videos, {len(groups)} groups")
    found = {}
    for kind in dict.fromkeys(groups):
        places = [i for i, group in enumerate(groups) if group == kind]
        names = dict.fromkeys(name for i in places for name in rows[i])
        where = [videos[i] for i in places]
        found[kind] = {
            name: mean_estimate([rows[i].get(name, math.nan) for i in places], where)
            for name in names
        }
    return found


def paired_difference(
    first: Sequence[float], second: Sequence[float], videos: Sequence[Hashable]
) -> Difference:
    """How much better the second model is than the first, on the same questions.

    Args:
      first, second: the models' values of each question, in one order; NaN where not measured.
      videos: the video of each question.

    Raises:
      ValueError: they are not as many.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values of the first model, {len(second)} of the second")
    gained = np.asarray(second, float) - np.asarray(first, float)
    known, groups, missing = _known(gained[:, None], videos)
    if not len(known):
        return Difference(math.nan, math.nan, math.nan, math.nan, 0, 0, missing)
    values = known[:, 0]
    mean, clusters = math.fsum(values) / len(values), int(groups.max()) + 1
    low = high = p_value = math.nan
    if clusters > 1:
        error = _error(values, groups)
        reach = _quantile(clusters) * error
        low, high = mean - reach, mean + reach
        if error > 0:
            p_value = 2 * float(special.stdtr(clusters - 1, -abs(mean) / error))
        else:  # every video gained the same
            p_value = 1.0 if mean == 0 else 0.0
    return Difference(mean, low, high, p_value, len(values), clusters, missing)


def bootstrap_estimate(
    rows: Rows,
    videos: Sequence[Hashable],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
) -> Estimate:
    """A statistic of sums over questions, with its interval: videos are drawn with replacement.

    Args:
      rows, videos: of each question.
      statistic: sums [draws, columns] to values [draws].
      seed: of the draws; the same seed gives the same interval.
      draws: how many.
    """
    value, drawn, (count, clusters, missing) = _drawn(rows, videos, statistic, seed, draws)
    low, high = _ends(drawn)
    return Estimate(value, low, high, count, clusters, missing)


def bootstrap_difference(
    first: Rows,
    second: Rows,
    videos: Sequence[Hashable],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
) -> Difference:
    """How much larger a statistic of the second model is than the first's, on the same questions.

    Both are of the same drawn videos. The p-value is twice the share of draws on the other side of
    0, and no smaller than what so many draws can tell.

    Args:
      first, second: the models' rows of each question, as for bootstrap_estimate.
      videos, statistic, seed, draws: as there.

    Raises:
      ValueError: they are not as many.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values of the first model, {len(second)} of the second")
    both = [[*one, *other] for one, other in zip(first, second, strict=True)]

    def gain(sums: np.ndarray) -> np.ndarray:
        half = sums.shape[1] // 2
        old, new = np.split(statistic(np.vstack([sums[:, :half], sums[:, half:]])), 2)
        return new - old

    value, drawn, (count, clusters, missing) = _drawn(both, videos, gain, seed, draws)
    low, high = _ends(drawn)
    p_value = math.nan
    if len(drawn):
        fewer = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        p_value = min(1.0, 2 * fewer / (len(drawn) + 1))
    return Difference(value, low, high, p_value, count, clusters, missing)


def _drawn(
    rows: Rows,
    videos: Sequence[Hashable],
    statistic: Statistic,
    seed: int,
    draws: int,
) -> tuple[float, np.ndarray, tuple[int, int, int]]:
    """(the statistic of all, its values by draw, (questions, videos, missing ones))."""
    table = np.asarray(rows, float).reshape(len(rows), -1) if len(rows) else np.zeros((0, 1))
    known, groups, missing = _known(table, videos)
    if not len(known):
        return math.nan, np.zeros(0), (0, 0, missing)
    sums = _sums(known, groups)
    clusters = len(sums)
    shares = np.full(clusters, 1 / clusters)
    chosen = np.random.default_rng(seed).multinomial(clusters, shares, draws if clusters > 1 else 0)
    # In one call: a statistic may have to start a program.
    values = np.asarray(statistic(np.vstack([sums.sum(axis=0), chosen @ sums])), float)
    return float(values[0]), values[1:], (len(known), clusters, missing)


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    """The ends of the percentile interval; NaN of no draws."""
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _known(rows: np.ndarray, videos: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray, int]:
    """(rows without NaN, the number of each one's video, how many had NaN)."""
    if len(rows) != len(videos):
        raise ValueError(f"{len(rows)} questions but {len(videos)} videos")
    known = ~np.isnan(rows).any(axis=1)
    numbers: dict[Hashable, int] = {}
    kept = [video for video, is_known in zip(videos, known, strict=True) if is_known]
    groups = [numbers.setdefault(video, len(numbers)) for video in kept]
    return rows[known], np.array(groups, int), int((~known).sum())


def _sums(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of rows [questions, columns] by group, [groups, columns]."""
    sums = np.zeros((int(groups.max()) + 1, rows.shape[1]))
    np.add.at(sums, groups, rows)
    return sums


def _error(values: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of a mean whose values lie in groups; there are two groups or more."""
    off = _sums((values - values.mean())[:, None], groups)[:, 0]
    clusters = len(off)
    return float(np.sqrt(clusters / (clusters - 1) * (off**2).sum()) / len(values))


def _quantile(clusters: int) -> float:
    """How many standard errors an interval reaches to each side."""
    return float(special.stdtrit(clusters - 1, (1 + LEVEL) / 2))


def _wilson(share: float, error: float, count: float, clusters: int) -> tuple[float, float]:
    """Wilson's interval of a share of `count` questions with its standard error.

    They stand for no more independent ones than they are. Where all are right, or none, nothing
    says how alike those of a video are: a video counts as one.
    """
    if not 0 < share < 1:
        count = clusters
    elif error > 0:
        count = min(count, share * (1 - share) / error**2)
    z2 = _quantile(clusters) ** 2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = math.sqrt(z2 * share * (1 - share) / count + z2**2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)
