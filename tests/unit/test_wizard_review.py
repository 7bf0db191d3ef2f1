"""After the last step: the review and what its answers lead to; and an answer that cannot even be checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import questionary
from huggingface_hub.utils import validate_repo_id
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
from prompt_toolkit.output import DummyOutput
from wizard_answers import BACK, Listening, enter_all_the_way, here

from finetune.data.rows import TooManyBadRows
from finetune.errors import DatasetError, FinetuneError, UploadError
from finetune.events import Fanout, Notice, Recorder
from finetune.recipe import Recipe, UploadSpec, schema
from finetune.runtime import RuntimeOptions
from finetune.screen import live_run
from finetune.wizard import review, step6_upload
from finetune.wizard.asking.plain import PlainPrompter
from finetune.wizard.asking.prompter import Question, plain
from finetune.wizard.asking.questions import Line
from finetune.wizard.conversation import agree
from finetune.wizard.step6_upload import repository


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is prepared: the review shows a problem, and starting is not offered."""
    monkeypatch.setattr(review, "prepare", lambda *_: DatasetError("The rows are gone."))


def test_the_run_does_not_repeat_what_the_review_showed() -> None:
    said = Recorder()
    run = live_run._New(said, ["rows.csv is read as cp1252."])
    for text in ("rows.csv is read as cp1252.", "Padding token: <pad>"):
        run.report(Notice(text))
    assert said.events == [Notice("Padding token: <pad>")]


@pytest.mark.usefixtures("no_plan")
def test_going_back_from_what_to_change_returns_to_the_review() -> None:
    prompter = enter_all_the_way(review=["change", "change", "quit"], change=[BACK, "4"], training__epochs=["3", "2"])
    assert agree(prompter, here) is None
    prompter.finish()
    assert prompter.asked.count("dataset.samples") == 1, "no other answer is asked for again"
    assert prompter.defaults["training.epochs"] == "3"


@pytest.mark.usefixtures("no_plan")
def test_going_back_from_the_name_of_the_plan_returns_to_the_review(empty_folder: Path) -> None:
    prompter = enter_all_the_way(review=["save", "save"], recipe_file=[BACK, "my plan.yaml"])
    assert agree(prompter, here) is None
    prompter.finish()
    assert Recipe.load(empty_folder / "my plan.yaml").dataset.source == "builtin:python-docs"
    assert "run 'my plan.yaml'" in prompter.shown[-1]


@pytest.mark.usefixtures("no_plan")
def test_a_plan_that_cannot_be_written_is_asked_for_again(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = schema.save

    def refuse(recipe: Recipe, path: Path) -> None:
        if "refused" in path.name:
            raise PermissionError(13, "Permission denied")
        save(recipe, path)

    monkeypatch.setattr(schema, "save", refuse)
    prompter = enter_all_the_way(
        review="save", recipe_file=["nowhere/at-all.yaml", "~nobodyhere/a.yaml", "refused.yaml"], **{"recipe_file-2": "mine.yaml"}
    )
    assert agree(prompter, here) is None
    prompter.finish()
    assert Recipe.load(empty_folder / "mine.yaml").model_dump()
    first = (empty_folder / "mine.yaml").read_text().splitlines()[0]
    assert (empty_folder / first.removeprefix("# yaml-language-server: $schema=")).is_file(), "editors find the schema without a network"
    assert "refused.yaml cannot be written: Permission denied." in prompter.shown
    assert any("no folder nowhere" in line for line in prompter.shown)


class Tuner:
    """Reads one word of the data; the plan is how often it was made."""

    made = 0

    def __init__(self, recipe: Recipe, **_: object) -> None:
        Tuner.made += 1
        self.reporter = Fanout(Recorder())
        self.file = Path(recipe.dataset.source, "rows.jsonl")

    def check(self) -> None:
        if self.file.read_text() == "wrong":
            raise DatasetError("20 of 300 rows cannot be used.")
        if Path("busy").exists():
            raise DatasetError("The disk is full.")

    def plan(self) -> int:
        return Tuner.made


def test_the_review_looks_again_at_what_was_wrong_or_has_changed(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.run.finetuner.LLMFineTuner", Tuner)
    recipe, file = Recipe.from_layers({"dataset": {"source": "rows"}}), empty_folder / "rows" / "rows.jsonl"
    file.parent.mkdir()
    (empty_folder / "busy").touch()
    file.write_text("wrong")
    assert isinstance(review.prepare(recipe, RuntimeOptions()), DatasetError)
    file.write_text("right")
    assert str(review.prepare(recipe, RuntimeOptions())) == "The disk is full."
    (empty_folder / "busy").unlink()
    first = review.prepare(recipe, RuntimeOptions())
    assert not isinstance(first, FinetuneError)
    assert len(first[0].reporter.reporters) == 1, "who reported the plan does not report the run too"
    assert review.prepare(recipe, RuntimeOptions()) == first, "a plan is remembered"
    file.write_text("another")
    again = review.prepare(recipe, RuntimeOptions())
    assert not isinstance(again, FinetuneError)
    assert again[1] != first[1]


def test_skipping_rows_that_cannot_be_used_changes_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "prepare", lambda *_: TooManyBadRows("20 of 300 rows cannot be used.", hint="", share=0.07))
    prompter = enter_all_the_way(review=["skip rows", "save"], recipe_file="mine.yaml")
    assert agree(prompter, here) is None
    assert Recipe.load("mine.yaml").dataset.bad_rows == 0.07


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my.model-2", "my.model-2"),
        ("out dir", "out-dir"),
        ("modèle--v1.", "modele-v1"),
        ("..", None),
        ("***", "model"),
        ("モデル その１", "model-1"),
        ("m" * 99, "m" * 90),
    ],
)
def test_the_repository_that_is_proposed_has_a_possible_name(folder: str, name: str | None, empty_folder: Path) -> None:
    proposed = repository(empty_folder / folder)
    assert proposed == (name or proposed)
    validate_repo_id(f"ada/{proposed}-2")


