"""A machine with several GPUs, faked: what the plan, the review and the checks make of it. Nothing here computes on one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoConfig
from workshop import Workshop

from finetune import LLMFineTuner, registry
from finetune.cli import main
from finetune.command_line.arguments import parser
from finetune.engines import worker
from finetune.errors import BadInput, FinetuneError, HardwareError, RecipeError, TrainingError
from finetune.hardware import machine as hardware
from finetune.hardware.machine import Glance, Machine
from finetune.recipe import Recipe, TrainingSpec
from finetune.runtime import RuntimeOptions
from finetune.screen.plan_table import review as table
from finetune.training.step_count import divided, most_that_divide, steps_of
from finetune.wizard import review
from finetune.wizard.asking.prompter import ScriptedPrompter, drawn
from finetune.wizard.host import HostInfo

SIX = Machine("a processor", 8, 2**36, 2**35, "cuda", "a GPU", 2**36, "float32", {"float32": 1e5}, "as a test says", 2**35, 6)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """On a machine with six GPUs."""
    monkeypatch.setattr(hardware, "inspect", lambda _: SIX)
    return Workshop(tmp_path)


def tuner(shop: Workshop, runtime: RuntimeOptions | None = None, **training: object) -> LLMFineTuner:
    recipe = Recipe.from_layers(shop.layer(), {"training": training})
    return LLMFineTuner(recipe, runtime=runtime or RuntimeOptions(cache_dir=shop.runtime.cache_dir))


def test_the_review_shows_the_gpus_and_the_person_can_use_fewer(shop: Workshop) -> None:
    """Six GPUs, for steps of eight rows: four take part, or two."""
    recipe = Recipe.from_layers(shop.layer(), {"training": {"batch_size": 8}})
    here = HostInfo(Glance("a processor", 8, 2**36, 2**35, 2**36, "a GPU", 2**36, 2**35, 6), False, RuntimeOptions())
    prompter = ScriptedPrompter({"review": ["gpus", "start"], "gpus": "2"}, otherwise_default=True)
    assert review.ask(recipe, prompter, here)[1] == review.GPUS
    review.ask_gpus(recipe, prompter, here)
    assert prompter.defaults["gpus"] == "4"
    assert review.ask(recipe, prompter, here)[1] == review.START
    shown = "\n".join(prompter.shown)
    assert shown.index("4, which share the 8 rows of each step") < shown.index("2, which share the 8 rows of each step")
    assert here.runtime.processes == 2


def test_a_number_of_gpus_that_cannot_share_a_step_any_more_can_be_changed(shop: Workshop) -> None:
    """Chosen for eight rows, and the person has gone back and changed these to six."""
    recipe = Recipe.from_layers(shop.layer(), {"training": {"batch_size": 6}})
    glance = Glance("a processor", 8, 2**36, 2**35, 2**36, "a GPU", 2**36, 2**35, 6)
    here = HostInfo(glance, False, RuntimeOptions(cache_dir=shop.runtime.cache_dir, processes=4))
    prompter = ScriptedPrompter({"review": ["gpus", "start"]}, otherwise_default=True)
    assert review.ask(recipe, prompter, here)[1] == review.GPUS
    assert "A step has 6 rows" in "\n".join(prompter.shown)
    review.ask_gpus(recipe, prompter, here)
    assert here.runtime.processes is None
    assert review.ask(recipe, prompter, here)[1] == review.START


def test_the_plan_is_that_of_each_gpu(shop: Workshop) -> None:
    one, four = (tuner(shop, RuntimeOptions(cache_dir=shop.runtime.cache_dir, processes=number), batch_size=8).plan() for number in (1, 4))
    assert one.steps == four.steps
    assert (one.processes, four.processes, one.gpus) == (1, 4, 6)
    assert four.memory["activations"] == pytest.approx(one.memory["activations"] / 4, rel=0.01)
    assert four.memory["weights"] == one.memory["weights"]
    assert "1 of 6" in drawn(table(tuner(shop, batch_size=8).recipe, one), 100)


@pytest.mark.parametrize(("cache", "nodes", "share"), [("none", 1, 4), ("none", 2, 8), ("hidden", 1, 4), ("hidden", 2, None)])
def test_the_devices_share_what_the_teacher_does(
    cache: str, nodes: int, share: int | None, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at every step; those of the first node where its answers are written down."""
    monkeypatch.setattr("finetune.planning.seconds.EFFICIENCY", {"cuda": {"float32": 1e-15}})  # so that only arithmetic takes time
    recipe = Recipe.from_layers(shop.distilling(distillation={"cache": cache}), {"training": {"batch_size": 8}})

    def seconds(**options: object) -> float:
        runtime = RuntimeOptions(cache_dir=shop.runtime.cache_dir, **options)
        plan = LLMFineTuner(recipe, runtime=runtime).plan()
        return plan.seconds - plan.stages["making the student"]  # which one device does

    several: dict[str, object] = {"nodes": 2, "rendezvous": "a:1"} if nodes == 2 else {}
    alone, together = seconds(processes=1), seconds(processes=4, **several)
    assert alone > 1e6
    if share:
        assert together == pytest.approx(alone / share, rel=0.001)
    else:
        assert alone / 8 * 1.01 < together < alone / 4 / 1.01, "eight train, and four run the teacher"


