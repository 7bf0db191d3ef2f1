"""Students made in rounds: what each round leaves, who is asked, and that an interrupted run ends with the same bits."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks, job, log
from letters import llama, tokenizer
from rich.console import Console
from several_processes import TOLERANCE, compare
from transformers import AutoModelForCausalLM
from workshop import Workshop, model_folder, recorded

from finetune import LLMFineTuner, RunResult
from finetune.benchmark.report.records import read_records
from finetune.errors import Interrupted, RecipeError
from finetune.events import Event, Notice, Progress, Recorder, RoundFinished, TrainingFinished, TrainingStep
from finetune.hardware import machine
from finetune.publish.card import card_of
from finetune.recipe import read_yaml
from finetune.run import loading
from finetune.run.finetuner import RunResult as Result
from finetune.run.resume import find
from finetune.run_folder import RunFolder
from finetune.screen.console import THEME
from finetune.screen.plan_table import review
from finetune.screen.results import scores_table
from finetune.training.checkpoints import Checkpoints

ROUNDS = [5, 4, 2]
STEPS = 4  # of a round
BENCHMARK = {"rows": 6, "max_new_tokens": 8, "speed": False}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("rounds"))
    shop.model = shop.folder / "deep"
    llama(seed=5, layers=6).save_pretrained(shop.model)
    tokenizer(chat=True).save_pretrained(shop.model)
    return shop


def layer(shop: Workshop, rounds: list[int] | None = ROUNDS, **training: Any) -> dict[str, Any]:
    spec = {"epochs": 1, "batch_size": 6, "learning_rate": 0.003, "save_every": 1, **training}
    return shop.distilling(model=None, training=spec, distillation={"rounds": rounds}, benchmark=BENCHMARK)


@pytest.fixture(scope="module")
def whole(shop: Workshop) -> tuple[LLMFineTuner, Result, dict[str, int]]:
    """The run that nothing interrupts, and how often a teacher was loaded and asked."""
    calls = {"loaded": 0, "asked": 0}

    def counted(name: str, real: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            calls[name] += 1
            return real(*given, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_teacher", counted("loaded", loading.load_teacher))
        patch.setattr(loading, "prepare_distillation", counted("asked", loading.prepare_distillation))
        tuner = shop.tuner(layer(shop))
        return tuner, tuner.run(), calls


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def comparable(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name not in ("speed", "size", "rounds")}


def test_one_round_is_an_ordinary_run_bit_for_bit(shop: Workshop) -> None:
    plain = {"epochs": 1, "batch_size": 6, "learning_rate": 0.003}
    usual = shop.tuner(shop.distilling(model={"from_teacher": {"layers": 4}}, training=plain, benchmark=BENCHMARK))
    once = shop.tuner(layer(shop, [4], save_every="auto"))
    one, other = usual.run(), once.run()
    assert weights(one.output_dir) == weights(other.output_dir)
    assert usual.folder.read_json(usual.folder.student) == once.folder.read_json(once.folder.student)
    assert comparable(one.scores) == comparable(other.scores)
    assert [each["layers"] for each in other.scores["rounds"]] == [4]
    assert "rounds" not in one.scores


def test_the_first_teacher_is_asked_once_for_all_rounds(whole: tuple[LLMFineTuner, RunResult, dict[str, int]]) -> None:
    assert whole[2] == {"loaded": 1, "asked": 1}


def test_each_round_is_scored_and_shown(whole: tuple[LLMFineTuner, RunResult, dict[str, int]]) -> None:
    tuner, result, _ = whole
    rounds = result.scores["rounds"]
    assert [each["layers"] for each in rounds] == ROUNDS
    assert rounds[-1]["scores"] == {name: result.scores["after"][name] for name in ("perplexity", "kl", "agreement")}
    assert all(each["scores"]["kl"] > 0 for each in rounds)
    assert result.training["steps"] == STEPS * len(ROUNDS)
    console = Console(width=120, record=True, file=io.StringIO(), theme=THEME)
    console.print(scores_table(result.scores, 120))
    texts = [console.export_text(), card_of(tuner.folder, repo=None), (tuner.folder.run / "report.html").read_text()]
    for text in texts:
        for number, each in enumerate(rounds, 1):
            assert f"Round {number}: {each['layers']} layers" in text
            assert f"{each['scores']['kl']:.3f}" in text
    recorder = recorded(tuner)
    assert [(event.number, event.rounds, event.layers, event.steps) for event in recorder.of(RoundFinished)] == [(1, 3, 5, 4), (2, 3, 4, 4)]
    assert [step["step"] for step in read_records(tuner.folder).steps] == list(range(1, STEPS * len(ROUNDS) + 1))
    assert recorder.of(TrainingFinished)[-1].steps == STEPS * len(ROUNDS)
    made = [event for event in recorder.of(Progress) if event.stage == "student"]
    assert sum(event.done == event.total for event in made) == len(ROUNDS), "and making each student is seen to its end"
    assert not tuner.folder.rounds.exists()
    assert not tuner.folder.checkpoints.exists()


def test_layers_keep_the_numbers_that_they_have_in_the_teacher(shop: Workshop) -> None:
    tuner = shop.tuner(layer(shop, learning_rate=1e-9))  # so that every layer is still what it was
    tuner.run()
    facts = json.loads(tuner.folder.student.read_text())
    left_out = [number for first, last in facts["left_out"] for number in range(first, last + 1)]
    there = [number for number in range(1, 7) if number not in left_out]
    teacher, student = (AutoModelForCausalLM.from_pretrained(place).model.layers for place in (shop.model, tuner.folder.output_dir))
    assert (facts["layers"], facts["of_layers"], len(there), len(student)) == (2, 6, 2, 2)
    for number, kept in zip(there, student, strict=True):
        for name, weight in kept.state_dict().items():
            torch.testing.assert_close(weight, teacher[number - 1].state_dict()[name], atol=1e-6, rtol=1e-4)
    assert facts["parameters"] == AutoModelForCausalLM.from_pretrained(tuner.folder.output_dir).num_parameters()
    assert "2 of 6 layers (" in card_of(tuner.folder, repo=None)


class Stop:
    """Presses Ctrl-C at the step of that number, counted through all rounds, which ends the run after the next step of the round.

    Or it kills the run when a round is over, while checkpoints are cleared.
    """

    def __init__(self, step: int = 0, clearing: int = 0) -> None:
        self.step, self.clearing, self.seen = step, clearing, 0

    def cleared(self) -> None:
        self.clearing -= 1
        if self.clearing == 0:
            raise KeyboardInterrupt

    def report(self, event: Event) -> None:
        self.seen += isinstance(event, TrainingStep)
        if isinstance(event, TrainingStep) and self.seen == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("stop", "found"),
    [
        (Stop(step=STEPS), "round 2 of 3, nothing of it saved yet"),
        (Stop(step=STEPS + 1), "round 2 of 3, step 2 of 4"),
        (Stop(clearing=1), "round 2 of 3, nothing of it saved yet"),
    ],
    ids=["after round 1", "in round 2", "killed after 1 is noted"],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    stop: Stop,
    found: str,
    shop: Workshop,
    whole: tuple[LLMFineTuner, RunResult, dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuner = shop.tuner(layer(shop))
    real = Checkpoints.clear
    monkeypatch.setattr(Checkpoints, "clear", lambda self: stop.cleared() or real(self))
    tuner.reporter.reporters.append(stop)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        tuner.run()
    left = find(tuner.folder.output_dir)
    assert left
    assert left.progress().startswith(found)
    recorder = Recorder()
    resumed = LLMFineTuner.unfinished(tuner.folder.output_dir, reporter=recorder, runtime=shop.runtime)
    result = resumed.run()
    assert weights(result.output_dir) == weights(whole[1].output_dir)
    assert comparable(result.scores) == comparable(whole[1].scores)
    assert result.scores["rounds"] == whole[1].scores["rounds"]
    student = resumed.folder.read_json(resumed.folder.student)
    assert student == whole[0].folder.read_json(whole[0].folder.student)
    assert [step["step"] for step in read_records(resumed.folder).steps] == list(range(1, STEPS * len(ROUNDS) + 1))
    assert result.training["steps"] == STEPS * len(ROUNDS)
    assert f"round {left.round}" in " ".join(notice.text for notice in recorder.of(Notice))
    shutil.rmtree(result.output_dir)


def test_the_rate_of_the_first_student_holds_for_all_and_the_recipe_repeats_the_run(shop: Workshop) -> None:
    tuner = shop.tuner(layer(shop, [5, 3], learning_rate="auto"))
    one = tuner.run()
    facts = json.loads(tuner.folder.student.read_text())
    assert facts["learning_rate"] == tuner.recipe.training.learning_rate
    again = shop.tuner(read_yaml(tuner.folder.recipe), {"output_dir": str(shop.folder / "again")}).run()
    assert weights(one.output_dir) == weights(again.output_dir)


def test_several_teachers_serve_all_rounds(shop: Workshop) -> None:
    second = model_folder(shop.folder / "second", layers=4)
    teachers = [{"source": str(shop.model), "weight": 2}, {"source": str(second), "weight": 1}]
    result = shop.tuner({**layer(shop, [5, 3]), "teacher": None, "teachers": teachers}).run()
    assert [each["layers"] for each in result.scores["rounds"]] == [5, 3]


def test_without_a_cache_the_teacher_stays_for_all_rounds(shop: Workshop) -> None:
    given = layer(shop, [5, 3])
    cached = shop.tuner(given).run()
    online = shop.tuner({**given, "output_dir": str(shop.folder / "online")}, {"distillation": {"cache": "none"}}).run()
    for each, other in zip(cached.scores["rounds"], online.scores["rounds"], strict=True):
        assert each["scores"]["kl"] == pytest.approx(other["scores"]["kl"], rel=1e-3)


@pytest.mark.long
def test_two_processes_make_the_rounds_of_one(forks: Forks, shop: Workshop) -> None:
    layers = [layer(shop, [5, 3], learning_rate=3e-4) for _ in range(2)]
    for processes, each in enumerate(layers, 1):
        assert forks.run(job(shop, each, processes=processes)) == 0, log(shop)
    found = compare(*layers)
    assert max(found.loss, found.weight) <= TOLERANCE
    made = [RunFolder(each["output_dir"]).read_json(RunFolder(each["output_dir"]).student) for each in layers]
    assert made[0] == made[1], "the same layers are left out"


def test_the_plan_counts_all_rounds_and_the_memory_of_the_largest(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_measured", cache(machine._measured))  # one speed for all plans

    def planned(rounds: list[int] | None) -> Any:
        return shop.tuner(layer(shop, rounds), {"seed": 7}).plan()  # of rows that no teacher was asked about

    whole, first, last = planned(ROUNDS), planned([5]), planned([2])
    assert whole.steps == STEPS * 3
    assert [each["layers"] for each in whole.rounds] == ROUNDS
    assert whole.parameters == last.parameters
    assert whole.memory == first.memory
    assert whole.stages["training"] > first.stages["training"]
    assert whole.stages["making the student"] > first.stages["making the student"] > 0
    assert whole.stages["running the teacher"] == first.stages["running the teacher"] > 0, "and not in each of three rounds"
    assert sum(whole.stages.values()) == whole.seconds
    assert whole.cache_bytes == first.cache_bytes
    assert whole.disk_bytes > first.disk_bytes + 4 * (first.parameters + last.parameters)
    assert not first.rounds
    tuner = shop.tuner(layer(shop))
    console = Console(width=120, record=True, file=io.StringIO(), theme=THEME)
    console.print(review(tuner.recipe, replace(tuner.plan(), seconds=6000.0, stages={"running the teacher": 31.0, "training": 5969.0})))
    shown = console.export_text()
    assert "3, each over all epochs: 5, 4, 2 layers" in shown
    assert "running the teacher 31 s" not in shown, "what takes hardly any of the time is left out"
    console.print(review(tuner.recipe, replace(tuner.plan(), seconds=400.0, stages={"running the teacher": 31.0, "training": 369.0})))
    assert "running the teacher 31 s, training 6 min" in console.export_text()


def test_a_plan_that_measures_takes_the_steps_of_the_first_round(shop: Workshop) -> None:
    plan = shop.tuner(layer(shop)).plan(measure=True)
    assert plan.measured
    assert plan.measured["steps"] > 0
    assert plan.seconds > plan.measured["seconds"]


def test_a_student_too_small_for_one_cut_is_told_of_rounds(shop: Workshop) -> None:
    def warned(given: dict[str, Any]) -> str:
        return " ".join(shop.tuner(given).plan().warnings)

    once = warned(shop.distilling(model={"from_teacher": {"layers": 2}}))
    assert "2 of its teacher's 6 layers (33 %)" in once
    assert "--set distillation.rounds=[5,4,3,2])" in once
    assert "--set model.from_teacher.layers=2)" in warned(shop.distilling(model={"from_teacher": {"layers": 0.33}}))
    assert "Below half" not in warned(layer(shop))
    assert "2 of the 5 layers of round 1" in warned(layer(shop, [5, 2]))


def test_more_layers_than_the_teacher_has_are_refused_before_anything_is_made(shop: Workshop) -> None:
    tuner = shop.tuner(layer(shop, [6, 3]))
    with pytest.raises(RecipeError, match="first round keeps 6 layers, and the teacher has 6"):
        tuner.check()
    assert not tuner.folder.output_dir.exists()
