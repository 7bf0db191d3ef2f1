"""Intervals: they leave out the truth no more often than they say, from the fewest rows on; pairing and weighting are what they claim."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from finetune.benchmark.intervals import (
    Interval,
    Statistic,
    change,
    estimate,
    interval_of,
    mean_of,
    mean_per_token,
    perplexity_of,
    ratio,
    statistics_of,
    t_quantile,
)
from finetune.benchmark.names import FEWEST_ROWS

TRIALS = 300
NOISE = 3.3  # percent: two and a half standard deviations of a share of 5 % over TRIALS


def normal(draw: np.random.Generator, rows: int) -> np.ndarray:
    return draw.normal(0, 0.2, rows)


def skewed(draw: np.random.Generator, rows: int) -> np.ndarray:
    """Most rows lose a little, a few gain a lot; the mean is 0."""
    return draw.exponential(1, rows) - 1


def of_answers(draw: np.random.Generator, rows: int) -> np.ndarray:
    """Two equally good models, whose answers are often worthless, sometimes perfect."""
    kind, between = draw.random((2, rows)), draw.beta(2, 3, (2, rows))
    scores = np.where(kind < 0.3, 0.0, np.where(kind > 0.85, 1.0, between))
    return scores[1] - scores[0]


def mostly_ties(draw: np.random.Generator, rows: int) -> np.ndarray:
    return draw.choice([-0.3, 0.0, 0.3], rows, p=[0.1, 0.8, 0.1])


@pytest.mark.parametrize("rows", [FEWEST_ROWS, 12, 20, 50])
@pytest.mark.parametrize("data", [normal, of_answers, mostly_ties])
def test_where_nothing_changed_a_verdict_is_as_rare_as_it_says(data, rows: int) -> None:
    draw = np.random.default_rng(rows)
    verdicts = [change("rougeL", mean_of(data(draw, rows)), mean_of(np.zeros(rows)))["verdict"] for _ in range(TRIALS)]
    assert 100 * np.mean([said != "no evidence" for said in verdicts]) <= 5 + NOISE


@pytest.mark.parametrize("rows", [FEWEST_ROWS, 12, 20, 50])
def test_a_few_rows_that_differ_much_from_the_others_do_not_mislead(rows: int) -> None:
    draw = np.random.default_rng(rows)
    wrong = [not low <= 0 <= high for low, high in (interval_of(skewed(draw, rows)[:, None], first) for _ in range(TRIALS))]
    assert 100 * np.mean(wrong) <= 5 + NOISE


@pytest.mark.parametrize("rows", [FEWEST_ROWS, 12, 20, 50, 150])
@pytest.mark.parametrize("truth", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_a_share_of_right_answers_holds_its_word_to_the_very_top(truth: float, rows: int) -> None:
    """Counted, not drawn: how likely each number of right answers is, and whether its interval leaves out the truth."""
    wrong = 0.0
    for right in range(rows + 1):
        found = estimate(statistics_of({"accuracy": [1.0] * right + [0.0] * (rows - right)})["accuracy"])
        assert found.low is not None
        assert found.high is not None
        wrong += math.comb(rows, right) * truth**right * (1 - truth) ** (rows - right) * (not found.low <= truth <= found.high)
    assert wrong < 0.06


def test_a_difference_that_each_row_has_is_no_chance_however_unlike_the_rows_are() -> None:
    before = [0.0, 0.0, 0.0, 0.0, 0.06, 0.0, 0.0, 0.08, 0.0, 0.0, 0.07, 0.07, 0.0]
    after = [0.42, 1.0, 0.42, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.42, 1.0, 1.0, 1.0]
    one, other = (statistics_of({"rougeL": each})["rougeL"] for each in (after, before))
    found, turned = change("rougeL", one, other), change("rougeL", other, one)
    assert (found["verdict"], turned["verdict"]) == ("better", "worse")
    assert found["low"] == pytest.approx(0.42), "the row that gained least"


@pytest.mark.parametrize("rows", [FEWEST_ROWS, 20, 50, 150])
def test_answers_that_became_right_decide_as_mcnemars_exact_test_does(rows: int) -> None:
    never = [0.0] * rows
    for changed in range(FEWEST_ROWS + 1):
        now = [1.0] * changed + never[changed:]
        by_chance = 2 * 0.5**changed  # that all of so many changes go one way
        said = "better" if by_chance < 0.05 else "no evidence"
        assert change("accuracy", *(statistics_of({"accuracy": each})["accuracy"] for each in (now, never)))["verdict"] == said
        copied = [statistics_of({"codes_copied": each, "codes": [1] * rows})["copied"] for each in (now, never)]
        assert change("copied", *copied)["verdict"] == said


@pytest.mark.parametrize(
    "per_row",
    [
        {"accuracy": [1.0] * 20},
        {"rougeL": [1.0] * 20},
        {"rougeL": [0.9] * 20},
        {"rougeL": [1.0] * 19 + [0.8]},
        {"codes_copied": [2] * 20, "codes": [2] * 20},
    ],
)
def test_twenty_perfect_answers_are_not_called_perfect_for_ever(per_row: dict[str, list[float]]) -> None:
    (score,) = statistics_of(per_row).values()
    found, kept = estimate(score), ratio(score, score)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value <= found.high <= 1.0
    assert 0.7 < found.low < 1.0, "of a fault in one row of ten, 20 rows show none in one case of eight"
    assert kept is not None
    assert kept.value == 1.0
    assert kept.low < 0.97 < 1.03 < kept.high
    same = change(next(iter(per_row)), score, score)
    assert (same["difference"], same["verdict"]) == (0.0, "no evidence")
    assert same["low"] < -0.03 < 0.03 < same["high"]


def test_an_interval_that_cannot_be_told_is_no_evidence() -> None:
    rows = mean_of([math.inf] + [1.0] * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert change("own_metric", rows, mean_of([0.5] * 10))["verdict"] == "no evidence"


def first(means: np.ndarray) -> np.ndarray:
    return means[..., 0]


@pytest.mark.parametrize("rows", range(1, FEWEST_ROWS))
def test_of_too_few_rows_nothing_is_said(rows: int) -> None:
    values = [0.1 * row for row in range(rows)]
    assert estimate(mean_of(values)) == Interval(pytest.approx(sum(values) / rows), None, None)
    found = change("rougeL", mean_of([9.0] * rows), mean_of([1.0] * rows))
    assert found == {"difference": 8.0, "low": None, "high": None, "verdict": "too few rows", "rows": rows}


def test_the_same_rows_give_the_same_interval_and_the_mean_is_exact() -> None:
    values = np.random.default_rng(3).random(20)
    assert estimate(mean_of(values)) == estimate(mean_of(values))
    assert estimate(mean_of(values)).value == pytest.approx(values.mean())


def test_an_interval_of_ordinary_rows_is_hardly_wider_than_students_t() -> None:
    values = np.random.default_rng(4).normal(5, 1, 40)
    found = estimate(mean_of(values))
    assert found.low is not None
    assert found.high is not None
    by_t = 2 * t_quantile(39) * values.std(ddof=1) / math.sqrt(40)
    assert by_t * 1.02 <= found.high - found.low <= 1.2 * by_t


@pytest.mark.parametrize(("freedom", "known"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (9, 2.2622), (30, 2.0423), (149, 1.9760)])
def test_quantiles_of_students_t_are_those_of_the_tables(freedom: int, known: float) -> None:
    assert t_quantile(freedom) == pytest.approx(known, abs=1e-4)


def test_perplexity_weighs_tokens_not_rows_and_its_ends_are_perplexities() -> None:
    losses, tokens = [10.0, 300.0, 30.0, 20.0] * 3, [10, 100, 10, 20] * 3
    found = estimate(perplexity_of(losses, tokens))
    assert found.value == pytest.approx(math.exp(360 / 140))
    assert found.low is not None
    assert found.high is not None
    assert 1 < found.low < found.value < found.high
    logged = estimate(mean_per_token(losses, tokens))
    assert [math.log(found.low), math.log(found.high)] == pytest.approx([logged.low, logged.high])


def test_a_constant_gain_is_certain_when_paired_though_the_rows_differ_widely() -> None:
    before = np.linspace(0, 1, 40)
    found = change("rougeL", mean_of(before + 0.05), mean_of(before))
    assert [found["low"], found["high"], found["verdict"]] == [pytest.approx(0.05), pytest.approx(0.05), "better"]


def test_a_change_of_perplexity_is_judged_by_its_logarithm_and_told_as_a_difference() -> None:
    tokens = [10] * 12
    before = [20.0 + row for row in range(12)]
    found = change("perplexity", perplexity_of([loss - 5 for loss in before], tokens), perplexity_of(before, tokens))
    then = math.exp(sum(before) / 120)
    assert found["difference"] == pytest.approx(then * (math.exp(-0.5) - 1))
    assert [found["low"], found["high"]] == pytest.approx([found["difference"]] * 2)
    assert found["verdict"] == "better"


def test_a_share_is_one_for_equal_sides_and_unknown_without_a_warning_for_an_empty_one() -> None:
    row = mean_of([0.2, 0.4, 0.1] * 4)
    assert ratio(row, row) == Interval(1.0, 1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ratio(mean_of([0.0] * 12), mean_of([0.0] * 12)) is None
        assert ratio(mean_of([1.0, 2.0] * 6), mean_of([0.0] * 12)) is None


@pytest.mark.parametrize(
    ("gains", "metric", "said"),
    [
        (0.1, "rougeL", "better"),
        (0.1, "perplexity", "worse"),
        (-0.1, "perplexity", "better"),
        (-0.1, "rougeL", "worse"),
        (0.0, "rougeL", "no evidence"),
        (0.001, "rougeL", "no evidence"),
    ],
)
def test_a_verdict_needs_an_interval_that_leaves_out_zero(gains: float, metric: str, said: str) -> None:
    before = np.linspace(0.2, 0.8, 20)
    after = before + gains + 0.05 * np.array([1, -1] * 10)
    assert change(metric, mean_of(after), mean_of(before))["verdict"] == said


def test_a_sure_difference_that_is_shown_as_nothing_is_no_evidence() -> None:
    before = np.linspace(1.0, 1.2, 20)
    for difference, said in ((-0.004, "no evidence"), (-0.006, "better")):
        after = before + difference + 1e-5 * np.array([1, -1] * 10)
        found = change("perplexity", mean_of(after), mean_of(before))
        assert found["high"] < 0
        assert found["verdict"] == said


def test_rows_without_a_token_say_nothing_and_do_not_count() -> None:
    found = statistics_of({"rougeL": [0.5] * 12, "codes_copied": [1, 0, 0] * 4, "codes": [2, 0, 0] * 4})
    assert found["copied"].rows == 4
    assert estimate(found["copied"]) == Interval(0.5, None, None), "four rows with codes are too few, however many rows there are"
    assert "copied" not in statistics_of({"codes_copied": [0] * 9, "codes": [0] * 9})


def test_no_interval_reaches_beyond_what_a_score_can_be() -> None:
    low = statistics_of({"rougeL": [0.0] * 9 + [0.4], "kl": [0.0] * 9 + [3.0], "loss": [0.0] * 9 + [3.0], "tokens": [5] * 10})
    assert [estimate(low[key]).low for key in ("rougeL", "kl", "perplexity")] == [0.0, 0.0, 1.0]
    assert estimate(statistics_of({"rougeL": [1.0] * 9 + [0.4]})["rougeL"]).high == 1.0
    broken = estimate(perplexity_of([6500.0 + 300 * row for row in range(8)], [10] * 8))
    assert broken.high is not None
    assert math.isfinite(broken.high)


@pytest.mark.parametrize("usual", [0.0, 0.5, 2 / 3, 1 / 7, 1000.1])  # some of them are no sums of powers of two
@pytest.mark.parametrize("rows", [8, 10, 12, 45])
def test_resamples_in_which_all_rows_are_alike_say_nothing(usual: float, rows: int) -> None:
    values = np.array([usual] * (rows - 1) + [usual - 0.1])
    low, high = interval_of(values[:, None], Statistic(values[:, None], first).of)
    assert usual - 0.1 < low < values.mean() < high < usual + 0.1
