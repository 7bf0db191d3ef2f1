"""The results on a screen: a verdict that admits what is not known, a student beside its teacher, answers before scores."""

from __future__ import annotations

import io
import shlex
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from finetune.benchmark.names import how_counted
from finetune.recipe import Recipe
from finetune.run.finetuner import RunResult
from finetune.screen.console import THEME
from finetune.screen.results import samples, scores_table, show_results, train_further
from finetune.screen.tables import score_table

SCORES: dict[str, Any] = {
    "rows": 45,
    "before": {"perplexity": 23.4, "rougeL": 0.165, "rouge2": 0.05},
    "after": {"perplexity": 9.13, "rougeL": 0.37, "rouge2": 0.06},
    "teacher": None,
    "intervals": {
        "before": {"perplexity": [20.0, 27.0], "rougeL": [0.14, 0.19], "rouge2": [0.03, 0.07]},
        "after": {"perplexity": [8.0, 10.4], "rougeL": [0.32, 0.42], "rouge2": [0.03, 0.09]},
    },
    "change": {
        "perplexity": {"difference": -14.27, "low": -17, "high": -11, "verdict": "better"},
        "rougeL": {"difference": 0.205, "low": 0.16, "high": 0.25, "verdict": "better"},
        "rouge2": {"difference": 0.01, "low": -0.02, "high": 0.04, "verdict": "no evidence"},
    },
    "generations": [
        {"prompt": f"question {at}", "reference": f"right {at}", "before": "wrong\x1b[2Jscreen", "after": f"good {at}"} for at in range(9)
    ],
}


def drawn(picture: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, theme=THEME, force_terminal=False)
    console.print(picture)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_letters_that_rouge_counts_in_place_of_words_are_told() -> None:
    for references, told in ((["元気です。", "はい、12個です。"], True), (["Gut.", "元気"], False), (["좋아요, 감사합니다"], False)):
        scores = {**SCORES, "generations": [{"reference": text, "after": text} for text in references]}
        assert ("ROUGE counts letters" in drawn(scores_table(scores, 120), 120)) == told
        assert ("ROUGE counts letters" in " ".join(how_counted(scores))) == told


def test_scores_have_intervals_and_a_verdict_that_admits_what_is_not_known() -> None:
    text = drawn(scores_table(SCORES, 80))
    assert "0.165 [0.140, 0.190]" in text
    assert "+0.205 better" in text
    assert "+0.010 no evidence" in text
    assert text.index("ROUGE-L") < text.index("Perplexity")


def test_scores_are_lines_where_a_table_would_cut_their_names() -> None:
    said = drawn(scores_table(SCORES, 24), 24)
    assert "  ROUGE-L\n    Before 0.165\n    After 0.370\n    Change better\n" in said
    assert "…" not in said
    assert "ROUGE-L     0.165 0.370 better" in drawn(scores_table(SCORES, 40), 40)


def test_the_step_that_was_kept_is_said() -> None:
    kept = {
        "step": 40,
        "of": 57,
        "loss": 1.83,
        "best_step": 40,
        "best_loss": 1.83,
        "last_step": 57,
        "last_loss": 1.91,
        "stopped_after": None,
    }
    text = " ".join(drawn(scores_table({**SCORES, "kept": kept}, 80)).split())
    assert "step 40 of 57, held-out loss 1.83; the last step had 1.91" in text
    assert "Kept" not in drawn(scores_table(SCORES, 80))


def test_scores_fit_forty_columns() -> None:
    text = drawn(scores_table(SCORES, 40), 40)
    assert "…" not in text
    assert "no evidence" in text


TAUGHT = {
    **SCORES,
    "teacher": {"perplexity": 13.8, "rougeL": 0.4},
    "after": {**SCORES["after"], "kl": 1.28, "agreement": 0.42},
    "retention": {"rougeL": {"value": 0.92, "low": 0.85, "high": 0.99}},
    "against_teacher": {
        "perplexity": {"difference": -4.67, "low": -6, "high": -3, "verdict": "better"},
        "rougeL": {"difference": -0.03, "low": -0.08, "high": 0.02, "verdict": "no evidence"},
    },
    "tokens_counted": "all",
    "size": {"after": {"parameters": 99_100_000, "bytes_on_disk": None}, "teacher": {"parameters": 134_500_000, "bytes_on_disk": None}},
    "speed": {"after": {"tokens_per_second": 45.0}, "teacher": {"tokens_per_second": 30.0}},
}


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_student_is_set_beside_its_teacher(width: int) -> None:
    text = drawn(scores_table(TAUGHT, width), width)
    assert "…" not in text
    for words in (
        "Teacher",
        "KL to teacher",
        "1.280",
        "42.0 %",
        "Keeps 92 % [85 %, 99 %] of its teacher: usable. 0.74 times the size, 1.50 times the speed.",
        "Perplexity counts every token of the rows, prompts too.",
        "The student before training: ROUGE-2 0.050, ROUGE-L 0.165, Perplexity 23.4. Against that: no evidence on "
        "ROUGE-2; better on ROUGE-L, Perplexity.",
        "99.1M against 134.5M",
        "1.50 times",
    ):
        assert words in " ".join(text.split())
    assert text.index("Keeps 92 %") < text.index("0.370"), "the verdict leads"
    assert "Before" not in text, "what it was before comes last, in a sentence"
    assert ("-0.030 no evidence" if width > 40 else "no evidence") in text
    assert "+0.205" not in text, "better than the cut student is no news"
    for never in ("On disk", "Memory"):
        assert never not in text, "what was not measured is not said"


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (7.2, "lower than the teacher's, 7.20 against 13.8: the student predicts these rows better"),
        (27.6, "2.0 times the teacher's, 27.6 against 13.8: the student predicts these rows less well"),
    ],
)
def test_perplexity_beside_the_teachers_is_told_in_words_and_never_as_a_share(student: float, said: str) -> None:
    taught = {**TAUGHT, "after": {**TAUGHT["after"], "perplexity": student}}
    old = {"rougeL": {"value": 0.92, "low": 0.85, "high": 0.99}, "perplexity": {"value": 3.61, "low": 3.0, "high": 4.0}}
    text = drawn(scores_table({**taught, "retention": old}, 120), 120)
    assert said in " ".join(text.split())
    unsure = {**taught, "against_teacher": {"perplexity": {"difference": -4.67, "low": -9, "high": 3, "verdict": "no evidence"}}}
    assert "against 13.8: no evidence of a difference" in " ".join(drawn(scores_table(unsure, 120), 120).split())
    assert "361" not in text, "as an older version wrote it down"


