"""QLoRA and AdaLoRA on the starter model, as people call them: from data to scores before and after, and a merged model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import warm

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SMALL = ["dataset.max_length=96", "dataset.held_out=0.2", "benchmark.rows=4"]
SMALL += ["training.batch_size=4", "training.epochs=1", "benchmark.speed=false"]
METHODS = {
    "qlora": ["method.kind=qlora", "dataset.samples=20", "dataset.max_length=64"],
    "adalora": ["method.kind=adalora", "dataset.samples=32", "method.r=3", "method.init_r=6"],
}


def program(*given: str, folder: Path) -> dict[str, Any]:
    """Run it and read the JSON it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = warm.run([*given, "--json"], folder, environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, workplace: Path) -> tuple[str, dict[str, Any]]:
    settings = [part for value in [*SMALL, *METHODS[request.param]] for part in ("--set", value)]
    return request.param, program("--yes", *settings, "--output-dir", request.param, folder=workplace)


def test_it_gets_better_on_rows_it_never_saw(run: tuple[str, dict[str, Any]]) -> None:
    name, result = run
    assert result["scores"]["rows"] == 4
    assert result["scores"]["after"]["perplexity"] < 0.9 * result["scores"]["before"]["perplexity"]
    assert ("On a CPU, QLoRA" in result["stderr"]) == (name == "qlora")


def test_the_ranks_of_adalora_have_moved(run: tuple[str, dict[str, Any]]) -> None:
    name, result = run
    if name != "adalora":
        assert "ranks" not in result["scores"]
        return
    ranks = result["scores"]["ranks"]
    assert len(ranks) == 7 * 30
    assert sum(ranks.values()) == 3 * len(ranks)
    assert len(set(ranks.values())) > 2


@pytest.mark.parametrize("run", ["qlora"], indirect=True)  # whose base is in 4 bits; the others are merged in tests/engine
def test_it_merges_into_a_model_that_answers_the_same(run: tuple[str, dict[str, Any]], workplace: Path) -> None:
    name, _ = run
    merged = program("merge", name, folder=workplace)
    assert merged["difference"] <= merged["allowed"]
    assert merged["rounded_base"]
    assert (workplace / f"{name}-merged" / "model.safetensors").stat().st_size == merged["bytes"]
