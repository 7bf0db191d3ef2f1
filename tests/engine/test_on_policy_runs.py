"""Runs that practise on own answers: the plan, every kind of teacher and student, what is told of them, and interrupted ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from workshop import StopAt, Workshop, recorded

from finetune import LLMFineTuner, Recipe
from finetune.distillation.on_policy import practice
from finetune.errors import Interrupted, RecipeError
from finetune.events import Notice, OwnAnswers, Recorder, TrainingStep, read_events
from finetune.hardware import machine
from finetune.publish.card import card_of
from finetune.screen.console import THEME
from finetune.screen.plan_table import review
from finetune.screen.results import scores_table

SPEC = {"share": 0.5, "tokens": 12, "refresh": 8}
TRAINING = {"epochs": 3, "batch_size": 6, "learning_rate": 0.01, "save_every": 1}
BENCHMARK = {"rows": 6, "max_new_tokens": 8, "speed": False}


@pytest.fixture(autouse=True)
def answers_need_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a random model often do not."""
    monkeypatch.setattr(practice, "CUT", 1.0)


def layer(shop: Workshop, **changes: Any) -> dict[str, Any]:
    more = {"training": TRAINING, "benchmark": BENCHMARK, "distillation": {"on_policy": SPEC, **changes.pop("distillation", {})}}
    return shop.distilling(**{**more, **changes})


def weights(folder: Path) -> bytes:
    return next(folder.glob("*model.safetensors")).read_bytes()


def own(recorder: Any) -> list[OwnAnswers]:
    found: list[OwnAnswers] = recorder.of(OwnAnswers)
    return found


