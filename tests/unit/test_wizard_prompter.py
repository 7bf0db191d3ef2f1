"""The conversation through its official double: defaults, answers, going back, changing one step."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from wizard_answers import BACK, DEFAULT, enter_all_the_way, here

from finetune.errors import DatasetError
from finetune.hardware.machine import Glance
from finetune.hub.reachability import offline_reason
from finetune.recipe import STARTER, DatasetSpec, Recipe
from finetune.runtime import RuntimeOptions
from finetune.wizard import ask_recipe
from finetune.wizard.asking.prompter import Choice, GoBack, ScriptedPrompter
from finetune.wizard.asking.undo import Rewind
from finetune.wizard.defaults import defaults, why
from finetune.wizard.host import HostInfo
from finetune.wizard.rows.data_preview import look

WORKSTATION = Glance("a processor", 16, 64 * 2**30, 60 * 2**30, 900 * 2**30, "a GPU", 24 * 2**30)


@pytest.fixture
def torch_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's torch may be a CPU build, which cannot use the GPU of the workstation above."""
    monkeypatch.setattr("finetune.wizard.defaults.version", lambda package: "2.13.0")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(prompter: ScriptedPrompter, where: HostInfo | None = None) -> Recipe:
    recipe = Rewind(prompter).run(lambda answers: ask_recipe(answers, lambda: where or here()))
    prompter.finish()
    return recipe


def test_enter_all_the_way_is_a_small_fine_tuning_run_of_the_starter() -> None:
    prompter = enter_all_the_way()
    recipe = ask(prompter)
    assert (recipe.approach, recipe.model, recipe.dataset.source) == ("fine-tuning", STARTER, "builtin:python-docs")
    assert recipe.method.kind == "lora"
    assert recipe.dataset.samples is not None
    assert recipe.dataset.samples < 1000
    assert len(prompter.asked) <= 12, "a newcomer has a dozen questions at most"


def test_the_steps_come_in_the_order_people_know() -> None:
    prompter = enter_all_the_way()
    ask(prompter)
    headings = [line for line in prompter.shown if line.startswith("STEP")]
    assert headings == ["STEP 0 Approach", "STEP 1 Models", "STEP 2 Dataset", "STEP 3 Configuration", "STEP 4 Training", "STEP 5 Benchmark"]


@pytest.mark.parametrize("system", ["", "Answer in one word."])
def test_a_model_that_is_its_own_teacher_is_asked_for_like_a_fine_tuning(system: str) -> None:
    recipe = ask(enter_all_the_way(approach="distillation", teacher="self", teacher__system=system, method__kind="lora"))
    assert recipe.teacher is not None
    assert (recipe.teacher.source, recipe.teacher.system) == ("self", system or None)
    assert (recipe.approach, recipe.model, recipe.method.kind) == ("distillation", STARTER, "lora")
    assert (recipe.training.learning_rate, recipe.distillation.supervise) == (1e-3, "answers")
    assert recipe.output_dir == "./distilled_model"


def test_distillation_without_a_gpu_makes_the_student_from_the_starter() -> None:
    recipe = ask(enter_all_the_way(approach="distillation"))
    assert recipe.approach == "distillation"
    assert recipe.teacher is not None
    assert recipe.teacher.source == STARTER
    assert recipe.model_dump()["model"] == {"from_teacher": {"size": 0.75}}
    assert recipe.training.learning_rate == "auto"
    assert recipe.dataset.source == "builtin:python-docs"
    assert recipe.output_dir == "./distilled_model"


@pytest.mark.usefixtures("torch_for_gpus")
def test_distillation_with_a_gpu_and_the_hub_is_gpt2_from_gpt2_medium_on_wikitext() -> None:
    recipe = Recipe.from_layers(defaults(here(WORKSTATION, hub=True), "distillation"))
    assert (recipe.teacher and recipe.teacher.source, recipe.model) == ("gpt2-medium", "gpt2")
    assert (recipe.dataset.source, recipe.dataset.config, recipe.dataset.samples) == ("wikitext", "wikitext-2-raw-v1", 5000)
    assert (recipe.distillation.temperature, recipe.distillation.alpha) == (2.0, 0.5)
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.learning_rate) == (3, 4, 2e-4)


