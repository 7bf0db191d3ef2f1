"""Several values in --set make a run for each combination, and only there; --fail-if-worse fails where a score is worse, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_runs import a_and_b, cli, shown
from written_run import written_run

from finetune.benchmark.fail_if_worse import check_gate, gate
from finetune.errors import BadInput, BenchmarkError, RecipeError, TrainingError
from finetune.recipe import Recipe, parse_override
from finetune.run.history import read_run
from finetune.run.several import table_of
from finetune.run.sweep import combinations
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen import sweep
from finetune.screen.several import runs_table


def load(overrides):
    return Recipe.from_layers({"output_dir": "out"}, *map(parse_override, overrides))


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["training.epochs=1"], []),
        ([], []),
        (["dataset.source=a.csv,b.csv"], []),
        (["training.report_to=[wandb,mlflow]"], []),
        (["training.epochs=1,3"], ["epochs-1", "epochs-3"]),
        (["training.epochs=1, 3,1"], ["epochs-1", "epochs-3"]),
        (["training.learning_rate=1e-4,2.5e-4", "seed=7"], ["learning_rate-1e-4", "learning_rate-2.5e-4"]),
        (
            ["approach=distillation", "distillation.temperature=1,2", "model.from_teacher.layers=10,0.5"],
            ["temperature-1-layers-10", "temperature-1-layers-0.5", "temperature-2-layers-10", "temperature-2-layers-0.5"],
        ),
        (["method.kind=lora,full", "dataset.source=a.csv,b.csv"], ["kind-lora", "kind-full"]),
    ],
)
def test_several_values_make_several_runs_where_a_comma_can_mean_nothing_else(overrides: list[str], names: list[str]) -> None:
    runs = combinations(overrides, load)
    assert [run.name for run in runs] == names
    assert [run.recipe.output_dir for run in runs] == [str(Path("out") / name) for name in names]


def test_each_run_has_its_values_and_everything_else_of_the_recipe() -> None:
    one, two = combinations(["approach=distillation", "distillation.temperature=1,2", "dataset.source=a.csv,b.csv"], load)
    assert [run.recipe.distillation.temperature for run in (one, two)] == [1.0, 2.0]
    assert {run.recipe.dataset.source for run in (one, two)} == {"a.csv,b.csv"}
    assert one.overrides[1] == "distillation.temperature=1"


def test_values_that_no_key_has_are_refused_as_they_are() -> None:
    assert combinations(["training.epochs=1,none"], load) == []
    with pytest.raises(RecipeError, match="epochs"):
        load(["training.epochs=1,none"])
    with pytest.raises(BadInput, match="27 runs"):
        combinations(["training.epochs=1,2,3", "seed=1,2,3", "dataset.samples=7,8,9"], load)


def test_a_sweep_goes_on_after_a_failure_keeps_what_is_finished_and_ends_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [f"output_dir={tmp_path / 'out'}", "dataset.source=shop/questions.jsonl"]
    runs = combinations(["training.epochs=1,2,3"], lambda overrides: load([*overrides, *asked]))
    begun: list[str] = []

    def execute(recipe, runtime, console):
        begun.append(Path(recipe.output_dir).name)
        if recipe.training.epochs == 2:
            raise TrainingError("The loss is nan.")
        written_run(Path(recipe.output_dir), change={"training": {"epochs": recipe.training.epochs}}, shift=0.05 * recipe.training.epochs)

    monkeypatch.setattr(sweep, "execute", execute)
    console = Console(width=100, record=True, file=open("/dev/null", "w"), color_system=None, theme=sweep_theme())  # noqa: SIM115
    for expected in (["epochs-1", "epochs-2", "epochs-3"], ["epochs-2"]):
        begun.clear()
        with pytest.raises(TrainingError, match=r"1 of 3 runs failed: epochs-2\."):
            sweep.run_sweep(runs, RuntimeOptions(cache_dir=tmp_path), console)
        assert begun == expected, "a finished run is kept"
    text = console.export_text()
    assert "Run 3 of 3: training.epochs=3" in text
    assert "B against A: better on ROUGE-L, Perplexity" in " ".join(text.split())
    written_run(tmp_path / "out" / "epochs-2", change={"training": {"epochs": 9}})
    with pytest.raises(TrainingError) as failed:
        sweep.run_sweep(runs, RuntimeOptions(cache_dir=tmp_path), console)
    assert "has a run of another recipe" in str(failed.value.hint)


def sweep_theme():
    from finetune.screen.console import THEME

    return THEME


@pytest.mark.parametrize("width", [40, 62, 80])
def test_a_table_of_runs_has_quality_size_speed_and_time(tmp_path: Path, width: int) -> None:
    runs = [
        read_run(written_run(tmp_path / name, shift=shift, teacher=True, measured_on={"threads": 2}).output_dir)
        for name, shift in (("a", 0.0), ("b", 0.1), ("c", -0.1))
    ]
    rows = table_of(runs)
    assert [row.letter for row in rows] == ["A", "B", "C"]
    assert [row.against_first.get("rougeL") for row in rows] == [None, "better", "worse"]
    assert (rows[1].parameters, rows[1].tokens_per_second, rows[1].kept, rows[1].alike) == (134_515_008, 123.4, 0.93, True)
    words = " ".join(shown(runs_table(rows, width), width).split())
    for said in ("93 %", "134.5M", "123", "0.610", "B against A: better on ROUGE-L, Perplexity", "One such verdict in 20 is chance."):
        assert said in words
    wide = shown(runs_table([rows[0], replace(rows[1], student="too few rows to judge"), rows[2]], width), width)
    assert "…" not in wide, "what is too wide for the table is wrapped"
    RunFolder(tmp_path / "b").write_json(RunFolder(tmp_path / "b").benchmark, {**runs[1].scores, "measured_on": {"threads": 8}})
    again = table_of([runs[0], read_run(tmp_path / "b"), runs[2]])
    assert not again[1].alike
    assert "123*" in shown(runs_table(again, 80))


def test_a_table_of_runs_on_other_rows_has_no_verdicts_and_says_nothing_of_them(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"method": {"kind": "lora", "dora": True}}, {}]
    runs = [
        read_run(written_run(tmp_path / name, rows=rows, change=change).output_dir)
        for name, rows, change in zip("abc", (20, 21, 22), changes, strict=True)
    ]
    text = shown(runs_table(table_of(runs), 80))
    assert "B: measured on other rows than A" in text
    assert "One such verdict" not in text
    assert "method.dora true" in text, "as a recipe has it"


# The gate.


def of_runs(tmp_path: Path, verdict: str) -> dict:
    change = {"difference": -0.1, "low": -0.15, "high": -0.05, "verdict": verdict}
    return read_run(written_run(tmp_path / "run", change={}).output_dir).scores | {"change": {"rougeL": change}}  # type: ignore[operator]


@pytest.mark.parametrize("verdict", ["better", "no evidence"])
def test_a_score_that_is_not_worse_passes(tmp_path: Path, verdict: str) -> None:
    assert gate(of_runs(tmp_path, verdict), "rougeL") is None


def test_a_score_that_is_worse_fails_with_exit_code_1_and_one_that_cannot_be_judged_says_so(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"ROUGE-L is worse than before: 0\.360 to 0\.510 \[-0\.150, -0\.050\]") as error:
        gate(of_runs(tmp_path, "worse"), "rougeL")
    assert error.value.exit_code == 1
    few = of_runs(tmp_path / "few", "too few rows") | {"rows": 4}
    assert "not judged. Too few rows to judge: 4 rows" in str(gate(few, "rougeL"))
    few["rows"], few["change"]["rougeL"]["rows"] = 50, 4
    assert "not judged. Too few rows to judge: 4 of 50 rows count; 8 would do." in str(gate(few, "rougeL"))
    assert gate(few, "perplexity") == "Perplexity: not measured row by row, so not judged."
    assert gate(few, "accuracy") == "Right answers: not measured on these rows, so not judged."


def test_a_score_that_the_run_does_not_measure_is_found_before_it() -> None:
    with pytest.raises(BadInput, match=r"does not measure rogueL\. Did you mean rougeL\?"):
        check_gate("rogueL", load([]))
    with pytest.raises(BadInput, match="kl"):
        check_gate("kl", load([]))
    for metric, overrides in (("kl", ["approach=distillation"]), ("copied", []), ("perplexity", []), ("rouge2", [])):
        check_gate(metric, load(overrides))


@pytest.mark.slow
def test_three_runs_are_compared_in_a_table_by_the_program(tmp_path: Path) -> None:
    a_and_b(tmp_path, shift=0.1)
    written_run(tmp_path / "c", shift=-0.1)
    assert "C against A: worse on ROUGE-L, Perplexity" in cli("runs", "compare", "a", "b", "c", folder=tmp_path).stdout
    done = cli("run", "r.yaml", "--set", "training.epochs=1,2", "--fail-if-worse", "rougeL", folder=tmp_path)
    assert done.returncode == 2
