"""How often is an interval wrong? Ways to make a 95 % interval from few rows, on data whose truth is known.

    python benchmarks/coverage.py                      # the table of docs/log.md: a few seconds
    python benchmarks/coverage.py --trials 5000 --rows 8 10

Each cell is the share of trials, in percent, whose interval leaves out the truth: 5 is what "95 %" promises. Where the truth is "no
difference", this is how often a run would be called better or worse although nothing changed. `here` is what the benchmark uses.

The last two tables are of rows that belong together, in groups of 1, 2, 4 and 9, such as answers to one prompt: with each row for itself,
and `here`. Their columns are numbers of groups.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.benchmark.intervals import interval_of, t_quantile

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
ROWS = (4, 6, 8, 10, 12, 20, 50, 150)
GROUPS, SIZES = (8, 12, 20, 50), (1, 2, 4, 9)
RESAMPLES = 2000
ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Case:
    """Columns [trials, rows, k]; `of` their means [..., k] is the number to estimate, and `truth` what it really is."""

    columns: Floats
    of: Callable[[Floats], Floats]
    truth: float
    unseen: Sequence[Floats] = ()  # rows that are added where rows are right or wrong


def first(means: Floats) -> Floats:
    return means[..., 0]


def quotient(means: Floats) -> Floats:
    return means[..., 0] / means[..., 1]


# The data.


def normal(draw: np.random.Generator, trials: int, rows: int) -> Case:
    return Case(draw.normal(0, 0.2, (trials, rows, 1)), first, 0.0)


def skewed(draw: np.random.Generator, trials: int, rows: int) -> Case:
    """Most rows lose a little, a few gain a lot."""
    return Case(draw.exponential(1, (trials, rows, 1)) - 1, first, 0.0)


def long_tailed(draw: np.random.Generator, trials: int, rows: int) -> Case:
    return Case(draw.lognormal(0, 0.75, (trials, rows, 1)) - np.exp(0.75**2 / 2), first, 0.0)


def rouge_of(draw: np.random.Generator, trials: int, rows: int) -> Floats:
    """Scores of answers: a third nothing in common with the reference, some perfect, the others between."""
    kind = draw.random((trials, rows))
    return np.where(kind < 0.3, 0.0, np.where(kind > 0.85, 1.0, draw.beta(2, 3, (trials, rows))))


def rouge(draw: np.random.Generator, trials: int, rows: int) -> Case:
    return Case((rouge_of(draw, trials, rows) - rouge_of(draw, trials, rows))[..., None], first, 0.0)


def all_or_nothing(draw: np.random.Generator, trials: int, rows: int) -> Case:
    """Before, every answer is half right; after, four in ten are perfect and the others worthless."""
    after, before = draw.random((trials, rows)) < 0.4, draw.beta(2, 3, (trials, rows))
    return Case((after - before)[..., None], first, 0.0)


def ties(draw: np.random.Generator, trials: int, rows: int) -> Case:
    """Eight answers in ten are the same as before."""
    return Case(draw.choice(np.array([-0.3, 0.0, 0.3]), (trials, rows, 1), p=[0.1, 0.8, 0.1]), first, 0.0)


def losses_of(draw: np.random.Generator, trials: int, rows: int) -> tuple[Floats, Floats, Floats]:
    """Tokens of rows of very different lengths, and of two equally good models each row's mean loss."""
    tokens = np.ceil(draw.lognormal(3, 0.7, (trials, rows)))
    hard = draw.gamma(3, 1, (trials, rows))
    return tokens, hard * draw.lognormal(0, 0.3, (trials, rows)), hard * draw.lognormal(0, 0.3, (trials, rows))


def perplexities(draw: np.random.Generator, trials: int, rows: int) -> Case:
    tokens, one, other = losses_of(draw, trials, rows)
    return Case(np.stack([tokens * (one - other), tokens], -1), quotient, 0.0)


def a_perplexity(draw: np.random.Generator, trials: int, rows: int) -> Case:
    tokens, one, _ = losses_of(draw, trials, rows)
    return Case(np.stack([tokens * one, tokens], -1), quotient, 3 * float(np.exp(0.3**2 / 2)))


def a_divergence(draw: np.random.Generator, trials: int, rows: int) -> Case:
    """KL to a teacher per token, of rows of very different lengths and, in two of three, up to ten times the KL of others."""
    tokens, spread = np.ceil(draw.lognormal(3, 0.7, (trials, rows))), 0.6
    return Case(np.stack([tokens * draw.lognormal(0, spread, (trials, rows)), tokens], -1), quotient, float(np.exp(spread**2 / 2)))


def a_rouge(draw: np.random.Generator, trials: int, rows: int) -> Case:
    return Case(rouge_of(draw, trials, rows)[..., None], first, 0.55 * 0.4 + 0.15)


def retention(draw: np.random.Generator, trials: int, rows: int) -> Case:
    """A student that keeps 80 % of its teacher, and is better on some rows."""
    theirs = draw.beta(2, 3, (trials, rows))
    return Case(np.stack([theirs * 0.8 * draw.lognormal(-0.08, 0.4, (trials, rows)), theirs], -1), quotient, 0.8)


