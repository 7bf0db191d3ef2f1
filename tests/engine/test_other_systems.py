"""Whole runs without what Windows and Apple's machines lack; what is taken away is in other_systems.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workshop import Workshop

from finetune import Recipe

HERE = Path(__file__).parent
PLAIN = {"windows": "cp1252", "apple": "utf-8"}  # consoles; the questions are asked on a Japanese one


def start(
    system: str, shop: Workshop, *arguments: str, console: str | None = None, typed: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FINETUNE_CLI_CACHE": str(shop.folder / system), "PYTHONIOENCODING": console or PLAIN[system]}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "other_systems.py"), system, *arguments]
    options: dict[str, Any] = {"encoding": console or PLAIN[system], "errors": "replace", "input": typed}
    return subprocess.run(command, cwd=folder or shop.folder, env=environment, capture_output=True, timeout=300, check=False, **options)


def test_questions_and_the_run_need_nothing_that_windows_lacks(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(shop.rows.read_bytes())
    typed = f"\n2\n{shop.model}\n2\n" + 30 * "\n"  # another model, the file that is here, and every default
    done = start("windows", shop, "--plain", console="cp932", typed=typed, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "STEP 6: Upload" in done.stdout
    run = tmp_path / "finetuned_model" / "run"
    assert json.loads((run / "progress.json").read_text(encoding="utf-8"))["stage"] == "finished"
    assert 0 < json.loads((run / "benchmark.json").read_text(encoding="utf-8"))["after"]["perplexity"] < 1000


@pytest.mark.long
@pytest.mark.parametrize("system", ["windows", "apple"])
def test_whole_runs_and_merging_need_nothing_that_this_system_lacks(shop: Workshop, system: str) -> None:
    layers = {"fine-tuning": shop.layer(), "distillation": shop.distilling()}
    words: list[str] = []
    for approach, layer in layers.items():
        recipe = shop.folder / f"{approach}.yaml"
        recipe.write_text(Recipe.from_layers(layer).to_yaml(), encoding="utf-8")
        words += ["run", str(recipe), "--device", "cpu", "--debug", "--then"]
    tuned = layers["fine-tuning"]["output_dir"]
    done = start(system, shop, *words, "merge", tuned, "--device", "cpu", "--debug")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for layer in layers.values():
        folder = Path(layer["output_dir"])
        assert json.loads((folder / "run" / "progress.json").read_text(encoding="utf-8"))["stage"] == "finished"
        scores = json.loads((folder / "run" / "benchmark.json").read_text(encoding="utf-8"))
        assert scores["after"]["perplexity"] < scores["before"]["perplexity"]
        assert "Traceback" not in (folder / "run" / "debug.log").read_text(encoding="utf-8", errors="replace")
    assert (Path(f"{tuned}-merged") / "model.safetensors").is_file()


def double(folder: Path, system: str, code: str) -> str:
    """The last line of what the double of a system says to some code."""
    lines = (
        f"import os, sys; sys.path.insert(0, {str(HERE)!r}); import other_systems; __name__ = 'somebody'; other_systems.{system}()\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", lines], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import termios", "ModuleNotFoundError"),
        ("import signal; signal.SIGHUP", "AttributeError"),
        ("os.fork", "AttributeError"),
        ("file = open('held', 'w'); os.replace('held', 'other')", "PermissionError"),
        ("import shutil; os.mkdir('folder'); file = open('folder/held', 'w'); shutil.rmtree('folder')", "PermissionError"),
    ],
)
def test_the_double_of_windows_lacks_what_windows_lacks(tmp_path: Path, code: str, error: str) -> None:
    assert double(tmp_path, "windows", code).startswith(error)


def test_the_double_of_an_apple_gpu_has_no_float64(tmp_path: Path) -> None:
    assert "Cannot convert a MPS Tensor to float64" in double(tmp_path, "apple", "import torch; torch.ones(2).double()")
