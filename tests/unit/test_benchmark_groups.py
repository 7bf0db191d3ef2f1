"""Rows of one prompt, conversation or text are no independent evidence: they count together, and nothing else changes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType
from written_run import written_run

from finetune.benchmark.fail_if_worse import gate
from finetune.benchmark.groups import by_group, groups_of
from finetune.benchmark.intervals import change, estimate, interval_of, mean_of, perplexity_of, ratio, statistics_of
from finetune.benchmark.names import independent, shared, too_few
from finetune.benchmark.report.page import report_page
from finetune.benchmark.report.records import read_records
from finetune.run.comparison import compare
from finetune.run.history import read_run
from finetune.screen.comparison import comparison_picture
from finetune.screen.console import THEME

TRIALS = 200
COUNT = 20  # groups, of 1, 2, 4 and 9 rows
GROUPS = np.repeat(np.arange(COUNT), np.resize([1, 2, 4, 9], COUNT))


def first(means: np.ndarray) -> np.ndarray:
    return means[..., 0]


def drawn(draw: np.random.Generator) -> np.ndarray:
    """Differences of two equally good models; half of what varies is the prompt's."""
    return draw.normal(0, 0.2, COUNT)[GROUPS] + draw.normal(0, 0.2, len(GROUPS))


def test_rows_that_share_a_prompt_are_called_better_or_worse_by_chance_no_more_often_than_said() -> None:
    draw, none = np.random.default_rng(1), np.zeros(len(GROUPS))
    alone = together = 0
    for _ in range(TRIALS):
        rows = drawn(draw)
        alone += change("rougeL", mean_of(rows), mean_of(none))["verdict"] != "no evidence"
        together += change("rougeL", mean_of(rows, GROUPS.tolist()), mean_of(none, GROUPS.tolist()))["verdict"] != "no evidence"
    assert alone > 0.2 * TRIALS, "the fault that groups are for"
    assert together <= 0.083 * TRIALS


def per_row(seed: int, groups: list[int] | None) -> dict[str, list[Any]]:
    draw = np.random.default_rng(seed)
    tokens, score = draw.integers(1, 50, 40), draw.beta(2, 3, 40)
    right, codes = (draw.random(40) < 0.8).astype(float), np.arange(40) % 3
    found = {
        "rougeL": score,
        "loss": tokens * score * 3,
        "tokens": tokens,
        "accuracy": right,
        "codes": codes,
        "codes_copied": codes * (score > 0.3),
    }
    return {name: values.tolist() for name, values in found.items()} | ({"group": groups} if groups else {})


def test_where_every_row_is_a_group_of_its_own_nothing_changes_by_a_bit() -> None:
    sides = [[statistics_of(per_row(seed, groups)) for seed in (1, 2)] for groups in (None, list(range(40)))]
    for metric in sides[0][0]:
        for judged in (estimate, lambda statistic: ratio(statistic, statistic)):
            assert judged(sides[0][0][metric]) == judged(sides[1][0][metric])
        assert change(metric, sides[0][1][metric], sides[0][0][metric]) == change(metric, sides[1][1][metric], sides[1][0][metric])


@pytest.mark.parametrize("metric", ["rougeL", "accuracy", "perplexity", "copied"])
def test_the_same_row_four_times_is_no_more_evidence_than_once(metric: str) -> None:
    once = per_row(3, None)
    four = {name: [value for value in values for _ in range(4)] for name, values in once.items()}
    grouped = four | {"group": [row for row in range(40) for _ in range(4)]}
    single, repeated, together = (estimate(statistics_of(rows)[metric]) for rows in (once, four, grouped))
    assert (together.low, together.high) == pytest.approx((single.low, single.high))
    assert repeated.high - repeated.low < 0.7 * (single.high - single.low)


def test_all_answers_right_to_ten_prompts_prove_no_more_for_being_asked_often() -> None:
    once, often = ({"accuracy": [1.0] * rows, "group": [row % 10 for row in range(rows)]} for rows in (10, 60))
    assert estimate(statistics_of(often)["accuracy"]) == estimate(statistics_of(once)["accuracy"])


