"""The test steps of "measure first": load, run the teacher, train on the longest rows and then on some of every length, and time it.

python -m finetune.run.few_steps     reads its order as JSON from stdin, and prints one JSON object as soon as something is known
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from transformers import TrainerCallback

from finetune.data.report import DataReport
from finetune.distillation.prepare import DistillationSetup
from finetune.distillation.teachers.routes import teacher_rows
from finetune.events import Event, Fanout, Progress
from finetune.hardware.peak_memory import PeakMemory, release
from finetune.planning.known_scores import known_scores, known_student_scores, teacher_identity
from finetune.planning.stages import costs_seconds
from finetune.recipe import Recipe
from finetune.run.answer_time import benchmark_seconds
from finetune.run.child import Say, answer
from finetune.run.loading import attach_method, distillation_setup, load_base, load_teacher, load_trial_student
from finetune.run.result import save_model
from finetune.run.train_model import Order
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

ANY_RATE = 1e-5  # where that of the run is decided once its student is there: every rate costs the same
FEWEST_STEPS = 2
GROWTH = 1.2  # of memory on a CPU over a whole run: gaps between tensors of ever new sizes, code for every new shape (measured: 1.1 to 1.4)
MOST_STEPS = 24
ASKED_STEPS = 2  # whose rows a teacher is asked about first
LOOK = 5.0  # seconds of the examination before a teacher is asked, which is left out here


def main() -> None:
    began = time.perf_counter() - max(0.0, time.time() - psutil.Process().create_time())  # the clock on the wall may be set meanwhile
    answer(lambda order, say: _few_steps(order, began, say))


def _few_steps(order: dict[str, Any], began: float, say: Say) -> None:
    place = Path(order["folder"])
    runtime = RuntimeOptions.from_dict(order["runtime"])
    training = {"report_to": [], **({"learning_rate": ANY_RATE} if order["recipe"]["training"]["learning_rate"] == "auto" else {})}
    changes: dict[str, Any] = {"output_dir": str(place / "model"), "upload": None, "training": training}
    context = RunContext(Recipe.from_layers(order["recipe"], changes), runtime, Fanout())
    recipe, method, data, folder = context.recipe, context.method, context.data, RunFolder(place / "model")
    with PeakMemory(context.machine.device) as earlier:
        model, teacher, timing = _models(context, began, say)
        context = context.beside(data=replace(data, train=_some_of_each_length(data.train, recipe), deciding=None))
        setup = _asked(context, model, teacher, data.report.train_tokens, place, say) if context.distils else None
    release()  # as the benchmark before a training does
    watch = Watch(say, recipe, data.report, before=earlier.bytes, device=context.machine.device)
    watch.tokens_of_all /= context.devices  # this is the share of one
    watch.ends = began + order["seconds"] - timing - 1
    with watch.memory:
        outcome = Order(context, model, folder, setup).train(callbacks=[watch], wrapped=lambda make: partial(watch.of, make))
        watch.say_all(outcome.finished.train_seconds)
    model = method.finish(model, recipe.method, context.reporter)
    save_model(context, model, folder)
    say(after=benchmark_seconds(context, model) + (costs_seconds(model.num_parameters()) if recipe.benchmark.speed else 0.0))


def _models(context: RunContext, began: float, say: Say) -> tuple[Any, list[Any], float]:
    """The model that trains, its teacher in a list to take it from, and the seconds that timing its answers took.

    Those of both benchmarks before are said.
    """
    held = [load_teacher(context)] if context.distils else []
    if context.has_other_teacher:
        teacher = held[0]
        model, made_in, making = load_trial_student(context, teacher)
        known = known_scores(context, teacher_identity(context), context.recipe.all_teachers[0].load_in)
        say(ready=time.perf_counter() - began - made_in, making=making)
        say(teacher=benchmark_seconds(context.of_teacher(0), teacher, answers=known is None) * len(context.teachers_located))
        del teacher
    else:
        model = load_base(context)
        known = known_scores(context, context.located.identity, context.load_in)
        say(ready=time.perf_counter() - began)
    start = time.perf_counter()
    seconds = benchmark_seconds(context, model)
    known = known_student_scores(context) if context.has_other_teacher else known
    say(before=seconds if known is None else 0.0, after=seconds)
    return attach_method(context, model), held, time.perf_counter() - start


def _asked(context: RunContext, student: Any, teacher: list[Any], all_tokens: int, cache: Path, say: Say) -> DistillationSetup:
    """The teacher's answers to the chosen rows, and the seconds it would need for all."""
    clock = _Clock()
    context.reporter.reporters.append(clock)
    start = time.perf_counter()
    setup = distillation_setup(context.beside(runtime=replace(context.runtime, cache_dir=cache)), student, teacher, look=False)
    setup.spec = setup.spec.model_copy(update={"on_policy": None})  # what practice takes is added by arithmetic
    whole = time.perf_counter() - start + LOOK
    share = all_tokens / sum(context.data.train["length"][:])
    say(asking=whole + clock.seconds("teacher cache") * (share - 1))
    return setup


