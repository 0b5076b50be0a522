"""Intervals: by hand, against a second implementation, and how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from medscope_jax.metrics.uncertainty import (
    bootstrap_difference,
    bootstrap_estimate,
    estimates,
    mean_estimate,
    paired_difference,
)


def mean_of(sums):
    return sums[:, 0] / sums[:, 1]


def test_a_mean_by_hand():
    """Sums of deviations by video of -0.5 and 0.5: error sqrt(2 * 0.5) / 4; t(1) is 12.7062."""
    found = mean_estimate([1.0, 2.0, 2.0, 2.0, math.nan], ["a", "a", "b", "b", "c"])
    assert (found.value, found.count, found.videos, found.missing) == (1.75, 4, 2, 1)
    assert found.high - found.value == pytest.approx(12.7062047 / 4)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def slow_interval(values, videos):
    """A cluster-robust interval as its formula is written, video by video and pair by pair."""
    kept = [(x, v) for x, v in zip(values, videos, strict=True) if not math.isnan(x)]
    mean = sum(x for x, _ in kept) / len(kept)
    total = sum(
        (x - mean) * (y - mean) for (x, v), (y, w) in itertools.product(kept, kept) if v == w
    )
    clusters = len({v for _, v in kept})
    error = math.sqrt(clusters / (clusters - 1) * total) / len(kept)
    return stats.t.interval(0.95, clusters - 1, mean, error)


def test_means_against_a_second_implementation():
    draw = np.random.default_rng(0)
    for _ in range(50):
        videos = draw.integers(0, 9, 40).tolist()
        values = draw.normal(size=40) + np.array(videos)
        values[draw.integers(0, 40, 5)] = math.nan
        found = mean_estimate(values, videos)
        assert (found.low, found.high) == pytest.approx(slow_interval(values, videos))
    # A question a video: the interval of every textbook.
    values = draw.normal(size=20)
    found = mean_estimate(values, range(20))
    expected = stats.t.interval(0.95, 19, values.mean(), values.std(ddof=1) / math.sqrt(20))
    assert (found.low, found.high) == pytest.approx(expected)


def test_shares_of_single_questions_are_wilsons():
    """With a question a video and many of them: scipy's, which has the normal's quantile."""
    values = [1.0] * 700 + [0.0] * 1300
    found = mean_estimate(values, range(2000))
    expected = stats.binomtest(700, 2000).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)
    certain = mean_estimate([1.0] * 20, range(20))
    assert certain.high == 1 and 0.8 < certain.low < 0.9
    never = mean_estimate([0.0] * 20, [i // 4 for i in range(20)])  # five videos
    assert never.low == 0 and 0.4 < never.high < 0.7


@pytest.mark.parametrize("kind", ["mean", "share"])
@pytest.mark.parametrize("videos", [12, 60])
def test_nineteen_of_twenty_intervals_hold_the_truth(kind, videos):
    """Also where questions of a video are alike and videos differ in size; naive ones do not."""
    draw = np.random.default_rng(1)
    held = naive = 0
    for _ in range(600):
        sizes = draw.integers(3, 9, videos)
        groups = np.repeat(np.arange(videos), sizes)
        if kind == "mean":
            values, truth = (
                draw.normal(0.4, 0.1, videos)[groups] + draw.normal(0, 0.1, len(groups)),
                0.4,
            )
        else:
            chances = draw.beta(3, 2, videos)
            values, truth = (draw.random(len(groups)) < chances[groups]).astype(float), 0.6
        found = mean_estimate(values, groups.tolist())
        held += found.low <= truth <= found.high
        alone = mean_estimate(values, range(len(values)))
        naive += alone.low <= truth <= alone.high
    assert 0.92 < held / 600 < 0.98
    assert naive < held - 20


def test_paired_differences():
    draw = np.random.default_rng(2)
    videos = np.repeat(np.arange(15), 4)
    first = draw.normal(size=15)[videos] + draw.normal(0, 0.1, 60)  # videos differ much ...
    second = first + 0.1 + draw.normal(0, 0.05, 60)  # ... and gains do not
    first[0], second[5] = math.nan, math.nan
    found = paired_difference(first, second, videos)
    gains = second - first
    assert (found.count, found.videos, found.missing) == (58, 15, 2)
    assert (found.low, found.high) == pytest.approx(slow_interval(gains, videos))
    assert found.low > 0.05 and found.p_value < 1e-6
    alone = stats.ttest_rel(second[1:5], first[1:5])
    single = paired_difference(first[1:5], second[1:5], range(4))
    assert single.p_value == pytest.approx(alone.pvalue)
    same = paired_difference([0, 1, 1], [0, 1, 1], "abc")
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="2 values of the first model, 3 of the second"):
        paired_difference([1, 2], [1, 2, 3], "ab")


def test_where_there_is_no_difference_one_p_value_in_twenty_is_small():
    draw = np.random.default_rng(3)
    videos, small = np.repeat(np.arange(20), 3), 0
    for _ in range(600):
        easy = draw.normal(size=20)[videos]
        gains = draw.normal(0, 0.3, 20)[videos] + draw.normal(0, 0.3, 60)
        small += paired_difference(easy, easy + gains, videos).p_value < 0.05
    assert 0.02 < small / 600 < 0.08


def test_the_bootstrap_of_a_mean_is_that_of_a_plain_loop():
    draw = np.random.default_rng(4)
    videos = draw.integers(0, 30, 120).tolist()
    values = draw.normal(size=120)
    rows = np.stack([values, np.ones(120)], axis=1)
    found = bootstrap_estimate(rows, videos, mean_of, seed=7)
    assert found.value == pytest.approx(values.mean())
    assert found == bootstrap_estimate(rows, videos, mean_of, seed=7)
    assert found != bootstrap_estimate(rows, videos, mean_of, seed=8)
    names, means = sorted(set(videos)), []
    for _ in range(2000):
        chosen = draw.choice(names, len(names))
        drawn = np.concatenate([values[np.array(videos) == name] for name in chosen])
        means.append(drawn.mean())
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.1 * width
    )
    robust = mean_estimate(values, videos)
    assert width == pytest.approx(robust.high - robust.low, rel=0.15)


def test_two_models_statistics_are_drawn_together():
    draw = np.random.default_rng(6)
    videos = np.repeat(np.arange(25), 4)
    first = draw.normal(size=25)[videos]
    second = first + 0.1 + draw.normal(0, 0.1, 100)
    rows = [np.stack([values, np.ones(100)], axis=1) for values in (first, second)]
    found = bootstrap_difference(*rows, videos, mean_of, seed=0)
    robust = paired_difference(first, second, videos)
    assert found.value == pytest.approx(robust.value) and found.videos == 25
    assert found.high - found.low == pytest.approx(robust.high - robust.low, rel=0.2)
    assert found.low > 0 and found.p_value == pytest.approx(2 / 2001)
    back = bootstrap_difference(*rows[::-1], videos, mean_of, seed=0)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    same = bootstrap_difference(rows[0], rows[0], videos, mean_of, seed=0)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="100 values of the first model, 99 of the second"):
        bootstrap_difference(rows[0], rows[1][1:], videos, mean_of, seed=0)


def test_nothing_and_a_single_video():
    for found in (mean_estimate([], []), bootstrap_estimate([], [], mean_of, seed=0)):
        assert math.isnan(found.value) and (found.count, found.videos) == (0, 0)
    assert math.isnan(paired_difference([math.nan], [1.0], "a").value)
    single = mean_estimate([0.2, 0.4], ["a", "a"])
    assert single.value == pytest.approx(0.3) and math.isnan(single.low) and single.videos == 1
    drawn = bootstrap_estimate([[1.0, 2.0]], ["a"], mean_of, seed=0)
    assert drawn.value == 0.5 and math.isnan(drawn.high)
    with pytest.raises(ValueError, match="2 questions but 1 videos"):
        mean_estimate([1.0, 2.0], ["a"])


def test_all_values_of_questions_by_group():
    rows = [{"iou": 0.2, "right": 1.0}, {"iou": 0.4}, {"iou": 1.0, "right": 0.0}]
    found = estimates(rows, "abc", ["short", "short", "long"])
    assert list(found) == ["short", "long"]
    assert found["short"]["iou"].value == pytest.approx(0.3)
    assert (found["short"]["right"].count, found["short"]["right"].missing) == (1, 1)
    assert found["long"]["right"].value == 0
    with pytest.raises(ValueError, match="3 questions, 3 videos, 2 groups"):
        estimates(rows, "abc", ["short", "long"])
