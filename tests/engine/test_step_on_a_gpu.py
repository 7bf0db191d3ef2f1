"""A step of training takes the branches of a GPU and reads nothing back: on the meta device there is nothing that could be read.

Every read that Python has to wait for fails there: item, tolist, nonzero, a copy to the processor, a condition. So does here what is sent
in a way that waits for all that the GPU has to do before: a copy that blocks, a number or a list made into a tensor there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pico import Rows, arguments, pico, pico_rows
from test_across_training import OURS, READING, THEIRS, sized
from test_across_training import ROWS as TEXTS
from test_across_training import distiller as across
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finetune import registry
from finetune.distillation import loss as distillation_loss
from finetune.distillation.across_tokenizers.ways import WAYS
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.grids.quantised import quantise
from finetune.distillation.terms.internals import Compared
from finetune.distillation.trainer import DistillationTrainer
from finetune.methods.base import MethodContext
from finetune.recipe.distillation_settings import FeaturesSpec, QuantizeSpec
from finetune.training.batches import supervised_counts
from finetune.training.head import head_of
from finetune.training.loss import chunked
from finetune.training.loss.kernel import Found, Targets
from finetune.training.loss.workspace import CHUNK_BYTES, GPU_CHUNK_BYTES, Workspace
from finetune.training.trainer import SupervisedTrainer

PACKED = pico_rows(6)
ROUTES = [0, 0, 1, 0, 1, 1]
META = torch.device("meta")


def adapted(kind: str, name: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    method = registry.load("methods", kind)
    return method.attach(pico(name, dtype=dtype), method.Spec(), MethodContext(total_steps=20))


def frozen_head() -> Any:
    student = pico("qwen3")
    student.get_output_embeddings().requires_grad_(False)
    return student


def trained(kind: str, **more: Any) -> Callable[[Path], Any]:
    return lambda folder: SupervisedTrainer(model=adapted(kind, **more), args=arguments(folder), train_dataset=Rows(PACKED))


def distilled(cache: str | None = None, **settings: Any) -> Callable[[Path], Any]:
    """From a teacher at every step, or from its cache of that kind."""

    def make(folder: Path) -> Any:
        student, teacher = frozen_head(), pico("qwen3", seed=7)
        said: dict[str, Any] = {"teacher_model": teacher}
        if cache:
            fixed = {"student_head": head_of(student), "temperature": 2.0, "margins": "correct" in settings}
            said = {"cache": build_cache(cache, teacher, PACKED, folder / cache, **fixed)}
        return DistillationTrainer(student, arguments(folder), train_dataset=Rows(PACKED), **said, **settings)

    return make


def routed(cache: str | None = None) -> Callable[[Path], Any]:
    """Two teachers, each for rows of its own."""

    def make(folder: Path) -> Any:
        student, teachers = frozen_head(), [pico("qwen3", seed=seed) for seed in (7, 8)]
        said: dict[str, Any] = {"teacher_model": teachers}
        if cache:
            own = [[row for row, of in zip(PACKED, ROUTES, strict=True) if of == number] for number in range(2)]
            fixed = {"student_head": head_of(student), "temperature": 2.0}
            each = zip(teachers, own, strict=True)
            said = {"cache": [build_cache(cache, *pair, folder / f"{cache}-{number}", **fixed) for number, pair in enumerate(each)]}
        return DistillationTrainer(student, arguments(folder), train_dataset=Rows(PACKED), teacher_rows=ROUTES, **said)

    return make


def inside(folder: Path) -> Any:
    """A teacher's cache with what terms compare of its layers."""
    told: dict[str, Any] = {"layers": [1, 3], "relations": ["k", "v"]}
    cache = build_cache("hidden", pico("llama", seed=7), PACKED, folder / "hidden", compared=Compared(FeaturesSpec(**told), [0, 2]))
    return DistillationTrainer(pico("llama"), arguments(folder), train_dataset=Rows(PACKED), features=told, cache=cache)


