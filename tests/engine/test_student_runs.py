"""What a run decides about a student made from its teacher, and what it writes down: sizes, learning rate, how the student was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from letters import llama, tokenizer
from transformers import AutoModelForCausalLM
from workshop import Workshop, notices, recorded

from finetune.errors import RecipeError
from finetune.events import Notice
from finetune.planning import known_scores
from finetune.planning.known_scores import known_student_scores, to_answer
from finetune.publish.card import card_of
from finetune.recipe import Recipe, read_yaml

REUSED = "Measuring the student before training: reused from an earlier run on the same rows."


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("students"))
    made.model = made.folder / "wide"
    llama(seed=3, layers=4, intermediate_size=128).save_pretrained(made.model)
    tokenizer(chat=True).save_pretrained(made.model)
    return made


def test_what_was_left_open_is_decided_said_and_written_down_and_the_recipe_repeats_it(shop: Workshop) -> None:
    layer = shop.distilling(model={"from_teacher": {"size": 0.75}}, training={"epochs": 1, "batch_size": 6})
    tuner = shop.tuner(layer)
    planned = tuner.plan()
    assert tuner.recipe.training.learning_rate == "auto"
    result = tuner.run()
    written = read_yaml(tuner.folder.recipe)
    facts = json.loads(tuner.folder.student.read_text())
    kept = {name: facts[name] for name in ("layers", "ffn") if name in facts}
    assert written["model"] == {"from_teacher": kept}
    assert kept
    assert written["training"]["learning_rate"] == facts["learning_rate"] == tuner.recipe.training.learning_rate
    assert planned.parameters == pytest.approx(facts["parameters"], rel=0.1)
    assert planned.speed_up
    assert planned.speed_up > 1
    assert planned.stages["making the student"] > 0
    reporter = recorded(tuner)
    said = " ".join(notice.text for notice in reporter.of(Notice))
    assert "students of this size it is the closest" in said
    assert f"Learning rate {facts['learning_rate']:g}: the student begins at a KL of {facts['kl']:.2f}" in said
    in_words = f"of {facts['of_parameters'] / 1e3:.0f}k parameters"
    assert in_words in card_of(tuner.folder, repo=None)
    assert in_words in (tuner.folder.run / "report.html").read_text()

    again = shop.tuner(written, {"output_dir": str(shop.folder / "again")})
    repeated = again.run()
    assert REUSED in notices(again)
    for part in ("before", "intervals", "generations"):
        assert repeated.scores[part] == result.scores[part]
    one, other = (AutoModelForCausalLM.from_pretrained(tuner.folder.output_dir) for tuner in (tuner, again))
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())
    assert result.training["steps"] > 0


def test_another_student_or_another_teacher_beside_it_is_measured_before_training(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"source": str(shop.model), "system": "Answer briefly."}
    layers = [shop.distilling(model={"from_teacher": {"layers": 2}})] * 2 + [
        shop.distilling(model={"from_teacher": {"layers": 3}}),
        shop.distilling(model={"from_teacher": {"layers": 2}}, teacher=told),
    ]
    tuners = [shop.tuner(layer) for layer in layers]
    scores = [tuner.score_before() for tuner in tuners]
    assert [REUSED in notices(tuner) for tuner in tuners] == [False, True, False, False]
    assert scores[0].to_dict() == scores[1].to_dict()
    assert scores[2].parameters > scores[0].parameters
    assert scores[3].values["kl"] != scores[0].values["kl"]
    assert known_student_scores(tuners[0].context) is not None
    assert to_answer(tuners[0].context) == 1, "the plan counts the result alone"
    monkeypatch.setattr(known_scores, "VERSION", known_scores.VERSION + 1)
    assert known_student_scores(tuners[0].context) is None, "students are made in another way now"
    assert to_answer(tuners[0].context) == 2
    assert to_answer(shop.tuner(shop.layer()).context) == 2, "of a fine-tuning the model before and after"


def test_a_rate_that_was_given_stays(shop: Workshop) -> None:
    tuner = shop.tuner(shop.distilling(model={"from_teacher": {"ffn": 0.5}}, training={"epochs": 1, "learning_rate": 0.003}))
    tuner.load_models()
    assert tuner.recipe.training.learning_rate == 0.003
    assert tuner.load_models().config.intermediate_size == 64


def test_auto_is_what_the_method_takes_where_there_is_no_teacher(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer(method={"kind": "lora"}, training={"epochs": 1, "learning_rate": "auto"}))
    tuner.prepare_data()
    assert tuner.recipe.training.learning_rate == tuner.context.method.learning_rate
    ready_made = shop.tuner(shop.distilling(model=str(shop.smaller_model()), training={"learning_rate": "auto"}))
    ready_made.load_models()
    assert ready_made.recipe.training.learning_rate in (2e-4, 5e-4)


def test_a_size_takes_the_place_of_other_amounts_and_the_other_way_round(tmp_path: Path) -> None:
    def amounts(*layers: dict[str, object]) -> object:
        base = {"approach": "distillation"}
        return Recipe.from_layers(base, *({"model": {"from_teacher": layer}} for layer in layers)).model_dump()["model"]["from_teacher"]

    assert amounts({"layers": 20}, {"size": 0.75}) == {"size": 0.75}
    assert amounts({"size": 0.75}, {"ffn": 0.5}) == {"ffn": 0.5}
    assert amounts({"layers": 20}, {"ffn": 0.5}) == {"layers": 20, "ffn": 0.5}


@pytest.mark.parametrize(
    "changes", [{"teacher": {"source": "org/big", "load_in": "8bit"}}, {"teachers": [{"source": "a", "load_in": "4bit"}, "b"]}]
)
def test_a_student_is_not_made_from_rounded_weights(changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="`load_in`, and no student can be made from rounded weights") as refused:
        Recipe.from_layers({"approach": "distillation", **changes})
    assert refused.value.exit_code == 2
    assert Recipe.from_layers({"approach": "distillation", "model": "org/small", **changes}).all_teachers[0].load_in
    Recipe.from_layers({"approach": "distillation", "teachers": ["a", {"source": "b", "load_in": "4bit"}]})  # it is made from the first


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            {"model": {"from_teacher": {"layers": 2}}},
            "`model: {from_teacher: ...}`, which makes a student and needs `approach: distillation`",
        ),
        ({"teacher": "self"}, "`teacher: self`, which needs `approach: distillation`"),
        (
            {"approach": "distillation", "teacher": "self", "model": {"from_teacher": {"layers": 2}}},
            "`teacher: self`, which trains a model that is its own teacher: name it under `model`, without `from_teacher`",
        ),
    ],
)
def test_students_that_do_not_go_with_the_rest_are_refused_in_a_sentence(layer: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers(layer)
    assert refused.value.message == f"The recipe has {said}."
