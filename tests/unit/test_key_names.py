"""What a key that is none was meant to be."""

from __future__ import annotations

import pytest

from finetune.errors import RecipeError
from finetune.recipe import Recipe, known_keys, parse_override
from finetune.recipe.key_names import ELSEWHERE, OWN, meant


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("training.lr", "training.learning_rate"),  # a closer name than any other key that begins with training
        ("lr", "training.learning_rate"),
        ("training.num_train_epochs", "training.epochs"),
        ("method.rank", "method.r"),
        ("dataset.max_seq_length", "dataset.max_length"),
        ("training.lerning_rate", "training.learning_rate"),
        ("training.temperature", "distillation.temperature"),
        ("trainings", "training"),
    ],
)
def test_names_of_other_programs_and_misspelt_ones_lead_to_the_key(path: str, key: str) -> None:
    assert meant(path, known_keys()) == f" Did you mean {key}?"


@pytest.mark.parametrize("path", ["training.foo", "training.max_steps", "training.weight_decay", "distillation.kd_ratio", "foo"])
def test_what_is_like_no_key_is_not_taken_for_one(path: str) -> None:
    assert meant(path, known_keys()) == ""


def test_the_names_of_other_programs_are_no_keys_and_lead_to_keys() -> None:
    assert set(ELSEWHERE) <= set(known_keys())
    assert not set(OWN) & set(Recipe.model_fields)


@pytest.mark.parametrize("override", ["method.target_modules=q_proj,v_proj", "benchmark.metrics=rouge"])
def test_a_list_without_brackets_is_shown_with_them(override: str) -> None:
    with pytest.raises(RecipeError, match="a list") as refused:
        Recipe.from_layers(parse_override(override))
    key, _, value = override.partition("=")
    assert f"{key}=[{value}]" in str(refused.value.hint)
