"""Two experts, each for its own rows, against one of them for all rows or for its own alone: the same student.

With equal steps the student of both sees half as many rows with a teacher as the student of that teacher alone. Two more comparisons are
equal in this: with the student that learns the rows of one kind alone, and, learning everything twice, with the students of one teacher.

The experts are the starter with a LoRA adapter, one for the built-in docstrings, one for the answers of a made-up shop
(benchmarks/support.py). The student is the starter with narrower layers. Each student is scored on held-out rows of both kinds, against
the expert of that kind.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import contest
import support
from programme_students import score

KINDS = ("docs", "shop")
TOGETHER, TWICE = "each its own rows", "each its own rows, twice"
ROWS = (
    "experts",
    *(f"{kind} expert for all rows" for kind in KINDS),
    TOGETHER,
    TWICE,
    *(f"{kind} expert, its own rows alone" for kind in KINDS),
)
COUNT, HELD_OUT = 160, 30  # rows of each kind to train on, and to measure on
FFN = 864
STUDENT = {"from_teacher": {"ffn": FFN}}
QUICK = {"rows": 1, "speed": False, "metrics": ["perplexity"]}  # the scores here are made below
COLUMNS = {"prompt": "prompt", "completion": "completion"}


def work(name: str, changes: list[str], folder: Path) -> dict[str, Any]:
    """The two experts and the student's start, or the scores of a student."""
    from finetune import LLMFineTuner, Recipe, RuntimeOptions
    from finetune.recipe import parse_override

    overrides, runtime = [parse_override(text) for text in changes], RuntimeOptions(cache_dir=contest.kept_cache(folder))
    everything = _files(folder)

    def tuner(dataset: Path, held_out: float, output: str, **layer: Any) -> Any:
        data = {"source": str(dataset), "samples": None, "held_out": held_out, "max_length": 384, "columns": COLUMNS}
        place = next(path for number in range(100) if not (path := folder / f"{output}-{number}").exists())
        recipe = Recipe.from_layers({"dataset": data, "output_dir": str(place), "benchmark": QUICK}, layer, *overrides)
        return LLMFineTuner(recipe, runtime=runtime)

    if name == "experts":
        made = {kind: tuner(folder / f"{kind}.jsonl", 0.02, f"{kind}-expert", training={"epochs": 2}) for kind in KINDS}
        return {kind: str(expert.run().output_dir) for kind, expert in made.items()}
    experts = json.loads((folder / "experts.json").read_text())
    routes = [{"source": experts[kind], "rows": {"column": "kind", "equals": kind}} for kind in KINDS]
    kind = name.split()[0]
    taught: dict[str, Any] = {"teachers": routes} if name in (TOGETHER, TWICE) else {"teacher": experts[kind]}
    learner = tuner(
        folder / f"{kind}.jsonl" if name.endswith("its own rows alone") else everything,
        0.02,
        f"{kind}-student",
        approach="distillation",
        model=STUDENT,
        distillation={"temperature": 1.0, "alpha": 0.2},
        training={"epochs": 2 if name == TWICE else 1, "batch_size": 4, "learning_rate": 2e-4},
        **taught,
    )
    learner.train()
    student, found = learner.model, dict[str, Any]()
    for kind in KINDS:
        measured = tuner(folder / f"{kind}-measure.jsonl", 0.9, "measured", approach="distillation", teacher=experts[kind], model=STUDENT)
        rows, states = list(measured.data.held_out), dict[str, Any]()
        score(measured.load_teacher_model(), rows, states)
        found[kind] = score(student, rows, states)
    return found


def show(found: dict[str, Any]) -> None:
    """The table."""
    print("| taught by | " + " | ".join(f"KL, {kind} | perplexity, {kind}" for kind in KINDS) + " |\n|---|" + "---|---|" * len(KINDS))
    for name, scores in found.items():
        if name != "experts":
            cells = [f"{_cell(scores[kind]['kl'])} | {_cell(scores[kind]['perplexity'])}" for kind in KINDS]
            print(f"| {name} | {' | '.join(cells)} |")


def _cell(score: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*score)


def _files(folder: Path) -> Path:
    """Rows of each kind to train on and to measure on, and those to train on in one file, which is returned."""
    from finetune.data.builtin import python_docs

    docs = [
        {"prompt": f"{row['instruction']}\n{row['input']}", "completion": row["output"], "kind": "docs"}
        for row in islice(python_docs(), 0, 9 * (COUNT + HELD_OUT), 9)
    ]
    shop = [{"prompt": row["question"], "completion": row["answer"], "kind": "shop"} for row in support.rows(COUNT + HELD_OUT)]
    for kind, rows in zip(KINDS, (docs, shop), strict=True):
        _write(folder / f"{kind}.jsonl", rows[:COUNT])
        _write(folder / f"{kind}-measure.jsonl", rows[COUNT:])
    _write(folder / "both.jsonl", [*docs[:COUNT], *shop[:COUNT]])
    return folder / "both.jsonl"


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