def test_rows_of_few_prompts_are_too_few_and_it_is_said_how_many_prompts_there_are() -> None:
    groups = [row % 5 for row in range(30)]
    rows = mean_of([0.1 * row for row in range(30)], groups)
    assert estimate(rows).low is None
    found = change("rougeL", rows, mean_of([0.0] * 30))
    assert (found["verdict"], found["rows"]) == ("too few rows", 5)
    scores = {"rows": 30, "per_row": {"group": groups}, "change": {"rougeL": found}}
    said = "Too few rows to judge: 30 rows with only 5 different prompts or texts; 8 would do."
    assert too_few(scores) == said
    assert gate(scores, "rougeL") == f"ROUGE-L was not judged. {said}"
    assert shared(scores) == ""
    scores["per_row"]["group"] = [0] * 30
    assert too_few(scores) == "Too few rows to judge: 30 rows of a single prompt or text; 8 would do."


def test_groups_count_for_the_rows_that_a_score_counts_and_not_for_a_tasks() -> None:
    found = statistics_of({"group": [0, 0, 1, 1], "codes": [0, 2, 2, 2], "codes_copied": [0, 1, 2, 0], "my_task/acc": [1.0, 0.0, 1.0]})
    assert found["copied"].groups is not None
    assert found["copied"].groups.tolist() == [0, 1, 1]
    assert found["my_task/acc"].groups is None
    assert "group" not in found
    assert perplexity_of([1.0, 2.0], [0, 3], [4, 7]).independent == 1


def test_rows_of_one_group_are_found_by_their_number() -> None:
    assert groups_of([{"group": 7}, {"group": 2}, {"group": 7}]) == [0, 1, 0]
    assert groups_of([{"group": 1}, {"group": 2}]) == []
    assert groups_of([{"group": 5}] * 9) == [0] * 9, "one prompt of several says no more about others than two or seven"
    assert groups_of([{}, {}, {}]) == [], "rows of somebody's own"


def test_sums_of_groups_are_in_the_order_in_which_they_begin() -> None:
    sums, sizes = by_group(np.array([[1.0], [2.0], [4.0], [8.0]]), np.array([9, 3, 9, 5]))
    assert (sums[:, 0].tolist(), sizes.tolist()) == ([5.0, 2.0, 8.0], [2.0, 1.0, 1.0])
    assert interval_of(np.arange(20.0)[:, None], first, (), np.arange(20)[::-1].copy()) == interval_of(np.arange(20.0)[:, None], first)


def drawn_text(picture: RenderableType) -> str:
    console = Console(width=200, theme=THEME, file=io.StringIO())
    console.print(picture)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_comparison_of_runs_takes_the_groups_from_either(tmp_path: Path) -> None:
    groups = [row // 2 for row in range(24)]
    runs = [written_run(tmp_path / name, shift=shift) for name, shift in (("a", 0.0), ("b", 0.1))]
    scores = runs[1].read_json(runs[1].benchmark)
    rouge = np.random.default_rng(1).random(24).tolist()
    runs[1].write_json(runs[1].benchmark, scores | {"per_row": {**scores["per_row"], "rougeL": rouge, "group": groups}})
    for pair in (runs, runs[::-1]):
        compared = compare(*map(read_run, [run.output_dir for run in pair]))
        assert compared.about_rows.startswith("The 24 rows have 12 different prompts or texts;")
        assert compared.about_rows in " ".join(drawn_text(comparison_picture(compared, 200)).split())
        found = compared.scores["rougeL"]
        a, b = (statistics_of(run.read_json(run.benchmark)["per_row"])["rougeL"] for run in pair)
        together, alone = (interval_of(b.columns - a.columns, first, (), each) for each in (np.array(groups), None))
        assert [found["low"], found["high"]] == pytest.approx(together)
        assert [found["low"], found["high"]] != pytest.approx(alone)


def test_the_page_says_that_rows_count_together(tmp_path: Path) -> None:
    run = written_run(tmp_path / "a")
    scores = run.read_json(run.benchmark)
    assert independent(scores) == 24
    assert shared(scores) == ""
    run.write_json(run.benchmark, scores | {"per_row": {**scores["per_row"], "group": [row // 2 for row in range(24)]}})
    said = "The 24 rows have 12 different prompts or texts; for the intervals, rows that share one count together."
    assert said in report_page(read_records(run))
