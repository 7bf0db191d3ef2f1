"""What a run will cost, before it starts: steps, memory by parts, time, disk.

    plan = estimate(context, shape_of(context), measured={})
    plan.memory_total, plan.seconds

The numbers are arithmetic over the model's shape, the data's tokens and the machine's measured matrix-product rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune import registry
from finetune.distillation.teachers.routes import teacher_rows
from finetune.formatting import size
from finetune.methods.base import Footprint
from finetune.models.facts import ModelFacts
from finetune.planning.checks import adapter_problem, device_notes, quantised_problem, start_notes, text_notes
from finetune.planning.evaluation import measuring
from finetune.planning.expectations import expectations
from finetune.planning.features import features_memory, features_notes, kept_bytes
from finetune.planning.grading import grading
from finetune.planning.known_caches import known
from finetune.planning.known_scores import to_answer
from finetune.planning.memory import adapter_parameters, memory_parts
from finetune.planning.practice import keys_and_values, practice_cost
from finetune.planning.shards import shards
from finetune.planning.stages import (
    AROUND,
    GRADING,
    HELD_OUT,
    MAKING,
    MEASURING,
    PRACTICE,
    TEACHER,
    TRAINING,
    added,
    costs_seconds,
    making_seconds,
    of_measured,
)
from finetune.run_context import RunContext
from finetune.system import storage
from finetune.system.paths import typed_path
from finetune.training.checkpoints import KEPT
from finetune.training.step_count import CPU_TOKENS, divided, rows_of_step, steps_of

# Share of the measured matrix-product rate that training reaches on a GPU.
EFFICIENCY = {"cuda": {"bfloat16": 0.25, "float16": 0.25}, "mps": {}}
USUAL_EFFICIENCY = 0.35
# On a CPU products are not all: an operation takes PRODUCTS times that of a large product in its dtype, and everything around it REST
# times that of one in float32, whatever the dtype. So bfloat16 of four times the speed trains not twice as fast (docs/log.md).
PRODUCTS, REST = 2.4, 2.1
# Seconds that Python takes to launch the kernels of a layer for one batch, with an adapter and without.
LAUNCHING = {True: 0.010, False: 0.006}
EXPERTS = "An adapter on experts needs transformers 5 and peft 0.21 or newer; older ones leave it out silently, so merge it for them."
STARTING = 10.0  # seconds: imports, loading, saving, the report
BETWEEN = 5.0  # seconds: saving a student, scoring it
ROUNDED_PER_SECOND = 90e6  # weights, where a student learns in few bits
GENERATED_PER_SECOND = 20e9  # parameters read a second while rows are scored and answers to them generated on a CPU


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


@dataclass(frozen=True)
class Learning:
    """What a method trains of a model: of all `parameters` the `trainable` ones, and the `share` of the weights in linear layers.

    `linear` are the base's parameters in linear layers below its head, `layers` how many of its blocks there are, `experts` those of
    experts that are adapted as one parameter, `embeddings` the rows of its embeddings; `notes` say what does not learn, one sentence each.
    """

    trainable: int
    parameters: int
    linear: int
    layers: int
    embeddings: int
    experts: int
    share: float
    notes: list[str]


@dataclass(frozen=True)
class Shape:
    """The models of a run in numbers; `others` are the teachers beside the first.

    A model that is its own teacher has none beside it.
    """

    model: ModelFacts
    teacher: ModelFacts | None
    learning: Learning
    others: Sequence[ModelFacts] = ()

    @property
    def teachers(self) -> list[ModelFacts]:
        return [self.teacher, *self.others] if self.teacher else []

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers in a hidden state of the model and of its teacher."""
        return self.model.hidden, (self.teacher or self.model).hidden


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
    cache, asking = _asking(context, shape, narrow)
    graded = grading(context)
    cache += graded.bytes if graded else 0
    if shape.teachers or context.copies_itself:
        # Several are loaded one after another, unless they are asked at every step or read what a student writes.
        at_once = sum if context.teacher_stays else max
        memory["teacher"] = beside = at_once(each.parameters for each in shape.teachers or [shape.model]) * narrow
    read_by = sum(each.parameters for each in shape.teachers or [shape.model])
    practice = practice_cost(context, student=parameters, teachers=read_by, rate=_rate(context))
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
    methods = {}
    for name in registry.names("methods"):
        other = registry.load("methods", name)
        spec_of = context.recipe.method if other is context.method else other.Spec()
        if adapter_problem(context, other, spec_of) or quantised_problem(context, other, spec_of):
            continue
        cost = other.footprint(other.Spec())
        learns = adapter_parameters(rank=cost.rank, **sides) if cost.adapter else base
        needed = memory_parts(cost, parameters=base + (learns if cost.adapter else 0), trainable=learns, **sides, **situation)
        # What was measured of one method tells how far arithmetic is off for the others.
        methods[name] = total if other is context.method else round((sum(needed.values()) + beside) * total / by_arithmetic)
    result = (parameters if full else trainable) * (narrow if full and not quantize else 4) + 20 * 2**20
    checkpoint = (parameters * 4 if recipe.approach == "distillation" and full else trainable * 4) + trainable * footprint.state
    best = context.decides_between == "steps" and spec.keep == "best"
    disk = result + cache + (KEPT + 1 + best) * checkpoint  # the next one is written before the oldest goes
    measured_tokens, evaluated = measuring(context)
    if measured_tokens:
        # The teachers of rows that are not cached read them too.
        readers = parameters + (beside // narrow if context.distils and context.asks_every_step else 0)
        measuring_seconds = 2 * measured_tokens * readers / _rate(context) / context.devices
    else:
        measuring_seconds = 0.0
    problems = [problem for problem in (measured.get("problem"), cut.problem) if problem]
    if total > free:
        half = max(1, spec.batch_size // 2)
        smaller = f"--set training.batch_size={half} --set training.gradient_accumulation={spec.gradient_accumulation * 2}, "
        problems.append(
            f"Training needs about {size(total)} of memory and {size(free)} is free: "
            f"{'' if machine.device == 'cpu' else smaller}--set training.activation_checkpointing=true, or a smaller model."
        )
    free_disk = storage.free_disk(typed_path(recipe.output_dir))
    if disk > free_disk:
        problems.append(disk_problem(disk, free_disk, recipe.output_dir))
    work = (
        of_measured(measured)
        if measured.get("seconds")
        else _stages(context, shape, base, footprint, asking, cut.whole_on, further=further)
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
        methods=methods,
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


def disk_problem(needed: int, free: int, output_dir: str) -> str:
    return f"Checkpoints and result take {size(needed)} and {size(free)} of disk is free in {output_dir}."


def _speed_up(shape: Shape) -> float:
    """Reading the weights takes three quarters of the time of an answer, and getting from layer to layer the rest (docs/log.md)."""
    time = 0.25 * shape.learning.layers / shape.model.layers + 0.75 * shape.learning.parameters / shape.model.parameters
    return 1 / time


def _asking(context: RunContext, shape: Shape, narrow: int) -> tuple[int, float]:
    """Disk that the teachers' answers take, by the signal that the run will choose, and the operations of asking for them.

    What an earlier run has asked for is not counted.
    """
    import torch

    from finetune.distillation.caches.choice import problem_of, signals_for
    from finetune.distillation.signals import bytes_of
    from finetune.distillation.teachers.correction import MARGIN_BYTES
    from finetune.training.head import Head

    recipe, report = context.recipe, context.data.report
    asked = [shape.model] if context.teaches_itself else shape.teachers
    if not asked:
        return 0, 0.0

    def head(facts: ModelFacts, bytes_each: int, trains: bool = False) -> Head:
        dtype = torch.float32 if bytes_each == 4 else torch.bfloat16
        return Head(torch.empty(facts.vocabulary, facts.hidden, dtype=dtype, device="meta").requires_grad_(trains))

    frozen = context.method.keeps_head(recipe.method, head_settled=context.recipe.head_settled)
    full = not context.method.footprint(recipe.method).adapter  # which keeps the student's head in float32
    student = head(shape.model, 4 if full else narrow, not frozen)
    spec = recipe.distillation
    signals = signals_for(spec.across_tokenizers == "spans" and any(context.alignments))
    valid = next(name for name, signal in signals.items() if problem_of(signal, student, spec.objective, spec.features) is None)
    kind = "none" if context.asks_every_step else valid if spec.cache == "auto" else spec.cache
    times = recipe.training.passes if kind == "none" else 1
    size_of_all, operations, numbers = 0, 0.0, teacher_rows(recipe, context.data.train)
    more = context.decides_between == "steps"  # rows that teachers are asked about
    supervised = report.supervised_tokens + more * report.deciding_supervised
    read = report.train_tokens + more * report.deciding_tokens
    for number, teacher in enumerate(asked):
        share = 1.0 if numbers is None else numbers.count(number) / len(numbers)
        if kind in signals and known(context, number, kind):
            continue
        if kind in signals:
            tokens = round(supervised * share)
            size_of_all += bytes_of(signals[kind], tokens, head(teacher, narrow), student)
            size_of_all += MARGIN_BYTES * tokens if recipe.distillation.correct else 0
            size_of_all += kept_bytes(context, number, tokens, round(read * share), shape.learning.layers)
        operations += 2 * teacher.parameters * read * share * times
    return size_of_all, operations


def _measured(parts: dict[str, int], total: int) -> dict[str, int]:
    """The parts of a measured total: what is known by arithmetic stays, the rest is activations."""
    known = sum(size for part, size in parts.items() if part != "activations")
    if known < total:
        return {**parts, "activations": total - known}
    share = total / sum(parts.values())
    return {part: int(size * share) for part, size in parts.items()}


def _stages(
    context: RunContext, shape: Shape, parameters: int, footprint: Footprint, asking: float, whole_on: str, *, further: bool
) -> dict[str, float]:
    """Matrix products of training over their rate, and the benchmarks on `whole_on` that no earlier run has made.

    `asking` are the operations of the teachers, which all devices share, those of one node where the answers are cached. A `further` round
    adds its student and its training alone, and a teacher only if it runs at every step.
    """
    recipe, machine, report, facts = context.recipe, context.machine, context.data.report, shape.model
    rate = _rate(context)
    embeddings = facts.vocabulary * facts.hidden
    # Two floating-point operations a weight forward, two for the inputs' gradient, two more where the weight itself learns.
    per_token = (4 if footprint.adapter else 6) + (2 if recipe.training.activation_checkpointing is True else 0)
    training = report.train_tokens * per_token * max(parameters - embeddings, 0) + report.supervised_tokens * 4 * embeddings
    rows = min(recipe.benchmark.rows, report.held_out) * to_answer(context)
    measuring = rows * 40 * facts.parameters / GENERATED_PER_SECOND / (1 if whole_on == "cpu" else 20)
    measuring += costs_seconds(min(facts.parameters, shape.learning.parameters)) if recipe.benchmark.speed else 0.0
    steps = recipe.training.passes * training * (footprint.slowdown if machine.device == "cpu" else 1) / context.devices
    asking /= context.devices if context.asks_every_step else max(1, context.devices // context.runtime.nodes)
    asked = asking if context.asks_every_step or not further else 0.0
    seconds = {TEACHER: asked / rate, TRAINING: steps / rate}
    if machine.device == "cuda":  # which is quicker than what tells it what to do, where the model or the batch is small
        batches = steps_of(recipe.training, report.train_sequences) * recipe.training.gradient_accumulation
        seconds[TRAINING] += max(0.0, batches * shape.learning.layers * LAUNCHING[footprint.adapter] - sum(seconds.values()))
    if recipe.distillation.quantize and machine.device == "cpu":
        seconds[TRAINING] += steps_of(recipe.training, report.train_sequences) * shape.learning.linear / ROUNDED_PER_SECOND
    around = {AROUND: BETWEEN} if further else {MEASURING: measuring, AROUND: STARTING}
    return seconds | around | {MAKING: making_seconds(context, facts, rate)}


def _rate(context: RunContext) -> float:
    """Operations a second that training reaches on this machine."""
    machine = context.machine
    rate = machine.gflops[machine.dtype] * 1e9
    if machine.device != "cpu":
        return rate * EFFICIENCY[machine.device].get(machine.dtype, USUAL_EFFICIENCY)
    return 1 / (PRODUCTS / rate + REST / (machine.gflops["float32"] * 1e9))
