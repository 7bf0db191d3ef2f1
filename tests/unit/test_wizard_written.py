"""Rows and answers that another model writes for a fine-tuning: the wizard finds who writes, asks what is needed, and makes that recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from wizard_answers import BACK, Listening, here, model_folder

from finetune.errors import ModelError, ModelNotFound, RecipeError
from finetune.recipe import STARTER, Recipe
from finetune.wizard import ask_recipe
from finetune.wizard.asking.undo import Answer, Rewind
from finetune.wizard.error_words import in_words, step_of
from finetune.wizard.rows import writer

ADDRESS = "http://localhost:8000/v1"
WRITER = {"teacher.name": ADDRESS, "teacher.model": "qwen"}
GENERATED = {"dataset.source": "generated", **WRITER}
ROWS = {
    "prompts": [{"prompt": f"What is {number}?"} for number in range(12)],
    "chats": [{"messages": [{"role": "user", "content": f"What is {number}?"}]} for number in range(12)],
    "answered": [{"prompt": f"What is {number}?", "completion": str(number)} for number in range(12)],
}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(tmp_path / "cache"))
    model_folder(Path("better"))
    for name, rows in ROWS.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def asked(answers: dict[str, Any]) -> tuple[Recipe, Listening]:
    prompter = Listening(answers)
    recipe = Rewind(prompter).run(lambda given: ask_recipe(given, here))
    prompter.finish()
    return recipe, prompter


def of_data(prompter: Listening) -> list[str]:
    return [key for key in prompter.questions if key.startswith(("dataset.", "teacher"))]


def test_a_server_writes_the_rows_of_a_fine_tuning() -> None:
    recipe, prompter = asked({**GENERATED, "teacher.budget_tokens": "50000", "dataset.topic": "birds", "dataset.samples": "40"})
    told = {"server": ADDRESS, "model": "qwen", "budget_tokens": 50_000}
    rows = {"source": "generated", "topic": "birds", "samples": 40, "held_out": recipe.dataset.held_out}
    training = {"epochs": "auto", "batch_size": 8, "learning_rate": 1e-3}
    benchmark = recipe.benchmark.model_dump()
    same = Recipe.from_layers({"teacher": told, "dataset": rows, "training": training, "benchmark": benchmark})
    assert recipe.model_dump() == same.model_dump()
    assert of_data(prompter) == [
        *("dataset.source", "teacher.name", "teacher.model", "teacher.key", "teacher.budget_tokens", "dataset.topic", "dataset.samples")
    ]
    titles = {choice.value: choice.title for choice in prompter.offered["dataset.source"]}
    assert titles["generated"] == "No data? Another model writes it"
    assert prompter.questions["teacher.name"] == "Which model writes?"
    assert "chat completions" in prompter.more["teacher.model"]


def test_so_does_a_model_here_but_not_the_one_that_learns() -> None:
    recipe, prompter = asked({"dataset.source": "generated", "teacher.name": [STARTER, "", "./better"]})
    assert recipe.teacher is not None
    assert (recipe.approach, recipe.teacher.source) == ("fine-tuning", "./better")
    assert "This is the model that learns: it learns nothing new from what it wrote itself." in prompter.shown
    assert "teacher.model" not in prompter.questions


def test_larger_chat_models_are_offered_where_they_can_be_had() -> None:
    prompter = Listening({"teacher": "another", **WRITER})
    draft = writer.ask({"approach": "fine-tuning", "model": "HuggingFaceTB/SmolLM2-360M-Instruct"}, prompter, here(hub=True))
    assert draft["teacher"] == {"server": ADDRESS, "model": "qwen"}
    assert [choice.value for choice in prompter.offered["teacher"]] == [
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen/Qwen3-0.6B",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "another",
    ]


@pytest.mark.parametrize(("name", "said"), [("prompts", "has prompts only"), ("chats", "has no assistant message")])
@pytest.mark.parametrize(
    ("approach", "more"),
    [
        ({}, WRITER),
        ({"approach": "distillation"}, {}),
        ({"approach": "distillation", "teacher": "another"}, WRITER),
    ],
    ids=["fine-tuning", "teacher here", "teacher on a server"],
)
def test_prompts_alone_are_answered_by_a_model(name: str, said: str, approach: dict[str, str], more: dict[str, str]) -> None:
    recipe, prompter = asked({**approach, "dataset.source": "a file", "dataset.file": f"{name}.jsonl", **more})
    assert (recipe.dataset.source, recipe.dataset.answers) == (f"{name}.jsonl", "teacher")
    assert (recipe.teacher and recipe.teacher.server) == (ADDRESS if more else None)
    assert prompter.questions["dataset.written"] == "Shall a model write the answers?"
    assert said in "".join(prompter.shown)


def test_without_a_model_that_could_answer_prompts_alone_are_no_data() -> None:
    _, prompter = asked({"approach": "distillation", "teacher": "self", "dataset.source": "prompts.jsonl"})
    assert "dataset.written" not in prompter.questions
    recipe, _ = asked({"dataset.source": "prompts.jsonl", "dataset.written": False})
    assert (recipe.dataset.answers, recipe.teacher) == ("data", None)


def test_answers_of_ones_own_can_be_left_for_better_ones() -> None:
    recipe, prompter = asked({"dataset.source": "answered.jsonl", "dataset.reading": "written", **WRITER})
    assert (recipe.dataset.answers, recipe.teacher and recipe.teacher.model) == ("teacher", "qwen")
    assert [choice.value for choice in prompter.offered["dataset.reading"]][:2] == ["yes", "written"]
    _, prompter = asked({"approach": "distillation", "dataset.source": "answered.jsonl", "advanced": True, "dataset.answers": "teacher"})
    assert "written" not in [choice.value for choice in prompter.offered["dataset.reading"]], "it is an advanced setting there"


@pytest.mark.parametrize("name", ["fragen.txt", "fragen.csv"])
def test_lines_of_text_may_be_prompts_for_another_model(name: str) -> None:
    Path(name).write_text("Galdera\n" * name.endswith(".csv") + "".join(f"Wie lang ist der Fluss Nummer {n}?\n" for n in range(20)))
    recipe, prompter = asked({"dataset.source": "a file", "dataset.file": name, "dataset.reading": "written", **WRITER})
    assert (recipe.dataset.answers, recipe.teacher and recipe.teacher.model) == ("teacher", "qwen")
    assert "columns" not in [choice.value for choice in prompter.offered["dataset.reading"]], "there is one"
    Path("story.txt").write_text("A line.\nAnd another of the same paragraph, and so on.\n\n" * 20)
    _, prompter = asked({"dataset.source": "a file", "dataset.file": "story.txt"})
    assert "written" not in [choice.value for choice in prompter.offered["dataset.reading"]]


def test_changing_the_mind_leaves_no_writer() -> None:
    recipe, _ = asked({"dataset.source": ["generated", "builtin:python-docs"], "teacher.name": BACK})
    assert (recipe.teacher, recipe.dataset.source) == (None, "builtin:python-docs")


def test_answers_of_an_interrupted_session_are_not_asked_again() -> None:
    kept: dict[str, Answer] = {}
    first = Listening({**GENERATED, "dataset.topic": "birds", "advanced": True, "dataset.examples": "answered.jsonl"})
    recipe = Rewind(first, keep=lambda answers, taken_back: kept.update(answers)).run(lambda given: ask_recipe(given, here))
    again = Listening({})
    assert Rewind(again, kept).run(lambda given: ask_recipe(given, here)) == recipe
    assert again.questions == {}


def test_examples_are_read_before_the_next_question() -> None:
    recipe, prompter = asked({**GENERATED, "advanced": True, "dataset.examples": ["nix.jsonl", "nix", "prompts.jsonl", "answered.jsonl"]})
    assert recipe.dataset.examples == "answered.jsonl"
    assert prompter.defaults["dataset.examples"] == "none"
    for said in (
        "There is no file nix.jsonl.",
        "There is no file nix with examples.",
        "prompts.jsonl has prompts only (column prompt), and no answers to learn.",
    ):
        assert prompter.shown.count(said) == 1


@pytest.mark.parametrize(("given", "found"), [("20", None), ("5", 5)])
def test_how_many_tokens_a_server_tells_is_asked_where_it_grades(given: str, found: int | None) -> None:
    served = {"approach": "distillation", "teacher": "another", **WRITER, "advanced": True}
    recipe, prompter = asked({**served, "teacher.top_k": ["x", "0", given]})
    assert recipe.grader is not None
    assert recipe.grader.top_k == found
    assert {"Must be a whole number.", "Must be at least 1."} <= {*prompter.shown}
    for elsewhere in ({**GENERATED, "advanced": True}, {"approach": "distillation", "advanced": True}):
        assert not {"teacher.top_k", "distillation.until.step"} & {*asked(elsewhere)[1].questions}


def test_rounds_that_are_not_listed_leave_out_so_many_layers_each() -> None:
    rounds = {"approach": "distillation", "distillation.way": "rounds", "rounds.layers": "15", "advanced": True}
    until = {"distillation.until.retention": ["never", "0.8"], "distillation.until.step": ["0", "3"]}
    recipe, _ = asked({**rounds, "distillation.rounds": "none", **until})
    assert recipe.distillation.until is not None
    assert (recipe.distillation.until.model_dump(), recipe.distillation.rounds) == ({"retention": 0.8, "step": 3}, None)
    assert recipe.model.model_dump() == {"from_teacher": {"layers": 15}}
    listed, prompter = asked({**rounds, "distillation.rounds": "[20, 15]", "distillation.until.retention": "0.8"})
    assert listed.distillation.rounds == [20, 15]
    assert "distillation.until.step" not in prompter.questions
    assert "self" not in [choice.value for choice in prompter.offered["teacher"]], "layers are cut, so it is another model"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ModelError(f"The server {ADDRESS} cannot be reached: x.", hint="Check it: --set teacher.server=URL"), "another answer to Server"),
        (ModelNotFound("There is no folder ./better."), ""),
        (RecipeError("A budget of 5 is too small.", hint="Allow more: --set teacher.budget_tokens=9"), "Budget tokens 9"),
        (RecipeError("The environment variable MY_KEY, which should have the server's key, is not set.", hint="export MY_KEY=..."), ""),
        (ModelError("It has no chat template.", hint="Learn others: --set dataset.answers=data"), "Answers data"),
    ],
)
def test_what_is_wrong_with_the_writer_is_put_right_where_it_was_named(fault: Any, words: str) -> None:
    teacher = {"source": "./better"} if isinstance(fault, ModelNotFound) else {"server": ADDRESS, "model": "qwen", "key": "MY_KEY"}
    recipe = Recipe.from_layers({"teacher": teacher, "dataset": "generated"})
    assert step_of(fault, recipe) == 2
    assert not words or f"{words} (Dataset)" in in_words(fault.hint, "fine-tuning")