def test_a_plan_says_why_some_gpus_have_nothing_to_do(shop: Workshop) -> None:
    notes = tuner(shop, batch_size=8).plan().notes
    assert "4 of 6 GPUs train: more cannot share the 8 rows of a step equally." in notes[0]
    assert not any("GPUs train" in note for note in tuner(shop, batch_size=6).plan().notes)


def test_as_many_gpus_train_as_share_a_step_equally(shop: Workshop) -> None:
    assert tuner(shop, batch_size=8).context.processes == 4
    assert tuner(shop, batch_size=8).context.engine == "torchrun"
    assert tuner(shop, batch_size=7).context.processes == 1
    assert tuner(shop, batch_size=7).context.engine == "here"
    assert tuner(shop, batch_size=6, gradient_accumulation=2).context.processes == 6


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "expected"),
    [(4, 1, 2, (2, 1)), (4, 2, 2, (4, 1)), (1, 8, 4, (1, 2)), (4, 3, 2, (3, 2)), (8, 1, 8, (1, 1)), (5, 2, 1, (5, 2))],
)
def test_processes_divide_the_rows_of_a_step(batch: int, accumulation: int, processes: int, expected: tuple[int, int]) -> None:
    spec = TrainingSpec(batch_size=batch, gradient_accumulation=accumulation)
    assert divided(spec, processes) == expected
    assert expected[0] * expected[1] * processes == batch * accumulation


def test_what_processes_cannot_share_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"A step has 4 rows .* which 3 processes cannot share equally"):
        divided(TrainingSpec(batch_size=4), 3)
    assert most_that_divide(TrainingSpec(batch_size=8), 3, nodes=2) == 2
    assert steps_of(TrainingSpec(batch_size=4, gradient_accumulation=2, epochs=2), 17) == 6


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"processes": 8}, HardwareError, "8 processes need a GPU each, and there are 6"),
        ({"processes": 4}, RecipeError, "A step has 6 rows"),
        ({"processes": 2, "engine": "here"}, BadInput, "trains in one process"),
        ({"engine": "horovod"}, RecipeError, "There is no engine 'horovod'"),
        ({"nodes": 2, "rendezvous": "a:1", "node_rank": 1}, BadInput, "Only the first node does a whole run"),
    ],
)
def test_devices_that_cannot_work_are_refused_before_the_run(
    options: dict[str, object], kind: type[FinetuneError], words: str, shop: Workshop
) -> None:
    with pytest.raises(kind, match=words):
        tuner(shop, RuntimeOptions(cache_dir=shop.runtime.cache_dir, **options)).check()


@pytest.mark.parametrize(
    ("distillation", "words"),
    [
        ({"on_policy": {"share": 0.5}}, "A student practises on its own answers in one process"),
        ({"features": {"last": 0.1}}, "Inner layers and attention are compared in one process"),
        ({"rounds": [2], "round_teacher": "previous"}, "Rounds that teach each other train in one process"),
    ],
)
def test_what_only_one_process_can_do_is_refused_before_the_run(distillation: dict[str, object], words: str, shop: Workshop) -> None:
    changes = {"distillation": distillation} | ({"model": None} if "rounds" in distillation else {})
    recipe = Recipe.from_layers(shop.distilling(**changes), {"training": {"epochs": 2}})
    for options in ({"processes": 2}, {"nodes": 2, "processes": 1, "rendezvous": "a:1"}):
        runtime = RuntimeOptions(cache_dir=shop.runtime.cache_dir, **options)
        with pytest.raises(RecipeError, match=words) as refused:
            LLMFineTuner(recipe, runtime=runtime).check()
        assert str(refused.value.hint).startswith("Use --nproc 1 and one node, or ")
    nobody_asked = LLMFineTuner(recipe, runtime=RuntimeOptions(cache_dir=shop.runtime.cache_dir))
    assert (nobody_asked.context.processes, nobody_asked.context.engine) == (1, "here")
    assert f"1 of 6 GPUs trains: {words[0].lower()}{words[1:]}." in nobody_asked.plan().notes


def test_what_is_said_of_a_distillation_keeps_a_fine_tuning_from_no_gpu(shop: Workshop) -> None:
    recipe = Recipe.from_layers(shop.layer(), {"distillation": {"features": {"last": 0.1}}, "training": {"batch_size": 8}})
    context = LLMFineTuner(recipe, runtime=RuntimeOptions(cache_dir=shop.runtime.cache_dir)).context
    assert context.alone is None
    assert context.processes == 4


