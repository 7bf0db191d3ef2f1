"""The wizard speaks to people: its words for faults and hints, help for every question, and numbers that files really have."""

from __future__ import annotations

import ast
import json
import os
import re
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from wizard_answers import BACK, Listening, enter_all_the_way, here

from finetune.errors import DatasetError, HardwareError, ModelNotFound, OutOfMemory, OutputExists, RecipeError
from finetune.recipe import STARTER, Recipe, explain, known_keys
from finetune.wizard import ask_recipe, review, step6_upload
from finetune.wizard.asking.prompter import Question, ScriptedPrompter, explanation, hint, plain
from finetune.wizard.asking.undo import Rewind
from finetune.wizard.conversation import agree
from finetune.wizard.distilling import teachers_run
from finetune.wizard.error_words import in_words, step_of, without_setting
from finetune.wizard.rows import known_readings

PACKAGE = Path(__file__).parents[2] / "finetune"
RAW = (
    "Input should",
    "unable to parse",
    "valid integer",
    "valid number",
    "valid boolean",
    "valid dictionary",
    "instance of",
    "String should",
)
RAW += ("List should", "pydantic", "got an invalid", "Value error", "Field required", "Extra inputs")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own; the cache, in which the built-in rows are made once, is shared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(tmp_path_factory.getbasetemp() / "wizard-cache"))
    known_readings.recall.cache_clear()
    return tmp_path


def ask(prompter: ScriptedPrompter) -> Recipe:
    recipe = Rewind(prompter).run(lambda answers: ask_recipe(answers, here))
    prompter.finish()
    return recipe


# No validator's text.


@pytest.mark.parametrize("value", ["three", "", True, -1, 1.5, [], [1], {"a": 1}, None, 10**400, "nan", "1e999", [["a"]]], ids=repr)
def test_no_wrong_value_of_any_key_is_answered_by_the_validator(value: Any) -> None:
    for key in sorted(set(known_keys())):
        layer: Any = value
        for part in reversed(key.split(".")):
            layer = {part: layer}
        error = refusal({"approach": "distillation"}, layer)
        if error is not None:
            words = f"{error.message} {error.hint}"
            assert not any(raw in words for raw in RAW), words
            assert error.message.endswith((".", "?"))


def refusal(*layers: dict[str, Any]) -> RecipeError | None:
    try:
        Recipe.from_layers(*layers)
    except RecipeError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ({"dataset": {"samples": "many"}}, "dataset.samples must be a whole number, not 'many'."),
        ({"training": {"batch_size": 1.5}}, "training.batch_size must be a whole number, not 1.5."),
        ({"training": {"warmup": "few"}}, "training.warmup must be a number, not 'few'."),
        ({"training": {"epochs": "few"}}, "training.epochs must be 'auto' or a number, not 'few'."),
        ({"training": {"keep_checkpoints": "perhaps"}}, "training.keep_checkpoints must be true or false, not 'perhaps'."),
        ({"dataset": {"samples": 1}}, "dataset.samples must be at least 2, not 1."),
        ({"training": {"warmup": 1}}, "training.warmup must be less than 1, not 1."),
        ({"dataset": {"source": 3}}, "dataset.source must be text, not 3."),
        ({"dataset": {"source": "\udce5.csv"}}, "dataset.source has letters that the encoding of this terminal does not have."),
        ({"training": 3}, "training must be a mapping of keys, not 3."),
        ({"benchmark": {"metrics": []}}, "benchmark.metrics must have at least 1 item."),
        ({"upload": {"repo": "a/b/c"}}, f"upload.repo {explain.REPOSITORY}, not 'a/b/c'."),
        ({"training": {"save_every": "often"}}, "training.save_every must be 'auto' or a whole number, not 'often'."),
    ],
)
def test_the_sentence_says_what_must_be(layer: dict[str, Any], sentence: str) -> None:
    for make in (lambda: Recipe.from_layers(layer), lambda: Recipe(**layer), lambda: Recipe.from_layers({}).with_changes(layer)):
        with pytest.raises(RecipeError) as refused:
            make()
        assert refused.value.message == sentence


def test_a_kind_of_problem_that_nobody_has_named_is_no_riddle() -> None:
    assert explain.reason_of({"type": "url_scheme", "msg": "URL scheme should be 'http'", "ctx": {}}) == "is not valid"


def test_a_wrong_answer_in_the_wizard_is_told_in_its_words() -> None:
    prompter = enter_all_the_way(dataset__samples=["x", "1", "20"], training__epochs=["x", "0", "1"])
    ask(prompter)
    for sentence in ("Must be a whole number.", "Must be at least 2.", "Must be 'auto' or a number.", "Must be 'auto' or greater than 0."):
        assert sentence in prompter.shown


