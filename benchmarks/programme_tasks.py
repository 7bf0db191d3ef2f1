"""Each task's keys against those of `compress`, on rows of the task's kind: the same student, equal rows, equal epochs.

    python benchmarks/programme.py --only tasks --rows reason --set dataset.source=gsm8k.jsonl --set dataset.columns={}

The teacher is the starter after it was fine-tuned on the same rows (`expert`), the student a narrower one made from it; both students are
scored on the same held-out rows: KL to the teacher on the tokens of the answers, reverse KL on fresh answers that each student writes
(temperature 1), and greedy answers by ROUGE-L or their last number. Rows: a made-up shop's answers (chat), docstrings for functions
(summarise), functions for docstrings (code), made-up word problems (reason). In brackets 95 % intervals over rows.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import contest
import support
from programme_policy import fresh

TRAINED, MEASURED = 60, 24
KINDS = {"chat": "rougeL", "summarise": "rougeL", "code": "rougeL", "reason": "last_number"}  # and the metric that matters there
EXPERT = "expert"  # goes first
ROWS = tuple(f"{task} rows, {keys}" for task in KINDS for keys in (EXPERT, "task", "compress"))
LONGEST = {"code": 500, "summarise": 700}  # characters of a function
STUDENT = {"from_teacher": {"ffn": 864}}
LEARNS: dict[str, Any] = {  # the expert, which is measured as a teacher later
    "training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3},
    "benchmark": {"rows": 1, "metrics": ["perplexity"]},
}
BASE: dict[str, Any] = {
    "dataset": {"samples": TRAINED + MEASURED, "held_out": MEASURED / (TRAINED + MEASURED), "max_length": 320},
    "training": {"epochs": 2, "batch_size": 4, "learning_rate": 2e-4},
    "benchmark": {"rows": MEASURED, "speed": False},
}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """Where the expert is, or the scores of one student, row by row."""
    from finetune import LLMFineTuner, Recipe, RuntimeOptions
    from finetune.events import Recorder
    from finetune.recipe import parse_override
    from finetune.run.baselines import student_scores, teacher_scores

    kind, keys = name.split(" rows, ")
    overrides = [parse_override(text) for text in changes]
    runtime, recorder = RuntimeOptions(cache_dir=contest.kept_cache(folder)), Recorder()
    metrics = ["rouge", "last_number", "perplexity"] if kind == "reason" else ["rouge", "perplexity"]
    data = {"dataset": {"source": str(_file(folder, kind))}, "benchmark": {"metrics": metrics}}

    def tuner(part: str, **layer: Any) -> Any:
        output = next(path for number in range(100) if not (path := folder / f"{kind}-{part}-{number}").exists())
        recipe = Recipe.from_layers(BASE, data, layer, *overrides, {"output_dir": str(output)})
        return LLMFineTuner(recipe, reporter=recorder, runtime=runtime)

    if keys == EXPERT:
        return {"expert": str(tuner(keys, **LEARNS).run().output_dir)}
    expert = json.loads((folder / f"{kind}-rows--{EXPERT}.json").read_text())["expert"]
    taught = {"approach": "distillation", "model": STUDENT, "teacher": expert}
    learner = tuner(keys, **taught, distillation={"task": kind if keys == "task" else keys})
    measured = tuner("measured", **taught, distillation={"supervise": "answers"})
    context, model = measured.context, measured.load_teacher_model()
    teacher = teacher_scores(context, [model])
    learner.teacher, learner.teacher_scores = model, teacher
    before = student_scores(context, learner.load_models(), teacher.one)
    outcome = learner.train()
    after = student_scores(context, learner.model, teacher.one)
    sides = {"teacher": teacher.one, "before": before, "after": after}
    return {
        "seconds": outcome.finished.train_seconds,
        "rows": {side: scores.row_scores() for side, scores in sides.items()},
        "values": {side: scores.values for side, scores in sides.items()},
        "answers": list(zip(after.prompts, after.references, after.texts, strict=True)),
        "fresh": fresh(learner.model.eval(), measured.load_teacher_model().eval(), measured),
        "own": _own(recorder),
    }


def show(found: dict[str, Any]) -> None:
    """The table: both students of a kind, and how they differ row by row."""
    from finetune.benchmark.intervals import change, estimate

    columns = ("rows", "keys", "seconds", "KL, answers", "reverse KL, fresh", "metric", "cut off", "own answers")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for kind, metric in KINDS.items():
        pair = {keys: found[name] for keys in ("task", "compress") if (name := f"{kind} rows, {keys}") in found}
        each = {keys: _statistics(result, metric) for keys, result in pair.items()}
        for keys, result in pair.items():
            scores = [f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for score in map(estimate, each[keys].values())]
            cells = [*scores, f"{result['fresh']['cut']:.0%}", result["own"] or "none"]
            print(f"| {kind} | {keys} | {result['seconds']:.0f} | {' | '.join(cells)} |")
        if len(pair) > 1:
            apart = [change(key, each["task"][key], each["compress"][key]) for key in each["task"]]
            cells = ["{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**one) for one in apart]
            print(f"| {kind} | difference | | {' | '.join(cells)} | | |")
    for kind, metric in KINDS.items():
        sides = next((found[name]["values"] for name in found if name.startswith(f"{kind} ") and not name.endswith(EXPERT)), None)
        if sides:
            before, teacher = sides["before"], sides["teacher"]
            print(f"{kind}: before KL {before['kl']:.3f}, {metric} {before[metric]:.3f}; the teacher's {metric} {teacher[metric]:.3f}.")


def _statistics(result: dict[str, Any], metric: str) -> dict[str, Any]:
    """What a student is judged by."""
    from finetune.benchmark.intervals import mean_per_token, statistics_of

    scores, written = statistics_of(result["rows"]["after"]), result["fresh"]
    return {"kl": scores["kl"], "reverse kl": mean_per_token(written["sums"], written["tokens"]), metric: scores[metric]}


def _own(recorder: Any) -> str:
    """How practice went: the answers of each refresh, how many were cut off, and whether it stopped."""
    from finetune.events import Notice, OwnAnswers

    said = [f"{event.answers} written, {event.cut:.0%} cut off" for event in recorder.of(OwnAnswers)]
    stopped = any("stopped practising" in event.text for event in recorder.of(Notice))
    return "; ".join(said) + ("; stopped" if stopped else "")


def _file(folder: Path, kind: str) -> Path:
    """Rows with prompt and completion; the same whenever they are asked for."""
    path = folder / f"{kind}.jsonl"
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in MAKERS[kind](TRAINED + MEASURED)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _shop(count: int) -> list[tuple[str, str]]:
    return [(row["question"], row["answer"]) for row in support.rows(count)]


def _problems(count: int) -> list[tuple[str, str]]:
    return [(row["question"], row["answer"]) for row in contest.rows(None, count)]


def _functions(kind: str, count: int) -> list[dict[str, str]]:
    from finetune.data.builtin import python_docs

    return list(islice((row for row in python_docs() if len(row["input"]) <= LONGEST[kind]), 0, 9 * count, 9))  # from all over the library


def _summaries(count: int) -> list[tuple[str, str]]:
    return [(f"{row['instruction']}\n{row['input']}", row["output"]) for row in _functions("summarise", count)]


def _programs(count: int) -> list[tuple[str, str]]:
    def asked(row: dict[str, str]) -> str:
        return f"Write this Python function: {row['input'].partition('(')[0].removeprefix('def ')}\n{row['output']}"

    return [(asked(row), row["input"]) for row in _functions("code", count)]


MAKERS = {"chat": _shop, "summarise": _summaries, "code": _programs, "reason": _problems}
