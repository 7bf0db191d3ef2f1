"""Several devices: processes that share a batch, GPUs, and the products of a GPU that hand over their sums unrounded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers
from letters import tokenizer
from pico import Rows, arguments, assert_same_weights, losses, pico, pico_rows
from test_distillation_loss import naive_loss, objective
from test_engine_chunked_loss import LABELS, VOCABULARY, gradients, made, textbook_logits
from workshop import Workshop

from finetune.distillation.loss import Distillation
from finetune.distillation.trainer import DistillationTrainer
from finetune.errors import HardwareError
from finetune.events import Recorder
from finetune.hardware.machine import _fastest, inspect
from finetune.hardware.peak_memory import PeakMemory
from finetune.models.load import load_model
from finetune.models.location import locate
from finetune.runtime import RuntimeOptions
from finetune.sources.writer import Writer
from finetune.training.head import Head
from finetune.training.loss import chunked as module
from finetune.training.loss.chunked import ChunkLogits, chunked_loss
from finetune.training.resumable import random_states_now, set_random_states
from finetune.training.trainer import SupervisedTrainer

HERE = Path(__file__).parent


def step(output: Path, batch: int, *launcher: str) -> dict[str, torch.Tensor]:
    command = [sys.executable, *launcher, str(HERE / "two_processes.py"), str(output), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output)


@pytest.mark.long
def test_unequal_shares_of_two_processes_make_the_step_of_one(tmp_path) -> None:
    alone = step(tmp_path / "alone.pt", 4)
    together = step(tmp_path / "together.pt", 2, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("teacher", [None, "llama"], ids=["alone", "with a teacher"])
def test_one_of_several_visible_gpus_trains_where_nothing_starts_a_process_for_each(teacher: str | None, tmp_path) -> None:
    """The arguments as they are on a machine with two GPUs, which the Trainer would share every batch between."""

    def trained(gpus: int) -> Any:
        settings = arguments(tmp_path)
        settings._n_gpu = gpus
        more = {"teacher_model": pico(teacher, seed=7)} if teacher else {}
        make = DistillationTrainer if teacher else SupervisedTrainer
        trainer = make(model=pico("llama"), args=settings, train_dataset=Rows(pico_rows(12)), **more)
        trainer.train()
        return trainer

    one, two = trained(1), trained(2)
    assert one.state.global_step == two.state.global_step == 3
    assert losses(one) == losses(two)
    assert_same_weights(one.model, two.model, tolerance=0)


def test_a_plan_counts_what_is_free_of_a_gpu_and_not_what_another_process_has_taken(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 80 GB, 3 GB of which the driver calls free; torch has 2 GB more in hand, 1.5 GB of them in tensors."""
    answers = {"is_available": True, "get_device_name": "a GPU", "get_device_properties": SimpleNamespace(total_memory=80 * 10**9)}
    answers |= {"mem_get_info": (3 * 10**9, 80 * 10**9), "memory_reserved": 2 * 10**9, "memory_allocated": 15 * 10**8}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr("finetune.hardware.machine._measured", lambda *_: ({"float32": 9000.0}, "float32", "as a test says"))
    machine = inspect(RuntimeOptions(device="cuda", cache_dir=tmp_path))
    assert (machine.gpu_memory_bytes, machine.free_gpu_memory_bytes) == (80 * 10**9, 35 * 10**8)
    shop = Workshop(tmp_path)
    tuner = shop.tuner(shop.layer())
    tuner.context = tuner.context.beside(machine=machine)
    assert tuner.plan().free_memory == 35 * 10**8
    tuner.context = tuner.context.beside(machine=replace(machine, free_gpu_memory_bytes=10**6))
    assert "and 1 MB is free" in tuner.plan().problems[0]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("CUDA error: no kernel image is available for execution on the device\nSearch for", "no kernel image is available for execution"),
        ("CUDA out of memory. Tried to allocate 64.00 MiB. GPU 0 has", "a GPU cannot compute: CUDA out of memory."),
    ],
)
def test_a_gpu_that_cannot_compute_is_named_with_the_reason(error: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"is_available": True, "get_device_name": "a GPU", "get_device_properties": SimpleNamespace(total_memory=80 * 10**9)}
    answers |= {"mem_get_info": (0, 80 * 10**9), "memory_reserved": 0, "memory_allocated": 0}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr("finetune.hardware.machine._measured", Mock(side_effect=RuntimeError(error)))
    with pytest.raises(HardwareError, match=why):
        inspect(RuntimeOptions(cache_dir=tmp_path))


