"""What a process holds of a model while it is cut: pages of files that all processes share, its own part, and a layer at a time.

Run as a program, this file is one of four processes that cut a model; the others are imagined.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import ROOT
from lengths import few
from test_shards import machine_with, planned
from workshop import Workshop

from finetune import LLMFineTuner
from finetune.errors import TrainingError
from finetune.hardware import machine as hardware
from finetune.methods.base import MethodContext
from finetune.methods.full import Full
from finetune.planning import plan as planning
from finetune.recipe import Recipe
from finetune.run import rounds
from finetune.run.train_model import Order
from finetune.runtime import RuntimeOptions

PROCESSES, NOISE = 4, 12.0  # MB that Python and torch need for themselves meanwhile
SHAPE = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 4000}
LAYER = 4 * 384**2 + 3 * 384 * 1536


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("large")
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    torch.save({name: each.detach().float() for name, each in model.named_parameters()}, folder / "weights.pt")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="memory by kind is read from /proc")
@pytest.mark.parametrize(("kind", "width"), few([("as it is", 2), ("full", 4)], ("as it is", 2)))
def test_a_process_never_has_more_of_a_model_than_its_part_and_a_layer(kind: str, width: int, folder: Path) -> None:
    """A full training makes 32 bits of 16, and even then no process has all of the weights to itself."""
    parameters = 8 * LAYER + 2 * 4000 * 384
    words = [sys.executable, __file__, kind, str(folder)]
    path = f"{ROOT}:{ROOT}/tests:{Path(__file__).parent}"
    said = subprocess.run(words, env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    most, last = (float(number) for number in said.stdout.split()[-2:])
    part, layer = parameters * width / PROCESSES / 1e6, LAYER * width / 1e6
    assert last <= part + NOISE
    assert most <= part + layer + NOISE
    assert most < parameters * width / 1e6


def cut(kind: str, folder: Path) -> None:
    """Print the largest and the last growth of this process's own memory in MB, from before the model is loaded."""
    import torch.distributed as dist
    from letters import llama
    from torch.distributed import fsdp
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import AutoModelForCausalLM

    from finetune.engines.order import _set
    from finetune.training.parallel import shards

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES)
    shards.Whole(llama(), torch.device("cpu"))  # what is imported on the way
    before, held = own_memory(), list[float]()
    cut_layer = fsdp.fully_shard

    def counted(*args: Any, **kwargs: Any) -> Any:
        made = cut_layer(*args, **kwargs)
        held.append(own_memory() - before)
        return made

    fsdp.fully_shard = counted
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    held.append(own_memory() - before)
    if kind == "full":
        _set(model, torch.load(folder / "weights.pt", weights_only=True, mmap=True))
        model = Full().attach(model, Full.Spec(), MethodContext(total_steps=1))
        assert next(model.parameters()).dtype == torch.float32
    shards.Whole(model, torch.device("cpu"))
    held.append(own_memory() - before)
    print(max(held), held[-1])


def own_memory() -> float:
    """MB of this process that are no pages of files."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def test_a_model_that_fits_no_gpu_is_loaded_and_scored_in_main_memory_and_the_plan_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine says that it has GPUs, and has none: whatever went there would fail."""
    shop = Workshop(tmp_path)
    roomy = planned(shop, 2**35, monkeypatch)
    tuner = planned_tuner(shop, monkeypatch, free=roomy.memory_total - 1)
    assert (tuner.context.cut, tuner.context.whole_on) == (True, "cuda")
    tuner = planned_tuner(shop, monkeypatch, free=2**20)
    assert (tuner.context.cut, tuner.context.whole_on) == (True, "cpu")
    assert tuner.planned is not None
    (said,) = [note for note in tuner.planned.notes if "The whole model takes" in note]
    assert said.endswith("it is scored on the processor, which is slow. --set benchmark.rows=8 shortens that.")
    assert tuner.score_before().values
    assert {each.device.type for each in tuner.load_model().parameters()} == {"cpu"}


def test_a_student_that_fits_no_gpu_is_a_problem_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop(tmp_path)
    tight = planned(shop, 2**20, monkeypatch, shop.distilling(method={"kind": "full"}))
    assert any("a student is scored together with its teacher, so it has to fit one" in problem for problem in tight.problems)


def test_a_model_that_is_loaded_before_anything_was_planned_has_its_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = planned_tuner(Workshop(tmp_path), monkeypatch, free=2**20, ask=False)
    assert next(tuner.load_models().parameters()).device.type == "cpu"


def test_what_the_plan_decided_is_what_the_engine_is_told_and_nothing_is_planned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders, plans, make_plan = list[Order](), list[bool](), planning.plan

    class Engine:
        def train(self, order: Order) -> None:
            orders.append(order)
            raise TrainingError("That is enough.")

    def counted(*args: Any, **kwargs: Any) -> Any:
        plans.append(True)
        return make_plan(*args, **kwargs)

    monkeypatch.setattr(planning, "plan", counted)
    monkeypatch.setattr(rounds, "engine_of", lambda context: Engine())
    tuner = planned_tuner(Workshop(tmp_path), monkeypatch, free=2**20, ask=False)
    with pytest.raises(TrainingError, match="enough"):
        tuner.train()
    assert [order.cut for order in orders] == [True]
    assert len(plans) == 1


def planned_tuner(shop: Workshop, monkeypatch: pytest.MonkeyPatch, free: int, *, ask: bool = True) -> LLMFineTuner:
    monkeypatch.setattr(hardware, "inspect", lambda _: machine_with(free))
    recipe = Recipe.from_layers(shop.layer(method={"kind": "full"}), {"training": {"batch_size": 4}})
    tuner = LLMFineTuner(recipe, runtime=RuntimeOptions(cache_dir=shop.runtime.cache_dir))
    if ask:
        tuner.plan()
    return tuner


if __name__ == "__main__":
    cut(sys.argv[1], Path(sys.argv[2]))
