"""Intervals: they cover the truth as often as they say, and pairing and token weighting are what they claim."""

import math
import warnings

import numpy as np
import pytest

from finetune.benchmark.bootstrap import Interval, bootstrap, change, difference, mean_of, mean_per_token, perplexity_of, ratio, verdict


def test_an_interval_of_the_mean_covers_the_true_mean_about_95_times_in_100():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = bootstrap(mean_of(generator.normal(0.3, 0.2, size=50).tolist()), rows=50, seed=trial)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 198


def test_the_same_seed_gives_the_same_interval_and_the_mean_is_exact():
    values = [0.1, 0.4, 0.35, 0.8]
    assert bootstrap(mean_of(values), rows=4, seed=7) == bootstrap(mean_of(values), rows=4, seed=7)
    assert bootstrap(mean_of(values), rows=4, seed=7).value == pytest.approx(sum(values) / 4)


def test_perplexity_weighs_tokens_not_rows():
    losses, tokens = [10.0, 300.0], [10, 100]
    found = bootstrap(perplexity_of(losses, tokens), rows=2, seed=0)
    assert found.value == pytest.approx(math.exp(310 / 110))
    assert found.low == pytest.approx(math.exp(1.0))  # two rows: both draws the first row, or both the second
    assert found.high == pytest.approx(math.exp(3.0))


def test_a_constant_gain_is_certain_when_paired_though_the_rows_differ_widely():
    before = np.linspace(0, 1, 40)
    found = bootstrap(difference(mean_of(before + 0.05), mean_of(before)), rows=40, seed=0)
    assert found.low == pytest.approx(0.05)
    assert found.high == pytest.approx(0.05)


def test_a_ratio_is_one_for_equal_sides_and_undefined_without_a_warning_for_an_empty_one():
    row = mean_of([0.2, 0.4, 0.1])
    assert bootstrap(ratio(row, row), rows=3, seed=0) == Interval(1.0, 1.0, 1.0)
    assert math.isnan(bootstrap(ratio(mean_of([0.0, 0.0]), mean_of([0.0, 0.0])), rows=2, seed=0).value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap(ratio(mean_of([1.0, 2.0]), mean_of([0.0, 0.0])), rows=2, seed=0).value == math.inf


@pytest.mark.parametrize(
    ("interval", "rows", "lower_is_better", "said"),
    [
        (Interval(0.1, 0.05, 0.2), 50, False, "better"),
        (Interval(0.1, 0.05, 0.2), 50, True, "worse"),
        (Interval(-4.0, -6.0, -1.0), 50, True, "better"),
        (Interval(-0.1, -0.2, -0.05), 50, False, "worse"),
        (Interval(0.1, -0.01, 0.2), 50, False, "no evidence"),
        (Interval(0.1, 0.0, 0.2), 50, False, "no evidence"),
        (Interval(0.1, 0.05, 0.2), 5, False, "no evidence"),
    ],
)
def test_the_verdict_needs_an_interval_that_leaves_out_zero_and_six_rows(interval, rows, lower_is_better, said):
    assert verdict(interval, rows, lower_is_better) == said


def test_noise_alone_is_rarely_called_a_change():
    generator = np.random.default_rng(1)
    alarms = 0
    for trial in range(200):
        before, after = generator.normal(size=(2, 50))
        alarms += change(mean_of(after), mean_of(before), rows=50, seed=trial, lower_is_better=False)["verdict"] != "no evidence"
    assert alarms <= 24


def test_mean_per_token_is_the_ratio_of_sums():
    assert bootstrap(mean_per_token([1.0, 5.0], [1, 9]), rows=2, seed=0).value == pytest.approx(0.6)
