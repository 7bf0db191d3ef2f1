"""What a run will cost, before it starts: steps, memory by parts, time, disk.

    plan = estimate(context, shape_of(context), measured={})
    plan.memory_total, plan.seconds

The numbers are arithmetic over the model's shape, the data's tokens and the machine's measured matrix-product rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from finetune import registry
from finetune.formatting import enumerated, size
from finetune.methods.base import Footprint
from finetune.planning.asking import asking
from finetune.planning.checks import adapter_problem, device_notes, quantised_problem, start_notes, text_notes
from finetune.planning.evaluation import measuring
from finetune.planning.expectations import expectations
from finetune.planning.features import features_memory, features_notes
from finetune.planning.grading import grading
from finetune.planning.memory import adapter_parameters, memory_parts
from finetune.planning.practice import keys_and_values, practice_cost
from finetune.planning.seconds import operations_per_second, stages_by_arithmetic
from finetune.planning.shards import shards
from finetune.planning.stages import GRADING, HELD_OUT, PRACTICE, added, of_measured
from finetune.recipe import TrainingSpec
from finetune.run_context import RunContext
from finetune.system import storage
from finetune.system.paths import typed_path
from finetune.training.checkpoints import KEPT
from finetune.training.step_count import CPU_TOKENS, divided, rows_of_step, steps_of

if TYPE_CHECKING:
    from finetune.planning.shape import Learning, Shape

EXPERTS = "An adapter on experts needs transformers 5 and peft 0.21 or newer; older ones leave it out silently, so merge it for them."


@dataclass(frozen=True)
class Plan:
    """The cost of a run: bytes, seconds, counts; `problems` are reasons not to start, `methods` the memory that each method would need.

    `warnings` are what to expect of the result. `measured` is what a few real steps showed, if they were made: `seconds` and `memory` then
    come from them, and `memory_by_arithmetic` is what `memory_total` would be without them. `linear_share` is the share of the weights in
    linear layers that learns, `speed_up` about how many times as fast as its teacher a student made from it answers, and `notes` are
    sentences that a person should know: what does not learn, and what else is unexpected. `making` says how many rows are written first,
    by whom and in how many of the `seconds`; None if they are there. `grading` says what a server is asked for that grades them, the same
    way. `alignment` says of each teacher with another tokenizer how much of the text it can speak about. `stages` are the `seconds` of each
    stage of the run. `rounds` are the layers and steps of each round of a run that has several; the memory is then that of the largest.
    Memory is that of each of the `processes`, which share the rows of a step; `gpus` is how many could. `whole_on` is the device on which
    the model is scored. `epochs` are the passes that `steps` were counted for, also where the recipe says auto. `step_rows` are
    the rows of a step in all, of a long text the blocks.
    """

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
    memory_by_arithmetic: int
    free_memory: int
    seconds: float
    disk_bytes: int
    cache_bytes: int
    free_disk: int
    device: str
    dtype: str
    problems: list[str]
    methods: dict[str, int]
    linear_share: float = 1.0
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    speed_up: float | None = None
    making: dict[str, Any] | None = None
    alignment: list[str] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    processes: int = 1
    shards: int = 1
    whole_on: str = ""
    gpus: int = 1
    grading: dict[str, Any] | None = None
    stages: dict[str, float] = field(default_factory=dict)
    epochs: float | None = None
    step_rows: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(context: RunContext, shape: Shape, measured: Mapping[str, Any], *, notes: Sequence[str] = (), further: bool = False) -> Plan:
    """The plan of a run; `measured` may have the `seconds`, `memory_bytes` and `problem` of real steps. Prepares the data.

    `notes` are sentences that the checks of the data found. A `further` round of a run finds its teachers' answers, and is not benchmarked.
    """
    recipe, machine, report = context.recipe, context.machine, context.data.report
    spec, footprint = recipe.training, context.method.footprint(recipe.method)
    full = not footprint.adapter
    narrow = 4 if machine.dtype == "float32" else 2
    batch_size, _ = divided(spec, context.processes * context.runtime.nodes)
    batch_tokens = batch_size * int(report.length.get("p99", 0))
    if machine.device == "cpu":  # which works through a batch in pieces
        batch_tokens = min(batch_tokens, max(CPU_TOKENS, int(report.length.get("max", 0))))
    learning = shape.learning
    parameters, trainable = learning.parameters, learning.trainable
    base = parameters if full else parameters - trainable
    sides: dict[str, Any] = {"linear": learning.linear, "layers": learning.layers, "hidden": shape.model.hidden}
    situation: dict[str, Any] = {
        "tokens": batch_tokens,
        "narrow": narrow,
        "on_cpu": machine.device == "cpu",
        "checkpointed": spec.activation_checkpointing is True,
    }
    memory = memory_parts(footprint, parameters=parameters, trainable=trainable, **sides, **situation)
    if not situation["checkpointed"]:  # an adapted expert's weights are made anew in every step, and kept for the backward pass
        memory["activations"] += learning.experts * narrow
    memory["activations"] = max(memory["activations"], keys_and_values(context, shape.model, narrow))  # one or the other
    quantize = recipe.distillation.quantize
    if quantize:
        memory["rounded weights"] = 4 * learning.linear
    if context.distils:
        longest = int(report.length.get("max", 0))
        memory |= features_memory(recipe.distillation.features, batch_tokens, longest, shape.widths, learning.layers)
    beside = 0
    cache, asked = asking(context, shape, narrow)
    graded = grading(context)
    cache += graded.bytes if graded else 0
    if shape.teachers or context.copies_itself:
        # Several are loaded one after another, unless they are asked at every step or read what a student writes.
        at_once = sum if context.teacher_stays else max
        memory["teacher"] = beside = at_once(each.parameters for each in shape.teachers or [shape.model]) * narrow
    read_by = sum(each.parameters for each in shape.teachers or [shape.model])
    practice = practice_cost(context, student=parameters, teachers=read_by, rate=operations_per_second(context))
    free = machine.free_gpu_memory_bytes if machine.device == "cuda" else machine.free_memory_bytes // context.processes
    # Embeddings and head, a layer that works and the next one that is fetched meanwhile; of a full training with their gradients.
    gathered = base - learning.linear + 2 * learning.linear // max(1, learning.layers)
    whole = parameters * narrow + memory["loss"]
    cut = shards(context, memory, free, beside=gathered * (8 if full else narrow), whole=whole)
    memory = cut.memory
    by_arithmetic = sum(memory.values())
    if measured.get("memory_bytes") and cut.parts == 1:  # else one process has measured what no other will need
        memory = _measured(memory, measured["memory_bytes"])
    total = sum(memory.values())
    disk = cache + _saved_bytes(context, learning, footprint, narrow)
    measured_tokens, evaluated = measuring(context)
    if measured_tokens:
        # The teachers of rows that are not cached read them too.
        readers = parameters + (beside // narrow if context.distils and context.asks_every_step else 0)
        measuring_seconds = 2 * measured_tokens * readers / operations_per_second(context) / context.devices
    else:
        measuring_seconds = 0.0
    problems = [problem for problem in (measured.get("problem"), cut.problem) if problem]
    if total > free:
        problems.append(_memory_problem(total, free, spec, on_cpu=machine.device == "cpu"))
    free_disk = storage.free_disk(typed_path(recipe.output_dir))
    if disk > free_disk:
        problems.append(disk_problem(disk, free_disk, recipe.output_dir))
    work = (
        of_measured(measured)
        if measured.get("seconds")
        else stages_by_arithmetic(context, shape, base, footprint, asked, cut.whole_on, further=further)
    )
    beside_it = {PRACTICE: practice.seconds, HELD_OUT: measuring_seconds, GRADING: graded.seconds if graded else 0.0}
    stages = added(beside_it, work)
    listed = [*device_notes(context), *start_notes(context), *text_notes(context), *learning.notes, EXPERTS if learning.experts else ""]
    listed += [*features_notes(context, shape.widths), practice.note, evaluated, measured.get("late") or "", *cut.reasons, *notes]
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
        memory_by_arithmetic=by_arithmetic,
        free_memory=free,
        seconds=sum(stages.values()),
        stages=stages,
        disk_bytes=disk,
        cache_bytes=cache,
        free_disk=free_disk,
        device=machine.device,
        dtype=machine.dtype,
        problems=problems,
        methods=_memory_of_methods(context, base, {**sides, **situation}, beside, total, by_arithmetic),
        epochs=spec.passes,
        step_rows=min(rows_of_step(spec), report.train_sequences),
        linear_share=learning.share,
        notes=[note for note in listed if note],
        measured=dict(measured) or None,
        speed_up=_speed_up(shape) if context.student_is_made else None,
        warnings=[*expectations(context, [shape.model.layers, learning.layers]), *(graded.warnings if graded else [])],
        processes=context.processes * context.runtime.nodes,
        shards=cut.parts,
        whole_on=cut.whole_on,
        gpus=machine.gpus,
        grading=asdict(graded) if graded else None,
    )


def _memory_of_methods(
    context: RunContext, base: int, situation: Mapping[str, Any], beside: int, total: int, by_arithmetic: int
) -> dict[str, int]:
    """What the run would need with each method that it could have; `beside` the model is a teacher, `total` is needed with its own."""
    found, sides = {}, {name: situation[name] for name in ("linear", "layers", "hidden")}
    for name in registry.names("methods"):
        other = registry.load("methods", name)
        spec_of = context.recipe.method if other is context.method else other.Spec()
        if adapter_problem(context, other, spec_of) or quantised_problem(context, other, spec_of):
            continue
        cost = other.footprint(other.Spec())
        learns = adapter_parameters(rank=cost.rank, **sides) if cost.adapter else base
        needed = memory_parts(cost, parameters=base + (learns if cost.adapter else 0), trainable=learns, **situation)
        # What was measured of one method tells how far arithmetic is off for the others.
        found[name] = total if other is context.method else round((sum(needed.values()) + beside) * total / by_arithmetic)
    return found


def _saved_bytes(context: RunContext, learning: Learning, footprint: Footprint, narrow: int) -> int:
    """What the result takes on the disk, and the checkpoints on the way to it."""
    recipe, full = context.recipe, not footprint.adapter
    of_weights = (learning.parameters if full else learning.trainable) * (narrow if full and not recipe.distillation.quantize else 4)
    everything = recipe.approach == "distillation" and full
    checkpoint = (learning.parameters if everything else learning.trainable) * 4 + learning.trainable * footprint.state
    best = context.decides_between == "steps" and recipe.training.keep == "best"
    return of_weights + 20 * 2**20 + (KEPT + 1 + best) * checkpoint  # the next one is written before the oldest goes


def _memory_problem(needed: int, free: int, spec: TrainingSpec, *, on_cpu: bool) -> str:
    ways = []
    if spec.batch_size > 1 and not on_cpu:  # which works through a batch in pieces anyway
        half, together = spec.batch_size // 2, spec.gradient_accumulation * 2
        ways.append(f"--set training.batch_size={half} --set training.gradient_accumulation={together}")
    if spec.activation_checkpointing is not True:
        ways.append("--set training.activation_checkpointing=true")
    ways += ["a lower dataset.max_length", "a smaller model"]
    return f"Training needs about {size(needed)} of memory and {size(free)} is free: {enumerated(ways, 'or')}."


def disk_problem(needed: int, free: int, output_dir: str) -> str:
    return f"Checkpoints and result take {size(needed)} and {size(free)} of disk is free in {output_dir}."


def _speed_up(shape: Shape) -> float:
    """Reading the weights takes three quarters of the time of an answer, and getting from layer to layer the rest (docs/log.md)."""
    kept = shape.learning.parameters / shape.model.parameters
    layers = shape.learning.layers / shape.model.layers if shape.model.layers else kept  # which not every configuration states
    return 1 / (0.25 * layers + 0.75 * kept)


def _measured(parts: dict[str, int], total: int) -> dict[str, int]:
    """The parts of a measured total: what is known by arithmetic stays, the rest is activations."""
    known = sum(size for part, size in parts.items() if part != "activations")
    if known < total:
        return {**parts, "activations": total - known}
    share = total / sum(parts.values())
    return {part: int(size * share) for part, size in parts.items()}