@pytest.mark.parametrize(("hardware", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_the_dtype_of_a_gpu_is_one_that_it_has_products_for(hardware: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: hardware or including_emulation)
    assert _fastest("cuda", {}) == (dtype, f"the GPU {'supports it' if hardware else 'does not support bfloat16'} in hardware")


def test_what_gpus_will_draw_is_kept_and_restored_where_there_are_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through the file of a checkpoint, which may hold nothing but numbers and tensors."""
    drawn = [torch.arange(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]
    restored: list[Any] = []
    fakes = {"is_available": lambda: True, "is_initialized": lambda: True, "get_rng_state_all": lambda: drawn}
    for name, fake in {**fakes, "set_rng_state_all": restored.append}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    torch.save(random_states_now(), tmp_path / "states")
    for gpus in (1, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        set_random_states(torch.load(tmp_path / "states", weights_only=True))
    assert len(restored) == 1, "not where there is one"
    assert all(torch.equal(one, other) for one, other in zip(restored[0], drawn, strict=True))


def test_memory_on_a_gpu_is_what_its_allocator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[bool] = []
    fakes = {"max_memory_allocated": lambda: 7, "memory_allocated": lambda: 5, "reset_peak_memory_stats": lambda: reset.append(True)}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with PeakMemory("cuda") as peak:
        assert (peak.now(), peak.highest()) == (5, 7)
    assert peak.bytes == 7
    assert reset, "it begins at the block, not where the process does"


class Seen(BaseException):
    """What was asked of transformers, which nothing on the way catches."""


@pytest.mark.parametrize("load_in", [None, "8bit", "4bit"])
def test_a_model_goes_to_the_gpu_of_its_process(load_in: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def to(model: Any, place: Any) -> Any:
        raise Seen(place)

    def quantised(*_: Any, device_map: Any, **__: Any) -> Any:
        raise Seen(*device_map.values())

    shop = Workshop(tmp_path)
    machine = replace(inspect(shop.runtime), device="cuda")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(transformers.PreTrainedModel, "to", to)
    if load_in:
        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", quantised)
    with pytest.raises(Seen) as seen:
        load_model(locate(str(shop.model), shop.runtime, Recorder()), machine, load_in=load_in)
    assert seen.value.args == ((3,) if load_in else ("cuda",)), "the current device is the one that a worker has chosen"


def test_a_gpu_draws_afterwards_what_it_would_have_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[Any] = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forked.append(devices) or nullcontext())
    monkeypatch.setattr(Writer, "_continued", lambda *_: ["said"])
    writer = Writer(pico("llama"), tokenizer())
    for device in ("cuda:1", "cpu"):
        writer.model = SimpleNamespace(parameters=lambda device=device: iter([SimpleNamespace(device=torch.device(device))]))
        assert writer.continued([[3]], stops=[2], most=4, seed="a") == ["said"]
    assert forked == [[torch.device("cuda:1")], []]


@pytest.fixture
def unrounded_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives the CPU the operators with `out_dtype` that only CUDA has, so that their path can be walked anywhere."""
    monkeypatch.setattr(module, "wide_products", lambda device, dtype: True)
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("mm.dtype", lambda one, other, dtype: one.to(dtype) @ other.to(dtype), "CPU")
        library.impl("mm.dtype_out", lambda one, other, dtype, *, out: out.copy_(one.to(dtype) @ other.to(dtype)), "CPU")
        library.impl("addmm.dtype_out", lambda total, one, other, dtype, *, out: out.copy_(total + one.to(dtype) @ other.to(dtype)), "CPU")
        yield


def on(device: str, head: Head, *, trains: bool) -> Head:
    tensors = [None if tensor is None else tensor.detach().to(device).requires_grad_(trains) for tensor in (head.weight, head.bias)]
    return Head(tensors[0], tensors[1], head.scale, head.softcap)  # type: ignore[arg-type]


def compare(device: str, dtype: torch.dtype, tolerance: float, rows_per_chunk: int) -> None:
    (hidden, head), (teacher_hidden, teacher_head) = made("everything", dtype), made("bias", dtype, seed=1)
    hidden, head, teacher = (
        hidden.detach().to(device).requires_grad_(),
        on(device, head, trains=True),
        on(device, teacher_head, trains=False),
    )
    rule = Distillation(
        LABELS.to(device), ChunkLogits("teacher", teacher_hidden.detach().to(device), teacher, 2.0), objective("forward_kl"), 0.5, 2.0
    )
    ours = chunked_loss(hidden, head, rule, chunk_bytes=VOCABULARY * 10 * rows_per_chunk)
    reference_hidden, reference_head = made("everything", dtype)
    teacher_logits = textbook_logits(teacher_hidden, teacher_head).detach()
    theirs = naive_loss("forward_kl", textbook_logits(reference_hidden, reference_head), teacher_logits, 0.5, 2.0)
    torch.testing.assert_close(ours.detach().cpu().double(), theirs.detach(), rtol=tolerance, atol=0)
    expected = gradients(theirs, reference_hidden, reference_head)
    for mine, reference in zip(gradients(ours, hidden, head), expected, strict=True):
        assert (mine.cpu() - reference).abs().max() <= tolerance * reference.abs().max()


PRECISIONS = [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("rows_per_chunk", [5, 100])
@pytest.mark.usefixtures("unrounded_products")
def test_unrounded_products_give_the_textbook_loss(dtype: torch.dtype, tolerance: float, rows_per_chunk: int) -> None:
    compare("cpu", dtype, tolerance, rows_per_chunk)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("rows_per_chunk", [5, 100])
def test_a_gpu_gives_the_textbook_loss(dtype: torch.dtype, tolerance: float, rows_per_chunk: int) -> None:
    compare("cuda", dtype, tolerance, rows_per_chunk)
