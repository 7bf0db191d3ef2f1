"""How certain a score is: the one place from which every interval and every verdict comes.

    rouge = mean_of(before_rows)
    estimate(rouge)                                            # Interval(value=0.31, low=0.26, high=0.36)
    change("rougeL", mean_of(after_rows), rouge)  # paired: {"difference": 0.15, ..., "verdict": "better"}

A statistic is a function of the means of columns with one line per row, so the same code serves means, perplexities, their differences
and their ratios. What a row contributes is found by leaving it out (jackknife pseudo-values); of these, the interval reaches from the
lower to the higher end of Student's t and of the bootstrap-t, and a share of 1 / rows further. Either alone is wrong too often: the first
where a few rows differ much from the others, the second where rows are of very different lengths or many are alike, and both where rows are
few. Of answers that are right or wrong neither knows what it has not seen: twenty right answers of twenty do not make a model that is never
wrong. There, and where a score from 0 to 1 is the same in all rows, a few rows of both kinds are added, and Student's t is enough.

Rows of one group (answers to one prompt, turns of one conversation, blocks of one text) are no independent evidence: a whole group is left
out, and drawn, at a time. Where groups are of different sizes, as many are counted as groups of one size would be as certain (Kish).
benchmarks/coverage.py counts how often, for these and for other ways.

Sources: Tukey (1958), Bias and confidence in not-quite large samples; Efron and Tibshirani (1993), An Introduction to the Bootstrap, 12.5;
Kish (1965), Survey Sampling (the effect of a design); Agresti and Coull (1998), Approximate is better than "exact" for interval estimation
of binomial proportions; Bonett and Price (2012), Adjusted Wald confidence interval for a difference of binomial proportions based on
paired data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np

from finetune.benchmark.groups import Floats, Groups, as_numbers, by_group
from finetune.benchmark.names import COUNTED, FEWEST_ROWS, GROUP, LOWER_IS_BETTER, PERCENT, is_task, number

CONFIDENCE = 0.95
RESAMPLES = 2000
MOST_NATS = 700.0  # exp of more is no number
RESAMPLED = 1000  # rows; with more, the two agree
SEED = 0  # of the resamples: the same rows give the same interval, whatever the run's seed
QUOTIENTS = {  # sums over a row, and of what
    "kl": ("kl", "tokens"),
    "agreement": ("agreed", "tokens"),
    "copied": ("codes_copied", "codes"),
    "last_number": ("numbers_right", "numbers"),
    "json_fields": ("fields_right", "fields"),
}
ROW_SUMS = ("loss", *dict.fromkeys(name for pair in QUOTIENTS.values() for name in pair))

Verdict = Literal["better", "worse", "no evidence", "too few rows"]


@dataclass(frozen=True)
class Statistic:
    """`of` the means [..., k] of `columns` [rows, k] is the score; it is shown as `shown` of that, which rises with it.

    No model can have less than `least` or more than `most`, and so no interval reaches beyond. `counted` are shares of what is
    right or wrong. `groups` has a number for each row, the same for rows that belong together; None where each is independent.
    """

    columns: Floats
    of: Callable[[Floats], Floats]
    shown: Callable[[float], float] = float
    least: float = -math.inf
    most: float = math.inf
    counted: bool = False
    groups: Groups | None = None

    @property
    def rows(self) -> int:
        return len(self.columns)

    @property
    def independent(self) -> int:
        """How many rows or groups of rows there are."""
        return self.rows if self.groups is None else len(np.unique(self.groups))

    @property
    def right_and_wrong(self) -> tuple[Floats, Floats]:
        """A row [k] that is all right, and one that is all wrong, of a score from 0 to 1."""
        right, wrong = self.columns.mean(0), self.columns.mean(0)
        right[0], wrong[0] = self._of.mean(), 0.0
        return right, wrong

    @property
    def all_or_nothing(self) -> bool:
        """Whether rows are right or wrong, or happen to be: then some of either kind may only not have been seen."""
        return self.counted or (self.bounded and bool(np.isin(self.columns[:, 0] / self._of, (0.0, 1.0)).all()))

    @property
    def all_alike(self) -> bool:
        return self.bounded and len(np.unique(self.columns[:, 0] / self._of)) == 1

    @property
    def bounded(self) -> bool:
        return (self.least, self.most) == (0.0, 1.0)

    @property
    def _of(self) -> Floats:
        """What each row has at most."""
        return self.columns[:, 1] if self.columns.shape[1] > 1 else np.ones(self.rows)

    @property
    def raw(self) -> float:
        return float(self.of(self.columns.mean(0)))


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % confidence interval; the ends are None where there are too few rows for one."""

    value: float
    low: float | None
    high: float | None


