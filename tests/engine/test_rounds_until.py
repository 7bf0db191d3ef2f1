"""Rounds that stop: by what is kept on rows of a third part, with the last student that kept enough, also after an interruption."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from letters import llama, tokenizer
from rich.console import Console
from transformers import AutoModelForCausalLM
from workshop import Workshop, recorded

from finetune import LLMFineTuner, RunResult
from finetune.benchmark.scoring import chosen_rows
from finetune.errors import RecipeError
from finetune.events import Notice
from finetune.publish.card import card_of
from finetune.recipe import Recipe, read_yaml
from finetune.run import round_check, rounds
from finetune.run.resume import find
from finetune.run.round_check import RoundCheck
from finetune.screen.console import THEME
from finetune.screen.plan_table import review

BENCHMARK = {"rows": 6, "max_new_tokens": 8, "speed": False}
KEPT = {5: 0.95, 4: 0.92, 3: 0.6, 2: 0.3}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Its model knows the rows, so that there is something to keep."""
    shop = Workshop(tmp_path_factory.mktemp("until"))
    deep = shop.folder / "deep"
    llama(seed=5, layers=6).save_pretrained(deep)
    tokenizer(chat=True).save_pretrained(deep)
    learning = {"epochs": 12, "batch_size": 6, "learning_rate": 0.005}
    taught = shop.tuner(shop.layer(model=str(deep), method={"kind": "full"}, training=learning, benchmark=BENCHMARK)).run()
    shop.model = taught.output_dir
    return shop


def layer(shop: Workshop, until: dict[str, Any], **distillation: Any) -> dict[str, Any]:
    spec = {"epochs": 1, "batch_size": 6, "learning_rate": 0.003, "save_every": 1}
    return shop.distilling(model=None, training=spec, distillation={"until": until, **distillation}, benchmark=BENCHMARK)


def told_by_kept(patch: pytest.MonkeyPatch) -> list[int]:
    """What the students keep is told by KEPT; the layers of each that was measured."""
    seen: list[int] = []

    def kept(self: RoundCheck, context: Any, model: Any) -> float:
        seen.append(model.config.num_hidden_layers)
        return KEPT[seen[-1]]

    patch.setattr(RoundCheck, "kept", kept)
    return seen


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return told_by_kept(monkeypatch)