def right_answers(draw: np.random.Generator, trials: int, rows: int) -> Case:
    """Each answer is right or wrong; 19 of 20 are right."""
    return Case((draw.random((trials, rows, 1)) < 0.95).astype(float), first, 0.95, [np.ones(1), np.zeros(1)] * 2)


def became_right(draw: np.random.Generator, trials: int, rows: int) -> Case:
    """One answer in ten becomes right, as many become wrong."""
    changed, kept = draw.choice(3, (trials, rows), p=[0.1, 0.1, 0.8]), draw.random((trials, rows)) < 0.5
    sides = np.stack([(changed == 0) | ((changed == 2) & kept), (changed == 1) | ((changed == 2) & kept)], -1).astype(float)
    return Case(sides, lambda means: means[..., 0] - means[..., 1], 0.0, [np.array([1.0, 0.0]), np.array([0.0, 1.0])])


CASES = (
    normal,
    skewed,
    long_tailed,
    rouge,
    all_or_nothing,
    ties,
    perplexities,
    a_perplexity,
    a_divergence,
    a_rouge,
    retention,
    right_answers,
    became_right,
)


# The ways.


def resampled(case: Case, weights: Floats) -> Floats:
    """The number on every resample [resamples, trials]: its rows are counted by `weights` [resamples, rows]."""
    trials, rows, columns = case.columns.shape
    sums = weights @ case.columns.transpose(1, 0, 2).reshape(rows, trials * columns)
    return case.of(sums.reshape(len(weights), trials, columns) / rows)


def pseudo_values(case: Case) -> tuple[Floats, Floats]:
    """The number [trials], and what each row contributes to it [trials, rows] (Tukey's jackknife)."""
    rows = case.columns.shape[1]
    whole = case.of(case.columns.mean(1))
    without = case.of((case.columns.sum(1, keepdims=True) - case.columns) / (rows - 1))
    return whole, rows * whole[:, None] - (rows - 1) * without


def percentile(case: Case, weights: Floats) -> tuple[Floats, Floats]:
    low, high = np.quantile(resampled(case, weights), ENDS, axis=0)
    return low, high


def bca(case: Case, weights: Floats) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated (Efron 1987)."""
    whole, each = pseudo_values(case)
    values, bell = np.sort(resampled(case, weights), axis=0), NormalDist()
    around = each - each.mean(1, keepdims=True)
    spread = (around**2).sum(1) ** 1.5
    speed = np.divide((around**3).sum(1), 6 * spread, out=np.zeros_like(spread), where=spread > 0)
    below = np.clip(((values < whole).mean(0) + (values <= whole).mean(0)) / 2, 0.5 / len(values), 1 - 0.5 / len(values))
    bias = np.array([bell.inv_cdf(float(share)) for share in below])
    ends = []
    for end in ENDS:
        moved = bias + bell.inv_cdf(end)
        level = np.array([bell.cdf(float(z)) for z in bias + moved / np.maximum(1 - speed * moved, 1e-9)])
        ends.append(values[np.clip((level * len(values)).astype(int), 0, len(values) - 1), np.arange(len(whole))])
    return ends[0], ends[1]


def studentised(case: Case, weights: Floats) -> tuple[Floats, Floats]:
    """Bootstrap-t (Efron 1979) of the pseudo-values."""
    whole, each = pseudo_values(case)
    rows = each.shape[1]
    off = each - each.mean(1, keepdims=True)
    means = weights @ off.T / rows
    errors = np.sqrt(np.maximum(weights @ (off**2).T / rows - means**2, 0) / (rows - 1))
    known = errors > 1e-6 * each.std(1)  # not of a resample whose rows are all alike; a difference of squares leaves 1e-8
    scaled = np.where(known, means / np.maximum(errors, 1e-300), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of trials whose rows are all alike
        low, high = np.nan_to_num(np.nanquantile(scaled, ENDS, axis=0))
    error = each.std(1, ddof=1) / np.sqrt(rows)
    return whole - high * error, whole - low * error


def student_t(case: Case, weights: Floats) -> tuple[Floats, Floats]:
    """Student's t of the pseudo-values (Tukey 1958)."""
    whole, each = pseudo_values(case)
    half = t_quantile(each.shape[1] - 1) * each.std(1, ddof=1) / np.sqrt(each.shape[1])
    return whole - half, whole + half


def wider(case: Case, weights: Floats) -> tuple[Floats, Floats]:
    """From the lower to the higher end of the two above."""
    (a, b), (c, d) = student_t(case, weights), studentised(case, weights)
    return np.minimum(a, c), np.maximum(b, d)


def sign_flip(case: Case, weights: Floats) -> tuple[Floats, Floats]:
    """Not an interval: whether more than 5 % of random signs give as large a sum (Fisher 1935); about the truth."""
    _, each = pseudo_values(case)
    each = each - case.truth
    signs = np.random.default_rng(5).choice([-1.0, 1.0], (RESAMPLES, each.shape[1]))
    as_large = (np.abs(signs @ each.T) >= np.abs(each.sum(1)) - 1e-12).mean(0)
    rejected = as_large <= 0.05
    return np.where(rejected, np.inf, -np.inf), np.full(len(each), np.inf)


