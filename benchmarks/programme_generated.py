"""Rows that the teacher writes against real ones and none: the same student, scored on the same real rows that no arm has seen.

    python benchmarks/programme_generated.py write FOLDER         # the starter writes 300 rows from twelve examples; goes on if stopped
    python benchmarks/programme_generated.py generated FOLDER     # a student learns from them
    python benchmarks/programme_generated.py real FOLDER          # the same student learns from 300 real rows
    python benchmarks/programme_generated.py table FOLDER         # the results beside each other

Each takes minutes on two cores. FOLDER keeps the cache, the rows and the results.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

ROWS, EXAMPLES, MEASURED = 300, 12, 45
TOPIC = "one-line docstrings of Python functions"
ARMS = ("none", "generated", "real")
SHOWN = {"rougeL": "ROUGE-L", "perplexity": "perplexity", "kl": "KL", "agreement": "same top token"}


def generated(arm: str, folder: Path) -> None:
    """Run one arm, or print the table; results are kept in `folder`."""
    if arm == "table":
        _table(folder)
        return
    real, examples = _rows(folder)
    written = {"source": "generated", "topic": TOPIC, "examples": str(examples), "samples": ROWS, "max_length": 384, "held_out": 0.02}
    data = {"source": str(real), "samples": None, "max_length": 384, "held_out": MEASURED / (ROWS + MEASURED)}
    began = time.perf_counter()
    if arm == "write":
        tuner = _tuner(folder, "written", written)
        tuner.write_rows()
        facts = tuner.prepare_data().report.generated
        print(f"{time.perf_counter() - began:.0f} s: {tuner.data.report.notes[-1]}")
        (folder / "written.json").write_text(json.dumps({"seconds": time.perf_counter() - began, **facts}))
        return
    _score(folder, arm, _tuner(folder, arm, data if arm == "real" else written), _tuner(folder, "measured", data))


def _tuner(folder: Path, name: str, dataset: dict[str, Any]) -> Any:
    """The default distillation on a CPU, with these rows; every start has an output folder of its own."""
    from finetune import LLMFineTuner, RuntimeOptions

    output = next(path for number in range(100) if not (path := folder / f"{name}-{number}").exists())
    return LLMFineTuner(
        {
            "approach": "distillation",
            "model": {"from_teacher": {"layers": 20}},
            "dataset": dataset,
            "distillation": {"temperature": 2.0, "alpha": 0.2},
            "training": {"epochs": 1, "batch_size": 4, "learning_rate": 5e-4},
            "benchmark": {"rows": MEASURED, "speed": False},
            "output_dir": str(output),
        },
        runtime=RuntimeOptions(cache_dir=folder / "cache"),
    )


def _score(folder: Path, arm: str, tuner: Any, measured: Any) -> None:
    """Train a student, then score it beside the same student without training on the real rows."""
    from finetune.benchmark.scoring import benchmark_json
    from finetune.run.baselines import student_scores, teacher_scores

    real = measured.context
    teacher = teacher_scores(real, measured.load_teacher_model())
    tuner.teacher = measured.teacher
    tuner.teacher_scores, tuner.before = teacher, student_scores(real, tuner.load_models(), teacher)
    began = time.perf_counter()
    tuner.train()
    seconds = time.perf_counter() - began
    after = student_scores(real, tuner.model, teacher)
    scores = benchmark_json(tuner.before, after, replace(teacher, states=None))
    rows = tuner.data.report.train
    (folder / f"{arm}.json").write_text(json.dumps({"rows": rows, "seconds": seconds, "scores": scores}, default=str))
    print(arm, rows, f"{seconds:.0f} s", {name: scores["after"].get(name) for name in SHOWN})


def _rows(folder: Path) -> tuple[Path, Path]:
    """Real rows for training and measuring, and a few others as examples."""
    from finetune.data.builtin import python_docs

    folder.mkdir(parents=True, exist_ok=True)
    rows = list(islice(python_docs(), 0, 7 * (ROWS + MEASURED + EXAMPLES), 7))  # from all over the library
    parts = {"real.jsonl": rows[EXAMPLES:], "examples.jsonl": rows[:EXAMPLES]}
    for name, part in parts.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder / "real.jsonl", folder / "examples.jsonl"


def _table(folder: Path) -> None:
    found = {arm: json.loads((folder / f"{arm}.json").read_text()) for arm in ARMS if (folder / f"{arm}.json").is_file()}
    print(f"{'rows':<12}{'number':>8}{'seconds':>9}" + "".join(f"{title:>26}" for title in SHOWN.values()))
    sides = {"none": (next(iter(found.values())), "before"), **{arm: (found[arm], "after") for arm in found}}
    for arm, (result, side) in sides.items():
        scores = result["scores"]
        cells = ""
        for name in SHOWN:
            low, high = scores["intervals"][side].get(name, (float("nan"),) * 2)
            cells += f"{scores[side].get(name, float('nan')):>10.3f} [{low:.3f}, {high:.3f}]"
        trained = side == "after"
        print(f"{arm:<12}{result['rows'] if trained else 0:>8}{result['seconds'] if trained else 0:>9.0f}{cells}")
    print("In brackets: 95 % over rows. `none` is the student as it was cut, before training.")


if __name__ == "__main__":
    generated(sys.argv[1], Path(sys.argv[2]))
