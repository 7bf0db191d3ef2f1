"""Several programs with one folder, and Ctrl-C where another's work, or finished work, could be lost."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from pico import pico, pico_rows
from workshop import Workshop

from finetune import LLMFineTuner, Recipe
from finetune.cli import main
from finetune.distillation.caches import builder as cache_builder
from finetune.distillation.caches.builder import build_cache
from finetune.errors import Interrupted
from finetune.events import Notice, Recorder
from finetune.run_folder import FINISHED, TRAINING, RunFolder
from finetune.screen.console import people
from finetune.screen.live_run import execute
from finetune.system.storage import lock


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("shared"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def interrupted(shop: Workshop, layer: dict[str, Any]) -> Interrupted:
    with pytest.raises(Interrupted) as stopped:
        execute(Recipe.from_layers(layer), shop.runtime, people())
    return stopped.value


def test_ctrl_c_after_the_last_file_is_written_keeps_the_model(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, tidy = shop.layer(), LLMFineTuner._drop_checkpoints

    def tidied(tuner: LLMFineTuner) -> None:
        tidy(tuner)
        if tuner.folder.stage == FINISHED:
            raise KeyboardInterrupt

    monkeypatch.setattr(LLMFineTuner, "_drop_checkpoints", tidied)
    stopped = interrupted(shop, layer)
    assert stopped.message == f"Stopped. The run in {layer['output_dir']} is finished."
    assert stopped.saved == Path(layer["output_dir"])
    assert {"adapter_model.safetensors", "README.md", "run/benchmark.json"} <= files(Path(layer["output_dir"])).keys()


@pytest.mark.parametrize("stage", [TRAINING, FINISHED])
def test_ctrl_c_before_a_run_begins_leaves_the_run_of_another_alone(stage: str, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command in two terminals: the first has begun, maybe ended, while the second still reads its data."""
    layer = shop.layer()
    other = RunFolder(layer["output_dir"])

    def begun_meanwhile(tuner: LLMFineTuner) -> None:
        other.claim()
        other.write_text(other.recipe, tuner.recipe.to_yaml())
        other.write_stage(stage)
        (other.output_dir / "adapter_model.safetensors").write_bytes(b"trained")
        raise KeyboardInterrupt

    monkeypatch.setattr(LLMFineTuner, "prepare_data", begun_meanwhile)
    stopped = interrupted(shop, layer)
    other.release()
    assert stopped.message == "Stopped before anything was trained."
    assert {"adapter_model.safetensors", "run/recipe.yaml", "run/progress.json"} <= files(other.output_dir).keys()


@pytest.mark.parametrize("rows", [False, True])
def test_ctrl_c_before_anything_is_trained_leaves_nothing_but_rows_of_a_teacher(
    rows: bool, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = shop.layer()
    folder = RunFolder(layer["output_dir"])

    def pressed(tuner: LLMFineTuner) -> None:
        assert tuner.folder.stage == TRAINING
        if rows:
            folder.synthetic.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(LLMFineTuner, "load_models", pressed)
    stopped = interrupted(shop, layer)
    assert folder.output_dir.exists() == folder.synthetic.exists() == rows
    if rows:
        assert stopped.message == f"Stopped. {folder.output_dir}: rows written; nothing of the training saved yet."
        assert f"resume {folder.output_dir}" in str(stopped.hint)
    else:
        assert stopped.message == "Stopped before anything was trained."


@pytest.mark.parametrize("command", [["benchmark"], ["merge"], ["upload", "--repo", "ada/mine"], ["resume"]], ids=lambda words: words[0])
def test_what_another_process_works_on_is_not_touched(command: list[str], shop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(shop.folder / "busy")
    if not folder.recipe.exists():
        shop.tuner(shop.layer(output_dir=str(folder.output_dir))).train()
    with folder.claimed():
        before = files(folder.output_dir)
        assert main([command[0], str(folder.output_dir), *command[1:]]) == 2
        assert "is in use by process" in capfd.readouterr().err.replace("\n", " ")
        after = files(folder.output_dir)
    assert after | {"run/debug.log": b""} == before | {"run/debug.log": b""}


def test_two_runs_with_one_teacher_write_its_cache_one_after_the_other(tmp_path: Path) -> None:
    asked, done = threading.Event(), threading.Event()

    class Told(Recorder):
        def report(self, event: Any) -> None:
            super().report(event)
            asked.set()

    def second() -> None:
        build_cache("hidden", pico("llama", seed=1), pico_rows(6), tmp_path, reporter=heard)
        done.set()

    heard = Told()
    first = lock(tmp_path / ".lock", timeout=0)
    thread = threading.Thread(target=second)
    thread.start()
    assert asked.wait(30)
    assert [event.text for event in heard.events if isinstance(event, Notice)] == [
        f"Another run is writing the teacher cache in {tmp_path}; this one waits for it."
    ]
    assert not done.wait(0.1)
    first.release()
    assert done.wait(30)
    thread.join()
    assert (tmp_path / "index.json").is_file()


def test_a_complete_teacher_cache_may_be_one_that_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, rows = pico("llama", seed=1), pico_rows(6)
    build_cache("hidden", teacher, rows, tmp_path)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache_builder, "lock", refused)
    assert build_cache("hidden", teacher, rows, tmp_path).rows == 6
