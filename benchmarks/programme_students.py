"""Students of the starter that are smaller by layers, by width, by both: equal size, equal rows.

Each is a run of LLMFineTuner from an empty teacher cache, and all are scored on the same held-out rows, on every token: KL(teacher ||
student) in nats with its 95 % interval, and the share of tokens for which both have the same first choice. Seconds are those of asking the
teacher and training; loading, making the student and scoring are left out.
"""

from __future__ import annotations

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
ROWS = {
    "layers: 20 of 30": ["model={from_teacher: {layers: 20}}", "training.learning_rate=5e-4"],
    "width: 864 of 1,536": ["model={from_teacher: {ffn: 864}}", "training.learning_rate=2e-4"],
    "width, rate 5e-4": ["model={from_teacher: {ffn: 864}}", "training.learning_rate=5e-4"],
    "both: 26, 1,056": ["model={from_teacher: {layers: 26, ffn: 1056}}", "training.learning_rate=2e-4"],
    "size: 0.75, rate auto": ["model={from_teacher: {size: 0.75}}"],
    "layers, T 2": ["model={from_teacher: {layers: 20}}", *OLD],
    "width, T 2, rate 2e-4": ["model={from_teacher: {ffn: 864}}", *OLD, "training.learning_rate=2e-4"],
}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored."""
    return distilled([*changes, *ROWS[name]])


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(f"| {'':<24} | parameters | seconds | KL before | KL after             | same first choice | perplexity |")
    print(f"|{'-' * 26}|{'-' * 12}|{'-' * 9}|{'-' * 11}|{'-' * 22}|{'-' * 19}|{'-' * 12}|")
    for name, result in found.items():
        after = result["after"]
        kl = "{:.3f} [{:.3f}, {:.3f}]".format(*after["kl"])
        print(
            f"| {name:<24} | {result['parameters'] / 1e6:>9.1f}M | {result['seconds']:>7.0f} | {result['before']['kl'][0]:>9.2f} |"
            f" {kl:<20} | {after['agreement'][0]:>17.0%} | {after['perplexity'][0]:>10.1f} |"
        )


def distilled(overrides: list[str]) -> dict[str, Any]:
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
