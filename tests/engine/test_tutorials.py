"""The tutorials of the site are followed: their files written, their commands run in order, with a pico model and few rows, in one folder.

A fence with a title is a file. Commands of ours run here; those of a fence that is marked `<!-- not run: why -->` do not.
"""

from __future__ import annotations

import io
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT, Block, blocks, our_arguments
from lengths import few
from pico_exports import ROUNDED, model_of, tokenizer_of

from finetune import cli

SHAPE = {"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128}
SHORT = ["--set", "benchmark.rows=8", "--set", "benchmark.max_new_tokens=4", "--set", "training.epochs=1", "--device", "cpu"]
TRAINS = ("plan", "run", "--yes")
AFTER = {"own-data": None, "smaller": "own-data", "ollama": "own-data"}  # what each goes on from
LEFT = {
    "start": ["finetuned_model/run/report.html"],
    "own-data": ["my_model/adapter_model.safetensors", "my_model-merged/model.safetensors", "longer_model/run/recipe.yaml"],
    "smaller": ["small_model/model.safetensors", "small_model/run/student.json"],
    "ollama": ["my_model-gguf/Modelfile"],
}
Follow = Callable[[str], Path]


def pico(folder: Path) -> str:
    """A model that any text can be asked of, and that can be exported."""
    tokenizer = tokenizer_of("llama")
    model_of("llama", len(tokenizer) + ROUNDED, **SHAPE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def small(recipe: str, model: str) -> str:
    """The recipe with our model in place of one from the Hub."""
    layer: dict[str, Any] = yaml.safe_load(recipe)
    return yaml.safe_dump({**layer, "model": model} if isinstance(layer.get("model"), str) else layer)


def follow_block(block: Block, model: str, typed: Callable[[str], None]) -> None:
    """Write the file, or run the commands."""
    if block.title:
        Path(block.title).write_text(small(block.text, model) if block.language == "yaml" else block.text, encoding="utf-8")
    if block.language != "bash" or block.not_run:
        return
    for line in block.lines():
        arguments = our_arguments(line)
        if arguments is None:
            runpy.run_path(line.removeprefix("python "))
            continue
        if arguments[0] in TRAINS:
            arguments = [*arguments, *SHORT]
        if arguments[0] == "--yes":
            arguments = [*arguments, "--set", f"model={model}", "--set", "dataset.samples=40"]
        typed("hello\n/exit\n")
        assert cli.main(arguments) == 0, line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorials")


@pytest.fixture
def follow(place: Path, monkeypatch: pytest.MonkeyPatch) -> Follow:
    """Follow a page from its first fence to its last, after those that it goes on from."""
    (place / "work").mkdir(exist_ok=True)
    monkeypatch.chdir(place / "work")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FINETUNE_CLI_CACHE", str(place / "cache"))

    def typed(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    def follow_page(name: str) -> Path:
        if not all((place / "work" / left).exists() for left in LEFT[name]):
            if before := AFTER.get(name):
                follow_page(before)
            model = place / "pico"
            for block in blocks(ROOT / "docs" / f"{name}.md"):
                follow_block(block, str(model) if model.exists() else pico(model), typed)
        return place / "work"

    return follow_page


@pytest.mark.parametrize("name", few(LEFT, "start"))
def test_a_tutorial_can_be_followed_to_its_end(name: str, follow: Follow, capfd: pytest.CaptureFixture[str]) -> None:
    if name == "ollama":
        pytest.importorskip("xllamacpp")
    work = follow(name)
    assert [left for left in LEFT[name] if not (work / left).exists()] == []
    if name == "own-data":
        report = json.loads((work / "my_model" / "run" / "data_report.json").read_text(encoding="utf-8"))
        assert report["used"] == 200
    if name == "ollama":
        assert list((work / "my_model-gguf").glob("*.gguf"))