def test_distillation_with_a_gpu_but_no_hub_needs_nothing_from_the_hub() -> None:
    recipe = Recipe.from_layers(defaults(here(WORKSTATION, hub=False), "distillation"))
    assert recipe.teacher is not None
    assert recipe.teacher.source == STARTER
    assert recipe.dataset.source.startswith("builtin:")


def test_a_gpu_that_will_not_be_used_does_not_size_the_run() -> None:
    on_the_cpu = HostInfo(WORKSTATION, True, RuntimeOptions(device="cpu"))
    assert defaults(on_the_cpu, "fine-tuning")["dataset"] == defaults(here(), "fine-tuning")["dataset"]
    assert "no GPU used" in why(on_the_cpu)


def test_the_machine_and_the_reason_for_the_defaults_are_said() -> None:
    prompter = enter_all_the_way()
    ask(prompter)
    assert any("no GPU" in line and "2 cores" in line and offline_reason() in line for line in prompter.shown)


def test_the_preview_marks_what_is_learned() -> None:
    prompter = enter_all_the_way()
    ask(prompter)
    shown = next(line for line in prompter.shown if line.startswith("Columns:"))
    assert "▌" in shown
    assert "│" in shown


def test_every_number_is_checked_by_the_recipe_before_the_next_question() -> None:
    prompter = enter_all_the_way(
        training__epochs=["-1", "none", "2"], training__batch_size=["0", "4"], training__learning_rate=["7", "1e-4"]
    )
    recipe = ask(prompter)
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.learning_rate) == (2, 4, 1e-4)
    assert "Must be 'auto' or greater than 0." in prompter.shown
    assert "Must be at least 1." in prompter.shown
    assert "Must be 'auto' or less than 1." in prompter.shown


def test_shift_tab_asks_the_question_before_with_the_old_answer_as_default() -> None:
    prompter = enter_all_the_way(training__epochs=["3", DEFAULT], training__batch_size=[BACK, "2"])
    recipe = ask(prompter)
    assert prompter.defaults["training.epochs"] == "3"
    assert (recipe.training.epochs, recipe.training.batch_size) == (3, 2)


def test_going_back_several_times_crosses_steps() -> None:
    prompter = enter_all_the_way(method__kind=[BACK, "full"], dataset__samples=["100", BACK, "200"], dataset__source=[DEFAULT, DEFAULT])
    recipe = ask(prompter)
    assert recipe.dataset.samples == 200
    assert recipe.method.kind == "full"


def test_going_back_at_the_first_question_asks_it_again() -> None:
    assert ask(enter_all_the_way(approach=[BACK, "fine-tuning"])).approach == "fine-tuning"


def test_a_default_that_was_only_accepted_does_not_outlive_its_reason() -> None:
    prompter = enter_all_the_way(approach=["fine-tuning", "distillation"], model=[BACK])
    recipe = ask(prompter)
    assert recipe.output_dir == "./distilled_model"
    assert recipe.training.learning_rate != 1e-3


def test_changing_one_step_asks_only_that_step() -> None:
    prompter = enter_all_the_way(training__epochs=["1", "2"], training__batch_size=["4", DEFAULT])
    rewind = Rewind(prompter)
    rewind.run(lambda answers: ask_recipe(answers, here))
    asked = len(prompter.asked)
    rewind.reopen(4)
    recipe = rewind.run(lambda answers: ask_recipe(answers, here))
    assert set(prompter.asked[asked:]) == {"training.epochs", "training.batch_size", "training.learning_rate", "advanced"}
    assert (recipe.training.epochs, recipe.training.batch_size) == (2, 4)


def test_advanced_settings_come_from_the_method_and_reach_the_recipe() -> None:
    prompter = ScriptedPrompter(
        {"advanced": True, "method.r": "8", "method.target_modules": "q_proj, v_proj", "training.scheduler": "linear", "seed": "7"},
        otherwise_default=True,
    )
    recipe = ask(prompter)
    assert recipe.method.model_dump()["r"] == 8
    assert recipe.method.model_dump()["target_modules"] == ["q_proj", "v_proj"]
    assert (recipe.training.scheduler, recipe.seed) == ("linear", 7)


def test_what_is_imitated_of_the_teachers_inside_is_an_advanced_setting() -> None:
    asked = {"last": "0.1", "layers": ["0", "all", "5, 10"], "relations": ["x", "q, v"]}
    features = {f"distillation__features__{name}": answer for name, answer in asked.items()}
    recipe = ask(enter_all_the_way(approach="distillation", advanced=True, **features))
    assert recipe.distillation.features.model_dump(include=set(asked)) == {"last": 0.1, "layers": [5, 10], "relations": ["q", "v"]}


