"""Two processes that have half of the weights each make the run of one; and when weights are cut, with the reason in numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from forks import Forks, job, log
from lengths import few
from several_processes import TOLERANCE, compare, layer_of
from workshop import Workshop

from finetune import LLMFineTuner
from finetune.errors import BadInput, FinetuneError, RecipeError
from finetune.hardware import machine as hardware
from finetune.hardware.machine import Machine
from finetune.planning import estimate
from finetune.recipe import Recipe, TrainingSpec
from finetune.runtime import RuntimeOptions
from finetune.training.checkpoints import Checkpoints
from finetune.training.saved_tensors import WEIGHTS
from finetune.training.step_count import divided

CASES = ["full", "hidden cache"]  # the last step of an epoch of the second has one row; all: benchmarks/processes.py --shard


@pytest.mark.parametrize("name", CASES)
def test_two_halves_make_the_run_of_one(name: str, forks: Forks, shop: Workshop) -> None:
    layers = [layer_of(shop, name), layer_of(shop, name)]
    assert forks.run(job(shop, layers[0])) == 0, log(shop)
    assert forks.run(job(shop, layers[1], processes=2, shard="yes", rows=str(shop.folder / "rows"))) == 0, log(shop)
    for rank in range(2):
        assert float((shop.folder / f"rows-{rank}.share").read_text()) == pytest.approx(0.5, abs=0.05)
    found = compare(*layers)
    assert found.loss <= TOLERANCE
    assert found.weight <= TOLERANCE


Finished = Callable[[str, int], tuple[dict[str, Any], int]]


@pytest.fixture(scope="module")
def finished(forks: Forks, shop: Workshop) -> Finished:
    """The layer of a run that one process, or two with halves, made without an interruption, and its file operations."""

    @cache
    def run(name: str, processes: int) -> tuple[dict[str, Any], int]:
        layer = saving(shop, name)
        assert forks.run(job(shop, layer, **of(processes))) == 0, log(shop)
        return layer, int(log(shop).rpartition("file operations: ")[2])

    return run


def saving(shop: Workshop, name: str) -> dict[str, Any]:
    layer = layer_of(shop, name)
    layer["training"]["save_every"] = 1
    if name == "lora":
        layer["method"] = {**layer["method"], "r": 1}  # a matrix of one row, which one of two processes has
    return layer


def of(processes: int) -> dict[str, Any]:
    return {"processes": processes, "shard": "yes" if processes > 1 else "no"}


def checkpoints_of(layer: dict[str, Any]) -> Checkpoints:
    return Checkpoints(Path(layer["output_dir"]) / "run" / "checkpoints")


WRITTEN = [("full", 2, 2), ("full", 2, 1), ("full", 1, 2), ("lora", 2, 1)]


@pytest.mark.parametrize(("name", "began", "goes_on"), few(WRITTEN, ("full", 2, 1)))
def test_each_process_writes_its_half_and_any_number_goes_on(
    name: str, began: int, goes_on: int, forks: Forks, shop: Workshop, finished: Finished
) -> None:
    """One of two is killed while it writes its part of the third checkpoint; one alone somewhere in the middle."""
    layer, (whole, operations) = saving(shop, name), finished(name, 1)
    break_it = {"break": "writing"} if began > 1 else {"kill_at": operations // 2}
    assert forks.run(job(shop, layer, **of(began), **break_it)) == (1 if began > 1 else -9)
    problems: list[str] = []
    checkpoint = checkpoints_of(layer).newest(problems.append)
    assert checkpoint is not None
    assert problems == []
    parts = [[file["bytes"] for name, file in checkpoint.files.items() if name.startswith(f"shard-0000{process}-")] for process in (1, 2)]
    assert (WEIGHTS in checkpoint.files) is (began == 1)
    assert all(map(bool, parts)) is (began == 2)
    if began == 2:
        assert checkpoint.step == 2
    if began == 2 and name == "full":
        assert min(map(len, parts)) > 1
        assert sum(parts[0]) == pytest.approx(sum(parts[1]), rel=0.05)
    assert forks.run(job(shop, layer, **of(goes_on))) == 0, log(shop)
    found = compare(whole, layer)
    assert max(found.loss, found.weight) <= TOLERANCE
    if began == goes_on:
        same = compare(finished(name, began)[0], layer)
        assert same.loss == same.weight == 0.0


def test_a_disk_without_room_for_a_half_ends_the_run_in_one_sentence(forks: Forks, shop: Workshop) -> None:
    layer = saving(shop, "full")
    assert forks.run(job(shop, layer, processes=2, shard="yes", **{"break": "disk"})) == 1
    assert "DiskFull: The checkpoint of step 3 did not fit on the disk" in log(shop)
    assert [each.step for each in checkpoints_of(layer).all()] == [2]


def test_nonsense_in_one_share_is_found_by_both_and_the_state_before_it_saved(forks: Forks, shop: Workshop) -> None:
    layer = layer_of(shop, "lora")
    assert forks.run(job(shop, layer, processes=2, shard="yes", **{"break": "nonsense"})) == 1
    assert "Diverged: The loss is nan at step 3" in log(shop)
    assert [each.step for each in checkpoints_of(layer).all()] == [2]


def test_a_process_without_memory_for_its_rows_ends_the_run_and_says_what_to_change(forks: Forks, shop: Workshop) -> None:
    layer = layer_of(shop, "lora")
    assert forks.run(job(shop, layer, processes=2, shard="yes", **{"break": "no memory"})) == 1
    assert "OutOfMemory: 3 rows at a time do not fit into memory with a part of the weights." in log(shop)
    assert "--set training.batch_size=1 --set training.gradient_accumulation=6" in log(shop)
    assert divided(TrainingSpec(batch_size=1, gradient_accumulation=6), 2) == (1, 3)


def machine_with(free: int) -> Machine:
    return Machine("a processor", 8, 2**36, 2**35, "cuda", "a GPU", 2**36, "float32", {"float32": 1e5}, "as a test says", free, 4)


def planned(
    shop: Workshop, free: int, monkeypatch: pytest.MonkeyPatch, layer: dict[str, Any] | None = None, **options: Any
) -> estimate.Plan:
    monkeypatch.setattr(hardware, "inspect", lambda _: machine_with(free))
    recipe = Recipe.from_layers(layer or shop.layer(method={"kind": "full"}), {"training": {"batch_size": 4}})
    return LLMFineTuner(recipe, runtime=RuntimeOptions(cache_dir=shop.runtime.cache_dir, **options)).plan()


def test_weights_are_cut_where_a_gpu_has_no_room_for_all_and_the_plan_says_it_in_numbers(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = planned(shop, 2**35, monkeypatch)
    assert (roomy.shards, roomy.processes) == (1, 4)
    tight = planned(shop, roomy.memory_total - 1, monkeypatch)
    assert tight.shards == 4
    for part in ("weights", "gradients", "optimizer"):
        assert tight.memory[part] == roomy.memory[part] // 4
    assert tight.memory["activations"] == roomy.memory["activations"]
    (said,) = [note for note in tight.notes if "sharded" in note]
    assert said.endswith(" free: weights are sharded over 4.")
    assert " a GPU needed, " in said
    assert planned(shop, roomy.memory_total - 1, monkeypatch, shard="no").shards == 1
    assert planned(shop, roomy.memory_total - 1, monkeypatch, processes=1).shards == 1
    assert planned(shop, 2**35, monkeypatch, shard="yes").shards == 4
    assert planned(shop, roomy.memory_total - 1, monkeypatch, shop.layer(method={"kind": "adalora"})).shards == 1


@pytest.mark.parametrize(
    ("changes", "options", "kind", "words"),
    [
        ({}, {"processes": 1}, BadInput, "One process cannot shard the weights"),
        ({"method": {"kind": "adalora"}}, {}, RecipeError, "The method adalora trains a model that is whole on each GPU"),
        ({"method": {"kind": "qlora"}}, {}, RecipeError, "The method qlora trains a model that is whole on each GPU"),
        ({"approach": "distillation", "distillation": {"quantize": {"format": "q8_0"}}}, {}, RecipeError, "computes in few bits"),
        (
            {"approach": "distillation", "teacher": "self", "method": {"kind": "lora"}, "distillation": {"cache": "none"}},
            {},
            RecipeError,
            "its own teacher at every step",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_before_the_run(
    changes: dict[str, Any], options: dict[str, Any], kind: type[FinetuneError], words: str, shop: Workshop
) -> None:
    with pytest.raises(BadInput, match="There is no way to shard called 'often'"):
        RuntimeOptions(shard="often")
    layer = shop.distilling(**changes) if "quantize" in str(changes) else shop.layer(**changes)
    runtime = RuntimeOptions(device="cpu", dtype="float32", cache_dir=shop.runtime.cache_dir, shard="yes", **({"processes": 2} | options))
    with pytest.raises(kind, match=words):
        LLMFineTuner(Recipe.from_layers(layer), runtime=runtime).check()
