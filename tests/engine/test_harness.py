"""Tasks of lm-evaluation-harness: its numbers are ours for the same rows, they are in every place where scores are read, and what is
missing is said before any training."""

from __future__ import annotations

import io
import json
import math
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console
from workshop import Workshop, recorded

from finetune.benchmark import harness
from finetune.benchmark.fail_if_worse import check_gate, gate
from finetune.benchmark.harness import check_tasks, load_tasks
from finetune.benchmark.names import about_tasks
from finetune.benchmark.perplexity import answer_losses
from finetune.cli import main
from finetune.data.tokens.labels import NO_LOSS
from finetune.errors import BenchmarkError, RecipeError
from finetune.events import Recorder, StageFinished
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import locate
from finetune.publish.redaction import public_recipe
from finetune.recipe import BenchmarkSpec, Recipe
from finetune.run.measured import measure_models, recipe_of
from finetune.screen.console import THEME
from finetune.screen.results import scores_table

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed: pip install lm_eval")
ANIMALS = ("cat", "dog", "cow", "hen", "owl", "fox", "ram", "bee", "ape")
SOUNDS = ["meow", "woof", "moo the cow"]


@pytest.fixture(scope="module")
def task(shop: Workshop) -> Path:
    return task_file(shop.folder)


def rows() -> list[dict]:
    return [{"question": f"a {animal} says", "choices": SOUNDS, "answer": at % 3} for at, animal in enumerate(ANIMALS)]


def task_file(folder: Path) -> Path:
    (folder / "pets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    content = {
        "task": "pets",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "pets.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"version": 2.0},
    }
    (folder / "pets.yaml").write_text(yaml.safe_dump(content))
    return folder / "pets.yaml"


def on_screen(scores: dict) -> str:
    console = Console(width=120, theme=THEME, file=io.StringIO())
    console.print(scores_table(scores, 120))
    return " ".join(console.file.getvalue().split())


def test_without_the_package_a_check_names_the_command_before_anything_is_loaded(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    check_tasks(BenchmarkSpec())
    with pytest.raises(RecipeError, match="needs the package lm_eval, which is not installed") as error:
        shop.tuner(shop.layer(), {"benchmark": {"tasks": ["hellaswag"]}}).check()
    assert error.value.hint == "Install it: pip install lm_eval"
    with pytest.raises(RecipeError, match="needs the package lm_eval"):
        load_tasks(("measured again elsewhere",))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("helaswag", "lm-evaluation-harness has no task 'helaswag'. Did you mean hellaswag? `lm-eval ls tasks` lists them."),
        ("pet.yaml", "There is no task file pet.yaml. Give its path from the folder in which you start the program."),
        ("hellaswag", ""),
    ],
)
def test_a_plan_names_a_task_that_there_is_not_and_reads_no_rows(
    named: str, said: str, shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    known = SimpleNamespace(task_index={"hellaswag": {}}, all_tasks=["hellaswag"])
    monkeypatch.setattr(harness, "find_spec", lambda _: True)
    monkeypatch.setattr(harness, "_manager", lambda *, of_lm_eval: known)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(shop.layer(benchmark={"tasks": [named]})), encoding="utf-8")
    assert main(["plan", str(recipe), "--json"]) == bool(said), "a script does not go on to run it"
    problems = json.loads(capfd.readouterr().out)["problems"]
    assert problems == ([said] if said else [])


def test_what_leaves_this_machine_names_no_task_file(tmp_path: Path) -> None:
    recipe = Recipe.from_layers({"benchmark": {"tasks": ["hellaswag", str(tmp_path / "ada" / "pets.yaml")]}})
    tasks = public_recipe(recipe).benchmark.tasks
    assert tasks[0] == "hellaswag"
    assert "ada" not in tasks[1]
    assert "pets" not in tasks[1]


def test_one_example_is_said_as_people_say_it() -> None:
    found = {"tasks": [{"task": "pets", "rows": 9, "of": 9, "examples": 1, "lm_eval": "0.4.9"}]}
    assert about_tasks(found) == ["pets: all 9 rows, 1 example first, without chat template, by lm-evaluation-harness 0.4.9."]


def ours(model, tokenizer, context: str, choices: list[str]) -> list[float]:
    """The log-likelihood of each choice behind the context, by the code that measures our perplexity."""
    asked = tokenizer(context)["input_ids"]
    whole = [tokenizer(f"{context} {choice}")["input_ids"] for choice in choices]
    labelled = [{"input_ids": ids, "labels": [NO_LOSS] * len(asked) + ids[len(asked) :]} for ids in whole]
    return [-loss for loss in answer_losses(model, labelled, reporter=Recorder(), stage="test").sums]


@installed
def test_a_task_file_that_was_changed_is_read_again_by_the_next_run(tmp_path: Path, shop: Workshop) -> None:
    task = task_file(tmp_path)
    layer = shop.layer(benchmark={"tasks": [str(task)]})
    prints, counts = [], []
    for rewritten in (False, True):
        if rewritten:
            task.write_text(task.read_text() + "fewshot_split: test\nnum_fewshot: 1\n")
        tuner = shop.tuner(layer)
        tuner.check()
        prints.append(load_tasks((str(task),)).fingerprint)
        counts.append(load_tasks((str(task),)).tasks["pets"].config.num_fewshot or 0)
    assert counts == [0, 1]
    assert prints[0] != prints[1], "else scores of the other task would be taken from the cache"