@pytest.fixture(scope="module")
def whole(shop: Workshop) -> tuple[LLMFineTuner, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(practice, "CUT", 1.0)
        tuner = shop.tuner(layer(shop))
        return tuner, tuner.run()


def test_what_was_written_is_told(whole: tuple[LLMFineTuner, Any]) -> None:
    tuner, result = whole
    refreshes = result.scores["own_answers"]
    assert [(each["step"], each["answers"]) for each in refreshes] == [(5, 8), (7, 8), (10, 8)]
    assert all(0 < each["tokens"] <= SPEC["tokens"] and 0 <= each["cut"] <= 1 for each in refreshes)
    assert refreshes == json.loads(tuner.folder.benchmark.read_text())["own_answers"]
    console = Console(width=120, record=True, file=io.StringIO(), theme=THEME)
    console.print(scores_table(result.scores, 120))
    words = " ".join(console.export_text().split())
    page = (tuner.folder.run / "report.html").read_text()
    for text in (words, card_of(tuner.folder, repo=None), page):
        assert f"24 in 3 refreshes; {refreshes[0]['tokens']:.0f} tokens on average, then {refreshes[-1]['tokens']:.0f}" in text
    assert f"<td>{refreshes[1]['tokens']:.1f}</td>" in page.replace(' class="number"', "")
    assert "50 % of the rows after the first epoch, of up to 12 tokens, 8 at a time" in page
    assert any("From step 5 of 12 on, 50 % of the rows are answers of the student" in each.text for each in recorded(tuner).of(Notice))


@pytest.mark.parametrize("step", [3, 5])  # before the first answers, in the middle of a buffer
def test_an_interrupted_run_ends_with_the_same_bits(step: int, shop: Workshop, whole: tuple[LLMFineTuner, Any]) -> None:
    tuner = shop.tuner(layer(shop))
    tuner.reporter.reporters.append(StopAt(step))
    with pytest.raises(Interrupted, match=f"after step {step + 1} of 12"):
        tuner.run()
    recorder = Recorder()
    result = LLMFineTuner.unfinished(tuner.folder.output_dir, reporter=recorder, runtime=shop.runtime).run()
    assert [each.step for each in own(recorder)] == [each.step for each in own(recorded(whole[0])) if each.step > step + 1]
    assert weights(result.output_dir) == weights(whole[1].output_dir)
    without_time = [[{**each, "seconds": 0} for each in run.scores["own_answers"]] for run in (result, whole[1])]
    assert without_time[0] == without_time[1]
    assert result.training["real_tokens"] == whole[1].training["real_tokens"]


def test_no_share_is_the_run_of_today(shop: Workshop) -> None:
    usual = shop.tuner(layer(shop, distillation={"on_policy": None})).run()
    none = shop.tuner(layer(shop, distillation={"on_policy": {"share": 0.0}})).run()
    assert weights(usual.output_dir) == weights(none.output_dir)
    assert "own_answers" not in none.scores


def routed(shop: Workshop) -> dict[str, Any]:
    rows = shop.folder / "of_two.jsonl"
    lines = [json.loads(line) for line in shop.rows.read_text().splitlines()]
    rows.write_text("".join(json.dumps({**row, "kind": "ab"[place % 2]}) + "\n" for place, row in enumerate(lines)))
    teachers = [{"source": str(model), "rows": {"column": "kind", "equals": kind}} for model, kind in zip(both(shop), "ab", strict=True)]
    return {"teacher": None, "teachers": teachers, "dataset": {"source": str(rows), "samples": None, "max_length": 64, "held_out": 0.25}}


def both(shop: Workshop) -> list[Path]:
    return [shop.model, shop.smaller_model()]


KINDS: dict[str, Any] = {
    "online, corrected, every token": lambda shop: {"distillation": {"cache": "none", "correct": 0.2, "supervise": "all"}},
    "skewed by where a row is from": lambda shop: {
        "distillation": {"objective": "skew_forward_kl", "on_policy": {**SPEC, "objective": "skew_reverse_kl"}}
    },
    "LoRA on a ready-made student": lambda shop: {"model": str(shop.smaller_model()), "method": "lora"},
    "itself by LoRA": lambda shop: {"teacher": "self", "model": str(shop.model), "method": "lora"},
    "itself whole": lambda shop: {"teacher": "self", "model": str(shop.model), "method": "full"},
    "mixed": lambda shop: {"teacher": None, "teachers": [str(model) for model in both(shop)]},
    "routed": routed,
    "in rounds": lambda shop: {"model": None, "distillation": {"rounds": [2]}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_works_with(kind: str, shop: Workshop) -> None:
    training = {**TRAINING, "epochs": 2, "save_every": "auto"}
    tuner = shop.tuner(layer(shop, training=training, **KINDS[kind](shop)))
    result = tuner.run()
    assert [each["answers"] for each in result.scores["own_answers"]] == [8, 4]
    steps = recorded(tuner).of(TrainingStep)
    assert all(("own_kl" in step.parts) == (step.step > 4) for step in steps)
    assert all(step.loss > 0 for step in steps)


def test_a_student_whose_answers_do_not_end_goes_on_with_the_data(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(practice, "CUT", 0.5)
    tuner = shop.tuner(layer(shop, distillation={"on_policy": {**SPEC, "tokens": 2}}))
    result = tuner.run()
    (only,) = result.scores["own_answers"]
    assert only["cut"] > 0.5
    assert result.training["steps"] == 12
    warning = "did not end within 2 tokens"
    assert any(warning in each.text for each in recorded(tuner).of(Notice))
    assert warning in (tuner.folder.run / "report.html").read_text()
    assert [event["step"] for event in read_events(tuner.folder.events) if event["event"] == "own_answers"] == [5]


def test_the_plan_counts_the_teacher_and_the_writing(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = ({"float32": 50.0, "bfloat16": 50.0}, "float32", "")
    monkeypatch.setattr(machine, "_measured", lambda *_: rates)  # otherwise each plan is as fast as the machine was just then
    asked = {"seed": 7}  # for rows that no teacher was asked about
    usual, practised = (shop.tuner(layer(shop, distillation={"on_policy": spec}), asked).plan() for spec in (None, SPEC))
    assert practised.memory["teacher"] == usual.memory["teacher"] > 0
    assert practised.cache_bytes == usual.cache_bytes > 0, "the rows of the data are read from a cache"
    assert practised.stages["running the teacher"] == usual.stages["running the teacher"] > 0, "once, not at each of three epochs"
    assert "own answers" not in usual.stages
    assert practised.stages["own answers"] > 0
    (said,) = (note for note in practised.notes if "own answers" in note)
    assert "50 % of the rows are the student's own answers: about 24 of up to 12 tokens, 8 at a time" in said
    console = Console(width=200, record=True, file=io.StringIO(), theme=THEME)
    console.print(review(Recipe.from_layers(layer(shop)), practised))
    assert "at most; then it reads the student's own answers" in console.export_text()
    two = shop.tuner(layer(shop, **KINDS["mixed"](shop))).plan()
    assert two.memory["teacher"] > practised.memory["teacher"]  # both stay
    short = shop.tuner(layer(shop, distillation={"on_policy": {**SPEC, "tokens": 3}})).plan()
    assert any("100 % of the answers in the data have more than 3 tokens" in each for each in short.warnings)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"approach": "fine-tuning", "model": "gpt2", "teacher": None}, "needs `approach: distillation`"),
            ({"training": {"epochs": 1}}, "begins after the first epoch, and `training.epochs: 1`"),
            ({"teacher": {"source": "gpt2", "system": "Be brief."}, "distillation": {"supervise": "answers"}}, "`teacher.system`"),
            ({"distillation": {"across_tokenizers": "projected"}}, "only a teacher with the same tokenizer"),
            ({"teacher": {"server": "http://localhost:1/v1", "model": "m"}, "dataset": {"source": "generated"}}, "on a server"),
            ({"distillation": {"on_policy": {"share": 1.5}}}, "distillation.on_policy.share"),
            ({"distillation": {"on_policy": {"refresh": 0}}}, "distillation.on_policy.refresh"),
            ({"distillation": {"on_policy": {"objective": "mean"}}}, "There is no objective 'mean'"),
        ],
    )
    def test_keys_that_do_not_go_together(self, change: dict[str, Any], said: str) -> None:
        with pytest.raises(RecipeError) as refused:
            Recipe.from_layers({"approach": "distillation", "distillation": {"on_policy": {}}}, change)
        assert said in refused.value.message
        assert "\n" not in refused.value.message

    def test_plain_text_has_no_prompts(self, shop: Workshop) -> None:
        text = shop.folder / "text.txt"
        text.write_text("\n\n".join(f"a cat and a dog {'abcdefgh'[place % 8]}" for place in range(20)))
        source = {"source": str(text), "samples": None, "max_length": 64, "held_out": 0.25}
        with pytest.raises(RecipeError, match="no row has one: they are plain text"):
            shop.tuner(layer(shop, dataset=source)).plan()

    def test_answers_that_do_not_fit(self, shop: Workshop) -> None:
        with pytest.raises(RecipeError, match="exceeds the model's context of 256"):
            shop.tuner(layer(shop, distillation={"on_policy": {"tokens": 250}})).plan()
