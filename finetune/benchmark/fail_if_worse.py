"""`--fail-if-worse METRIC`: an exit code for programs that decide by a score.

    check_gate("rougeL", recipe)          # before the work: raises BadInput for a score that this run does not measure
    gate(scores, "rougeL")                # after it: raises BenchmarkError if the score is worse than before the training

Worse means what the verdict means: the 95 % interval of the paired difference leaves out zero, on the bad side. Where no verdict is
possible the run does not fail, and the sentence that is returned says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.benchmark.fitting import KINDS
from finetune.benchmark.names import NAMES, is_task, number, signed, too_few
from finetune.errors import BadInput, BenchmarkError
from finetune.recipe import Recipe
from finetune.registry import did_you_mean

MADE_BY = {"rouge": ("rouge1", "rouge2", "rougeL"), "json": ("json_fields", "valid_json")}  # scores that are not called like their metric


def measured_by(recipe: Recipe) -> list[str]:
    """The scores that a run of this recipe may have."""
    asked = recipe.benchmark.metrics
    possible = {*asked, *(name for *_, names in KINDS for name in names if "rouge" in asked)}
    found = [name for name in NAMES if name in possible or any(name in MADE_BY.get(metric, ()) for metric in possible)]
    found += ["copied"] if any(name != "perplexity" for name in asked) else []
    found += ["kl", "agreement"] if recipe.approach == "distillation" else []
    return [*found, *(name for name in asked if name not in NAMES and name not in MADE_BY)]


def check_gate(metric: str, recipe: Recipe) -> None:
    known = measured_by(recipe)
    if metric not in known and not (is_task(metric) and recipe.benchmark.tasks):  # what a task measures, only lm_eval knows
        raise BadInput(f"This run does not measure {metric}.{did_you_mean(metric, known)}", hint=f"It measures {', '.join(known)}.")


def gate_models(found: Mapping[str, Any], metric: str) -> str | None:
    """The same of the second of two models that were measured (finetune/run/measured.py) against the first."""
    first, second = (each["scores"] for each in found["models"])
    changes = {name: each for name, each in found["against_first"]["B"].items() if "verdict" in each}
    per_row = found["models"][0]["per_row"]
    return gate({"rows": found["rows"], "per_row": per_row, "before": first, "after": second, "change": changes}, metric, than="A")


def gate(scores: Mapping[str, Any], metric: str, *, than: str = "before") -> str | None:
    """Why the score could not be judged, or None; raises BenchmarkError if it is worse."""
    name, change = NAMES.get(metric, metric), (scores.get("change") or {}).get(metric)
    if not change:
        how = "row by row" if metric in (scores.get("after") or {}) else "on these rows"
        return f"{name}: not measured {how}, so not judged."
    if change["verdict"] == "too few rows":
        return f"{name} was not judged. {too_few(scores, change.get('rows'))}"
    if change["verdict"] == "worse":
        before, after = (number(metric, scores[side][metric]) for side in ("before", "after"))
        ends = f"[{signed(metric, change['low'])}, {signed(metric, change['high'])}]"
        raise BenchmarkError(f"{name} is worse than {than}: {before} to {after} {ends}.", hint="Asked for by --fail-if-worse.")
    return None
