"""What a run will cost, before it starts: steps, memory by parts, time, disk.

    plan = estimate(recipe, facts, report, machine, trainable=4_884_480)
    plan.memory_total, plan.seconds

The numbers are arithmetic over the model's shape, the data's tokens and the machine's measured matrix-product rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from finetune.data.report import DataReport
from finetune.models.facts import ModelFacts
from finetune.models.machine import Machine
from finetune.recipe import Recipe
from finetune.training.pieces import CPU_TOKENS
from finetune.training.steps import steps_of

LIBRARIES = 900 * 2**20  # torch, transformers, datasets and Python in memory
LOSS = 200 * 2**20  # the chunks of the head
# Values kept for the backward pass, for each token and layer, in multiples of the model's width, and as much again for the gaps that the
# allocator leaves between tensors of different sizes.
ACTIVATIONS = {"lora": 28, "full": 30}
CHECKPOINTED = 1.5  # with activation checkpointing only a layer's input stays
EFFICIENCY = {"cpu": 0.33, "cuda": 0.35, "mps": 0.35}  # share of the measured matrix-product rate that training reaches
GENERATED_PER_SECOND = 80e9  # parameters read a second while answers are generated on a CPU


@dataclass(frozen=True)
class Plan:
    """The cost of a run: bytes, seconds, counts; `problems` are reasons not to start."""

    model: str
    rows: int
    held_out_rows: int
    tokens: int
    supervised_tokens: int
    steps: int
    parameters: int
    trainable_parameters: int
    memory: dict[str, int]
    memory_total: int
    free_memory: int
    seconds: float
    disk_bytes: int
    free_disk: int
    device: str
    dtype: str
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    recipe: Recipe,
    facts: ModelFacts,
    report: DataReport,
    machine: Machine,
    *,
    parameters: int,
    layers: int,
    trainable: int,
    teacher: ModelFacts | None,
    free_disk: int,
) -> Plan:
    """The plan of a run over data that is already tokenised; `parameters` and `layers` are those of the model that trains."""
    spec = recipe.training
    full = trainable >= parameters // 4
    narrow = 4 if machine.dtype == "float32" else 2
    batch_tokens = spec.batch_size * int(report.length.get("p99", 0))
    if machine.device == "cpu":  # which works through a batch in pieces
        batch_tokens = min(batch_tokens, max(CPU_TOKENS, int(report.length.get("max", 0))))
    kept = CHECKPOINTED if spec.activation_checkpointing is True else ACTIVATIONS["full" if full else "lora"]
    parts: dict[str, float] = {
        "libraries": LIBRARIES if machine.device == "cpu" else 0,
        "weights": parameters * (4 if full else narrow),
        "gradients": trainable * 4,
        "optimizer": trainable * 8,
        "activations": batch_tokens * layers * facts.hidden * kept * narrow,
        "loss": LOSS,
    }
    cache = 0
    if teacher is not None:
        parts["teacher"] = teacher.parameters * narrow
        cache = report.supervised_tokens * teacher.hidden * narrow if recipe.distillation.cache != "none" else 0
    memory = {part: int(size) for part, size in parts.items()}
    total = sum(memory.values())
    free = machine.gpu_memory_bytes if machine.device == "cuda" else machine.free_memory_bytes
    disk = (parameters if full else trainable) * (narrow if full else 4) + cache + 20 * 2**20
    problems = []
    if total > free:
        half = max(1, spec.batch_size // 2)
        smaller = f"--set training.batch_size={half} --set training.gradient_accumulation={spec.gradient_accumulation * 2}, "
        problems.append(
            f"Training needs about {total / 2**30:.1f} GB of memory and {free / 2**30:.1f} GB are free: "
            f"{'' if machine.device == 'cpu' else smaller}--set training.activation_checkpointing=true, or a smaller model."
        )
    if disk > free_disk:
        problems.append(f"The result takes {disk / 2**30:.1f} GB and {free_disk / 2**30:.1f} GB of disk are free in {recipe.output_dir}.")
    return Plan(
        model=str(recipe.model),
        rows=report.train,
        held_out_rows=report.held_out,
        tokens=report.train_tokens,
        supervised_tokens=report.supervised_tokens,
        steps=steps_of(spec, report.train_sequences),
        parameters=parameters,
        trainable_parameters=trainable,
        memory=memory,
        memory_total=total,
        free_memory=free,
        seconds=_seconds(recipe, facts, report, machine, parameters - trainable * (not full), full, teacher),
        disk_bytes=disk,
        free_disk=free_disk,
        device=machine.device,
        dtype=machine.dtype,
        problems=problems,
    )


def _seconds(
    recipe: Recipe, facts: ModelFacts, report: DataReport, machine: Machine, parameters: int, full: bool, teacher: ModelFacts | None
) -> float:
    """Matrix products of training over their rate, and the answers of two benchmarks (three with a teacher)."""
    embeddings = facts.vocabulary * facts.hidden
    # Two floating-point operations a weight forward, two for the inputs' gradient, two more where the weight itself learns.
    per_token = (6 if full else 4) + (2 if recipe.training.activation_checkpointing is True else 0)
    training = report.train_tokens * per_token * max(parameters - embeddings, 0) + report.supervised_tokens * 4 * embeddings
    asking = 2 * teacher.parameters * report.train_tokens if teacher else 0
    rate = machine.gflops[machine.dtype] * 1e9 * EFFICIENCY[machine.device]
    rows = min(recipe.benchmark.rows, report.held_out) * (3 if teacher else 2)
    answers = rows * 40 * facts.parameters / GENERATED_PER_SECOND / (1 if machine.device == "cpu" else 20)
    return (recipe.training.epochs * training + asking) / rate + answers + 10
