"""A run again: what its numbers depend on beside the recipe is kept, chosen again, and said where it is another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from workshop import StopAt, Workshop, notices

from finetune import LLMFineTuner, RuntimeOptions
from finetune.errors import BadInput, Interrupted
from finetune.events import Notice, Recorder
from finetune.hardware import machine
from finetune.hardware.cpu import cpu_name
from finetune.run.finetuner import RunResult
from finetune.run.records import begin_records
from finetune.run_folder import asked_again
from finetune.screen.results import next_steps

TRAINING = {"epochs": 2, "batch_size": 6, "learning_rate": 0.01, "save_every": 1}


@pytest.fixture(scope="module")
def whole(shop: Workshop) -> RunResult:
    return shop.tuner(shop.layer(training=TRAINING)).run()


@pytest.fixture
def faster_in_16_bits(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> RuntimeOptions:
    """Options that leave the dtype to a machine that takes bfloat16."""
    rates = {"float32": 1.0, "bfloat16": 9.0}
    monkeypatch.setattr(machine, "_measured", lambda *_: (rates, "bfloat16", "9.0 times as fast as float32 here"))
    return RuntimeOptions(device="cpu", cache_dir=shop.runtime.cache_dir)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("adapter_*"))}


def measured(folder: Path) -> str:
    found = json.loads((folder / "run" / "benchmark.json").read_text())
    return json.dumps({name: value for name, value in found.items() if name != "speed"})


def test_the_kept_recipe_gives_the_same_files_with_another_cache(shop: Workshop, whole: RunResult, tmp_path: Path) -> None:
    keys = {"recipe": str(whole.output_dir / "run" / "recipe.yaml"), "output_dir": str(tmp_path / "again")}
    again = LLMFineTuner(**keys, reporter=Recorder(), runtime=replace(shop.runtime, cache_dir=tmp_path / "cache")).run()
    assert weights(again.output_dir) == weights(whole.output_dir)
    assert measured(again.output_dir) == measured(whole.output_dir)


def test_a_run_goes_on_and_is_measured_again_in_the_dtype_it_began_in(
    shop: Workshop, whole: RunResult, faster_in_16_bits: RuntimeOptions
) -> None:
    tuner = shop.tuner(shop.layer(training=TRAINING))
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted):
        tuner.run()
    folder, recorder = tuner.folder.output_dir, Recorder()
    LLMFineTuner.unfinished(folder, reporter=recorder, runtime=faster_in_16_bits).run()
    assert not [notice for notice in recorder.of(Notice) if "digit" in notice.text]
    assert weights(folder) == weights(whole.output_dir)
    once = measured(folder)
    LLMFineTuner.of_run(folder, runtime=faster_in_16_bits).benchmark()
    assert measured(folder) == once


def test_options_that_decide_numbers_stand_in_the_command_that_repeats_a_run(whole: RunResult) -> None:
    lines = next_steps(whole.output_dir, 200, upload=False).plain.splitlines()
    assert [line.endswith("-2 --device cpu --dtype float32") for line in lines if line.startswith("  Repeat")] == [True]
    assert "--device cpu --dtype float32</pre>" in (whole.output_dir / "run" / "report.html").read_text()


def test_on_another_processor_the_precision_is_open_again(whole: RunResult, faster_in_16_bits: RuntimeOptions) -> None:
    began = json.loads((whole.output_dir / "run" / "environment.json").read_text())
    here = faster_in_16_bits.as_begun(began)
    assert machine.inspect(here).dtype == "float32"
    assert machine.inspect(RuntimeOptions.from_dict(json.loads(json.dumps(here.to_dict())))).why_dtype == "as the run began"
    elsewhere = faster_in_16_bits.as_begun({**began, "machine": {**began["machine"], "cpu": "another processor"}})
    assert machine.inspect(elsewhere).dtype == "bfloat16"


def test_a_run_whose_rows_are_still_being_written_goes_on_as_it_began(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer())
    with tuner.folder.claimed():
        begin_records(tuner.context, tuner.folder)
    runtime = LLMFineTuner.of_run(tuner.folder.output_dir, runtime=RuntimeOptions(cache_dir=shop.runtime.cache_dir)).context.runtime
    assert (runtime.device, runtime.dtype, runtime.began_with) == ("cpu", "auto", (cpu_name(), "cpu", "float32"))
    assert asked_again(json.loads(tuner.folder.environment.read_text())) == " --device cpu --dtype float32"


@pytest.mark.parametrize("content", ["[]", '{"machine": 3}', '{"machine": {}, "asked": 7}', "{"])
def test_an_environment_that_says_nonsense_is_named(content: str, shop: Workshop, whole: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.output_dir, folder)
    (folder / "run" / "environment.json").write_text(content)
    with pytest.raises(BadInput, match=r"environment\.json"):
        LLMFineTuner.of_run(folder, runtime=shop.runtime)


def test_another_machine_is_said_where_a_run_goes_on(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer(training=TRAINING))
    tuner.reporter.reporters.append(StopAt(3))
    with pytest.raises(Interrupted):
        tuner.run()
    path = tuner.folder.environment
    began = json.loads(path.read_text())
    assert began["machine"]["threads"] == 1
    versions = {**began["versions"], "peft": "0.1.2"}
    path.write_text(json.dumps({**began, "versions": versions, "machine": {**began["machine"], "threads": 8, "dtype": "float8"}}))
    recorder = Recorder()
    LLMFineTuner.unfinished(tuner.folder.output_dir, reporter=recorder, runtime=shop.runtime).run()
    assert [notice.text for notice in recorder.of(Notice) if "digit" in notice.text] == [
        f"The run began with peft 0.1.2, float8 and 8 threads, and goes on with peft {began['versions']['peft']}, "
        f"{began['machine']['dtype']} and 1 thread: its result will not match an uninterrupted run digit for digit."
    ]


@pytest.mark.parametrize("threads", [1, 8])
def test_scores_before_of_another_number_of_threads_are_not_taken(
    threads: int, shop: Workshop, whole: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner = shop.tuner(shop.layer(training=TRAINING))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    tuner.score_before()
    reused = [text for text in notices(tuner) if "reused from an earlier run" in text]
    assert len(reused) == (1 if threads == 1 else 0)
