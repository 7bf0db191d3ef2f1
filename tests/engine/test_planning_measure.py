"""Measuring first: a few real steps in a process of its own, what they foretell, and that they leave nothing behind."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from transformers import TrainerControl
from workshop import Workshop, recorded

from finetune.errors import OutputExists
from finetune.events import Progress
from finetune.planning import measure
from finetune.planning.measure import CLOSING, Measurement, measure_first
from finetune.recipe import Recipe
from finetune.run import few_steps


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than a person wants to wait."""
    monkeypatch.setattr(measure, "SECONDS", 150.0)


@pytest.mark.parametrize("approach", ["fine-tuning", "distillation"])
def test_the_plan_goes_by_real_steps_and_nothing_is_left_behind(shop: Workshop, approach: str) -> None:
    layer = shop.distilling() if approach == "distillation" else shop.layer()
    tuner = shop.tuner(layer)
    by_arithmetic = tuner.plan()
    before = set(shop.folder.rglob("*"))
    plan = tuner.plan(measure=True)
    assert set(shop.folder.rglob("*")) == before
    measured = plan.measured
    assert measured is not None
    assert measured["problem"] is None
    assert 2 <= measured["steps"] <= by_arithmetic.steps
    assert approach == "distillation" or measured["steps"] == by_arithmetic.steps, "so few that all were made"
    assert list(measured["stages"]) == [
        "ready",
        *(["making", "teacher"] if approach == "distillation" else []),
        "before",
        *(["asking"] if approach == "distillation" else []),
        "training",
        "after",
    ]
    assert all(seconds > 0 for seconds in measured["stages"].values())
    assert plan.seconds == pytest.approx(measured["seconds"])
    assert measured["seconds"] == pytest.approx(sum(measured["stages"].values()) + CLOSING)
    of_teacher = ["making the student", "running the teacher"] if approach == "distillation" else []
    stages = [*of_teacher, "training", "measuring", "loading and saving"]
    for found in (plan, by_arithmetic):
        assert list(found.stages) == stages
        assert sum(found.stages.values()) == found.seconds
    assert plan.stages["training"] == measured["stages"]["training"]
    assert plan.memory_total == pytest.approx(measured["memory_bytes"], rel=1e-6)
    assert plan.memory_total > 100e6, "torch alone takes that"
    assert plan.memory_by_arithmetic == by_arithmetic.memory_by_arithmetic == by_arithmetic.memory_total
    off = plan.memory_total / by_arithmetic.memory_total
    assert {name: size / by_arithmetic.methods[name] for name, size in plan.methods.items()} == pytest.approx(
        dict.fromkeys(plan.methods, off), rel=1e-6
    )
    assert by_arithmetic.measured is None
    assert recorded(tuner).of(Progress)
    tuner.folder.check_free()


def test_scores_that_are_known_already_cost_nothing(shop: Workshop) -> None:
    shop.tuner(shop.layer()).run()
    measured = measure_first(shop.tuner(shop.layer()).context)
    assert measured.stages["before"] == 0
    assert measured.stages["after"] > 0


def test_what_takes_much_longer_is_ended_in_time_and_said(shop: Workshop) -> None:
    found = measure_first(shop.tuner(shop.layer()).context, seconds=0.1)
    assert found.seconds is None
    assert found.problem is None
    assert found.late is not None
    assert "longer than 0 seconds" in found.late


@pytest.mark.parametrize(("ends", "steps"), [(math.inf, few_steps.MOST_STEPS), (1e-9, 1)])
def test_on_a_busy_machine_one_step_is_enough(ends: float, steps: int) -> None:
    said: list[dict[str, Any]] = []
    watch = few_steps.Watch(lambda **facts: said.append(facts), Recipe(), Mock(train_tokens=5000), before=0, device="cpu")
    watch.ends, watch.trainer, control = ends, Mock(real_tokens=0), TrainerControl()
    watch.on_train_begin(None, None, control)
    while not control.should_training_stop:
        watch.trainer.real_tokens += 100
        watch.on_step_end(None, None, control)
    assert [facts["steps"] for facts in said] == list(range(1, steps + 1))
    assert said[-1]["training"] > 0


def test_whoever_was_ended_in_time_did_not_run_out_of_memory(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output ends as soon as the process does, before the thread that ended it says anything."""
    ended = threading.Event()

    class Output:
        def __iter__(self) -> Iterator[str]:
            ended.wait(10)
            return iter(())

    class Child:
        stdin, stdout = StringIO(), Output()

        def kill(self) -> None:
            ended.set()
            time.sleep(0.2)

    monkeypatch.setattr(measure, "python_child", lambda *_, **__: Child())
    monkeypatch.setattr(measure, "end", lambda _: -9)
    plan = shop.tuner(shop.layer())
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    found = plan.plan(measure=True)
    assert found.problems == []
    assert any("took longer than 0 seconds" in note for note in found.notes)


def test_steps_that_run_out_of_memory_are_a_problem_of_the_plan(shop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))\n"
    (tmp_path / "sitecustomize.py").write_text(limited)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plan = shop.tuner(shop.layer()).plan(measure=True)
    assert any("test steps" in problem for problem in plan.problems)


@pytest.mark.long
def test_modules_in_the_folder_where_a_person_works_are_not_taken_for_libraries_and_an_output_folder_there_is_no_matter(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("evaluate", "psutil", "datasets", "yaml"):
        (tmp_path / f"{name}.py").write_text("open('RUN', 'a').write(__name__)\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(shop.model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    tuner = shop.tuner(shop.layer(model="./model", output_dir="mine"))
    measured = measure_first(tuner.context)
    assert measured.problem is None
    assert measured.steps > 0
    assert not (tmp_path / "RUN").exists()
    with pytest.raises(OutputExists):
        tuner.check()


def test_without_a_timed_step_there_is_no_forecast() -> None:
    stages = {"ready": 5.0, "before": 0.0, "after": 7.0}
    assert Measurement(stages).seconds is None
    assert Measurement(stages | {"training": 60.0}).seconds == 5 + 60 + 7 + CLOSING
    assert json.loads(json.dumps(Measurement(stages).to_dict()))["seconds"] is None


def test_where_several_train_the_steps_are_those_of_one_of_them(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six GPUs for steps of eight rows: four train, with two rows each."""
    tuner = shop.tuner(shop.layer(training={"batch_size": 4, "gradient_accumulation": 2, "epochs": 1}))
    machine = replace(tuner.context.machine, device="cuda", gpus=6)
    context = tuner.context.beside(machine=machine)
    told, tell = Mock(), StringIO()
    monkeypatch.setattr(tell, "close", lambda: told(json.loads(tell.getvalue())))
    monkeypatch.setattr(measure, "python_child", lambda *_, **__: Mock(stdin=tell, stdout=StringIO(), wait=lambda: 0))
    measure_first(context)
    (order,) = told.call_args.args
    assert (order["recipe"]["training"]["batch_size"], order["recipe"]["training"]["gradient_accumulation"]) == (2, 1)
    assert order["runtime"]["processes"] == context.processes == context.devices == 4
