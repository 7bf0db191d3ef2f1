"""The few real steps: load, ask the teacher, train on the longest rows first and then on some of every length, and time it all.

python -m finetune.run.few_steps     reads its order as JSON from stdin, and prints one JSON object as soon as something is known
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from transformers import TrainerCallback

from finetune.data.report import DataReport
from finetune.distillation.setup import DistillationSetup
from finetune.errors import FinetuneError
from finetune.events import Event, Progress
from finetune.hardware.peak_memory import PeakMemory, release
from finetune.models.load import load_model
from finetune.recipe import Recipe
from finetune.run.answer_time import benchmark_seconds
from finetune.run.baselines import known_scores
from finetune.run.finetuner import LLMFineTuner
from finetune.run.loading import attached, lesson, student
from finetune.runtime import RuntimeOptions
from finetune.training.loop import train
from finetune.training.trainer import SupervisedTrainer

FEWEST_STEPS = 2
GROWTH = 1.2  # of memory on a CPU over a whole run: gaps between tensors of ever new sizes, code for every new shape (measured: 1.1 to 1.4)
MOST_STEPS = 24
ASKED_STEPS = 2  # whose rows a teacher is asked about first
LOOK = 5.0  # seconds of the examination before a teacher is asked, which is left out here
Say = Callable[..., None]


def main() -> None:
    began = psutil.Process().create_time()
    order = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    try:
        _few_steps(order, began, say)
    except FinetuneError as error:
        say(problem=error.message)


def _few_steps(order: dict[str, Any], began: float, say: Say) -> None:
    folder = Path(order["folder"])
    runtime = RuntimeOptions(**{**order["runtime"], "cache_dir": Path(order["runtime"]["cache_dir"])})
    changes: dict[str, Any] = {"output_dir": str(folder / "model"), "upload": None, "training": {"report_to": []}}
    tuner = LLMFineTuner(Recipe.from_layers(order["recipe"], changes), runtime=runtime)
    recipe, method, data = tuner.recipe, tuner.method, tuner.data
    with PeakMemory(tuner.machine.device) as earlier:
        tuner.model, timing = _models(tuner, began, say)
        tuner.data = replace(data, train=_some_of_each_length(data.train, recipe))
        made = _asked(tuner, data.report.train_tokens, folder, say) if tuner.distils else None
    release()  # as the benchmark before a training does
    watch = Watch(say, recipe, data.report, before=earlier.bytes, device=tuner.machine.device)
    model = tuner.model
    watch.ends = began + order["seconds"] - timing - 1
    outcome = train(
        model,
        tuner.tokenizer,
        tuner.data.train,
        recipe,
        tuner.machine,
        tuner.reporter,
        folder=tuner.folder.checkpoints,
        callbacks=[watch, *method.callbacks(model, recipe.method)],
        penalty=method.penalty(model, recipe.method),
        make_trainer=lambda **arguments: watch.of(made.trainer if made else SupervisedTrainer, arguments),
    )
    watch.say_all(outcome.finished.train_seconds)
    tuner.model = method.finish(model, recipe.method, tuner.reporter)
    tuner.save()
    say(after=benchmark_seconds(tuner, tuner.model))


def _models(tuner: LLMFineTuner, began: float, say: Say) -> tuple[Any, float]:
    """The model that trains, and the seconds that timing its answers took; the seconds of both benchmarks before are said."""
    if tuner.distils:
        teacher = tuner.load_teacher_model()
        model = student(tuner, teacher)
        known = known_scores(tuner, tuner.teacher_located.identity, tuner.recipe.teacher.load_in if tuner.recipe.teacher else None)
        say(ready=time.time() - began)
        say(teacher=benchmark_seconds(tuner, teacher, answers=known is None))
    else:
        model = load_model(tuner.located, tuner.machine, load_in=tuner.method.load_in(tuner.recipe.method))
        known = known_scores(tuner, tuner.located.identity, tuner.method.load_in(tuner.recipe.method))
        say(ready=time.time() - began)
    start = time.time()
    seconds = benchmark_seconds(tuner, model)
    say(before=seconds if tuner.distils or known is None else 0.0)
    return attached(tuner, model, "student" if tuner.distils else "model"), time.time() - start


def _asked(tuner: LLMFineTuner, all_tokens: int, folder: Path, say: Say) -> DistillationSetup:
    """The teacher's answers to the chosen rows, and the seconds it would need for all."""
    tuner.runtime = replace(tuner.runtime, cache_dir=folder)
    clock = _Clock()
    tuner.reporter.reporters.append(clock)
    start = time.perf_counter()
    made = lesson(tuner, look=False)
    whole = time.perf_counter() - start + LOOK
    share = all_tokens / sum(tuner.data.train["length"])
    say(asking=whole + clock.seconds("teacher cache") * (share - 1))
    return made


def _some_of_each_length(rows: Any, recipe: Recipe) -> Any:
    """The longest step's rows, then steps of rows of similar length from all lengths, in an order that can be cut anywhere."""
    together = recipe.training.batch_size * recipe.training.gradient_accumulation
    order = np.argsort(-np.asarray(rows["length"]), kind="stable")
    steps = [order[start : start + together] for start in range(0, len(order), together)]
    others = np.unique(np.linspace(1, len(steps) - 1, (ASKED_STEPS if recipe.teacher else MOST_STEPS) - 1).astype(int))[: len(steps) - 1]
    scattered = np.random.default_rng(recipe.seed).permutation(others)
    chosen = np.concatenate([steps[0], *(steps[step] for step in scattered)])
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
        self.tokens_of_all = report.train_tokens * recipe.training.epochs
        self.ends = math.inf
        self.trainer: Any = None
        self.marks: list[tuple[float, int]] = []

    def of(self, make: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """The trainer, taking rows in their order."""
        arguments["args"].train_sampling_strategy = "sequential"
        self.trainer = make(**arguments)
        return self.trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.marks.append((time.time(), 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.marks.append((time.time(), self.trainer.real_tokens))
        self.say_all(self.marks[-1][0] - self.marks[0][0])
        made, next_one_ends = len(self.marks) - 1, 2 * self.marks[-1][0] - self.marks[-2][0]
        if made >= MOST_STEPS or (made >= FEWEST_STEPS and next_one_ends > self.ends):
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