@pytest.mark.parametrize("rounds", [{"rounds": [2]}, {"until": {"retention": 0.9}}])
def test_rounds_train_on_one_node(rounds: dict[str, object], shop: Workshop) -> None:
    recipe = Recipe.from_layers(shop.distilling(model=None, distillation=rounds))
    runtime = RuntimeOptions(cache_dir=shop.runtime.cache_dir, nodes=2, processes=1, rendezvous="a:1")
    with pytest.raises(BadInput, match="trains on one node") as refused:
        LLMFineTuner(recipe, runtime=runtime).check()
    assert str(refused.value.hint).endswith(f"distillation.{next(iter(rounds))}.")


def test_several_nodes_need_a_place_to_meet_and_a_number() -> None:
    with pytest.raises(BadInput, match="need a rendezvous address"):
        RuntimeOptions(nodes=2)
    with pytest.raises(BadInput, match="need a rendezvous address"):
        RuntimeOptions(nodes=2, rendezvous="a")
    with pytest.raises(BadInput, match="--rdzv is for several nodes"):
        RuntimeOptions(rendezvous="a:1")
    with pytest.raises(BadInput, match="There is no node 2 of 2"):
        RuntimeOptions(nodes=2, node_rank=2, rendezvous="a:1")


def test_what_a_launcher_starts_says_what_to_use_instead(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="starts the processes it needs itself") as refused:
        tuner(shop).check()
    assert "--nproc" in str(refused.value.hint)
    recipe = shop.folder / "recipe.yaml"
    recipe.write_text(tuner(shop).recipe.to_yaml())
    assert main(["run", str(recipe)]) == 2
    assert main(["--yes"]) == 2
    assert capsys.readouterr().err.count("starts the processes it needs itself") == 2


@pytest.mark.parametrize("given", ["order", "asked"])
@pytest.mark.parametrize(("device", "taken"), [("cuda", [3]), ("cpu", [])])
def test_a_worker_takes_the_gpu_of_its_number_where_the_run_is_on_gpus(
    device: str, taken: list[int], given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--device cpu` a machine with two GPUs may have four processes, and the last two have none to take."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name, value in {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    enough = Mock(side_effect=TrainingError("That is enough."))
    monkeypatch.setattr(worker, "take", enough)
    monkeypatch.setattr(worker.teacher, "run", enough)
    (tmp_path / f"{given}.json").write_text(json.dumps({"machine": {"device": device}}))
    assert worker.main(str(tmp_path)) == 1
    assert enough.called
    assert chosen == taken


def test_options_of_devices_are_options_of_the_machine_and_help_names_every_engine() -> None:
    taken = parser().parse_args(["run", "a.yaml", "--nproc", "2", "--on", "torchrun", "--nodes", "2", "--node-rank", "1", "--rdzv", "a:1"])
    assert (taken.nproc, taken.on, taken.nodes, taken.node_rank, taken.rdzv) == (2, "torchrun", 2, 1, "a:1")
    assert parser().parse_args(["resume", "folder", "--nproc", "auto"]).nproc is None
    with pytest.raises(BadInput, match="0 is neither auto nor a number"):
        parser().parse_args(["run", "a.yaml", "--nproc", "0"])
    told = next(action.help for action in parser()._actions if action.dest == "on")
    assert all(name in str(told) for name in registry.names("engines"))


@pytest.mark.parametrize(
    ("visible", "first", "gpus"),
    [
        (None, "H100", 2),
        ("0", "H100", 1),
        ("0,1", "H100", 2),
        ("1, 0", "H200", 2),
        ("GPU-8a2f", "H100", 1),
        ("", None, 0),
        ("0,-1,1", "H100", 1),
        ("7", None, 0),
    ],
)
def test_gpus_are_those_that_are_visible(visible: str | None, first: str | None, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(stdout="NVIDIA H100, 81559, 80000\nNVIDIA H200, 143771, 70000\n")
    monkeypatch.setattr(hardware.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    hardware._gpu.cache_clear()
    try:
        sizes = {"H100": (81559, 80000), "H200": (143771, 70000), None: (0, 0)}[first]
        assert hardware._gpu() == (f"NVIDIA {first}" if first else None, *(size * 2**20 for size in sizes), gpus)
    finally:
        hardware._gpu.cache_clear()


def test_a_gpu_is_planned_to_take_as_long_as_python_takes_to_launch_its_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop(tmp_path)
    tuner = shop.tuner(shop.layer())
    tuner.context = tuner.context.beside(machine=SIX)
    monkeypatch.setattr("finetune.planning.seconds.LAUNCHING", {True: 10.0, False: 10.0})
    slow = tuner.plan()
    monkeypatch.setattr("finetune.planning.seconds.LAUNCHING", {True: 20.0, False: 20.0})
    layers = AutoConfig.from_pretrained(shop.model).num_hidden_layers
    assert tuner.plan().seconds - slow.seconds == pytest.approx(10 * slow.steps * layers)