def test_a_local_file_is_read_before_the_next_question(empty_folder: Path) -> None:
    (empty_folder / "good.jsonl").write_text('{"prompt": "2 + 2", "completion": "4"}\n' * 30)
    (empty_folder / "empty.jsonl").write_text("")
    prompter = enter_all_the_way(dataset__source="a file", dataset__file=["missing.jsonl", "empty.jsonl", "good.jsonl"])
    recipe = ask(prompter)
    assert recipe.dataset.source == "good.jsonl"
    assert any("missing.jsonl" in line for line in prompter.shown)
    assert any("empty.jsonl" in line for line in prompter.shown)


def test_a_data_file_in_the_working_folder_is_offered_by_name(empty_folder: Path) -> None:
    (empty_folder / "mine.csv").write_text("question,answer\n" + "2+2?,4\n" * 30)
    assert ask(enter_all_the_way(dataset__source="mine.csv")).dataset.source == "mine.csv"


def test_columns_nobody_can_guess_are_asked_for(empty_folder: Path) -> None:
    (empty_folder / "odd.csv").write_text("left,right\n" + "2+2?,4\n" * 30)
    columns = ask(enter_all_the_way(dataset__source="odd.csv", dataset__whole=True, dataset__columns__prompt="left")).dataset.columns
    assert columns is not None
    assert (columns.prompt, columns.completion) == ("left", "right")


def test_a_wrong_guess_of_the_columns_is_one_answer_to_correct(empty_folder: Path) -> None:
    (empty_folder / "odd.csv").write_text("question,answer\n" + "4,What is 2+2?\n" * 30)
    prompter = enter_all_the_way(dataset__source="odd.csv", dataset__reading="swap")
    columns = ask(prompter).dataset.columns
    assert columns is not None
    assert (columns.prompt, columns.completion) == ("answer", "question")
    examples = [line for line in prompter.shown if line.startswith("Columns: ")]
    assert [line.splitlines()[0] for line in examples] == [
        "Columns: question, answer · read as question and answer",
        "Columns: answer, question · read as prompt and completion",
    ]
    assert prompter.asked.count("dataset.reading-2") == 1, "what the correction did is shown and asked about again"


@pytest.mark.parametrize(("subject", "chosen"), [("Rückfrage", {}), ("Eine Frage", {"dataset__columns__prompt": "Galdera"})])
def test_the_columns_with_sentences_are_offered_first_and_for_the_answer_those_behind_the_prompt(
    empty_folder: Path, subject: str, chosen: dict[str, str]
) -> None:
    row = f"2024/03/02 9:15:02 AM MEZ,{subject},Wo ist es?,In der Kiste.,offen\n"
    (empty_folder / "form.csv").write_text("Timestamp,Betreff,Galdera,Erantzuna,Status\n" + row * 30)
    columns = ask(enter_all_the_way(dataset__source="form.csv", **chosen)).dataset.columns
    assert columns is not None
    assert (columns.prompt, columns.completion) == ("Galdera", "Erantzuna")


@pytest.mark.parametrize(("names", "row"), [("text,category,id", "You have won,spam,x"), ("text,category,weight", "You have won,spam,1")])
def test_a_category_is_one_answer_away_from_being_learned(empty_folder: Path, names: str, row: str) -> None:
    (empty_folder / "sms.csv").write_text(f"{names}\n" + f"{row}\n" * 30)
    prompter = enter_all_the_way(dataset__source="sms.csv", dataset__reading="pair")
    columns = ask(prompter).dataset.columns
    assert columns is not None
    assert (columns.prompt, columns.completion) == ("text", "category")
    assert not any("--set" in line for line in prompter.shown)


def test_other_columns_can_be_chosen_though_some_were_recognised(empty_folder: Path) -> None:
    (empty_folder / "odd.csv").write_text("text,title,body\n" + "a,b,c\n" * 30)
    prompter = enter_all_the_way(
        dataset__source="odd.csv", dataset__reading="columns", dataset__columns__prompt="title", dataset__columns__completion="body"
    )
    columns = ask(prompter).dataset.columns
    assert columns is not None
    assert columns.model_dump(exclude_none=True) == {"prompt": "title", "completion": "body"}


