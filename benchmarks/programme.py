"""The study behind DISTILLATION_UPDATE.md: each part compares ways to distil the starter model, and prints one table.

    python benchmarks/programme.py students                        # smaller by layers, by width, by both: equal size, equal rows
    python benchmarks/programme.py students --only width           # rows of the table whose name contains this
    python benchmarks/programme.py students --set dataset.samples=200

Each row is a run of LLMFineTuner in a process of its own, from an empty teacher cache, and all are scored on the same held-out rows, on
every token: KL(teacher || student) in nats with its 95 % interval, and the share of tokens for which both have the same first choice.
Seconds are those of asking the teacher and training; loading, making the student and scoring are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import contest

BASE: dict[str, Any] = {
    "approach": "distillation",
    "dataset": {"source": "builtin:python-docs", "samples": 450},
    "distillation": {"temperature": 1.0, "alpha": 0.2},
    "training": {"epochs": 1, "batch_size": 4},
    "benchmark": {"rows": 1, "metrics": ["perplexity"]},  # the scores here are made below, on every held-out row
}
OLD = ["training.learning_rate=5e-4", "distillation.temperature=2"]  # what was the default
STUDENTS = {
    "layers: 20 of 30": ["model={from_teacher: {layers: 20}}", "training.learning_rate=5e-4"],
    "width: 864 of 1,536": ["model={from_teacher: {ffn: 864}}", "training.learning_rate=2e-4"],
    "width, rate 5e-4": ["model={from_teacher: {ffn: 864}}", "training.learning_rate=5e-4"],
    "both: 26, 1,056": ["model={from_teacher: {layers: 26, ffn: 1056}}", "training.learning_rate=2e-4"],
    "size: 0.75, rate auto": ["model={from_teacher: {size: 0.75}}"],
    "layers, T 2": ["model={from_teacher: {layers: 20}}", *OLD],
    "width, T 2, rate 2e-4": ["model={from_teacher: {ffn: 864}}", *OLD, "training.learning_rate=2e-4"],
}
PARTS = {"students": STUDENTS}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("part", choices=list(PARTS))
    arguments.add_argument("--only", help="rows whose name contains this")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key of every row")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    rows = PARTS[given.part]
    if given.worker:
        print(contest.MARK + json.dumps(work([*given.set, *rows[given.worker]])))
        return
    names = [name for name in rows if name == given.only] or [name for name in rows if not given.only or given.only in name]
    found = contest.interleave(__file__, names, 1, sys.argv[1:])
    print(f"| {'':<24} | parameters | seconds | KL before | KL after             | same first choice | perplexity |")
    print(f"|{'-' * 26}|{'-' * 12}|{'-' * 9}|{'-' * 11}|{'-' * 22}|{'-' * 19}|{'-' * 12}|")
    for name, (result, *_) in ((name, results) for name, results in found.items() if results):
        after = result["after"]
        kl = "{:.3f} [{:.3f}, {:.3f}]".format(*after["kl"])
        print(
            f"| {name:<24} | {result['parameters'] / 1e6:>9.1f}M | {result['seconds']:>7.0f} | {result['before']['kl'][0]:>9.2f} |"
            f" {kl:<20} | {after['agreement'][0]:>17.0%} | {after['perplexity'][0]:>10.1f} |"
        )


def work(overrides: list[str]) -> dict[str, Any]:
    """One run, scored."""
    from finetune.events import Recorder, StageFinished, TrainingFinished
    from finetune.recipe import Recipe, parse_override
    from finetune.run.finetuner import LLMFineTuner
    from finetune.runtime import RuntimeOptions

    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.from_layers(BASE, *map(parse_override, overrides), {"output_dir": f"{folder}/student"})
        fresh = RuntimeOptions(
            cache_dir=contest.fresh_cache(Path(folder), "models", "datasets", "machine.json")
        )  # everything but what a teacher once said
        tuner = LLMFineTuner(recipe, reporter=recorder, runtime=fresh)
        held_out, states = list(tuner.data.held_out), dict[str, Any]()
        score(tuner.load_teacher_model(), held_out, states)
        before = score(tuner.load_models(), held_out, states)
        tuner.train()
        after = score(tuner.model, held_out, states)
        parameters = tuner.model.num_parameters()
    finished = recorder.of(TrainingFinished)[-1]
    seconds = sum(event.seconds for event in recorder.of(StageFinished) if event.stage == "teacher cache") + finished.train_seconds
    making = sum(event.seconds for event in recorder.of(StageFinished) if event.stage == "student")
    decided = {"making": making, "rate": tuner.recipe.training.learning_rate, "student": tuner.recipe.model.model_dump()}
    return {"before": before, "after": after, "seconds": seconds, "tokens": finished.real_tokens, "parameters": parameters, **decided}


def score(model: Any, rows: list[Any], states: dict[str, Any]) -> dict[str, list[float]]:
    """KL to the teacher and share of equal first choices, each with its interval; the first call only remembers the teacher in `states`."""
    from finetune.benchmark.intervals import estimate, mean_per_token, perplexity_of
    from finetune.benchmark.perplexity import answer_losses
    from finetune.benchmark.teacher_agreement import TeacherStates
    from finetune.events import Recorder
    from finetune.training.head import head_of

    known = states.get("teacher")
    if known is None:
        states["teacher"] = TeacherStates(head_of(model).detach())
    losses = answer_losses(model, rows, reporter=Recorder(), stage="", teacher=known, remember=None if known else states["teacher"])
    if known is None:
        return {}
    found = {"kl": estimate(mean_per_token(losses.divergences, losses.tokens))}
    found["agreement"] = estimate(mean_per_token(losses.agreed, losses.tokens))
    found["perplexity"] = estimate(perplexity_of(losses.sums, losses.tokens))
    return {name: [score.value, score.low, score.high] for name, score in found.items()}


if __name__ == "__main__":
    main()