def estimate(statistic: Statistic) -> Interval:
    """The score with its interval."""
    if statistic.independent < FEWEST_ROWS:
        return Interval(statistic.shown(statistic.raw), None, None)
    unseen = 2 * statistic.right_and_wrong if statistic.all_or_nothing or statistic.all_alike else ()
    low, high = map(statistic.shown, interval_of(statistic.columns, statistic.of, unseen, statistic.groups))
    return Interval(statistic.shown(statistic.raw), max(low, statistic.least), min(high, statistic.most))


def change(metric: str, after: Statistic, before: Statistic) -> dict[str, Any]:
    """{"difference", "low", "high", "verdict"} of after - before on the same rows.

    Of too few rows `low` and `high` are None, and "rows" says how many there are; those of one group count as one.

    A difference that is shown as nothing is no evidence of one, however sure it is. Of scores that are shown on another scale the ends are
    those of the change, taken from `before` as it is.
    """
    rows, start = min(after.independent, before.independent), before.raw
    value = after.shown(after.raw) - before.shown(start)
    if rows < FEWEST_ROWS:
        return {"difference": value, "low": None, "high": None, "verdict": "too few rows", "rows": rows}
    ends = interval_of(*_beside(after, before, np.subtract), difference=True)
    low, high = (before.shown(start + end) - before.shown(start) for end in ends)
    most = after.most - after.least
    low, high = max(low, -most), min(high, most)
    return {"difference": value, "low": low, "high": high, "verdict": _verdict(metric, value, low, high)}


def ratio(part: Statistic, whole: Statistic) -> Interval | None:
    """`part / whole` on the same rows; None where the whole is 0, or may be."""
    if not whole.raw:
        return None
    value = part.raw / whole.raw
    if min(part.independent, whole.independent) < FEWEST_ROWS:
        return Interval(value, None, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = interval_of(*_beside(part, whole, np.divide))
    return Interval(value, max(low, 0.0), high) if np.isfinite([low, high]).all() else None


def _verdict(metric: str, difference: float, low: float, high: float) -> Verdict:
    if not (low > 0 or high < 0) or number(metric, abs(difference)) == number(metric, 0.0):
        return "no evidence"
    return "better" if (high < 0) == (metric in LOWER_IS_BETTER) else "worse"


def interval_of(
    columns: Floats,
    of: Callable[[Floats], Floats],
    unseen: Sequence[Floats] = (),
    groups: Groups | None = None,
    *,
    difference: bool = False,
) -> tuple[float, float]:
    """The ends of the 95 % interval of `of` the means of `columns` [rows, k]; `unseen` rows are added where these may only be missing.

    `groups` has a number for each row; rows of the same number are left out and drawn together. Of a `difference` that is above nothing in
    each row, or below, the interval leaves out nothing too: of 8 rows all say the same by chance once in 128 times.
    """
    sums, sizes = by_group(columns, groups)
    if unseen:
        size = _effect(columns, of, sums, sizes) if groups is not None else 1.0
        sums, sizes = np.vstack([sums, *(size * row for row in unseen)]), np.append(sizes, [size] * len(unseen))
    whole, each = _pseudo_values(sums, sizes, of)
    if not np.isfinite(each).all():  # a quotient by nothing
        return math.nan, math.nan
    error = float(each.std(ddof=1)) / math.sqrt(len(each))
    if error <= 1e-12 * abs(whole):  # all rows say the same
        return whole, whole
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())  # groups of one size that would be as certain
    half = t_quantile(max(1, int(effective) - 1))
    if unseen:
        return whole - half * error, whole + half * error
    least, most = _scaled(each) if len(each) <= RESAMPLED else (-half, half)
    error *= 1 + 1 / effective
    low, high = whole - max(half, most) * error, whole + max(half, -least) * error
    least, most = float(each.min()), float(each.max())
    return (max(low, least) if difference and least > 0 else low), (min(high, most) if difference and most < 0 else high)


def _pseudo_values(sums: Floats, sizes: Floats, of: Callable[[Floats], Floats]) -> tuple[float, Floats]:
    """The number, and what each row or group contributes to it: found by leaving it out."""
    many, total, rows = len(sums), sums.sum(0), sizes.sum()
    whole = float(of(total / rows))
    return whole, many * whole - (many - 1) * of((total - sums) / (rows - sizes)[:, None])


def _effect(columns: Floats, of: Callable[[Floats], Floats], sums: Floats, sizes: Floats) -> float:
    """How many rows of these groups are worth one independent row, from 1 to a whole group; a whole one where all rows say the same."""
    errors = []
    for each in (_pseudo_values(sums, sizes, of)[1], _pseudo_values(columns, np.ones(len(columns)), of)[1]):
        errors.append(float(each.var(ddof=1)) / len(each))
    most = float(sizes.mean())
    return min(max(errors[0] / errors[1], 1.0), most) if min(errors) > 0 else most


