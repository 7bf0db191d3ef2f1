"""What people type for a path or a number that is not what a recipe has: a dropped file, a comma, a percent sign."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from wizard_answers import DEFAULT, Listening, enter_all_the_way, here, model_folder

from finetune.errors import DatasetNotFound
from finetune.recipe import Recipe
from finetune.wizard import ask_recipe, step2_dataset, step6_upload
from finetune.wizard.asking.dropped import dropped
from finetune.wizard.asking.prompter import ScriptedPrompter
from finetune.wizard.rows import hub_dataset

POSIX = pytest.mark.skipif(os.name == "nt", reason="a backslash separates folders there")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my rows.csv", "a.csv", "it's.csv", "'quoted'"):
        Path(name).touch()


def asked(prompter: ScriptedPrompter) -> Recipe:
    return ask_recipe(prompter, here)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a.csv", "a.csv"),
        ("my rows.csv", "my rows.csv"),
        ("'my rows.csv'", "my rows.csv"),
        ('"my rows.csv"', "my rows.csv"),
        ("'not there yet'", "not there yet"),
        ("'quoted'", "'quoted'"),
        ("'a.csv' 'my rows.csv'", "a.csv, my rows.csv"),
        ("'a.csv' 'nothing'", "'a.csv' 'nothing'"),
        ("'a.csv", "'a.csv"),
        ("gpt2@main", "gpt2@main"),
        (r"C:\data\rows.csv", r"C:\data\rows.csv"),
        ("", ""),
        pytest.param(r"my\ rows.csv", "my rows.csv", marks=POSIX),
        pytest.param(r"it\'s.csv", "it's.csv", marks=POSIX),
        pytest.param("'it'\\''s.csv'", "it's.csv", marks=POSIX),
        pytest.param(r"~/my\ rows.csv", "~/my rows.csv", marks=POSIX),
        pytest.param("file:///data/my%20rows.csv", "/data/my rows.csv", marks=POSIX),
    ],
)
def test_what_a_terminal_types_is_the_path_that_is_meant(typed: str, meant: str) -> None:
    assert dropped(typed) == meant


@pytest.mark.parametrize(
    ("key", "typed", "meant"),
    [
        ("training__learning_rate", "0,0002", "0.0002"),
        ("training__learning_rate", "2e-4,5", None),
        ("training__epochs", "1,5", "1.5"),
        ("dataset__samples", "1,000", "1000"),
        ("dataset__held_out", "10%", "0.1"),
        ("dataset__held_out", "12,5 %", "0.125"),
        ("dataset__held_out", "100%", None),
    ],
)
def test_a_number_with_a_comma_or_a_percent_sign_is_told_as_it_is_typed_here(key: str, typed: str, meant: str | None) -> None:
    prompter = enter_all_the_way(advanced=True, **{key: [typed, DEFAULT]})
    asked(prompter)
    told = [sentence for sentence in prompter.shown if sentence.startswith("Type it as")]
    assert told == ([f"Type it as {meant}."] if meant else [])


def test_columns_without_a_known_name_are_shown_with_their_values_and_the_wordiest_are_proposed() -> None:
    rows = [f"{at},2024-01-01,Where is order {at}?,It is on its way.,5" for at in range(20)]
    Path("shop.csv").write_text("\n".join(["id,created,customer,agent,rating", *rows]))
    prompter = Listening({"dataset.source": "a file", "dataset.file": "shop.csv"})
    columns = asked(prompter).dataset.columns
    assert columns is not None
    assert (columns.prompt, columns.completion) == ("customer", "agent")
    notes = [choice.note for choice in prompter.offered["dataset.columns.prompt"]]
    assert notes == ["0", "2024-01-01", "Where is order 0?", "It is on its way.", "5"]


@pytest.mark.parametrize(("letter", "shown"), [("a", 39), ("字", 19)])
def test_a_long_value_of_a_column_takes_as_much_of_the_line_in_every_script(letter: str, shown: int) -> None:
    Path("long.csv").write_text("\n".join(["left,right", *[f"{letter * 60},b"] * 20]), encoding="utf-8")
    prompter = Listening({"dataset.source": "a file", "dataset.file": "long.csv"})
    asked(prompter)
    assert prompter.offered["dataset.columns.prompt"][0].note == f"{letter * shown}…"


def test_a_token_that_is_typed_takes_the_place_of_one_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[str] = []
    monkeypatch.setenv("HF_TOKEN", "hf_refusedRefused")
    monkeypatch.setattr("huggingface_hub.login", lambda token: stored.append(token))
    assert step6_upload._sign_in(ScriptedPrompter({"sign_in": "token", "sign_in.token": "hf_typedTypedTyped"}))
    assert (stored, os.environ.get("HF_TOKEN")) == (["hf_typedTypedTyped"], None)


def test_a_folder_without_a_model_is_no_model() -> None:
    Path("rows").mkdir()
    model_folder(Path("made"))
    prompter = enter_all_the_way(model="another", model__name=["./rows", "rows", "'./made'"])
    assert asked(prompter).model == "./made"
    assert any("rows has no config.json, so it is not a model folder." in sentence for sentence in prompter.shown)
    assert any("rows is not on this machine. The folder rows here is no model: it has no" in sentence for sentence in prompter.shown)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"id": "1", "translation": {"en": "Good day.", "de": "Guten Tag."}}, ("translation.en", "translation.de")),
        ({"inputs": ["Name two.", "Name one."], "targets": ["An apple.", "A pear."]}, ("inputs.0", "targets.0")),
        ({"question": "Where is it?", "answer": None, "reply": "At the door."}, ("question", "reply")),
        (
            {"subject": "An order", "details": "Where is it? I wait.", "reason": "it is late", "resolution": "Sent again."},
            ("details", "resolution"),
        ),
    ],
)
def test_parts_of_objects_and_columns_beside_an_empty_one_can_be_chosen(row: dict[str, Any], named: tuple[str, str]) -> None:
    Path("rows.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    columns = asked(enter_all_the_way(dataset__source="a file", dataset__file="rows.jsonl")).dataset.columns
    assert columns is not None
    assert (columns.prompt, columns.completion) == named


def test_an_offered_file_that_cannot_be_read_is_told_at_once_and_the_dataset_asked_again() -> None:
    Path("broken.jsonl").write_text("{\n")
    Path("also.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 9)
    prompter = Listening({"dataset.source": "broken.jsonl", "dataset.source-2": "also.jsonl"})
    assert asked(prompter).dataset.source == "also.jsonl"
    keys = [key for key in prompter.asked if key.startswith("dataset.")]
    assert keys[:3] == ["dataset.source", "dataset.source-2", "dataset.reading"]
    assert any(sentence.startswith("broken.jsonl: no row can be used") for sentence in prompter.shown)


def test_a_dataset_that_cannot_be_had_without_the_hub_is_told_before_anything_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_dataset, "look", lambda *_: DatasetNotFound("It is not on this machine.", hint="Use a file of your own."))
    prompter = Listening({"dataset.source": "the Hub", "dataset.name": "org/rows"})
    assert asked(prompter).dataset.source == "builtin:python-docs"
    keys = [key for key in prompter.asked if key.startswith("dataset.")]
    assert keys[:4] == ["dataset.source", "dataset.name", "dataset.config", "dataset.source-2"]
    assert "It is not on this machine. Use a file of your own." in prompter.shown


def test_a_proposed_file_that_cannot_be_read_is_told_too_and_enter_then_takes_the_built_in_rows() -> None:
    Path("rows.jsonl").write_text("{\n")
    prompter = Listening({})
    draft = {"approach": "fine-tuning", "dataset": {"source": "rows.jsonl"}}
    assert step2_dataset.ask(draft, prompter, here())["dataset"]["source"] == "builtin:python-docs"
    assert prompter.asked[:2] == ["dataset.source", "dataset.source-2"]
    assert any(sentence.startswith("rows.jsonl: no row can be used") for sentence in prompter.shown)