def test_wrong_letters_are_one_answer_to_correct(empty_folder: Path) -> None:
    (empty_folder / "odd.csv").write_bytes("question,answer\nKur?,Čia\nKada?,Ką tik\n".encode("cp1257"))
    prompter = enter_all_the_way(dataset__source="odd.csv", dataset__reading="encoding", dataset__encoding="cp1257")
    assert ask(prompter).dataset.encoding == "cp1257"
    assert any("Čia" in line for line in prompter.shown)


def test_letters_that_the_guess_does_not_have_ask_for_the_encoding(empty_folder: Path) -> None:
    words = "Le père"
    (empty_folder / "old.csv").write_bytes(("question,answer\n" + f"{words},{words}\n" * 5).encode("mac_roman"))
    prompter = enter_all_the_way(dataset__source="a file", dataset__file="old.csv", dataset__encoding="mac_roman")
    assert ask(prompter).dataset.encoding == "mac_roman"
    assert any("père" in line for line in prompter.shown)


def test_a_file_that_was_corrected_meanwhile_is_read_again(empty_folder: Path) -> None:
    file, spec = empty_folder / "rows.jsonl", DatasetSpec(source="rows.jsonl")
    file.write_text("{broken")
    assert isinstance(look(spec, RuntimeOptions()), DatasetError)
    file.write_text('{"prompt": "2 + 2", "completion": "4"}\n')
    assert not isinstance(look(spec, RuntimeOptions()), DatasetError)


def test_a_text_file_can_be_read_line_by_line(empty_folder: Path) -> None:
    (empty_folder / "notes.txt").write_text("One.\nTwo.\n\nThree.\n" * 30)
    prompter = enter_all_the_way(dataset__source="a file", dataset__file="notes.txt", dataset__reading="line")
    assert ask(prompter).dataset.text_as == "line"


def test_data_that_come_with_the_program_are_not_asked_about() -> None:
    prompter = enter_all_the_way()
    ask(prompter)
    assert not any(key.startswith("dataset.reading") for key in prompter.asked)


def test_an_output_folder_in_use_is_neither_proposed_nor_accepted(empty_folder: Path) -> None:
    (empty_folder / "finetuned_model").mkdir()
    (empty_folder / "finetuned_model" / "model.safetensors").write_text("work of last week")
    prompter = enter_all_the_way(output_dir=["finetuned_model", DEFAULT])
    assert ask(prompter).output_dir == "./finetuned_model-2"
    assert any("not empty" in line for line in prompter.shown)


@pytest.mark.parametrize("folder", [".", "rows.jsonl/below", "~nobodyhere/model", "m" * 300])
def test_an_output_folder_that_cannot_be_is_refused_at_the_question(folder: str, empty_folder: Path) -> None:
    (empty_folder / "rows.jsonl").write_text("")
    prompter = enter_all_the_way(output_dir=[folder, DEFAULT])
    assert ask(prompter).output_dir == "./finetuned_model"
    assert any(folder in line and line.endswith(".") for line in prompter.shown)


@pytest.mark.parametrize("file", ["~nobodyhere/rows.jsonl", f"{'r' * 300}.jsonl"])
def test_a_file_that_cannot_be_looked_at_is_refused_at_the_question(file: str, empty_folder: Path) -> None:
    (empty_folder / "good.jsonl").write_text('{"prompt": "2 + 2", "completion": "4"}\n' * 30)
    prompter = enter_all_the_way(dataset__source="a file", dataset__file=[file, "good.jsonl"])
    assert ask(prompter).dataset.source == "good.jsonl"
    assert any(file in line and line.endswith(".") for line in prompter.shown)


def test_a_model_that_cannot_be_here_is_refused_at_once() -> None:
    prompter = enter_all_the_way(model="another", model__name=["../../etc", "./no_such_folder", "someone/some-model", STARTER])
    assert ask(prompter).model == STARTER
    assert any("no_such_folder" in line for line in prompter.shown)
    assert any("someone/some-model is not on this machine" in line for line in prompter.shown)


def test_a_student_must_be_smaller_than_its_teacher() -> None:
    prompter = enter_all_the_way(approach="distillation", student__by="layers", student__layers=["0", "1", "30", "1.5", "12"])
    assert ask(prompter).model_dump()["model"] == {"from_teacher": {"layers": 12}}
    assert prompter.shown.count("From 2 to 29 layers of the teacher's 30 can be kept.") == 2


