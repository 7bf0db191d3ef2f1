"""The seconds of a run by arithmetic: the operations of each stage over the matrix-product rate that training reaches on this machine.

stages = stages_by_arithmetic(context, shape_of(context), base, footprint, operations, "cuda", further=False)      # see stages.py
operations_per_second(context)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.methods.base import Footprint
from finetune.planning.known_scores import to_answer
from finetune.planning.stages import AROUND, MAKING, MEASURING, TEACHER, TRAINING, costs_seconds, making_seconds
from finetune.run_context import RunContext
from finetune.training.step_count import steps_of

if TYPE_CHECKING:
    from finetune.planning.shape import Shape

# Share of the measured matrix-product rate that training reaches on a GPU.
EFFICIENCY = {"cuda": {"bfloat16": 0.25, "float16": 0.25}, "mps": {}}
USUAL_EFFICIENCY = 0.35
# On a CPU products are not all: an operation takes PRODUCTS times that of a large product in its dtype, and everything around it REST
# times that of one in float32, whatever the dtype. So bfloat16 of four times the speed trains not twice as fast (docs/log.md).
PRODUCTS, REST = 2.4, 2.1
# Seconds that Python takes to launch the kernels of a layer for one batch, with an adapter and without.
LAUNCHING = {True: 0.010, False: 0.006}
STARTING = 10.0  # seconds: imports, loading, saving, the report
BETWEEN = 5.0  # seconds: saving a student, scoring it
ROUNDED_PER_SECOND = 90e6  # weights, where a student learns in few bits
GENERATED_PER_SECOND = 20e9  # parameters read a second while rows are scored and answers to them generated on a CPU


def stages_by_arithmetic(
    context: RunContext, shape: Shape, parameters: int, footprint: Footprint, asking: float, whole_on: str, *, further: bool
) -> dict[str, float]:
    """Matrix products of training over their rate, and the benchmarks on `whole_on` that no earlier run has made.

    `asking` are the operations of the teachers, which all devices share, those of one node where the answers are cached. A `further` round
    adds its student and its training alone, and a teacher only if it runs at every step.
    """
    recipe, machine, report, facts = context.recipe, context.machine, context.data.report, shape.model
    rate = operations_per_second(context)
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


def operations_per_second(context: RunContext) -> float:
    """Floating-point operations a second that training reaches on this machine."""
    machine = context.machine
    rate = machine.gflops[machine.dtype] * 1e9
    if machine.device != "cpu":
        return rate * EFFICIENCY[machine.device].get(machine.dtype, USUAL_EFFICIENCY)
    return 1 / (PRODUCTS / rate + REST / (machine.gflops["float32"] * 1e9))
