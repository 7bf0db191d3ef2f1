"""What the wizard makes of "Another model writes it" works: rows and answers of a server, learned by a model of a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from completions_server import MODEL, CompletionsServer
from grading_server import GradingServer
from workshop import Workshop, synthetic

from finetune import LLMFineTuner
from finetune.events import Recorder
from finetune.hardware.machine import glance
from finetune.recipe import Recipe
from finetune.recipe.schema import save
from finetune.runtime import RuntimeOptions
from finetune.screen.plan_table import review
from finetune.wizard import ask_recipe
from finetune.wizard.asking.prompter import ScriptedPrompter, drawn
from finetune.wizard.asking.undo import Rewind
from finetune.wizard.host import HostInfo

SMALL = {"training.epochs": "1", "training.batch_size": "6", "training.learning_rate": "0.01"}
ADVANCED = {"advanced": True, "dataset.max_length": "64", "dataset.held_out": "0.25", "benchmark.rows": "4", "benchmark.speed": False}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RuntimeOptions:
    monkeypatch.chdir(tmp_path)
    return RuntimeOptions(device="cpu", dtype="float32", cache_dir=tmp_path / "cache")


def asked(runtime: RuntimeOptions, server: CompletionsServer, answers: dict[str, Any]) -> Recipe:
    given = {"teacher": "another", "teacher.name": server.address, "teacher.model": MODEL, **SMALL, **ADVANCED, **answers}
    prompter = ScriptedPrompter({key: answer for key, answer in given.items() if answer is not None}, otherwise_default=True)
    recipe = Rewind(prompter).run(lambda answers: ask_recipe(answers, lambda: HostInfo(glance(), False, runtime)))
    prompter.finish()
    return recipe


def test_rows_that_a_server_writes_are_learned_and_the_recipe_repeats_it(
    shop: Workshop, server: CompletionsServer, runtime: RuntimeOptions
) -> None:
    of_data = {"dataset.source": "generated", "dataset.topic": "birds", "dataset.samples": "20", "dataset.examples": str(shop.rows)}
    recipe = asked(runtime, server, {"teacher": None, "model": "another", "model.name": str(shop.model), **of_data})
    tuner = LLMFineTuner(recipe, reporter=Recorder(), runtime=runtime)
    table = " ".join(drawn(review(tuner.recipe, tuner.plan()), 100).split())
    assert f"20 rows by {MODEL} at 127.0.0.1" in table
    assert "tokens of the server topic: birds; examples: " in table
    result = tuner.run()
    rows = synthetic(tuner)
    assert (len(rows), result.training["steps"]) == (20, 3)
    assert all("birds" in chat["messages"][0]["content"] and "say " in chat["messages"][-1]["content"] for chat in server.asked[:16])
    save(recipe, Path("again.yaml"))
    again = LLMFineTuner(Recipe.load("again.yaml"), reporter=Recorder(), runtime=runtime)
    assert again.plan().making is None
    assert again.prepare_data().fingerprint == tuner.data.fingerprint


def test_prompts_alone_are_answered_and_learned(shop: Workshop, server: CompletionsServer, runtime: RuntimeOptions) -> None:
    prompts = [json.loads(line)["prompt"] for line in shop.rows.read_text().splitlines()]
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    recipe = asked(runtime, server, {"teacher": None, "model": "another", "model.name": str(shop.model), "dataset.source": "prompts.jsonl"})
    tuner = LLMFineTuner(recipe, reporter=Recorder(), runtime=runtime)
    assert tuner.run().training["steps"] > 1
    rows = synthetic(tuner)
    assert {row["messages"][0]["content"] for row in rows} <= {*prompts}
    assert len(rows) > 20


def test_a_server_writes_rows_and_then_grades_them(shop: Workshop, runtime: RuntimeOptions) -> None:
    student = {"student": "another", "student.name": str(shop.smaller_model()), "teacher.top_k": "5"}
    with GradingServer(shop.model) as server:
        nothing = {"approach": "distillation", "distillation.way": "nothing", "dataset.samples": "20"}
        recipe = asked(runtime, server, {**nothing, **student})
        assert recipe.grader is not None
        assert recipe.grader.likeliest == 5
        tuner = LLMFineTuner(recipe, reporter=Recorder(), runtime=runtime)
        assert tuner.run().training["steps"] == 3
        assert len(synthetic(tuner)) == 20