def _scaled(each: Floats) -> tuple[float, float]:
    """Quantiles of (mean - true mean) / error over resamples of rows."""
    rows = len(each)
    weights = _resamples(rows)
    off = each - each.mean()
    means = weights @ off / rows
    squares = np.einsum("rk,rk->r", weights, (off - means[:, None]) ** 2)  # not a difference of squares, which rounding fills
    errors = np.sqrt(squares / (rows * (rows - 1)))
    known = errors > 1e-9 * each.std()  # a resample of rows that are all alike has no error of its own, and says nothing
    scaled = means[known] / errors[known]
    least, most = np.quantile(scaled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(least), float(most)


@lru_cache(maxsize=2)
def _resamples(rows: int) -> Floats:
    """How often each row is in each resample."""
    return np.random.default_rng(SEED).multinomial(rows, [1 / rows] * rows, size=RESAMPLES).astype(np.float64)


@cache
def t_quantile(freedom: int) -> float:
    """The number that |t| exceeds with a probability of 5 % (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    low, high = 0.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < CONFIDENCE else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """The probability that Student's t is between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    terms = [term]
    for power in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (power - 1) / power
        terms.append(term)
    if not odd:
        return sine * sum(terms)
    return 2 / math.pi * (angle + (sine * sum(terms) if freedom > 1 else 0.0))


def mean_of(values: Sequence[float], groups: Sequence[int] | None = None) -> Statistic:
    """The mean over rows."""
    return Statistic(np.asarray(values, dtype=np.float64)[:, None], lambda means: means[..., 0], groups=as_numbers(groups))


def mean_per_token(sums: Sequence[float], tokens: Sequence[int], groups: Sequence[int] | None = None) -> Statistic:
    """Row sums over row tokens: every token has the same weight, however long its row is; rows without a token say nothing."""
    columns = np.stack([np.asarray(sums, dtype=np.float64), np.asarray(tokens, dtype=np.float64)], -1)
    some, of = columns[:, 1] > 0, as_numbers(groups)
    return Statistic(columns[some], _per_token, groups=None if of is None else of[some])


def perplexity_of(losses: Sequence[float], tokens: Sequence[int], groups: Sequence[int] | None = None) -> Statistic:
    """exp of the mean loss per token; `losses` are row sums of negative log-likelihoods in nats."""
    return replace(mean_per_token(losses, tokens, groups), shown=lambda nats: math.exp(min(nats, MOST_NATS)), least=1.0)


def _per_token(means: Floats) -> Floats:
    quotient: Floats = means[..., 0] / means[..., 1]
    return quotient


def statistics_of(per_row: Mapping[str, Sequence[Any]]) -> dict[str, Statistic]:
    """The scores that have a value for each row, by name; `per_row` is that of benchmark.json."""
    groups = per_row.get(GROUP)  # of the held-out rows; a task has rows of its own
    found = {key: mean_of(values, None if is_task(key) else groups) for key, values in per_row.items() if key not in (*ROW_SUMS, GROUP)}
    if "loss" in per_row:
        found["perplexity"] = perplexity_of(per_row["loss"], per_row["tokens"], groups)
    for key, (sums, counts) in QUOTIENTS.items():
        if sums in per_row:
            found[key] = mean_per_token(per_row[sums], per_row[counts], groups)
    of_right = [key for key in found if is_task(key) and set(per_row[key]) <= {0, 1}]
    shares = [key for key in found if key.startswith("rouge") or key in PERCENT or key in of_right]
    found |= {key: replace(found[key], least=0.0, most=1.0, counted=key in (*COUNTED, *of_right)) for key in shares}
    found |= {key: replace(found[key], least=0.0) for key in found if key == "kl"}
    return {key: statistic for key, statistic in found.items() if statistic.rows}


def _beside(
    one: Statistic, other: Statistic, joined: Callable[[Floats, Floats], Floats]
) -> tuple[Floats, Callable[[Floats], Floats], list[Floats], Groups | None]:
    """The columns of two statistics of the same rows, `joined` of the two, rows of which only one is right, and the rows' groups.

    There are such rows where none may have been seen: of answers that are right or wrong, and where the two are alike in every row.
    """
    split, unseen = one.columns.shape[1], []
    alike = one.bounded and np.array_equal(one.columns, other.columns)
    if alike or (one.all_or_nothing and other.all_or_nothing):
        (right, wrong), (their_right, their_wrong) = one.right_and_wrong, other.right_and_wrong
        unseen = [np.concatenate([right, their_wrong]), np.concatenate([wrong, their_right])]
    groups = one.groups if one.groups is not None else other.groups  # a run of an older version does not say them

    def both(means: Floats) -> Floats:
        return joined(one.of(means[..., :split]), other.of(means[..., split:]))

    return np.hstack([one.columns, other.columns]), both, unseen, groups
