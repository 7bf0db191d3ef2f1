"""Each setting says on its own field what it is called, what it does and what is usual; whoever asks or checks reads it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo
from wizard_answers import Listening, here

from finetune import registry
from finetune.command_line import arguments
from finetune.errors import RecipeError
from finetune.recipe import Recipe, known_fields, parse_override
from finetune.recipe.distillation_settings import DistillationSpec
from finetune.recipe.schema import keys_of_parts
from finetune.recipe.settings import Usual, help_of, label, usual
from finetune.recipe.task_settings import TASKS
from finetune.wizard import ask_recipe

ROOT = Path(__file__).parents[2]
LONGEST_HELP = 120


SETTINGS = [(key, field) for key, field in known_fields() if key != "method.kind"]  # a name in the registry has its summary there


@pytest.mark.parametrize(("key", "field"), SETTINGS, ids=lambda part: part if isinstance(part, str) else "")
def test_every_setting_says_what_it_does_in_a_line(key: str, field: FieldInfo) -> None:
    assert field.description, key
    assert field.description.endswith(".")
    assert len(help_of(field)) <= LONGEST_HELP
    assert label(key.rpartition(".")[2], field)


def test_all_settings_are_looked_at() -> None:
    keys = set(dict(SETTINGS))
    assert {"seed", "dataset.columns.prompt", "method.r", "method.freeze", "model.from_teacher.layers", "teacher.load_in"} <= keys


def test_the_usual_values_are_within_what_the_recipe_allows() -> None:
    stated = {key: usual(field) for key, field in SETTINGS if usual(field)}
    assert {"distillation.temperature", "training.learning_rate", "method.dropout"} <= set(stated)
    for key, found in stated.items():
        assert found is not None
        if not key.startswith("method."):
            for value in (found.low, found.high):
                Recipe.from_layers(parse_override(f"{key}={value}"))


@pytest.mark.parametrize(("range_", "words"), [(Usual(1, 5), "1 to 5"), (Usual(1e-5, 5e-4), "1e-5 to 5e-4"), (Usual(0, 0.1), "0 to 0.1")])
def test_a_range_reads_as_people_write_it(range_: Usual, words: str) -> None:
    assert str(range_) == words


@pytest.mark.parametrize("approach", ["fine-tuning", "distillation"])
def test_the_wizard_asks_with_the_words_of_the_field(approach: str) -> None:
    prompter = Listening({"approach": approach, "advanced": True})
    recipe = ask_recipe(prompter, here)
    known = dict(SETTINGS)
    known |= {f"method.{name}": field for name, field in type(recipe.method).model_fields.items() if name != "kind"}
    own_help = ("dataset.samples", "training.learning_rate")  # what `all` means there; what the method knows better
    asked = [key for key in prompter.questions if key in known and key not in ("approach", "model", "teacher", "dataset.source")]
    assert len(asked) >= 15
    for key in asked:
        assert prompter.questions[key] == label(key.rpartition(".")[2], known[key]), key
        if key not in own_help:
            assert prompter.helps[key] == help_of(known[key]), key


def test_the_wizard_holds_the_temperature_to_its_usual_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistillationSpec.model_fields["temperature"], "json_schema_extra", Usual(2, 3))
    prompter = Listening({"approach": "distillation", "distillation.temperature": ["4", "3"]})
    assert ask_recipe(prompter, here).distillation.temperature == 3
    assert "Must be from 2 to 3." in prompter.shown
    assert prompter.helps["distillation.temperature"].endswith("Usually 2 to 3.")


@pytest.mark.parametrize("method", registry.BUILT_IN["methods"])
def test_the_rate_that_is_proposed_and_explained_is_the_methods(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = registry.load("methods", method)
    monkeypatch.setattr(chosen, "learning_rate", 0.0123)
    prompter = Listening({"method.kind": method})
    assert ask_recipe(prompter, here).training.learning_rate == 0.0123
    assert f"{chosen.title} usually takes about 0.0123" in prompter.helps["training.learning_rate"]


def test_objectives_are_offered_by_title_and_summary() -> None:
    prompter = Listening({"approach": "distillation", "advanced": True, "distillation.objective": "jsd"})
    assert ask_recipe(prompter, here).distillation.objective == "jsd"
    offered = {choice.value: (choice.title, choice.note) for choice in prompter.offered["distillation.objective"]}
    assert offered["jsd"] == ("Generalised JSD", "between forward and reverse KL, bounded")
    assert all(title and summary for title, summary in offered.values())


def test_the_documents_give_the_ranges_of_the_fields() -> None:
    known = {key: usual(field) for key, field in SETTINGS}
    temperature, rate = known["distillation.temperature"], known["training.learning_rate"]
    assert f"# {temperature}: " in (ROOT / "docs" / "ways-to-distil.md").read_text(encoding="utf-8")
    settings_table = (ROOT / "DISTILLATION_UPDATE.md").read_text(encoding="utf-8")
    for key, found in (("distillation.temperature", temperature), ("training.learning_rate", rate)):
        assert f"| `{key}` | {str(found).replace(' to ', '–')} |" in settings_table


def test_a_refused_value_hears_what_is_usual() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_layers({"distillation": {"temperature": 0}})
    assert str(caught.value.hint).startswith("Usually 1 to 5; the default is 2.0")


def test_a_setting_without_any_words_still_has_a_label() -> None:
    class Plain(BaseModel):
        some_size: int = Field(1)

    field: Any = Plain.model_fields["some_size"]
    assert (label("some_size", field), help_of(field)) == ("Some size", "")


@pytest.mark.parametrize("part", arguments.TOLD)
def test_the_help_of_run_tells_every_key_of_the_parts_of_a_recipe(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parser().parse_args(["run", "--help"])
    shown = capsys.readouterr().out
    said = " ".join(shown.split())
    by_name = {f"{key}.{name}": registry.title(kind, name) for key, kind in arguments.PARTS.items() for name in registry.names(kind)}
    keys = keys_of_parts(part)
    assert keys
    for key, does in keys.items():
        assert f"  {key.removeprefix(f'{part}.')}" in shown or key in by_name, key
        assert by_name.get(key, does) in said, key
    assert all(task.summary in said for task in TASKS.values())
    assert max(map(len, shown.splitlines())) <= 80
