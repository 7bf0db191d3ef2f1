"""Two runs side by side: what differed in recipe and surroundings, and whether the scores differ by more than chance.

found = compare(read_run(Path("a")), read_run(Path("b")))
found.recipe["training.epochs"]              # (1.0, 3.0)
found.scores["rougeL"]["verdict"]            # of B: "better", "worse" or "no evidence"

Scores are compared row by row (paired bootstrap over the rows that neither run trained on), so both must have been measured on the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from finetune.benchmark.bootstrap import change, statistics_of
from finetune.benchmark.names import LOWER_IS_BETTER, in_order
from finetune.errors import BadInput
from finetune.foreign import reading
from finetune.recipe import dotted
from finetune.run.history import Run
from finetune.run_folder import REMADE
from finetune.shell import quoted

SURROUNDINGS = ("versions", "system", "dataset_fingerprint", "machine.cpu", "machine.gpu", "machine.device", "machine.dtype")
DEFAULT_SEED = 42


@dataclass(frozen=True)
class Comparison:
    """`recipe` and `surroundings` map dotted keys to what A and B have. `scores` has a record for each score that both have: "a", "b", and
    where they can be compared "difference" (B - A), its 95 % interval "low" and "high", and the "verdict" on B; else "why_not".
    `rows` is on how many rows; `why_not` says why no score can be compared, if so.
    """

    a: str
    b: str
    recipe: dict[str, tuple[Any, Any]]
    surroundings: dict[str, tuple[Any, Any]]
    scores: dict[str, dict[str, Any]]
    rows: int
    why_not: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(a: Run, b: Run) -> Comparison:
    """Raises BadInput for a run that was not measured yet or cannot be read."""
    for run in (a, b):
        if not run.scores:
            raise BadInput(
                f"{run.folder.output_dir} has no scores to compare: it is {run.state}{f' ({run.progress})' if run.progress else ''}.",
                hint=f"Finish it with `finetune-cli resume {quoted(run.folder.output_dir)}`, or compare another run.",
            )
    with reading(f"{a.folder.run} or {b.folder.run}", hint=REMADE):
        return _compare(a, b)


def _compare(a: Run, b: Run) -> Comparison:
    why_not = _why_not(a, b)
    return Comparison(
        a=str(a.folder.output_dir),
        b=str(b.folder.output_dir),
        recipe=_differences(a.recipe, b.recipe),
        surroundings={key: pair for key, pair in _differences(_environment(a), _environment(b)).items() if key.startswith(SURROUNDINGS)},
        scores=_compared(a, b, comparable=why_not is None),
        rows=int(b.scores["rows"]),
        why_not=why_not,
    )


def _why_not(a: Run, b: Run) -> str | None:
    """Why the two cannot be compared row by row."""
    first, second = _rows(a), _rows(b)
    if first != second:
        shared = len(set(first) & set(second))
        also = f"; {shared:,} are in both" if shared else ""
        return f"A was measured on {len(first):,} rows and B on {len(second):,}, and the rows differ{also}, so there is no verdict."
    for name, run in (("A", a), ("B", b)):
        if not run.scores.get("per_row"):
            again = f"finetune-cli benchmark {quoted(run.folder.output_dir)}"
            return f"{name} has no scores per row: measure it again with `{again}`."
    return None


def _rows(run: Run) -> list[tuple[str, str]]:
    return [(row.get("prompt", ""), row["reference"]) for row in run.scores.get("generations") or []]


def _compared(a: Run, b: Run, *, comparable: bool) -> dict[str, dict[str, Any]]:
    then, now = a.scores["after"], b.scores["after"]
    found: dict[str, dict[str, Any]] = {}
    for metric in in_order([metric for metric in then if metric in now]):
        found[metric] = {"a": then[metric], "b": now[metric]}
        if not comparable:
            continue
        pair = [statistics_of(run.scores["per_row"]).get(metric) for run in (a, b)]
        if reason := _not_alike(a, b, metric):
            found[metric]["why_not"] = reason
        elif pair[0] and pair[1]:
            seed = int(a.recipe.get("seed", DEFAULT_SEED))
            lower = metric in LOWER_IS_BETTER
            found[metric] |= change(pair[1], pair[0], rows=int(a.scores["rows"]), seed=seed, lower_is_better=lower)
        else:
            found[metric]["why_not"] = "row scores were not kept"
    return found


def _not_alike(a: Run, b: Run, metric: str) -> str | None:
    """Why a score of these two models does not measure the same thing."""
    if metric in ("kl", "agreement") and a.teacher != b.teacher:
        return "other teachers"
    if not metric.startswith("rouge") and a.scores["per_row"].get("tokens") != b.scores["per_row"].get("tokens"):
        return "other tokens"
    return None


def _environment(run: Run) -> Mapping[str, Any]:
    path = run.folder.environment
    return run.folder.read_json(path) if path.is_file() else {}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, in the order of the first; the name of the folder is no difference."""
    first, second = dict(dotted(a)), dict(dotted(b))
    keys = [key for key in dict.fromkeys([*first, *second]) if key != "output_dir"]
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}