def here(case: Case, weights: Floats) -> tuple[Floats, Floats]:
    found = [interval_of(trial, case.of, case.unseen) for trial in case.columns]
    return np.array([low for low, _ in found]), np.array([high for _, high in found])


WAYS: tuple[Callable[[Case, Floats], tuple[Floats, Floats]], ...] = (
    percentile,
    bca,
    studentised,
    student_t,
    wider,
    sign_flip,
    here,
)


# Rows that belong together.


def common(draw: np.random.Generator, trials: int, groups: Integers, share: float) -> Floats:
    """Normal noise [trials, rows]; `share` of its variance is the same for all rows of a group."""
    own, theirs = draw.normal(size=(trials, len(groups))), draw.normal(size=(trials, groups.max() + 1))
    mixed: Floats = np.sqrt(share) * theirs[:, groups] + np.sqrt(1 - share) * own
    return mixed


def rouge_together(draw: np.random.Generator, trials: int, groups: Integers, share: float) -> Case:
    return Case(0.2 * common(draw, trials, groups, share)[..., None], first, 0.0)


def skewed_together(draw: np.random.Generator, trials: int, groups: Integers, share: float) -> Case:
    """Few gain a lot: the groups, and the rows within each."""
    theirs, own = draw.exponential(1, (trials, groups.max() + 1)) - 1, draw.exponential(1, (trials, len(groups))) - 1
    return Case((np.sqrt(share) * theirs[:, groups] + np.sqrt(1 - share) * own)[..., None], first, 0.0)


def perplexity_together(draw: np.random.Generator, trials: int, groups: Integers, share: float) -> Case:
    tokens, nats = np.ceil(draw.lognormal(3, 0.7, (trials, len(groups)))), np.exp(0.5 * common(draw, trials, groups, share))
    return Case(np.stack([tokens * nats, tokens], -1), quotient, float(np.exp(0.5**2 / 2)))


def right_together(draw: np.random.Generator, trials: int, groups: Integers, share: float) -> Case:
    """Nine answers in ten are right."""
    right = common(draw, trials, groups, share) < NormalDist().inv_cdf(0.9)
    return Case(right[..., None].astype(float), first, 0.9, [np.ones(1), np.zeros(1)] * 2)


def became_right_together(draw: np.random.Generator, trials: int, groups: Integers, share: float) -> Case:
    """One answer in ten becomes right, as many become wrong."""
    moved, kept = common(draw, trials, groups, share), draw.random((trials, len(groups))) < 0.5
    up, down = moved > NormalDist().inv_cdf(0.9), moved < NormalDist().inv_cdf(0.1)
    sides = np.stack([up | (~down & kept), down | (~up & kept)], -1).astype(float)
    return Case(sides, lambda means: means[..., 0] - means[..., 1], 0.0, [np.array([1.0, 0.0]), np.array([0.0, 1.0])])


TOGETHER = (rouge_together, skewed_together, perplexity_together, right_together, became_right_together)


def wrong_together(made: Any, share: float, trials: int, count: int, *, known: bool) -> float:
    """Percent of the trials whose interval leaves out the truth; the groups are `known`, or each row is taken for one."""
    groups = np.repeat(np.arange(count), np.resize(SIZES, count))
    case = made(np.random.default_rng([count, TOGETHER.index(made)]), trials, groups, share)
    ends = [interval_of(trial, case.of, case.unseen, groups if known else None) for trial in case.columns]
    return 100 * float(np.mean([low > case.truth + 1e-12 or high < case.truth - 1e-12 for low, high in ends]))


def wrong(made: Any, way: Any, trials: int, rows: int) -> float:
    """Percent of the trials whose interval leaves out the truth."""
    case = made(np.random.default_rng([rows, CASES.index(made)]), trials, rows)
    weights = np.random.default_rng(7).multinomial(rows, [1 / rows] * rows, size=RESAMPLES).astype(np.float64)
    low, high = way(case, weights)
    return 100 * float(((low > case.truth + 1e-12) | (high < case.truth - 1e-12)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    options = parser.parse_args()
    for way in WAYS:
        print(f"\n| {way.__name__.replace('_', ' ')} | {' | '.join(map(str, options.rows))} |\n|---|{'---|' * len(options.rows)}")
        for made in CASES:
            cells = [f"{wrong(made, way, options.trials, rows):.0f}" for rows in options.rows]
            print(f"| {made.__name__.replace('_', ' ')} | {' | '.join(cells)} |", flush=True)
    for known, title in ((False, "each row for itself"), (True, "here")):
        print(f"\n| groups, {title} | {' | '.join(map(str, GROUPS))} |\n|---|{'---|' * len(GROUPS)}")
        for kind in TOGETHER:
            for share in (0.0, 0.5, 1.0):
                cells = [f"{wrong_together(kind, share, options.trials, count, known=known):.0f}" for count in GROUPS]
                name = kind.__name__.replace("_together", "").replace("_", " ")
                print(f"| {name}, {share:.0%} in common | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