@installed
def test_its_log_likelihoods_and_scores_are_ours_for_the_same_rows(shop: Workshop, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.benchmark import harness_model

    located = locate(str(shop.model), shop.runtime, Recorder())
    model, tokenizer = load_model(located, SimpleNamespace(device="cpu", dtype="float32")), load_tokenizer(located)
    seen: dict = {}
    evaluate = harness_model.evaluate
    monkeypatch.setattr(harness_model, "evaluate", lambda *args, **options: seen.update(evaluate(*args, **options)) or seen)
    found = harness_model.measure_tasks(load_tasks((str(task),)), model, tokenizer, limit=None, reporter=Recorder(), stage="test")
    right, right_by_length = [], []
    for row, sample in zip(rows(), seen["samples"]["pets"], strict=True):
        expected = ours(model, tokenizer, row["question"], row["choices"])
        theirs = [likelihood for likelihood, _ in sample["filtered_resps"]]
        assert theirs == pytest.approx(expected, abs=1e-5, rel=1e-6)
        right.append(float(max(range(3), key=expected.__getitem__) == row["answer"]))
        normed = [value / len(choice) for value, choice in zip(expected, row["choices"], strict=True)]
        right_by_length.append(float(max(range(3), key=normed.__getitem__) == row["answer"]))
    assert found.per_row == {"pets/acc": right, "pets/acc_norm": right_by_length}
    assert found.values["pets/acc"] == pytest.approx(sum(right) / len(ANIMALS), abs=1e-6)
    assert found.values["pets/acc_norm"] == pytest.approx(sum(right_by_length) / len(ANIMALS), abs=1e-6)
    (about,) = found.about
    assert {"task": "pets", "rows": 9, "of": 9, "examples": 0, "version": 2.0}.items() <= about.items()


@installed
def test_a_run_has_the_tasks_before_and_after_in_table_report_card_and_gate(shop: Workshop, task: Path, capfd) -> None:
    layer = shop.layer(benchmark={"rows": 8, "max_new_tokens": 8, "tasks": [str(task)], "speed": False})
    tuner = shop.tuner(layer)
    scores = tuner.run().scores
    printed = capfd.readouterr()
    assert "it/s" not in printed.err + printed.out, "the engine draws nothing, and lm_eval neither"
    recorder = recorded(tuner)
    assert "pets, 9 rows" in [event.summary for event in recorder.of(StageFinished)]
    for side in ("before", "after"):
        low, high = scores["intervals"][side]["pets/acc"]
        assert 0 <= low <= scores[side]["pets/acc"] <= high <= 1
        assert len(scores["per_row"]["pets/acc"]) == 9
    assert scores["change"]["pets/acc"]["verdict"] in ("better", "worse", "no evidence")
    said = "pets: all 9 rows, no examples, without chat template, by lm-evaluation-harness"
    shown = on_screen(scores)
    assert f"pets/acc {scores['before']['pets/acc']:.3f}" in shown
    assert said in shown
    page = (tuner.folder.run / "report.html").read_text(encoding="utf-8")
    assert "pets/acc_norm" in page
    assert said in page
    card = tuner.folder.card.read_text(encoding="utf-8")
    assert said in card
    own, of_task = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert not any("/" in metric["type"] for metric in own["metrics"])
    assert of_task["dataset"] == {"name": "pets", "type": "pets"}
    assert of_task["metrics"][0] == {"type": "acc", "name": "acc", "value": round(scores["after"]["pets/acc"], 4)}
    check_gate("pets/acc", tuner.recipe)
    assert gate({**scores, "change": {}}, "pets/acc") == "pets/acc: not measured row by row, so not judged."


@installed
def test_a_student_is_set_beside_its_teacher_and_the_first_rows_alone_are_said(shop: Workshop, task: Path) -> None:
    spec = {"rows": 8, "max_new_tokens": 8, "tasks": [str(task)], "task_rows": 4, "speed": False, "metrics": ["perplexity"]}
    scores = shop.tuner(shop.distilling(benchmark=spec)).run().scores
    assert all("pets/acc" in scores[side] for side in ("teacher", "before", "after"))
    assert "pets/acc" in scores["against_teacher"]
    assert scores["tasks"][0]["rows"] == 4
    assert "pets: the first 4 of 9 rows" in on_screen(scores)


@installed
def test_models_from_anywhere_are_compared_by_a_task(shop: Workshop, task: Path) -> None:
    models = [str(shop.model), str(shop.smaller_model())]
    recipe = recipe_of(models, str(shop.rows), [f"benchmark.tasks=[{task}]", "benchmark.metrics=[perplexity]", "dataset.max_length=64"])
    found = measure_models(models, recipe, shop.runtime, Recorder())
    change = found["against_first"]["B"]["pets/acc"]
    first, second = (each["scores"]["pets/acc"] for each in found["models"])
    assert math.isclose(change["difference"], second - first)


@installed
@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, RecipeError, "There is no task file"),
        ("task: [1", BenchmarkError, "cannot be loaded as a task"),
        ("task: broken\ndataset_path: json\noutput_type: multiple_choice\n", BenchmarkError, "cannot be loaded as a task"),
    ],
)
def test_task_files_that_are_none_are_one_sentence(content: str | None, kind: type, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(kind, match=words):
        load_tasks((str(tmp_path / "mine.yaml"),))


@installed
@pytest.mark.slow
def test_a_task_that_needs_the_hub_where_there_is_none_and_a_name_that_nothing_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(harness, "hub_reachable", lambda: False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(BenchmarkError, match="Couldn't reach 'Rowan/hellaswag' on the Hub: "):
        load_tasks(("hellaswag",))
    with pytest.raises(RecipeError, match=r"has no task 'helaswag'\. Did you mean hellaswag\?"):
        load_tasks(("helaswag",))