@pytest.mark.parametrize(("by", "refused", "amount"), [("ffn", "-1", 0.5), ("heads", "1.5", 6), ("size", "2", 0.8)])
def test_a_student_is_smaller_by_what_is_asked_for_and_by_nothing_else(by: str, refused: str, amount: float) -> None:
    prompter = enter_all_the_way(**{"approach": "distillation", "student.by": by, f"student.{by}": [refused, str(amount)]})
    assert ask(prompter).model_dump()["model"] == {"from_teacher": {by: amount}}
    assert sum(line.startswith("A share of the teacher's such as 0.") for line in prompter.shown) == 1


def test_temperature_and_alpha_are_held_to_their_ranges() -> None:
    prompter = enter_all_the_way(approach="distillation", distillation__temperature=["0", "3"], distillation__alpha=["1.2", "0.3"])
    recipe = ask(prompter)
    assert (recipe.distillation.temperature, recipe.distillation.alpha) == (3, 0.3)


def test_full_training_gets_a_rate_that_does_not_break_a_whole_model() -> None:
    assert ask(enter_all_the_way(method__kind="full")).training.learning_rate < 1e-4


def test_more_rows_to_test_on_hold_more_rows_out() -> None:
    recipe = ask(enter_all_the_way(dataset__samples="200", benchmark__rows=["101", "60"]))
    assert recipe.benchmark.rows == 60
    assert 60 <= recipe.dataset.held_out * 200 <= 64


def test_rows_to_test_on_are_what_the_recipe_reads() -> None:
    assert ask(enter_all_the_way(benchmark__rows="5.0")).benchmark.rows == 5


def test_few_rows_to_use_lower_the_rows_to_test_on() -> None:
    recipe = ask(enter_all_the_way(dataset__samples="40"))
    assert recipe.benchmark.rows == 8
    assert 8 <= recipe.dataset.held_out * 40 < 9


def test_an_earlier_run_is_offered_as_the_teacher(empty_folder: Path) -> None:
    """Its weights are not there, so its depth is unknown, and a share of it is asked for."""
    run = empty_folder / "my_run" / "run"
    run.mkdir(parents=True)
    Recipe.from_layers({}).save(run / "recipe.yaml")
    (run / "benchmark.json").write_text("{}")
    recipe = ask(enter_all_the_way(approach="distillation", teacher="./my_run"))
    assert recipe.teacher is not None
    assert recipe.teacher.source == "./my_run"


def test_answers_and_a_file_make_the_same_recipe(tmp_path: Path) -> None:
    recipe = ask(enter_all_the_way())
    recipe.save(tmp_path / "again.yaml")
    assert Recipe.load(tmp_path / "again.yaml") == recipe
    assert yaml.safe_load(recipe.to_yaml())["training"]["epochs"] == recipe.training.epochs


def test_the_double_fails_for_an_unknown_question() -> None:
    with pytest.raises(AssertionError, match="no answer"):
        ask(ScriptedPrompter({"approach": "fine-tuning"}))


def test_the_double_fails_for_an_unused_answer() -> None:
    with pytest.raises(AssertionError, match="nobody asked for: colour"):
        ask(enter_all_the_way(colour="red"))


def test_the_double_fails_for_a_choice_that_is_not_offered() -> None:
    with pytest.raises(AssertionError, match="not offered"):
        ScriptedPrompter({"a": "c"}).select("a", "A", [Choice("b", "B")], default="b")


def test_going_back_raises_for_whoever_asks_without_memory() -> None:
    with pytest.raises(GoBack):
        ScriptedPrompter({"a": BACK}).text("a", "A", default="")


@pytest.mark.parametrize(("source", "epochs"), [("builtin:python-docs", 1), ("support.csv", "auto")])
def test_data_of_ones_own_gets_epochs_by_its_rows_and_the_demo_those_that_were_measured(
    source: str, epochs: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "support.csv").write_text("question;answer\n" + "".join(f"where is {n};there {n}\n" for n in range(30)), encoding="utf-8")
    recipe = ask(enter_all_the_way(dataset__source=source))
    assert (recipe.dataset.source, recipe.training.epochs) == (source, epochs)
