"""Which defaults give a distillation the most for its minutes: one run of the starter model for each change of one setting.

    python benchmarks/distillation_study.py                        # every row; on two cores about half an hour
    python benchmarks/distillation_study.py --only layers          # rows whose name contains this
    python benchmarks/distillation_study.py --set training.epochs=2

Each row after the first changes one setting of it. Each is a run of LLMFineTuner on `builtin:python-docs` from an empty teacher cache,
in a process of its own. Whatever a run supervises, all are scored on the same held-out rows, at every position and on the answers
alone. Seconds are those of asking the teacher and training; loading and scoring are left out.
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
    "model": {"from_teacher": {"layers": 20}},
    "dataset": {"source": "builtin:python-docs", "samples": 200, "held_out": 0.15},
    "distillation": {"temperature": 2.0, "alpha": 0.2},
    "training": {"epochs": 1, "batch_size": 4, "learning_rate": 5e-4},
    "benchmark": {"rows": 1, "metrics": ["perplexity"]},  # the scores here are made below, on every held-out row
}
CHANGES: dict[str, list[str]] = {
    "20 layers, 5e-4, alpha 0.2, T 2, head frozen": [],
    "layers 15": ["model.from_teacher.layers=15"],
    "layers 24": ["model.from_teacher.layers=24"],
    "learning rate 2e-4": ["training.learning_rate=2e-4"],
    "learning rate 1e-3": ["training.learning_rate=1e-3"],
    "alpha 0": ["distillation.alpha=0"],
    "alpha 0.5": ["distillation.alpha=0.5"],
    "alpha 1 (no teacher)": ["distillation.alpha=1"],
    "T 1": ["distillation.temperature=1"],
    "T 4": ["distillation.temperature=4"],
    "nothing frozen (hidden cache)": ["method.freeze=none"],
    "answers supervised only": ["distillation.supervise=answers"],
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", help="rows whose name contains this")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key of every row")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        print(contest.MARK + json.dumps(work(given.worker, given.set)))
        return
    names = [name for name in CHANGES if name == given.only] or [name for name in CHANGES if not given.only or given.only in name]
    found = contest.interleave(__file__, names, 1, sys.argv[1:])
    print(f"{'':<46}{'seconds':>8}{'KL':>15}{'fell':>6}{'same top':>9}{'perplexity':>11}{'of answers':>11}{'retained':>9}{'a minute':>9}")
    for name, (result, *_) in ((name, results) for name, results in found.items() if results):
        kept = result["teacher"]["perplexity"] / result["after"]["perplexity"]
        gained = kept - result["teacher"]["perplexity"] / result["before"]["perplexity"]
        print(
            f"{name:<46}{result['seconds']:>8.0f}{result['before']['kl']:>8.2f} ->{result['after']['kl']:>5.2f}"
            f"{1 - result['after']['kl'] / result['before']['kl']:>6.0%}{result['after']['agreement']:>9.0%}"
            f"{result['after']['perplexity']:>11.2f}{result['after']['answers']:>11.2f}{kept:>9.0%}{gained / result['seconds'] * 60:>9.0%}"
        )
        teacher = result["teacher"]
    print(
        f"Teacher: perplexity {teacher['perplexity']:.2f}, of answers {teacher['answers']:.2f}; retained: the teacher's over the student's."
    )


def work(name: str, overrides: list[str]) -> dict[str, Any]:
    """One run, scored."""
    from finetune.data.prepare import prepare_data
    from finetune.distillation.students.making import make_student
    from finetune.events import Recorder, StageFinished, TrainingFinished
    from finetune.recipe import Recipe, StudentSpec, parse_override
    from finetune.run.finetuner import LLMFineTuner
    from finetune.runtime import RuntimeOptions

    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        changes = [parse_override(text) for text in [*overrides, *CHANGES[name]]]
        recipe = Recipe.from_layers(BASE, *changes, {"output_dir": f"{folder}/student"})
        fresh = RuntimeOptions(
            cache_dir=contest.fresh_cache(Path(folder), "models", "datasets", "machine.json")
        )  # everything but what a teacher once said
        tuner = LLMFineTuner(recipe, reporter=recorder, runtime=fresh)
        rows = {
            kind: prepare_data(
                recipe.dataset, tuner.tokenizer, seed=recipe.seed, supervise=kind, runtime=fresh, reporter=Recorder()
            ).held_out
            for kind in ("all", "answers")
        }
        teacher = tuner.load_teacher_model()
        scores, states = dict[str, Any](), dict[str, Any]()
        scores["teacher"] = score(teacher, rows, states)
        assert isinstance(recipe.model, StudentSpec)
        scores["before"] = score(make_student(teacher, recipe.model.from_teacher, tuner.data.train).model, rows, states)
        del teacher
        tuner.train()
        scores["after"] = score(tuner.model, rows, states)
    finished = recorder.of(TrainingFinished)[-1]
    spent = sum(event.seconds for event in recorder.of(StageFinished) if event.stage == "teacher cache") + finished.train_seconds
    return {**scores, "seconds": spent, "tokens": finished.real_tokens, "peak_bytes": finished.peak_memory_bytes}


def score(model: Any, rows: dict[str, Any], states: dict[str, Any]) -> dict[str, float]:
    """Perplexity at every position and of the answers; KL to the teacher and shared top tokens once `states` holds the teacher's."""
    import math

    from finetune.benchmark.perplexity import answer_losses
    from finetune.benchmark.teacher_agreement import TeacherStates
    from finetune.events import Recorder
    from finetune.training.head import head_of

    known = states.get("teacher")
    if known is None:
        states["teacher"] = TeacherStates(head_of(model).detach())
    every = answer_losses(
        model, list(rows["all"]), reporter=Recorder(), stage="", teacher=known, remember=None if known else states["teacher"]
    )
    answers = answer_losses(model, list(rows["answers"]), reporter=Recorder(), stage="")
    tokens = sum(every.tokens)
    found = {"perplexity": math.exp(sum(every.sums) / tokens), "answers": math.exp(sum(answers.sums) / sum(answers.tokens))}
    if known is not None:
        found |= {"kl": sum(every.divergences) / tokens, "agreement": sum(every.agreed) / tokens}
    return found


if __name__ == "__main__":
    main()
