"""Rows that the teacher writes against real ones and none: the same student, scored on the same real rows that no run has seen.

The starter writes as many rows as there are real ones, shown twelve examples: short functions of the standard library with their
docstrings. `none` is the student as it was made, before training. Where writing 300 takes too long: --set dataset.samples=100.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import contest

EXAMPLES, MEASURED = 12, 45
LONGEST = 300  # characters of a function
ROWS = ("written", "generated", "real")  # what the teacher writes; students that learn from that, and from the data
TOPIC = "one-line docstrings of Python functions"
BASE: dict[str, Any] = {
    "approach": "distillation",
    "model": {"from_teacher": {"ffn": 864}},
    "dataset": {"samples": 300, "max_length": 192},
    "distillation": {"temperature": 1.0, "alpha": 0.2},
    "training": {"epochs": 1, "batch_size": 4, "learning_rate": 2e-4},
    "benchmark": {"rows": MEASURED, "speed": False},
}
SHOWN = {"rougeL": "ROUGE-L", "perplexity": "perplexity", "kl": "KL", "agreement": "same top token"}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """What became of the rows that are written, or the scores of a student."""
    from finetune.recipe import Recipe, parse_override

    overrides = [parse_override(text) for text in changes]
    samples = int(Recipe.from_layers(BASE, *overrides).dataset.samples or 0)
    real, examples = _files(folder, samples)
    written = {"source": "generated", "topic": TOPIC, "examples": str(examples), "held_out": 0.02}
    data = {"source": str(real), "samples": None, "held_out": MEASURED / (samples + MEASURED)}
    began = time.perf_counter()
    if name == "written":
        tuner = _tuner(folder, name, overrides, written)
        tuner.write_rows()
        facts = tuner.prepare_data().report.generated
        return {"seconds": time.perf_counter() - began, **facts}
    return _scored(_tuner(folder, name, overrides, data if name == "real" else written), _tuner(folder, "measured", overrides, data))


def show(found: dict[str, Any]) -> None:
    """The table."""
    if written := found.get("written"):
        made = f"{written['kept']} rows of {written['tried']} prompts in {written['seconds']:.0f} s"
        print(f"Written: {made}; thrown away: {written['thrown']}")
    arms = {arm: result for arm, result in found.items() if arm != "written"}
    if not arms:
        return
    print("| rows | number | seconds | " + " | ".join(SHOWN.values()) + " |\n|---|---|---|" + "---|" * len(SHOWN))
    for arm, (result, side) in {"none": (next(iter(arms.values())), "before"), **{arm: (arms[arm], "after") for arm in arms}}.items():
        scores, cells = result["scores"], []
        for key in SHOWN:
            low, high = scores["intervals"][side].get(key, (float("nan"),) * 2)
            cells.append(f"{scores[side].get(key, float('nan')):.3f} [{low:.3f}, {high:.3f}]")
        of = f"{result['rows']} | {result['seconds']:.0f}" if side == "after" else "0 | 0"
        print(f"| {arm} | {of} | {' | '.join(cells)} |")
    print("In brackets: 95 % over rows.")


def _tuner(folder: Path, name: str, overrides: list[dict[str, Any]], dataset: dict[str, Any]) -> Any:
    """Every start has an output folder of its own."""
    from finetune import LLMFineTuner, Recipe, RuntimeOptions

    output = next(path for number in range(100) if not (path := folder / f"{name}-{number}").exists())
    recipe = Recipe.from_layers(BASE, *overrides, {"dataset": dataset, "output_dir": str(output)})
    return LLMFineTuner(recipe, runtime=RuntimeOptions(cache_dir=contest.kept_cache(folder)))


def _scored(tuner: Any, measured: Any) -> dict[str, Any]:
    """Train a student, then score it beside the same student without training on the real rows."""
    from finetune.benchmark.scoring import benchmark_json
    from finetune.run.baselines import student_scores, teacher_scores

    real = measured.context
    teacher = teacher_scores(real, [measured.load_teacher_model()])
    tuner.teacher, tuner.teacher_scores = measured.teacher, teacher
    tuner.before = student_scores(real, tuner.load_models(), teacher.one)
    began = time.perf_counter()
    tuner.train()
    seconds = time.perf_counter() - began
    after = student_scores(real, tuner.model, teacher.one)
    scores = benchmark_json(tuner.before, after, replace(teacher.one, states=None))
    return {"rows": tuner.data.report.train, "seconds": seconds, "scores": json.loads(json.dumps(scores, default=str))}


def _files(folder: Path, samples: int) -> tuple[Path, Path]:
    """Real rows for training and measuring, and a few others as examples."""
    from finetune.data.builtin import python_docs

    short = (row for row in python_docs() if len(row["input"]) <= LONGEST)
    rows = list(islice(short, 0, 9 * (samples + MEASURED + EXAMPLES), 9))  # from all over the library
    parts = {"real.jsonl": rows[EXAMPLES:], "examples.jsonl": rows[:EXAMPLES]}
    for name, part in parts.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder / "real.jsonl", folder / "examples.jsonl"