def test_the_command_for_an_upload_later_can_be_copied(empty_folder: Path) -> None:
    prompter = enter_all_the_way()
    step6_upload.ask(Path("out dir"), prompter, here(hub=True))
    assert prompter.shown[-1].endswith(" upload 'out dir' --repo out-dir")


@pytest.mark.parametrize("back", [True, False])
def test_a_hub_that_was_out_of_reach_is_asked_again_after_the_run(back: bool, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step6_upload, "hub_reachable", lambda: back)
    prompter = enter_all_the_way()
    step6_upload.ask(Path("out"), prompter, here(hub=False))
    assert ("so nothing can be uploaded now. To upload later:" in "".join(prompter.shown)) == (not back)


@pytest.mark.parametrize("along", [True, False, None])
def test_exported_files_may_go_along(along: bool | None, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, sent = empty_folder / "out", []
    (out / "run").mkdir(parents=True)
    exported = [{"to": "gguf", "file": "out-Q4_0.gguf", "bytes": 77_000_000}, {"to": "onnx", "file": "model.onnx", "bytes": 5}]
    exported = [{"folder": str(out), **each} for each in exported]
    (out / "run" / "export.json").write_text(json.dumps({"files": exported if along is not None else exported[1:]}))

    def plan(folder: Path, spec: UploadSpec, *, gguf: bool) -> None:
        sent.append(gguf)
        raise UploadError("The Hub is closed.")

    monkeypatch.setattr("finetune.publish.upload.upload_plan", plan)
    prompter = Listening({"upload": True} | ({} if along is None else {"upload.gguf": along}))
    step6_upload.ask(out, prompter, here(hub=True))
    assert sent == [bool(along)]
    if along is None:
        assert "upload.gguf" not in prompter.questions
    else:
        assert prompter.questions["upload.gguf"] == "Also the .gguf file?"
        assert prompter.helps["upload.gguf"].startswith("out-Q4_0.gguf (77")


def unsure(text: str) -> str | None:
    if text == "a":
        raise PermissionError(13, "Permission denied")
    return None


def test_an_answer_that_cannot_be_checked_is_refused_in_a_sentence_on_plain_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["a", "b"])
    monkeypatch.setattr("builtins.input", lambda: next(answers))
    assert PlainPrompter().text("key", "Question", "", unsure) == "b"
    assert "a is not valid: Permission denied." in capsys.readouterr().out


def test_an_answer_that_cannot_be_checked_is_refused_in_a_sentence_where_it_was_typed() -> None:
    said: list[str] = []
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        question = questionary.text("Question")
        line = Line(question, Question("key", "Question", "", check=unsure))

        @line.keys.add("b")
        def _look(event: KeyPressEvent) -> None:
            said.append(plain(line.state()))
            event.current_buffer.insert_text("b")

        question.application.key_bindings = merge_key_bindings([question.application.key_bindings or KeyBindings(), line.keys])
        keys.send_text("a\rb\r")
        assert question.unsafe_ask() == "ab"
    assert said == ["  ✗ a is not valid: Permission denied.\n"]
