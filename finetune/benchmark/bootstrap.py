"""How certain a score is: percentile bootstrap over held-out rows.

    rouge = mean_of(before_rows)
    bootstrap(rouge, rows=50, seed=42)                                   # Interval(value=0.31, low=0.27, high=0.36)
    bootstrap(difference(mean_of(after_rows), rouge), rows=50, seed=42)  # paired: both sides see the same resampled rows

A statistic is a function from an array of row numbers [..., rows] to values [...]; so the same code resamples means, perplexities,
their differences and their ratios. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_ROWS = 6  # all of 5 rows agreeing has probability 2 * 0.5**5 = 6 % by chance: below 6 rows nothing is evidence at 95 %
ROW_SUMS = ("loss", "tokens", "kl", "agreed")  # of a row's tokens

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
Verdict = Literal["better", "worse", "no evidence"]


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(statistic: Statistic, *, rows: int, seed: int) -> Interval:
    """The statistic on all rows, with the 2.5th and 97.5th percentile of its values on resampled rows."""
    generator = np.random.default_rng(seed)
    values = statistic(generator.integers(0, rows, size=(RESAMPLES, rows)))
    with np.errstate(invalid="ignore"):  # between two infinite shares
        low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(statistic(np.arange(rows))), float(low), float(high))


def mean_of(values: Sequence[float]) -> Statistic:
    """The mean over rows."""
    array = np.asarray(values, dtype=np.float64)
    return lambda index: array[index].mean(axis=-1)


def mean_per_token(sums: Sequence[float], tokens: Sequence[int]) -> Statistic:
    """Row sums over row tokens: every token has the same weight, however long its row is."""
    totals, counts = np.asarray(sums, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    return lambda index: totals[index].sum(axis=-1) / counts[index].sum(axis=-1)


def perplexity_of(losses: Sequence[float], tokens: Sequence[int]) -> Statistic:
    """exp of the mean loss per token; `losses` are row sums of negative log-likelihoods in nats."""
    mean = mean_per_token(losses, tokens)
    return lambda index: np.exp(mean(index))


def statistics_of(per_row: Mapping[str, Sequence[Any]]) -> dict[str, Statistic]:
    """The scores that can be resampled row by row, by name; `per_row` is that of benchmark.json."""
    found = {key: mean_of(values) for key, values in per_row.items() if key not in ROW_SUMS}
    if "loss" in per_row:
        found["perplexity"] = perplexity_of(per_row["loss"], per_row["tokens"])
    for key, sums in (("kl", "kl"), ("agreement", "agreed")):
        if sums in per_row:
            found[key] = mean_per_token(per_row[sums], per_row["tokens"])
    return found


def difference(after: Statistic, before: Statistic) -> Statistic:
    return lambda index: after(index) - before(index)


def ratio(part: Statistic, whole: Statistic) -> Statistic:
    """`part / whole`; infinite or NaN where the whole is 0."""

    def divide(index: NDArray[np.int64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return part(index) / whole(index)

    return divide


def change(after: Statistic, before: Statistic, *, rows: int, seed: int, lower_is_better: bool) -> dict[str, Any]:
    """{"difference", "low", "high", "verdict"} of after - before on the same rows."""
    found = bootstrap(difference(after, before), rows=rows, seed=seed)
    return {"difference": found.value, "low": found.low, "high": found.high, "verdict": verdict(found, rows, lower_is_better)}


def verdict(found: Interval, rows: int, lower_is_better: bool) -> Verdict:
    """Whether an interval of differences excludes 0, and on which side."""
    if rows < FEWEST_ROWS or found.low <= 0 <= found.high:
        return "no evidence"
    return "better" if (found.value < 0) == lower_is_better else "worse"