def few_bits(grid: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        student = pico("llama", hidden_size=64, intermediate_size=64)
        quantise(student, QuantizeSpec(format=grid))
        return DistillationTrainer(student, arguments(folder), train_dataset=Rows(PACKED), teacher_model=pico("llama", seed=7))

    return make


def other_tokens(way: str, cache: str | None) -> Callable[[Path], Any]:
    """A teacher with another tokenizer."""

    def make(folder: Path) -> Any:
        said: dict[str, Any] = {"teacher_model": sized(THEIRS, seed=3)}
        if cache:
            reading = WAYS[way](READING.alignment, len(OURS))
            said = {"cache": build_cache(cache, said["teacher_model"], TEXTS, folder / cache, reading=reading)}
        return across(sized(OURS), folder, across_tokenizers=way, **said)

    return make


TRAINERS: dict[str, Callable[[Path], Any]] = {
    **{kind: trained(kind) for kind in ("full", "lora", "adalora")},
    "lora, 16 bits": trained("lora", dtype=torch.bfloat16),
    "soft-capped": trained("full", name="gemma2"),
    "experts": trained("lora", name="mixtral", dtype=torch.bfloat16),
    "online": distilled(),
    "corrected": distilled(correct=0.2),
    **{f"{cache} cache": distilled(cache) for cache in ("hidden", "gradient", "top_k")},
    "hidden cache, corrected": distilled("hidden", correct=0.2),
    **{f"online, {objective}": distilled(objective=objective) for objective in registry.BUILT_IN["objectives"]},
    "inner layers": distilled(features={"last": 0.1, "layers": "auto", "relations": ["v"]}),
    "inner layers, hidden cache": inside,
    "mixed": lambda folder: DistillationTrainer(
        frozen_head(), arguments(folder), train_dataset=Rows(PACKED), teacher_model=[pico("qwen3", seed=seed) for seed in (7, 8)]
    ),
    **{f"few bits, {grid}": few_bits(grid) for grid in registry.BUILT_IN["grids"]},
    "routed": routed(),
    **{f"routed, {cache} cache": routed(cache) for cache in ("hidden", "gradient")},
    "projected, hidden cache": other_tokens("projected", "hidden"),
    "spans, spans cache": other_tokens("spans", "spans"),
    **{f"{way}, online": other_tokens(way, None) for way in WAYS},
}


def to_meta(trainer: Any) -> None:
    """Everything that a GPU would have."""
    trainer.model.to("meta")
    for teacher in getattr(trainer, "teachers", ()):
        if teacher.model is not None:
            teacher.model.to("meta")
        if teacher.kept_head is not None:
            teacher.kept_head = teacher.kept_head.each(lambda tensor: tensor.to("meta"))


class NoWaiting(TorchDispatchMode):
    """Refuses copies from main memory that block, and places given as tensors there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "_to_copy" and kwargs.get("device") == META:
            assert args[0].device == META or kwargs.get("non_blocking"), "a copy that waits"
        if name in ("index", "index_put_", "copy_", "index_put") and args[0].device == META:
            given = args[1] if isinstance(args[1], list | tuple) else [args[1]]
            assert all(part is None or part.device == META for part in given), f"{name} with a tensor in main memory"
        return func(*args, **kwargs)


def not_there(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(given: Any, **how: Any) -> Tensor:
        found = make(given, **how)
        assert found.device != META or isinstance(given, Tensor), "a number that is sent at once"
        return found

    return made


def kernel(logits: Tensor, targets: Targets, *, teacher: Tensor | None, temperature: float, dtype: torch.dtype) -> Found:
    """What the kernel gives, without its numbers; it reads rows as they lie, and on the device alone."""
    given = [logits, targets.labels, *(each for each in (targets.soft, targets.hard, teacher) if isinstance(each, Tensor))]
    assert all(each.device == META and len(each) == len(logits) and each.stride(-1) == 1 for each in given)
    assert logits.dtype == torch.float32
    assert teacher is None or (teacher.shape, teacher.dtype) == (logits.shape, torch.float32)
    gradient = logits if dtype == logits.dtype else logits.view(dtype)[:, : logits.shape[1]]
    return Found(gradient, *torch.empty(2, len(logits), device=META))


@pytest.mark.parametrize("fused", [False, True], ids=["torch", "kernel"])
@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_reads_nothing_from_the_device(name: str, fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = TRAINERS[name](tmp_path)
    monkeypatch.setattr(chunked, "fuses", lambda device: fused)
    for user in (chunked, distillation_loss):
        monkeypatch.setattr(user, "softmax_loss_", kernel)
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(6)])
    known = sum(supervised_counts(batch))
    to_meta(trainer)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which the meta device has not
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    there = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in batch.items()}
    trainer.model.train()
    for maker in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, maker, not_there(getattr(torch, maker)))
    with NoWaiting():
        loss, count = trainer.loss_sum(there)
        (loss / trainer._get_num_items_in_batch([batch], META)).backward()
    assert (loss.device.type, count, trainer.step_tokens[1]) == ("meta", known, known)
    for parameter in trainer.model.parameters():
        assert not parameter.requires_grad or parameter.grad is None or parameter.grad.shape == parameter.shape
    assert any(parameter.grad is not None for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("free", "expected"), [(2**40, GPU_CHUNK_BYTES), (8 * 300 * 2**20, 300 * 2**20), (2**20, CHUNK_BYTES)], ids=["much", "some", "little"]
)
def test_a_chunk_takes_a_share_of_what_is_free(free: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of it torch has in hand."""
    answers = {"mem_get_info": (free - free // 3, 2**41), "memory_reserved": 5 * 2**30 + free // 3, "memory_allocated": 5 * 2**30}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    assert Workspace().chunk_bytes(torch.device("cuda:1")) == expected
