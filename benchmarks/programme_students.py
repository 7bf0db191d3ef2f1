"""Students of the starter that are smaller by layers, by width, by both: equal size, equal rows.

Each is a run of LLMFineTuner from an empty teacher cache, and all are scored on the same held-out rows, on every token: KL(teacher ||
student) in nats with its 95 % interval, and the share of tokens for which both have the same first choice. Seconds are those of asking the
teacher and training; loading, making the student and scoring are left out.

`pace` is how long a step takes with fewer layers and with narrower ones, in turn, for which the machine must be quiet. `layers, equal
seconds` then has as many passes over the rows as `width` has time for one:

    python benchmarks/programme.py --only students --rows pace && python benchmarks/programme.py --only students --rows "equal seconds"
"""

from __future__ import annotations

import json
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
PACE, EQUAL = "pace", "layers, equal seconds"
FEWER, NARROWER = "layers: 20 of 30", "width: 864 of 1,536"
ROWS = {
    PACE: [],
    FEWER: ["model={from_teacher: {layers: 20}}", "training.learning_rate=5e-4"],
    NARROWER: ["model={from_teacher: {ffn: 864}}", "training.learning_rate=2e-4"],
    EQUAL: ["model={from_teacher: {layers: 20}}", "training.learning_rate=5e-4"],
    "width, rate 5e-4": ["model={from_teacher: {ffn: 864}}", "training.learning_rate=5e-4"],
    "both: 26, 1,056": ["model={from_teacher: {layers: 26, ffn: 1056}}", "training.learning_rate=2e-4"],
    "size: 0.75, rate auto": ["model={from_teacher: {size: 0.75}}"],
    "layers, T 2": ["model={from_teacher: {layers: 20}}", *OLD],
    "width, T 2, rate 2e-4": ["model={from_teacher: {ffn: 864}}", *OLD, "training.learning_rate=2e-4"],
}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored; or the paces."""
    if name == PACE:
        timed = [(part, distilled([*ROWS[part], "dataset.samples=60"])) for _ in range(2) for part in (FEWER, NARROWER)]
        return {part: max(run["tokens"] / run["train_seconds"] for each, run in timed if each == part) for part in (FEWER, NARROWER)}
    more = []
    if name == EQUAL:
        pace = json.loads((folder / f"{PACE}.json").read_text())
        more = [f"training.epochs={pace[FEWER] / pace[NARROWER]:.3f}"]
    return distilled([*changes, *ROWS[name], *more])


def show(found: dict[str, Any]) -> None:
    """The table."""
    found = dict(found)
    if pace := found.pop(PACE, None):
        print("Tokens a second in training: " + "; ".join(f"{name} {speed:.0f}" for name, speed in pace.items()))
    if not found:
        return
    print(f"| {'':<24} | parameters | epochs | seconds | KL before | KL after             | same first choice | perplexity |")
    print(f"|{'-' * 26}|{'-' * 12}|{'-' * 8}|{'-' * 9}|{'-' * 11}|{'-' * 22}|{'-' * 19}|{'-' * 12}|")
    for name, result in found.items():
        after = result["after"]
        kl = "{:.3f} [{:.3f}, {:.3f}]".format(*after["kl"])
        print(
            f"| {name:<24} | {result['parameters'] / 1e6:>9.1f}M | {result['epochs']:>6.2f} | {result['seconds']:>7.0f} |"
            f" {result['before']['kl'][0]:>9.2f} | {kl:<20} | {after['agreement'][0]:>17.0%} | {after['perplexity'][0]:>10.1f} |"
        )
    for name in (FEWER, EQUAL):
        if name in found and NARROWER in found:
            print(f"KL of {NARROWER} / KL of {name}: {_share(found[NARROWER]['each'], found[name]['each'])}")


def _share(one: dict[str, Any], other: dict[str, Any]) -> str:
    """A KL as a share of another, row by row."""
    from finetune.benchmark.intervals import mean_per_token, ratio

    share = ratio(*(mean_per_token(each["divergences"], each["tokens"]) for each in (one, other)))
    return "{:.2f} [{:.2f}, {:.2f}]".format(*contest.with_ends(share))


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
    trained = {"train_seconds": finished.train_seconds, "tokens": finished.real_tokens, "epochs": tuner.recipe.training.epochs}
    decided = {"making": making, "rate": tuner.recipe.training.learning_rate, "student": tuner.recipe.model_dump()["model"]}
    each = states["last"]
    return {"before": before, "after": after, "seconds": seconds, "parameters": parameters, "each": each, **trained, **decided}


def score(model: Any, rows: list[Any], states: dict[str, Any]) -> dict[str, list[float]]:
    """KL to the teacher and share of equal first choices, each with its interval; the first call only remembers the teacher in `states`.

    `states["last"]` is what the last one found, row by row.
    """
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
    states["last"] = {"divergences": losses.divergences, "tokens": list(losses.tokens)}
    found = {"kl": estimate(mean_per_token(losses.divergences, losses.tokens))}
    found["agreement"] = estimate(mean_per_token(losses.agreed, losses.tokens))
    found["perplexity"] = estimate(perplexity_of(losses.sums, losses.tokens))
    return {name: contest.with_ends(score) for name, score in found.items()}
