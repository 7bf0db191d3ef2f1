"""The recipe of a student that learns in few bits: its short form, what suits it, what is refused, and the wizard's question."""

from __future__ import annotations

from typing import Any

import pytest
from wizard_answers import Listening, here

from finetune import registry
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.recipe.distillation_settings import QuantizeSpec
from finetune.recipe.recipe import IN_FEW_BITS
from finetune.wizard import ask_recipe

READY_MADE = {"approach": "distillation", "teacher": "org/teacher", "model": "./distilled_model"}


def recipe(*layers: dict[str, Any]) -> Recipe:
    return Recipe.from_layers(READY_MADE, *layers)


def few(quantize: Any, **others: Any) -> dict[str, Any]:
    return {"distillation": {"quantize": quantize, **others}}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("q4_0", {"format": "q4_0", "head": "q8_0"}),
        ("Q8_0", {"format": "q8_0", "head": "q8_0"}),
        ("nf4", {"format": "nf4", "head": None}),
        ({"format": "q4_0"}, {"format": "q4_0", "head": "q8_0"}),
        ({"format": "q4_0", "head": "q4_0"}, {"format": "q4_0", "head": "q4_0"}),
    ],
)
def test_the_short_form_and_the_long_one(given: Any, meant: dict[str, Any]) -> None:
    made = recipe(few(given))
    assert made.distillation.quantize == QuantizeSpec(**meant)
    assert made.distillation.quantize.model_dump() == meant
    assert Recipe.from_layers(made.model_dump(mode="json")) == made


def test_later_layers_change_the_format_or_the_head_alone() -> None:
    assert recipe(few("q4_0"), few({"head": "q4_0"})).distillation.quantize == QuantizeSpec(format="q4_0", head="q4_0")
    assert recipe(few({"format": "q4_0", "head": "q4_0"}), few("nf4")).distillation.quantize == QuantizeSpec(format="nf4")
    assert recipe(few("q4_0"), few(None)).distillation.quantize is None


def test_what_suits_it_is_filled_in_and_can_be_changed() -> None:
    made = recipe(few("q4_0"))
    assert (made.distillation.temperature, made.distillation.alpha, made.training.learning_rate) == (1.0, 0.0, IN_FEW_BITS)
    assert 1e-5 <= IN_FEW_BITS <= 5e-5
    assert made.method.kind == "full"
    changed = recipe(few("q4_0", alpha=0.3), {"training": {"learning_rate": 1e-4}})
    assert (changed.distillation.temperature, changed.distillation.alpha, changed.training.learning_rate) == (1.0, 0.3, 1e-4)
    made_student = Recipe.from_layers({"approach": "distillation"}, few("q4_0"))
    assert made_student.training.learning_rate == "auto"  # which is measured with rounded weights
    usual = recipe()
    assert (usual.distillation.temperature, usual.distillation.alpha) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("layer", "said", "hint"),
    [
        (few("q4_1"), "there is no 'q4_1'. Did you mean q4_0?", "Choose from q4_0, q8_0, nf4."),
        (few("q5_k_m"), "q5_k_m is made when a file is written, and cannot be trained for", "--to gguf:q5_k_m"),
        (few("IQ4_XS"), "cannot be trained for", "--to gguf:iq4_xs"),
        (few({"format": "nf4", "head": "q8_0"}), "has `head`, which programs that read NF4 leave as it is", ""),
        (few({"format": "q4_0", "head": "nf4"}), "for which GGUF has no type", ""),
        (few({"head": "q8_0"}), "distillation.quantize.format is missing", ""),
        (few("q4_0", rounds=[4, 2]) | {"model": None}, "`distillation.rounds`: distil in rounds first", ""),
        (few("q4_0", until={"retention": 0.9}) | {"model": None}, "`distillation.until`: distil in rounds first", ""),
        (few("q4_0") | {"method": "lora"}, "LoRA trains an adapter: use `method: full`", ""),
        (few("q4_0") | {"method": "qlora"}, "QLoRA trains an adapter: use `method: full`", ""),
        (few("q4_0") | {"method": {"kind": "full", "freeze": "none"}}, "use `freeze: head`", ""),
        (few("q4_0") | {"teacher": "self", "method": "full"}, "name the model as `teacher` and as `model`", ""),
        (few("q4_0") | {"approach": "fine-tuning"}, "needs `approach: distillation`", ""),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(layer: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe(layer)
    assert said in refused.value.message
    assert hint in str(refused.value.hint or "")
    assert "\n" not in refused.value.message


def wizard(**answers: Any) -> tuple[Recipe, Listening]:
    prompter = Listening({"approach": "distillation", "advanced": True, **{key.replace("__", "."): each for key, each in answers.items()}})
    return ask_recipe(prompter, here), prompter


def test_the_wizard_offers_every_grid_and_then_what_suits_it() -> None:
    made, prompter = wizard(distillation__quantize="q4_0")
    assert made.distillation.quantize == QuantizeSpec(format="q4_0")
    assert [choice.value for choice in prompter.offered["distillation.quantize"]] == ["none", *registry.names("grids")]
    assert (made.distillation.temperature, made.distillation.alpha) == (1.0, 0.0)
    assert "temperature 1, alpha 0, learning rate auto" in prompter.questions["few_bits.suited"]


def test_the_wizard_leaves_what_a_person_prefers() -> None:
    usual, prompter = wizard()
    assert usual.distillation.quantize is None
    assert "few_bits.suited" not in prompter.questions
    kept, _ = wizard(distillation__quantize="q8_0", few_bits__suited=False)
    assert kept.distillation.model_copy(update={"quantize": None}) == usual.distillation
    rounds, prompter = wizard(distillation__way="rounds", rounds__layers="15", distillation__rounds="20, 15")
    assert rounds.distillation.rounds == [20, 15]
    assert "distillation.quantize" not in prompter.questions
