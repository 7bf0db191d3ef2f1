"""Two runs side by side: what differed in recipe and surroundings, and whether the scores differ by more than chance.

found = compare(read_run(Path("a")), read_run(Path("b")))
found.recipe["training.epochs"]              # (1.0, 3.0)
found.scores["rougeL"]["verdict"]            # of B: "better", "worse", "no evidence" or "too few rows"
found.costs["tokens_per_second"]             # {"a": 128.0, "b": 170.0}

Scores are compared row by row (over the rows that neither run trained on), so both must have been measured on the same, and answers must
have been allowed the same length. Speeds are set side by side only if they come from the same machine, threads and dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune.benchmark.intervals import QUOTIENTS, change, statistics_of
from finetune.benchmark.names import TASK_SCORE, in_order, independent, is_task, retained, shared, too_few
from finetune.benchmark.student_verdict import verdict_on
from finetune.errors import BadInput
from finetune.foreign import reading
from finetune.recipe import dotted
from finetune.run.history import Run
from finetune.run_folder import REMADE
from finetune.system.shell import quoted

SURROUNDINGS = (
    *("versions", "system", "dataset_fingerprint", "processes"),
    *("machine.cpu", "machine.gpu", "machine.device", "machine.dtype", "machine.threads"),
    "steps_with_fewer_threads",
)
COSTS = {"parameters": "size", "bytes_on_disk": "size", "tokens_per_second": "speed", "peak_memory_bytes": "speed"}  # group of each


@dataclass(frozen=True)
class Comparison:
    """`recipe` and `surroundings` map dotted keys to what A and B have. `scores` has a record for each score that both have: "a", "b", and
    where they can be compared "difference" (B - A), its 95 % interval "low" and "high", and the "verdict" on B; else "why_not".
    `only` has the scores that only one has, and which. `costs` are size, speed and memory, with "why_not" where they were not measured
    alike, and "chance" where the two models have the same shape; `students` what A and B keep of their teachers, in a sentence, and the
    share of its ROUGE-L. `rows` is on how many rows, `about_rows` how those that belong together are taken; `why_not` says why no score
    can be compared, if so.
    """

    a: str
    b: str
    recipe: dict[str, tuple[Any, Any]]
    surroundings: dict[str, tuple[Any, Any]]
    scores: dict[str, dict[str, Any]]
    rows: int
    why_not: str | None
    only: dict[str, str] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    students: dict[str, dict[str, Any]] = field(default_factory=dict)
    about_rows: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(a: Run, b: Run) -> Comparison:
    """Raises BadInput for a run that was not measured yet or cannot be read."""
    for run in (a, b):
        check_scored(run)
    with reading(f"{a.folder.run} or {b.folder.run}", hint=REMADE):
        return _compare(a, b)


def check_scored(run: Run) -> None:
    """Raises BadInput for a run without scores."""
    if not run.scores:
        raise BadInput(
            f"{run.folder.output_dir} has no scores to compare: it is {run.state}{f' ({run.progress})' if run.progress else ''}.",
            hint=f"Finish it with `finetune-cli resume {quoted(run.folder.output_dir)}`, or compare another run.",
        )


def _compare(a: Run, b: Run) -> Comparison:
    why_not = _why_not(a, b)
    sides = {"a": a, "b": b}
    grouped = [run.scores for run in (b, a) if independent(run.scores) < run.scores["rows"]]  # an older run does not say it
    environments = [_surroundings(run) for run in (a, b)]
    return Comparison(
        a=str(a.folder.output_dir),
        b=str(b.folder.output_dir),
        recipe=_differences(a.recipe, b.recipe),
        surroundings={
            key: pair
            for key, pair in _differences(*environments).items()
            if key.startswith(SURROUNDINGS) and not (key == "machine.threads" and None in pair)  # which an older version did not note
        },
        scores=_compared(a, b, comparable=why_not is None),
        rows=int(b.scores["rows"]),
        why_not=why_not,
        only={metric: side for side, run in sides.items() for metric in run.scores["after"] if not _everywhere(metric, a, b)},
        costs=costs_of(a, b),
        about_rows=too_few(grouped[0]) or shared(grouped[0]) if grouped and not why_not else "",
        students={side: said for side, run in sides.items() if (said := _student(run))},
    )


def _surroundings(run: Run) -> dict[str, Any]:
    """What the numbers of a run depend on beside its recipe."""
    training, environment = run.folder.known(run.folder.progress).get("training") or {}, run.folder.known(run.folder.environment)
    machine = dict(environment.get("machine") or {})
    if machine.get("device", "cpu") != "cpu":
        machine.pop("threads", None)  # a GPU does not care
    return {**environment, "machine": machine, "steps_with_fewer_threads": training.get("steps_with_fewer_threads", 0)}


def _everywhere(metric: str, *runs: Run) -> bool:
    return all(metric in run.scores["after"] for run in runs)


def _why_not(a: Run, b: Run) -> str | None:
    """Why the two cannot be compared row by row."""
    first, second = _rows(a), _rows(b)
    for name, run, rows in (("A", a, first), ("B", b, second)):
        if not rows:  # as in what was uploaded of private data
            again = f"finetune-cli benchmark {quoted(run.folder.output_dir)}"
            return f"{name} does not say on which rows it was measured, so there is no verdict; measure it again with `{again}`."
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
            found[metric] |= change(metric, pair[1], pair[0])
        else:
            found[metric]["why_not"] = "row scores were not kept"
    return found


def _not_alike(a: Run, b: Run, metric: str) -> str | None:
    """Why a score of these two models does not measure the same thing."""
    if metric in ("kl", "agreement") and a.teacher != b.teacher:
        return "other teachers"
    if metric in ("perplexity", "kl", "agreement"):
        return "other tokens" if a.scores["per_row"].get("tokens") != b.scores["per_row"].get("tokens") else None
    of = QUOTIENTS[metric][1] if metric in QUOTIENTS else None
    if of and len({str(run.scores["per_row"].get(of)) for run in (a, b)}) > 1:
        return "counted by another version"
    if is_task(metric):
        task = metric.partition(TASK_SCORE)[0]
        about = [next((each for each in run.scores.get("tasks") or [] if each["task"] == task), None) for run in (a, b)]
        return None if about[0] == about[1] else "other rows or another version of the task"
    if metric.startswith("rouge") and a.scores.get("rouge") != b.scores.get("rouge"):
        return "other settings of ROUGE"
    lengths = _answer_lengths(a, b)
    return f"answers of up to {lengths[0]} and {lengths[1]} tokens" if lengths[0] != lengths[1] else None


def _answer_lengths(a: Run, b: Run) -> tuple[Any, Any]:
    """How long answers could be: what was measured with, or else what the recipes ask for. Two that fit the same data are alike."""
    asked = [(run.recipe.get("benchmark") or {}).get("max_new_tokens", "auto") for run in (a, b)]
    if asked == ["auto", "auto"]:
        return "auto", "auto"
    measured = [run.scores.get("max_new_tokens") for run in (a, b)]
    return (measured[0], measured[1]) if None not in measured else (asked[0], asked[1])


def costs_of(a: Run, b: Run) -> dict[str, dict[str, Any]]:
    """Size, speed and memory of both, as far as they were measured, with "why_not" or "chance" where their ratio says nothing."""
    found: dict[str, dict[str, Any]] = {}
    where = [(run.scores.get("measured_on"), ((run.scores.get("speed") or {}).get("after") or {}).get("threads")) for run in (a, b)]
    alike = bool(where[0][0]) and where[0] == where[1]
    for key, group in COSTS.items():
        pair = [((run.scores.get(group) or {}).get("after") or {}).get(key) for run in (a, b)]
        if pair[0] and pair[1]:
            found[key] = {"a": pair[0], "b": pair[1]}
            if group == "speed" and not alike:
                found[key]["why_not"] = "measured on other machines, threads or dtypes"
            elif group == "speed" and _of_one_shape(a, b):
                found[key]["chance"] = True
    return found


def _of_one_shape(a: Run, b: Run) -> bool:
    """Whether the models have the same layers, as those of one recipe with another seed or more epochs have."""
    shapes = [
        (run.recipe.get("model"), (run.recipe.get("method") or {}).get("kind"), (run.scores.get("size") or {}).get("after"))
        for run in (a, b)
    ]
    return shapes[0] == shapes[1]


def _student(run: Run) -> dict[str, Any] | None:
    """What a student keeps of its teacher; None for any other run."""
    found = verdict_on(run.scores)
    return {"verdict": found.word, "said": f"{found.sentence} {found.costs}".strip(), "retention": retained(run.scores)} if found else None


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, in the order of the first; the name of the folder is no difference."""
    first, second = dict(dotted(a)), dict(dotted(b))
    keys = [key for key in dict.fromkeys([*first, *second]) if key != "output_dir"]
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}
