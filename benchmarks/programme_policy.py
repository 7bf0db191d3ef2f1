"""Practice on own answers against more passes over the data, at equal seconds.

`own` takes an epoch on the data, then half of the rows are own answers and the learning rate is a fifth; `reverse` compares own answers by
reverse KL. The others learn from the data alone: `data` for as many seconds as `own` took to train, so `own` goes first, `slower` likewise
with a fifth of the rate after the first epoch, `slower, equal steps` in as many steps. The teacher is the starter, the student a narrower
one made from it. All are scored on the same held-out prompts: reverse KL per token on answers that each student writes anew (temperature
1), forward KL on the data, ROUGE-L of greedy answers, each with its 95 % interval over rows. Seconds are those of training, writing and
reading included.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import contest

SAMPLES, HELD_OUT = 120, 0.25
RECIPE: dict[str, Any] = {
    "approach": "distillation",
    "model": {"from_teacher": {"ffn": 864}},
    "dataset": {"source": "builtin:python-docs", "samples": SAMPLES, "held_out": HELD_OUT, "max_length": 192},
    "distillation": {"temperature": 1.0, "alpha": 0.2},
    "training": {"epochs": 2, "batch_size": 4, "learning_rate": 2e-4},
    "benchmark": {"rows": 30, "speed": False},
}
OWN: dict[str, Any] = {"share": 0.5, "tokens": 96, "refresh": 64}
ROWS: dict[str, dict[str, Any] | None] = {
    "own": OWN,
    "reverse": {**OWN, "objective": "reverse_kl"},
    "data": None,
    "slower": None,
    "slower, equal steps": None,
}
SEED = 7  # of the answers that students are judged by


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """One run, scored."""
    from finetune import LLMFineTuner, Recipe, RuntimeOptions
    from finetune.recipe import parse_override

    layers: list[dict[str, Any]] = [{"distillation": {"on_policy": ROWS[name]}}]
    if name in ("data", "slower"):
        layers.append({"training": {"epochs": json.loads((folder / "own.json").read_text())["epochs_of_data"]}})
    output = next(path for number in range(100) if not (path := folder / f"{name}-{number}").exists())
    recipe = Recipe.from_layers(RECIPE, *layers, *map(parse_override, changes), {"output_dir": str(output)})
    tuner = LLMFineTuner(recipe, runtime=RuntimeOptions(cache_dir=contest.kept_cache(folder)))
    if name.startswith("slower"):
        _slow_after_an_epoch()
    result = tuner.run()
    scores = result.scores
    teacher = tuner.load_teacher_model().eval()
    found = {
        "seconds": result.training["train_seconds"],
        "epochs": recipe.training.epochs,
        "fresh": fresh(tuner.model.eval(), teacher, tuner),
        "scores": {side: scores[side] for side in ("teacher", "before", "after")},
        "intervals": scores["intervals"]["after"],
        "own_answers": scores.get("own_answers"),
    }
    if name == "own":
        found["epochs_of_data"] = _epochs_of_data(tuner.folder.events, found["seconds"])
    return found


def _epochs_of_data(events: Path, seconds: float) -> float:
    """Passes over the data that take so many seconds, by the pace of the first."""
    from finetune.events import read_events

    steps = [record for record in read_events(events) if record["event"] == "step" and record["epoch"] <= 1]
    pace = (steps[-1]["time"] - steps[0]["time"]) / (len(steps) - 1)
    return float(round(seconds / (pace * len(steps)), 2))


def _slow_after_an_epoch() -> None:
    """Give every trainer of this process the learning rates of one that practises."""
    from finetune.distillation.on_policy.trainer import slow_down
    from finetune.training.step_count import steps_of_epoch
    from finetune.training.trainer import SupervisedTrainer

    usual = SupervisedTrainer.create_scheduler

    def create_scheduler(trainer: Any, *given: Any, **named: Any) -> Any:
        args, fresh = trainer.args, trainer.lr_scheduler is None
        scheduler = usual(trainer, *given, **named)
        if fresh:
            slow_down(scheduler, steps_of_epoch(len(trainer.train_dataset), args.train_batch_size, args.gradient_accumulation_steps))
        return scheduler

    SupervisedTrainer.create_scheduler = create_scheduler  # type: ignore[assignment,method-assign]


def fresh(student: Any, teacher: Any, tuner: Any) -> dict[str, Any]:
    """Reverse KL on answers that the student writes to held-out prompts: its sum and tokens for each, and how the answers are."""
    import torch

    from finetune.distillation.on_policy.answers import Writing, repetition, write_answers
    from finetune.training.decoding import stop_ids
    from finetune.training.head import padding_id

    prompts = [row["prompt_ids"] for row in tuner.data.held_out]
    how = Writing(stop_ids(student, tuner.tokenizer), padding_id(tuner.tokenizer, student), OWN["tokens"])
    answers = write_answers(student, prompts, how, seed=SEED)
    sums, tokens = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer.ids]])
        with torch.no_grad():
            log_p, log_q = (model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1) for model in (student, teacher))
        sums.append(float((log_p.exp() * (log_p - log_q)).sum()))
        tokens.append(len(answer.ids))
    cut = sum(not answer.ended for answer in answers) / len(answers)
    return {"sums": sums, "tokens": tokens, "cut": cut, "repetition": repetition(answers)}


def _interval(sums: list[float], tokens: list[int]) -> tuple[float, float, float]:
    """The mean per token, and its 95 % interval over rows."""
    draw, rows, means = random.Random(0), range(len(sums)), []
    for _ in range(2000):
        chosen = draw.choices(rows, k=len(sums))
        means.append(sum(sums[row] for row in chosen) / sum(tokens[row] for row in chosen))
    means.sort()
    return sum(sums) / sum(tokens), means[50], means[1949]


def show(found: dict[str, Any]) -> None:
    """The table."""
    print("| | epochs | seconds | reverse KL, fresh answers | cut off | 4-grams repeated | KL on the data | ROUGE-L |")
    print("|---|---|---|---|---|---|---|---|")
    for name, result in found.items():
        fresh = "{:.3f} [{:.3f}, {:.3f}]".format(*_interval(result["fresh"]["sums"], result["fresh"]["tokens"]))
        said = [
            f"{result['epochs']:g}",
            f"{result['seconds']:.0f}",
            fresh,
            f"{result['fresh']['cut']:.0%}",
            f"{result['fresh']['repetition']:.0%}",
        ]
        for metric in ("kl", "rougeL"):
            said.append("{:.3f} [{:.3f}, {:.3f}]".format(result["scores"]["after"][metric], *result["intervals"][metric]))
        print(f"| {name} | {' | '.join(said)} |")
    if "own" in found:
        from finetune.benchmark.intervals import change, mean_per_token

        own, *others = (mean_per_token(result["fresh"]["sums"], result["fresh"]["tokens"]) for result in found.values())
        for name, other in zip(list(found)[1:], others, strict=True):
            print("own - {}, reverse KL: {difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(name, **change("kl", own, other)))
    for result in list(found.values())[:1]:
        before, teacher = result["scores"]["before"], result["scores"]["teacher"]
        print(f"\nBefore: KL {before['kl']:.3f}, ROUGE-L {before['rougeL']:.3f}; the teacher: ROUGE-L {teacher['rougeL']:.3f}.")
