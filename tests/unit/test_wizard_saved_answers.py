"""No answer is lost: what is kept of a conversation, how the next one goes on with it, and what is never kept."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wizard_answers import BACK, Listening, enter_all_the_way, here

from finetune.cli import main
from finetune.errors import DatasetError, DiskFull, FinetuneError, Interrupted, TrainingError
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.wizard import conversation, review, unfinished
from finetune.wizard.asking.prompter import Prompter, Question, ScriptedPrompter, plain
from finetune.wizard.asking.undo import Answer, Rewind
from finetune.wizard.conversation import _carry_out, agree
from finetune.wizard.rows import known_readings
from finetune.wizard.saved_answers import KeptAnswers, Session


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own; the cache, in which the built-in rows are made once, is shared."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(tmp_path_factory.getbasetemp() / "wizard-cache"))
    monkeypatch.setattr(review, "prepare", lambda *_: DatasetError("The rows are gone."))
    known_readings.recall.cache_clear()
    return folder


class Leaves(Listening):
    """Presses Ctrl-C at one question."""

    def __init__(self, at: str, **answers: Any) -> None:
        super().__init__({key.replace("__", "."): answer for key, answer in answers.items()})
        self.at = at

    def ask(self, question: Question) -> str | bool:
        if question.key == self.at:
            raise KeyboardInterrupt
        return super().ask(question)


def leave(at: str, **answers: Any) -> KeptAnswers:
    kept = KeptAnswers.here()
    with pytest.raises(KeyboardInterrupt):
        agree(Leaves(at, **answers), here, kept)
    return kept


def go_on(prompter: Prompter, session: Session | None) -> Recipe:
    """The recipe that the review is about, after going on with what was kept."""
    seen: list[Recipe] = []
    ask = review.ask

    def noted(recipe: Recipe, *others: Any) -> Any:
        seen.append(recipe)
        return ask(recipe, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(review, "ask", noted)
        assert agree(prompter, here, KeptAnswers.here(), session) is None
    return seen[-1]


def test_every_answer_survives_ctrl_c_and_only_the_rest_is_asked() -> None:
    leave(
        "training.batch_size", model="another", model__name="HuggingFaceTB/SmolLM2-135M-Instruct", dataset__samples="77", output_dir="mine"
    )
    session = KeptAnswers.here().load()
    assert session is not None
    prompter = enter_all_the_way(training__batch_size="3", review="quit")
    recipe = go_on(prompter, session)
    prompter.finish()
    assert prompter.asked[0] == "training.batch_size", "the first question that has no answer"
    assert (recipe.dataset.samples, recipe.output_dir, recipe.training.batch_size) == (77, "mine", 3)
    told = [line for line in prompter.shown if line.startswith(("Rows to use: 77", "Output folder: mine", "STEP 3"))]
    assert len(told) == 3, "what was answered is on the screen again, below its headings"


def test_answers_that_were_only_shown_again_are_said_to_be_kept() -> None:
    leave("training.batch_size", dataset__samples="77")
    kept = KeptAnswers.here()
    with pytest.raises(KeyboardInterrupt):
        agree(Leaves("training.batch_size"), here, kept, kept.load())
    session = kept.load()
    assert session is not None
    assert f"Your {len(session.answers)} answers are kept in" in plain(kept.farewell())


def test_one_can_go_back_to_an_answer_of_the_earlier_session() -> None:
    leave("training.batch_size", training__epochs="2")
    prompter = enter_all_the_way(training__batch_size=[BACK, "4"], training__epochs="5", review="quit")
    assert go_on(prompter, KeptAnswers.here().load()).training.epochs == 5
    assert prompter.defaults["training.epochs"] == "2"


@pytest.mark.parametrize(
    "answers",
    [
        {
            "benchmark__rows": [BACK],
            "advanced": [False, BACK],
            "training__learning_rate": ["3e-4", BACK],
            "training__batch_size": ["3", BACK],
        },
        {"training__learning_rate": ["3e-4"], "training__batch_size": ["3"], "review": ["change"], "change": ["4"]},
    ],
    ids=["Shift+Tab", "change something"],
)
def test_answers_that_one_went_back_over_are_kept_as_defaults(answers: dict[str, Any]) -> None:
    """An earlier one is changed, and then the program is left before the later ones are given again."""

    class LeavesAfter(Listening):
        def ask(self, question: Question) -> str | bool:
            if self.asked.count("training.epochs") > 1 and question.key == "training.batch_size":
                raise KeyboardInterrupt
            return super().ask(question)

    given = {"training.epochs": ["2", "5"], **{key.replace("__", "."): answer for key, answer in answers.items()}}
    with pytest.raises(KeyboardInterrupt):
        agree(LeavesAfter(given), here, KeptAnswers.here())
    prompter = enter_all_the_way(review="quit")
    training = go_on(prompter, KeptAnswers.here().load()).training
    assert prompter.asked[0] == "training.batch_size"
    assert (training.epochs, training.batch_size, training.learning_rate) == (5, 3, 3e-4)


def test_the_file_is_written_at_each_answer_so_a_killed_program_loses_none() -> None:
    numbers: list[int] = []

    class Counts(ScriptedPrompter):
        def ask(self, question: Question) -> str | bool:
            kept = KeptAnswers.here().load()
            numbers.append(len(kept.answers) if kept else 0)
            return super().ask(question)

    agree(Counts({"review": "quit"}, otherwise_default=True), here, KeptAnswers.here())
    assert numbers == [0, 0, *range(2, len(numbers))], "one Enter alone is no loss"


def test_nothing_is_kept_before_the_first_answer_and_after_the_recipe_is_saved() -> None:
    kept = leave("approach")
    assert (kept.written, kept.farewell(), kept.load()) == (0, [], None)
    assert agree(enter_all_the_way(review="save"), here, kept) is None
    assert kept.load() is None
    assert Path("recipe.yaml").is_file()


def test_quitting_at_the_review_keeps_the_answers_but_not_the_decision() -> None:
    kept = KeptAnswers.here()
    agree(enter_all_the_way(review="quit"), here, kept)
    session = kept.load()
    assert session is not None
    assert "review" not in session.answers
    assert "approach" in session.answers


def test_the_farewell_names_the_file_and_the_command() -> None:
    kept = leave("distillation.way", approach="distillation")
    words = plain(kept.farewell())
    assert words.startswith("Your answer is kept in")
    assert str(kept.path) in words
    assert words.endswith("finetune-cli")


def test_a_token_is_never_in_the_file() -> None:
    kept = KeptAnswers.here()
    prompter = ScriptedPrompter({"sign_in.token": "hf_secret", "name": "ada"})
    rewind = Rewind(prompter, None, lambda answers, taken_back: kept.keep(answers, [], taken_back))
    rewind.run(lambda answers: (answers.text("name", "Name", default=""), answers.secret("sign_in.token", "Token")))
    assert kept.path is not None
    assert "ada" in kept.path.read_text()
    assert "hf_secret" not in kept.path.read_text()


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(tmp_path / "cache"))
    kept = leave("dataset.source")
    assert kept.written == 0
    assert "could not be kept" in plain(kept.farewell())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 0}', '{"version": 1, "answers": {"a": 3}, "changes": [], "saved_at": 1}'])
def test_a_damaged_file_is_no_session(content: str) -> None:
    kept = KeptAnswers.here()
    assert kept.path is not None
    kept.path.parent.mkdir(parents=True, exist_ok=True)
    kept.path.write_text(content)
    assert kept.load() is None


def test_an_answer_that_no_longer_fits_is_asked_again(workplace: Path) -> None:
    (workplace / "rows.csv").write_text("question,answer\n" + "2+2?,4\n" * 30)
    leave("training.batch_size", dataset__source="rows.csv", training__epochs="2")
    (workplace / "rows.csv").unlink()
    prompter = enter_all_the_way(review="quit")
    recipe = go_on(prompter, KeptAnswers.here().load())
    assert "dataset.source" in prompter.asked
    assert "training.epochs" not in prompter.asked
    assert recipe.training.epochs == 2


@pytest.mark.parametrize(
    ("ends", "kept_after"),
    [
        (Interrupted("Stopped before anything was trained."), True),
        (TrainingError("The loss is nan."), True),
        (Interrupted("Stopped after step 5.", saved=Path("mine")), False),
        (None, False),
    ],
    ids=["before a checkpoint", "a failure", "after a checkpoint", "done"],
)
def test_the_answers_stay_until_the_run_itself_can_be_continued(
    ends: Exception | None, kept_after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_: Any, **__: Any) -> Any:
        if ends is not None:
            raise ends
        return SimpleNamespace(output_dir=Path("mine"))

    kept = leave("training.batch_size")
    monkeypatch.setattr(review, "prepare", lambda *_: (None, None))
    monkeypatch.setattr("finetune.screen.live_run.execute", execute)
    monkeypatch.setattr("finetune.screen.console.people", lambda: None)
    with suppress(FinetuneError):
        _carry_out(Recipe.from_layers({}), ScriptedPrompter({}), here(), kept)
    assert (kept.load() is not None) is kept_after
    assert bool(kept.farewell()) is kept_after


def test_an_error_of_the_run_is_the_last_on_the_screen_and_names_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    leave("training.batch_size")
    prompter = enter_all_the_way(unfinished="answers")
    monkeypatch.setattr(conversation, "_prompter", lambda *_: prompter)
    monkeypatch.setattr(conversation, "agree", lambda _, __, kept, earlier: kept.keep(earlier.answers, [], {}) or Recipe.from_layers({}))
    error = DiskFull("The disk is full.", hint="Use fewer rows (--set dataset.samples=20), or choose another --output-dir.")
    monkeypatch.setattr(review, "prepare", lambda *_: error)
    with pytest.raises(DiskFull) as raised:
        conversation.run_wizard(runtime=RuntimeOptions, plain=True)
    first, *rest = str(raised.value.hint).splitlines()
    assert first == "Use fewer rows (Rows to use 20, under Dataset), or choose another output folder."
    assert rest[0].endswith("answers are kept. To continue with them, in this folder:")
    assert rest[1:] == ["finetune-cli"]
    assert not any("are kept" in shown for shown in prompter.shown)


def test_who_stops_before_anything_was_trained_is_told_one_way_to_go_on() -> None:
    kept = leave("training.batch_size")
    again = "Start it again with the same command."
    assert conversation._spoken(Interrupted("Stopped before anything was trained.", hint=again), kept).hint == kept.in_short()
    assert conversation._spoken(Interrupted("Stopped before anything was trained.", hint=again), KeptAnswers(None)).hint == again
    saved = Interrupted("Stopped after step 4.", hint="Continue: finetune-cli resume mine", saved=Path("mine"))
    assert str(conversation._spoken(saved, kept).hint).startswith("Continue: finetune-cli resume mine")


@pytest.mark.parametrize("note", ["", "mine: step 3 of 8, saved 2 minutes ago. Continue: finetune-cli resume mine"])
def test_an_error_that_nobody_foresaw_ends_with_what_can_be_continued(
    note: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object, **__: object) -> None:
        error = RuntimeError("boom")
        if note:  # of a run that can be resumed, which has all the answers
            error.add_note(note)
        raise error

    leave("training.batch_size")
    monkeypatch.setattr(conversation, "_prompter", lambda *_: enter_all_the_way(unfinished="answers"))
    monkeypatch.setattr(conversation, "_carry_out", breaks)
    monkeypatch.setattr(conversation, "agree", lambda _, __, kept, earlier: kept.keep(earlier.answers, [], {}) or Recipe.from_layers({}))
    monkeypatch.setattr("finetune.command_line.commands.wizard", lambda _: conversation.run_wizard(runtime=RuntimeOptions, plain=True))
    assert main([]) == 1
    said, *kept, debug = capsys.readouterr().err.splitlines()
    assert said == "Unexpected error: RuntimeError: boom"
    assert debug == "If it fails again, add --debug to see where."
    if note:
        assert kept == [note]
    else:
        assert kept[0].endswith("answers are kept. To continue with them, in this folder:")
        assert kept[1:] == ["finetune-cli"]


# The question before STEP 0.


def session(**answers: str) -> Session:
    return Session({key: Answer(key, answer, "") for key, answer in answers.items()}, [], saved_at=1_700_000_000.0)


def test_answers_of_an_earlier_session_are_offered_by_their_time() -> None:
    earlier = session(approach="fine-tuning", output_dir="mine")
    prompter = Listening({})
    assert unfinished.ask(prompter, session=earlier) is earlier
    assert prompter.questions["unfinished"] == f"Continue with your answers from {earlier.when()}?"
    assert [(choice.title, choice.note) for choice in prompter.offered["unfinished"]] == [
        ("Continue", "2 answers, the last: output_dir"),
        ("Start anew", ""),
    ]
    assert unfinished.ask(ScriptedPrompter({"unfinished": "new"}), session=earlier) is None


@pytest.mark.parametrize(("stage", "offered"), [("benchmark", ["0", "new"]), ("training", ["0", "answers", "new"])])
def test_a_run_that_came_further_than_the_answers_is_offered_instead_of_them(workplace: Path, stage: str, offered: list[str]) -> None:
    folder = RunFolder.create(workplace / "mine")
    Recipe.from_layers({"output_dir": "mine"}).save(folder.recipe)
    folder.write_stage(stage)
    folder.release()
    prompter = Listening({})
    unfinished.ask(prompter, session=session(output_dir="mine"))
    assert [choice.value for choice in prompter.offered["unfinished"]] == offered
    unfinished.ask(prompter, session=session(output_dir="another"))
    assert [choice.value for choice in prompter.offered["unfinished"]] == ["0", "answers", "new"]


# Columns that were named once.


def test_columns_are_named_once_for_a_file(workplace: Path) -> None:
    (workplace / "odd.csv").write_text("left,right\n" + "2+2?,4\n" * 30)
    agree(
        enter_all_the_way(dataset__source="odd.csv", dataset__columns__prompt="left", dataset__columns__completion="right", review="quit"),
        here,
    )
    known_readings.recall.cache_clear()  # another session
    prompter = enter_all_the_way(dataset__source="odd.csv", review="quit")
    columns = go_on(prompter, None).dataset.columns
    assert columns is not None
    assert (columns.prompt, columns.completion) == ("left", "right")
    assert "dataset.columns.prompt" not in prompter.asked
    assert "Read as you said the last time." in prompter.shown


def test_swapped_columns_are_remembered_swapped_and_not_turned_round_again(workplace: Path) -> None:
    (workplace / "odd.csv").write_text("question,answer\n" + "4,What is 2+2?\n" * 30)
    leave("dataset.samples", dataset__source="odd.csv", dataset__reading="swap")
    known_readings.recall.cache_clear()
    recipe = go_on(enter_all_the_way(review="quit"), KeptAnswers.here().load())
    assert recipe.dataset.columns is not None
    assert (recipe.dataset.columns.prompt, recipe.dataset.columns.completion) == ("answer", "question")


def test_a_file_without_these_columns_is_read_as_it_is(workplace: Path) -> None:
    file = workplace / "odd.csv"
    file.write_text("left,right\n" + "2+2?,4\n" * 30)
    agree(
        enter_all_the_way(dataset__source="odd.csv", dataset__columns__prompt="left", dataset__columns__completion="right", review="quit"),
        here,
    )
    known_readings.recall.cache_clear()
    file.write_text("question,answer\n" + "2+2?,4\n" * 30)
    assert go_on(enter_all_the_way(dataset__source="odd.csv", review="quit"), None).dataset.columns is None


def test_the_memory_of_files_is_one_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(tmp_path / "cache"))
    for number in range(known_readings.MOST + 5):
        known_readings.remember(f"file-{number}.csv", {"encoding": "cp1252", "samples": 3})
    kept = json.loads((tmp_path / "cache" / "readings.json").read_text())
    assert len(kept) == known_readings.MOST
    assert kept[f"file-{known_readings.MOST + 4}.csv"] == {"encoding": "cp1252"}