def test_where_there_is_no_room_words_wrap_and_numbers_stay_whole() -> None:
    rows = {"agreement": [Text("73.4 %"), Text("50.5 %"), Text("too few rows")]}
    text = drawn(score_table(("A", "B"), rows, change="B against A", wide=False), 36)
    assert "…" not in text
    assert "73.4 % 50.5 %" in text
    for change, width in product(("B against A", ""), (14, 20, 24)):
        words = " ".join(drawn(score_table(("A", "B"), rows, change=change, wide=False), width).split())
        assert words.endswith(f"A 73.4 % B 50.5 % {change} too few rows".replace("  ", " ")), "in lines, where it would be cut"


@pytest.mark.parametrize("width", [40, 80])
def test_of_too_few_rows_nothing_is_judged(width: int) -> None:
    none = {"difference": 0.205, "low": None, "high": None, "verdict": "too few rows"}
    few = {**SCORES, "rows": 4, "intervals": {"before": {}, "after": {}}, "change": {"rougeL": none}}
    words = " ".join(drawn(scores_table(few, width), width).split())
    assert "Too few rows to judge: 4 rows; 8 would do." in words
    assert "too few rows" in words
    assert "[" not in words
    assert "95 %" not in words
    one = " ".join(drawn(scores_table({**few, "rows": 1}, width), width).split())
    assert "On 1 held-out row " in one
    student = {**TAUGHT, "rows": 4, "retention": {"rougeL": {"value": 0.92, "low": None, "high": None}}}
    assert "Keeps 92 % of its teacher: too few rows to judge (4 of 8)." in " ".join(drawn(scores_table(student, width), width).split())


@pytest.mark.parametrize("width", [40, 80])
def test_the_worst_answer_and_the_numbers_it_lacks_are_shown_before_the_scores(width: int) -> None:
    rows = [*SCORES["generations"], {"prompt": "which order?", "reference": "Order 4711.", "before": "No.", "after": "Order 4712."}]
    counted = {"rougeL": [0.9] * 9 + [0.5], "codes": [0] * 9 + [1], "codes_copied": [0] * 10}
    scores = {**SCORES, "generations": rows, "per_row": counted, "before": {**SCORES["before"], "copied": 0.0}}
    scores["after"] = {**SCORES["after"], "copied": 0.0}
    words = " ".join(drawn(samples(scores, width), width).split())
    assert "The worst answer which order? reference Order 4711." in words
    assert "missing 4711" in words
    assert "All answers, worst first, are in run/report.html." in words
    assert "Codes copied: 0 of 1 numbers and codes of the references (before: 0)" in " ".join(
        drawn(scores_table(scores, width), width).split()
    )
    console = Console(file=io.StringIO(), width=width, theme=THEME, force_terminal=True, color_system=None, highlight=False)
    show_results(Recipe.from_layers({}), RunResult(Path("x"), scores, {}), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.index("Sample answers") < shown.index("held-out rows")


def test_a_student_answers_beside_its_teacher_and_not_beside_what_it_was() -> None:
    rows = [{**row, "teacher": f"taught {at}"} for at, row in enumerate(SCORES["generations"])]
    text = drawn(samples({**TAUGHT, "generations": rows}, 80))
    assert "taught 0" in text
    assert "wrong" not in text


def test_three_samples_show_reference_before_and_after() -> None:
    text = drawn(samples(SCORES, 80))
    assert text.count("reference") == 3
    assert "right 0" in text
    assert "good 0" in text


def test_a_models_words_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in drawn(samples(SCORES, 80))


@pytest.mark.parametrize("how", [{"rounds": [20, 15]}, {"until": {"retention": 0.9}}, {}])
def test_the_command_that_trains_a_result_further_is_a_recipe_that_can_be_run(how: dict[str, Any], tmp_path: Path) -> None:
    student = {"from_teacher": {"layers": 15}}
    recipe = Recipe.from_layers({"approach": "distillation", "model": student, "distillation": how, "output_dir": str(tmp_path)})
    (tmp_path / "run").mkdir()
    recipe.save(tmp_path / "run" / "recipe.yaml")
    (tmp_path / "run" / "environment.json").write_text('{"asked": {"dtype": "float32"}}')
    words = shlex.split(train_further(tmp_path) or "")
    assert words[-2:] == ["--dtype", "float32"], "as the run was"
    settings = [word for before, word in pairwise(words) if before == "--set"]
    further = Recipe.load(words[words.index("run") + 1], overrides=settings)
    assert (further.model, further.distillation.in_rounds) == (str(tmp_path), None)
    (tmp_path / "run" / "recipe.yaml").write_text("nonsense: 1\n")
    assert train_further(tmp_path) is None