# Hints.


def hints_with_settings() -> list[str]:
    """Every text of the engine that tells people to --set something, placeholders filled in."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        if "wizard" in file.parts or file.name in ("arguments.py", "cli.py", "commands.py", "completion.py"):
            continue
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x7" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                found.append(node.value)
    return [text for text in found if re.search(r"--set '?[a-z_]+[\w.]*=\S", text) and "\n" not in text]


def test_no_hint_of_the_engine_says_set_in_a_conversation() -> None:
    texts = hints_with_settings()
    assert len(texts) > 25
    assert [text for text in texts if "--set" in in_words(text)] == []


@pytest.mark.parametrize(
    ("hint_of_the_engine", "words"),
    [
        (
            "Name the parts: --set dataset.columns.prompt=NAME --set dataset.columns.completion=NAME",
            "Name the parts: choose the columns (Dataset)",
        ),
        (
            "Cut the rows: --set dataset.max_length=256, or choose a model with a longer context.",
            "Cut the rows: Max length 256 (Training, advanced settings), or choose a model with a longer context.",
        ),
        ("To learn all as text: --set dataset.columns.text=body.", "To learn all as text: Text column body (Dataset)."),
        ("Use more rows: --set dataset.samples=1000", "Use more rows: Rows to use 1000 (Dataset)"),
        ("Name another: --set model=MODEL.", "Name another: another answer to Model (Models)."),
        ("Lower it: --set 'training.learning_rate=5e-05'.", "Lower it: Learning rate 5e-05 (Training)."),
        ("To skip them: --set dataset.bad_rows=0.2", "To skip them: `dataset.bad_rows: 0.2` in a recipe that you save and run"),
        ("Hold out more (--set dataset.held_out=0.2).", "Hold out more (Held out 0.2, under Training, advanced settings)."),
        ("Rename it. To learn each line as it is: --set dataset.text_as=line", "Rename it."),
        (
            "For 20: --set training.batch_size=4 --set training.gradient_accumulation=1.",
            "For 20: Batch size 4 (Training) and Gradient accumulation 1 (Training, advanced settings).",
        ),
        ("Sign in: hf auth login", "Sign in: hf auth login"),
        ("Free some space, or choose another --output-dir.", "Free some space, or choose another output folder."),
    ],
)
def test_a_hint_names_the_question_and_its_step(hint_of_the_engine: str, words: str) -> None:
    assert in_words(hint_of_the_engine) == words
    assert plain(hint(DatasetError("x", hint=hint_of_the_engine))).strip() == words


def test_a_note_on_the_data_names_no_setting() -> None:
    note = "old.csv is read as cp1252. To correct wrong letters: --set dataset.encoding=NAME"
    assert without_setting(note) == "old.csv is read as cp1252."
    assert without_setting("Two files are empty.") == "Two files are empty."


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        (ModelNotFound("There is no folder x."), 1),
        (DatasetError("The rows are gone."), 2),
        (RecipeError("The longest row has 900 tokens.", hint="Cut the rows: --set dataset.max_length=512"), 4),
        (RecipeError("a is an adapter.", hint="Train every weight: --set method.kind=full"), 3),
        (OutputExists("The folder is not empty."), 3),
        (OutOfMemory("Not enough memory."), 4),
        (HardwareError("QLoRA needs a package."), 3),
        (RecipeError("benchmark.max_new_tokens is 900."), 4),
        (RecipeError("benchmark.rows is too many."), 5),
        (RecipeError("Something is odd."), 4),
    ],
)
def test_change_what_begins_where_the_fault_is(fault: Any, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert step_of(fault) == step
    monkeypatch.setattr(review, "prepare", lambda *_: fault)
    prompter = enter_all_the_way(review=["change", "quit"])
    agree(prompter, here)
    assert prompter.defaults["change"] == str(step)


# Help.


class Everything(Listening):
    """Keeps the questions themselves."""

    def ask(self, question: Question) -> str | bool:
        assert question.more or question.help, f"{question.key} has no help"
        assert len(explanation(question)) > 30
        assert not re.search(r"[\w,;]\n", question.more), f"{question.key} has a line that ends within a sentence"
        self.asked_about = {**getattr(self, "asked_about", {}), question.key: question}
        return super().ask(question)


@pytest.mark.parametrize("approach", ["fine-tuning", "distillation"])
def test_every_question_explains_itself_and_every_setting_in_its_own_words(approach: str, workplace: Path) -> None:
    (workplace / "rows.csv").write_text("left,right\n" + "2+2?,4\n" * 30)
    prompter = Everything({"approach": approach, "advanced": True, "dataset.source": "rows.csv"})
    ask(prompter)
    unexplained = [key for key, question in prompter.asked_about.items() if not question.more]
    assert unexplained == []
    assert [key for key, question in prompter.asked_about.items() if "null" in question.help] == []
    assert "benchmark.task_rows" not in prompter.asked_about, "there are no tasks"


def test_the_rows_of_a_task_are_asked_for_where_there_are_tasks(workplace: Path) -> None:
    prompter = Listening({"advanced": True, "benchmark.tasks": "hellaswag"})
    ask(prompter)
    assert prompter.helps["benchmark.task_rows"] == "Only the first rows of each task."


def test_the_questions_of_the_upload_explain_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step6_upload, "_plan", lambda *_: None)
    prompter = Everything({"upload": True})
    step6_upload.ask(Path("made"), prompter, here(hub=True))
    assert [key for key, question in prompter.asked_about.items() if not question.more] == []


def test_methods_are_in_words_for_people_and_one_is_recommended() -> None:
    prompter = Listening({})
    ask(prompter)
    titles = [choice.title for choice in prompter.offered["method.kind"]]
    assert sum(title.endswith(" (recommended)") for title in titles) == 1
    assert next(choice for choice in prompter.offered["method.kind"] if choice.value == "lora").note.startswith("a small add-on file")


def test_a_method_that_is_the_only_one_is_told_and_not_asked() -> None:
    prompter = enter_all_the_way(approach="distillation")
    assert ask(prompter).method.kind == "full"
    assert "method.kind" not in prompter.asked
    assert any(line.startswith("Method: Full, every weight trains") and "It is the only one here" in line for line in prompter.shown)


# What a file has.


def rows(folder: Path, number: int) -> None:
    lines = [f"question {at},answer {at}\n" for at in range(number)]
    (folder / "support.csv").write_text("question,answer\n" + "".join(lines))


def test_the_rows_to_use_are_those_of_the_file(workplace: Path) -> None:
    rows(workplace, 200)
    prompter = Listening({"dataset.source": "support.csv", "dataset.samples": ["450", "201", ScriptedPrompter.DEFAULT]})
    recipe = ask(prompter)
    assert prompter.defaults["dataset.samples"] == "200"
    assert prompter.helps["dataset.samples"].startswith("support.csv has 200 rows.")
    assert prompter.shown.count("support.csv has 200 rows: type a number up to 200, or: all.") == 2
    assert recipe.dataset.samples == 200


@pytest.mark.parametrize("samples", ["200", "all"])
def test_the_rows_to_test_on_are_those_that_will_be_held_out(samples: str, workplace: Path) -> None:
    rows(workplace, 200)
    prompter = Listening({"dataset.source": "support.csv", "dataset.samples": samples})
    recipe = ask(prompter)
    assert prompter.defaults["benchmark.rows"] == "40"
    assert "200 rows are used in all." in prompter.helps["benchmark.rows"]
    assert round(200 * recipe.dataset.held_out) >= recipe.benchmark.rows == 40


def test_a_small_file_has_no_more_rows_to_test_on_than_half_of_it(workplace: Path) -> None:
    rows(workplace, 30)
    prompter = enter_all_the_way(dataset__source="support.csv", benchmark__rows=["16", "15"])
    recipe = ask(prompter)
    assert "At most 15: half of the 30 rows to use." in prompter.shown
    assert recipe.benchmark.rows == 15 <= round(30 * recipe.dataset.held_out)


@pytest.mark.parametrize("typed", ["suport.csv", "suport", "./suport.csv", "support.cvs", "support.csv, suport.csv"])
def test_a_mistyped_file_is_named_and_the_hub_is_not_asked(typed: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(workplace, 30)
    monkeypatch.setattr("finetune.data.reading.open_hub", lambda *_: pytest.fail("the Hub was asked"))
    prompter = enter_all_the_way(dataset__source="a file", dataset__file=[typed, "support.csv"])
    assert ask(prompter).dataset.source == "support.csv"
    assert any("Did you mean support.csv?" in line and "There is no file or folder" in line for line in prompter.shown)


def test_the_name_of_a_file_is_no_name_of_a_dataset(workplace: Path) -> None:
    rows(workplace, 30)
    prompter = enter_all_the_way(dataset__source=["the Hub", "support.csv"], dataset__name=["support.csv", BACK])
    assert ask(prompter).dataset.source == "support.csv"
    assert "support.csv is the name of a file: go back and choose a file or folder." in prompter.shown


# Teachers that are runs of one's own.


def own_run(folder: Path, *, age: float = 0.0, adapter_of: Path | None = None, **recipe: Any) -> None:
    """The records of a finished run, and with `adapter_of` an adapter on that model."""
    (folder / "run").mkdir(parents=True)
    Recipe.from_layers({"output_dir": str(folder), **({"model": str(adapter_of)} if adapter_of else {}), **recipe}).save(
        folder / "run" / "recipe.yaml"
    )
    (folder / "run" / "benchmark.json").write_text("{}")
    os.utime(folder / "run" / "benchmark.json", (time.time() - age, time.time() - age))
    if adapter_of:
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter_of), "peft_type": "LORA"}))
        safetensors(folder / "adapter_model.safetensors", {"lora_A": 16})


def safetensors(path: Path, tensors: dict[str, int]) -> None:
    """A file of float32 tensors of so many numbers, all zero."""
    header, at = {}, 0
    for name, count in tensors.items():
        header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def model(folder: Path, layers: int) -> Path:
    folder.mkdir()
    config = {"model_type": "llama", "num_hidden_layers": layers, "hidden_size": 8, "vocab_size": 100, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    safetensors(folder / "model.safetensors", {"embeddings": 800, **{f"layer{number}": 1000 for number in range(layers)}})
    return folder


def test_an_adapter_as_teacher_has_the_layers_and_the_size_of_its_base(workplace: Path) -> None:
    own_run(workplace / "expert", adapter_of=model(workplace / "base", layers=30))
    prompter = Listening({"approach": "distillation", "teacher": "./expert", "student.by": "layers", "student.layers": ["40", "30", "20"]})
    assert ask(prompter).model_dump()["model"] == {"from_teacher": {"layers": 20}}
    assert prompter.shown.count("From 2 to 29 layers of the teacher's 30 can be kept.") == 2
    assert prompter.helps["student.layers"] == "The teacher has 30; with 20 layers the student has 21k of 31k parameters."


def test_all_own_runs_are_offered_newest_first(workplace: Path) -> None:
    for number in range(9):
        own_run(workplace / f"run-{number}", age=3600.0 * number)
    prompter = Listening({"approach": "distillation"})
    ask(prompter)
    values = [choice.value for choice in prompter.offered["teacher"]]
    assert values[:9] == [f"./run-{number}" for number in range(9)]
    assert values[9] == STARTER
    assert prompter.offered["teacher"][2].note == "your own run: fine-tuning, 2 hours ago"


def test_the_newest_fine_tuning_is_proposed_as_the_teacher_and_a_distilled_model_is_not(workplace: Path) -> None:
    own_run(workplace / "small", approach="distillation", teacher=STARTER)
    assert teacher_of_enter(workplace) == STARTER
    own_run(workplace / "older", adapter_of=model(workplace / "base", layers=30), age=7200.0)
    own_run(workplace / "newer", adapter_of=workplace / "base", age=3600.0)
    assert teacher_of_enter(workplace) == "./newer"


def teacher_of_enter(workplace: Path) -> str:
    prompter = Listening({"approach": "distillation"})
    recipe = ask(prompter)
    assert recipe.teacher
    assert ("your own fine-tuning" in prompter.helps["teacher"]) == (recipe.teacher.source != STARTER)
    assert recipe.model_dump()["model"] == {"from_teacher": {"size": 0.75}}
    return recipe.teacher.source


def test_the_data_of_a_teacher_are_proposed_with_their_columns_and_the_same_rows_held_out(workplace: Path) -> None:
    (workplace / "support.csv").write_text("left,right\n" + "".join(f"question {at},answer {at}\n" for at in range(200)))
    data = {
        "source": "support.csv",
        "samples": None,
        "columns": {"prompt": "left", "completion": "right"},
        "held_out": 0.2,
        "max_length": 99,
    }
    own_run(workplace / "expert", adapter_of=model(workplace / "base", layers=30), dataset=data, seed=7, benchmark={"rows": 33})
    prompter = enter_all_the_way(approach="distillation", teacher="./expert")
    recipe = ask(prompter)
    assert recipe.dataset == Recipe.from_layers({"dataset": {**data, "samples": 200}}).dataset
    assert (recipe.seed, recipe.benchmark.rows) == (7, 33)
    assert any(line.startswith("The teacher learned from support.csv: the same rows") for line in prompter.shown)
    assert teachers_run.below({"approach": "distillation", "teacher": "./expert"})["dataset"]["source"] == "support.csv"
    for own in ({"dataset": "mine.csv"}, {"dataset": {"source": "mine.csv"}}, {"approach": "fine-tuning"}, {"teacher": "gpt2"}):
        assert teachers_run.below({"approach": "distillation", "teacher": "./expert", **own}) == {}
    (workplace / "support.csv").unlink()
    assert teachers_run.proposal("./expert") == {}, "its rows are gone"