def _some_of_each_length(rows: Any, recipe: Recipe) -> Any:
    """The longest step's rows, then steps of rows of similar length from all lengths, in an order that can be cut anywhere."""
    together = recipe.training.batch_size * recipe.training.gradient_accumulation
    order = np.argsort(-np.asarray(rows["length"][:]), kind="stable")
    steps = [order[start : start + together] for start in range(0, len(order), together)]
    others = np.unique(np.linspace(1, len(steps) - 1, (ASKED_STEPS if recipe.all_teachers else MOST_STEPS) - 1).astype(int))[
        : len(steps) - 1
    ]
    scattered = np.random.default_rng(recipe.seed).permutation(others)
    chosen = np.concatenate([steps[0], *(steps[step] for step in scattered)])
    if numbers := teacher_rows(recipe, rows):  # each teacher is asked about some
        missing = set(numbers) - {numbers[row] for row in chosen}
        chosen = np.concatenate([chosen, [numbers.index(number) for number in missing]]).astype(int)
    return rows.select(chosen, keep_in_memory=True).flatten_indices(keep_in_memory=True)  # no file beside the prepared data


class _Clock:
    """A reporter that knows when a stage was first and last heard of."""

    def __init__(self) -> None:
        self.heard: dict[str, list[float]] = {}

    def report(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.heard.setdefault(event.stage, []).append(time.perf_counter())

    def seconds(self, stage: str) -> float:
        times = self.heard.get(stage, [0.0])
        return times[-1] - times[0]


class Watch(TrainerCallback):
    """Times the steps of a training and says after each what the whole training would take."""

    def __init__(self, say: Say, recipe: Recipe, report: DataReport, *, before: int, device: str) -> None:
        self.say, self.before, self.memory = say, before, PeakMemory(device)
        self.growth = GROWTH if device == "cpu" else 1.0
        self.tokens_of_all = report.train_tokens * recipe.training.passes
        self.ends = math.inf
        self.trainer: Any = None
        self.marks: list[tuple[float, int]] = []

    def of(self, make: Callable[..., Any], **arguments: Any) -> Any:
        """The trainer, taking rows in their order."""
        arguments["args"].train_sampling_strategy = "sequential"
        self.trainer = make(**arguments)
        return self.trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.marks.append((time.perf_counter(), 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.marks.append((time.perf_counter(), self.trainer.real_tokens))
        self.say_all(self.marks[-1][0] - self.marks[0][0])
        made, now = len(self.marks) - 1, self.marks[-1][0]
        next_one_ends, fewest = 2 * now - self.marks[-2][0], FEWEST_STEPS if now < self.ends else 1
        if made >= MOST_STEPS or (made >= fewest and next_one_ends > self.ends):
            control.should_training_stop = True

    def say_all(self, spent: float) -> None:
        """`spent` seconds went into the steps so far and what is around them; the first step also pays for what happens once."""
        (began, _), (first, first_tokens), *_ = self.marks
        last, tokens = self.marks[-1]
        rate = (tokens - first_tokens) / (last - first) if len(self.marks) > 2 else tokens / (last - began)
        self.say(
            training=spent + (self.tokens_of_all - tokens) / rate,
            tokens_per_second=rate,
            steps=len(self.marks) - 1,
            memory=round(max(self.before, self.growth * self.memory.highest())),
        )


if __name__ == "__main__":
    main()
