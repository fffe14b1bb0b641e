"""Win rates and mean differences against scipy, and against numbers worked out by hand."""

import math

import pytest

from seppo_core.errors import ConfigError
from seppo_core.evaluation.statistics import compare, comparison_line, t_cdf, t_quantile, wilson


@pytest.fixture(scope="module")
def stats():
    from scipy import stats

    return stats


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29, 100, 999, 5000])
def test_t_quantiles_are_scipys(stats, freedom):
    for probability in (0.5, 0.6, 0.9, 0.975, 0.9995):
        expected = stats.t.ppf(probability, freedom)
        assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    for t in (-3.0, -0.5, 0.0, 0.1, 2.0, 40.0):
        assert t_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (5, 5), (3, 10), (120, 200)])
def test_intervals_of_win_rates_are_scipys_wilson_intervals(stats, wins, count):
    expected = stats.binomtest(wins, count).proportion_ci(0.95, method="wilson")
    found = wilson(wins, count)
    assert found.value == wins / count
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ties_count_half():
    """Two wins, one loss, one tie of four: 2.5 / 4; differences 1, 2, -3, 0 have the mean 0."""
    found = compare([1.0, 1.0, 5.0, 2.0], [2.0, 3.0, 2.0, 2.0])
    assert (found.pairs, found.wins, found.ties) == (4, 2, 1)
    assert found.win_rate == wilson(2.5, 4)
    assert found.win_rate.value == 0.625
    assert found.difference.value == 0.0
    assert (found.first, found.second) == (2.25, 2.25)


def test_interval_of_the_mean_difference_is_the_paired_t_tests(stats):
    first, second = [0.1, 0.4, 0.35, 0.8, 0.2], [0.3, 0.3, 0.65, 1.0, 0.9]
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    found = compare(first, second).difference
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_single_pair_has_no_interval_of_the_mean():
    found = compare([1.0], [3.0])
    assert found.difference.value == 2.0
    assert (found.difference.low, found.difference.high) == (-math.inf, math.inf)
    assert "one pair gives no interval" in comparison_line("clip", found)


def test_equal_differences_have_an_interval_of_no_width():
    found = compare([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]).difference
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_summary_tells_rate_difference_and_both_means():
    text = comparison_line(
        "clip", compare([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 6.0]), "before", "after"
    )
    assert "clip: after wins 62.5% of 4 pairs" in text
    assert "1 ties counted half" in text
    assert "mean difference +0.5 " in text and "before 2.5, after 3" in text


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 2.0]), ([], [])])
def test_sides_of_different_counts_are_refused(first, second):
    with pytest.raises(ConfigError, match=f"{len(first)} scores cannot be compared with"):
        compare(first, second)
