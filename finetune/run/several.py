"""Several runs in one table: what differs, quality, size, speed, time; each compared with the first.

for row in table_of([read_run(folder) for folder in folders]):
    row.letter, row.differs, row.scores["rougeL"], row.against_first["rougeL"]     # "B", {"training.epochs": 3.0}, 0.51, "better"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune.benchmark.student_verdict import kept_of, verdict_on
from finetune.errors import BadInput
from finetune.foreign import reading
from finetune.recipe import dotted
from finetune.run.comparison import check_scored, compare, costs_of
from finetune.run.history import Run
from finetune.run_folder import REMADE

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class RunRow:
    """`differs` has the keys of the recipe that are not the same in all runs; `against_first` the verdict on each score that can be
    compared with the first run's, empty for the first. `kept` is the share of the teacher's answers (kept_of), `student` the word on it.
    `alike` is whether speed and memory were measured as the first run's were. What is not known is None."""

    letter: str
    output_dir: str
    differs: dict[str, Any]
    scores: dict[str, float]
    against_first: dict[str, str]
    why_not: str | None
    kept: float | None
    student: str | None
    parameters: int | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    train_seconds: float | None
    alike: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def table_of(runs: Sequence[Run]) -> list[RunRow]:
    """Raises BadInput for a run without scores, or more runs than letters."""
    if len(runs) > len(LETTERS):
        raise BadInput(f"At most {len(LETTERS)} runs fit into a table, not {len(runs)}.", hint="Leave some of them out.")
    for run in runs:
        check_scored(run)
    recipes = [dict(dotted(run.recipe)) for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key != "output_dir")
    different = [key for key in keys if any(recipe.get(key) != recipes[0].get(key) for recipe in recipes)]
    rows = []
    for letter, run, recipe in zip(LETTERS, runs, recipes, strict=False):
        with reading(run.folder.run, hint=REMADE):
            rows.append(_row(letter, run, runs[0], {key: recipe.get(key) for key in different}))
    return rows


def _row(letter: str, run: Run, first: Run, differs: dict[str, Any]) -> RunRow:
    compared = compare(first, run)
    costs = costs_of(first, run)
    student, kept = verdict_on(run.scores), kept_of(run.scores)[1]
    after = {group: ((run.scores.get(group) or {}).get("after") or {}) for group in ("size", "speed")}
    training = run.folder.known(run.folder.progress).get("training")
    return RunRow(
        letter=letter,
        output_dir=str(run.folder.output_dir),
        differs=differs,
        scores=dict(run.scores["after"]),
        against_first={} if run is first else {name: score["verdict"] for name, score in compared.scores.items() if "verdict" in score},
        why_not=compared.why_not,
        kept=kept["value"] if kept else None,
        student=student.word if student else None,
        parameters=after["size"].get("parameters"),
        tokens_per_second=after["speed"].get("tokens_per_second"),
        peak_memory_bytes=after["speed"].get("peak_memory_bytes"),
        train_seconds=(training or {}).get("train_seconds"),
        alike=not any("why_not" in cost for cost in costs.values()),
    )