@pytest.fixture(scope="module")
def whole(shop: Workshop) -> tuple[LLMFineTuner, RunResult, list[int]]:
    """A run that keeps 90 % with 4 layers, and what it measured."""
    with pytest.MonkeyPatch.context() as patch:
        told = told_by_kept(patch)
        tuner = shop.tuner(layer(shop, {"retention": 0.9, "step": 1}))
        return tuner, tuner.run(), told


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_last_student_that_keeps_enough_is_the_result(
    whole: tuple[LLMFineTuner, RunResult, list[int]], shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner, result, told = whole
    told_by_kept(monkeypatch)
    assert told == [5, 4, 3]
    rounds = result.scores["rounds"]
    assert [(each["layers"], each["kept"], each["result"]) for each in rounds] == [(5, 0.95, False), (4, 0.92, True), (3, 0.6, False)]
    assert AutoModelForCausalLM.from_pretrained(result.output_dir).config.num_hidden_layers == 4
    assert rounds[1]["scores"]["kl"] == pytest.approx(result.scores["after"]["kl"], rel=1e-4)
    student = tuner.folder.read_json(tuner.folder.student)
    assert (student["layers"], student["of_layers"]) == (4, 6)
    assert sum(last - first + 1 for first, last in student["left_out"]) == 2
    assert result.training["steps"] == 9, "all rounds"
    card, page = card_of(tuner.folder, repo=None), (tuner.folder.run / "report.html").read_text()
    for text in (card, page):
        assert "keeps 92 % of its teacher on the validation rows, the result" in text
        assert "keeps 60 % of its teacher on the validation rows" in text
    assert "4 of 6 layers (" in card
    recorder = recorded(tuner)
    said = "The result is the student of round 2, with 4 layers: it keeps 92 % of its teacher. The next, with 3 layers, keeps only 60 %."
    assert any(notice.text == said for notice in recorder.of(Notice))
    assert not tuner.folder.rounds.exists()
    written = Recipe.load(tuner.folder.recipe)
    assert written.distillation.rounds == [5, 4, 3]
    again = shop.tuner(read_yaml(tuner.folder.recipe), {"output_dir": str(shop.folder / "again")}).run()
    assert weights(again.output_dir) == weights(result.output_dir)


@pytest.mark.parametrize(("retention", "result", "measured"), [(0.99, 5, [5]), (0.5, 3, [5, 4, 3])])
def test_where_none_keeps_enough_or_all_do(retention: float, result: int, measured: list[int], shop: Workshop, told: list[int]) -> None:
    tuner = shop.tuner(layer(shop, {"retention": retention, "step": 1}))
    found = tuner.run()
    assert told == measured
    assert AutoModelForCausalLM.from_pretrained(found.output_dir).config.num_hidden_layers == result
    assert [each["layers"] for each in found.scores["rounds"] if each["result"]] == [result]
    recorder = recorded(tuner)
    assert any(notice.text.startswith("No student keeps 99 %") for notice in recorder.of(Notice)) == (retention == 0.99)


@pytest.mark.parametrize("which", [1, 3])
def test_a_run_that_is_interrupted_in_the_check_ends_with_the_same_bits(
    which: int, whole: tuple[LLMFineTuner, RunResult, list[int]], shop: Workshop, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RoundCheck.kept

    def stopped(self: RoundCheck, context: Any, model: Any) -> float:
        value = real(self, context, model)
        if len(told) == which:
            raise KeyboardInterrupt
        return value

    tuner = shop.tuner(layer(shop, {"retention": 0.9, "step": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(RoundCheck, "kept", stopped)
        with pytest.raises(KeyboardInterrupt):
            tuner.run()
    left = find(tuner.folder.output_dir)
    assert left
    assert left.progress().startswith(f"round {which} of 3, step")
    result = LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=shop.runtime).run()
    assert told == [5, 4, 3][:which] + [5, 4, 3][which - 1 :]
    assert weights(result.output_dir) == weights(whole[1].output_dir)
    assert result.scores["rounds"] == whole[1].scores["rounds"]


def test_what_is_kept_is_measured_on_rows_that_are_neither_trained_on_nor_reported(shop: Workshop) -> None:
    tuner = shop.tuner(layer(shop, {"retention": 0.01}, rounds=[4]))
    result = tuner.run()
    data = tuner.data
    assert data.deciding is not None
    assert len(data.deciding) == data.report.deciding == 8
    assert data.report.used == data.report.train + data.report.held_out + 8
    parts = [{tuple(row["input_ids"]) for row in part} for part in (data.train, data.held_out, data.deciding)]
    assert sum(map(len, parts)) == len(set.union(*parts)), "none is in two parts"
    usual = shop.tuner(shop.distilling(model=None, benchmark=BENCHMARK)).prepare_data()
    assert {tuple(row["input_ids"]) for row in usual.held_out} == parts[1], "the rows of the benchmark stay what they are"
    (entry,) = result.scores["rounds"]
    check = RoundCheck.of(tuner.context)
    assert check is not None
    rows = chosen_rows(data.deciding, check.rows.recipe.benchmark, 42)
    assert check.teacher.references == [row["reference"] for row in rows]
    assert entry["kept"] == pytest.approx(check.kept(tuner.context, tuner.model))


def test_the_plan_counts_every_round_that_may_come(shop: Workshop) -> None:
    tuner = shop.tuner(layer(shop, {"retention": 0.9, "step": 2}))
    plan = tuner.plan()
    assert [each["layers"] for each in plan.rounds] == [4, 3]
    listed = shop.tuner(layer(shop, {"retention": 0.9}, rounds=[4, 3])).plan()
    assert plan.steps == listed.steps
    console = Console(width=140, record=True, file=io.StringIO(), theme=THEME)
    console.print(review(tuner.recipe, plan))
    assert "stop at the first student that keeps less than 90 % of its teacher's ROUGE-L" in " ".join(console.export_text().split())


def test_a_teacher_that_knows_nothing_is_refused(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_check, "METRIC", "none")
    with pytest.raises(RecipeError, match="None of the teacher's answers is right") as refused:
        shop.tuner(layer(shop, {"retention": 0.9})).run()
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"distillation": {"until": {"retention": 1.0}}}, "distillation.until.retention"),
        ({"distillation": {"until": {"step": 2}}}, "distillation.until.retention"),
        ({"distillation": {"until": {"retention": 0.9, "step": 0}}}, "distillation.until.step"),
        ({"distillation": {"until": {"retention": 0.9}}, "approach": "fine-tuning"}, "which needs `approach: distillation`"),
        ({"distillation": {"until": {"retention": 0.9}}, "model": "gpt2"}, "a ready-made student"),
        ({"distillation": {"until": {"retention": 0.9}}, "model": {"from_teacher": {"ffn": 0.5}}}, "`model.from_teacher.ffn`"),
        ({"distillation": {"until": {"retention": 0.9}}, "teachers": ["a", "b"]}, "leave out `until`"),
    ],
)
def test_recipes_that_cannot_be(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers({"approach": "distillation"}, layer)
    assert said in refused.value.message


class TestTheStudentBeforeTeaches:
    def spec(self, shop: Workshop, cache: str = "auto", teacher: str = "previous") -> dict[str, Any]:
        given = layer(shop, {"retention": 0.9})
        return {**given, "distillation": {"rounds": [5, 3], "round_teacher": teacher, "cache": cache}}

    def test_the_second_round_learns_from_the_first_student_from_disk_as_from_memory(self, shop: Workshop) -> None:
        kls = {}
        for cache, teacher in (("auto", "previous"), ("none", "previous"), ("auto", "first")):
            tuner = shop.tuner(self.spec(shop, cache, teacher))
            kls[cache, teacher] = [each["scores"]["kl"] for each in tuner.run().scores["rounds"]]
        assert kls["auto", "previous"] == pytest.approx(kls["none", "previous"], rel=1e-3)
        assert kls["auto", "previous"][0] == kls["auto", "first"][0]
        assert kls["auto", "previous"][1] != pytest.approx(kls["auto", "first"][1], rel=1e-3)

    def test_an_interrupted_round_goes_on_with_the_same_teacher(self, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = shop.tuner(self.spec(shop)).run()
        tuner = shop.tuner(self.spec(shop))
        with monkeypatch.context() as patch:
            patch.setattr(rounds, "save_model", stopping_in("run", rounds.save_model))
            with pytest.raises(KeyboardInterrupt):
                tuner.run()
        result = LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=shop.runtime).run()
        assert weights(result.output_dir) == weights(whole.output_dir)
        assert "the student of the round before was the teacher" in card_of(tuner.folder, repo=None)

    def test_the_plan_counts_that_each_student_is_asked(self, shop: Workshop) -> None:
        first, previous = (shop.tuner(self.spec(shop, teacher=name)).plan() for name in ("first", "previous"))
        assert previous.seconds > first.seconds
        assert previous.disk_bytes == first.disk_bytes + previous.cache_bytes


def stopping_in(folder: str, real: Any) -> Any:
    """Saving a model, but Ctrl-C before the one that is the result of the run."""

    def save(context: Any, model: Any, place: Any) -> None:
        if place.output_dir.name.startswith(folder):
            raise KeyboardInterrupt
        real(context, model, place)

    return save


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"distillation": {"round_teacher": "previous"}}, "needs `distillation.rounds`"),
        ({"distillation": {"round_teacher": "previous", "rounds": [4, 2]}, "teacher": {"source": "a", "system": "b"}}, "`teacher.system`"),
        ({"distillation": {"round_teacher": "previous", "rounds": [4, 2]}, "teachers": ["a", "b"]}, "has `teachers` and"),
    ],
)
def test_teachers_of_rounds_that_cannot_be(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers({"approach": "distillation"}, layer)
    assert said in refused.value.message
