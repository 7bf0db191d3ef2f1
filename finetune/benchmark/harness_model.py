"""lm-evaluation-harness on a model that is in memory. lm_eval is imported here, so only runs with tasks import this file.

found = measure_tasks(tasks, model, tokenizer, limit=None, reporter=reporter, stage="after")
found.values["hellaswag/acc"], found.per_row["hellaswag/acc"], found.about[0]["rows"]

The prompts are those of the task, without the model's chat template and with as many examples as the task says: lm_eval's own defaults, so
that a number can be compared with those that others publish. The arithmetic is lm_eval's too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

from lm_eval.api import task as task_module
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from finetune.benchmark.harness import FEWSHOT_SEED, PACKAGE, Tasks, quietly
from finetune.benchmark.names import TASK_SCORE
from finetune.errors import BenchmarkError
from finetune.events import Progress, Reporter
from finetune.foreign import reading
from finetune.training.head import causal_lm, context_length

LOGITS_BYTES = 1 << 28  # of a batch of 256 tokens each
MOST_AT_ONCE = 16
REQUESTS = 128  # between two reports of progress; lm_eval sorts these by length


@dataclass
class TaskScores:
    """By `hellaswag/acc` the values, and where they are means over rows also one for each row; `about` says of each task what was run."""

    values: dict[str, float] = field(default_factory=dict)
    per_row: dict[str, list[float]] = field(default_factory=dict)
    about: list[dict[str, Any]] = field(default_factory=list)


class _Loaded(HFLM):  # type: ignore[misc]
    """lm_eval's wrapper around a model as it is, which tells how far it is."""

    def __init__(self, model: Any, tokenizer: Any, reporter: Reporter, stage: str) -> None:
        self._report, self._stage = reporter, stage
        vocabulary = model.get_output_embeddings().weight.shape[0]
        batch = max(1, min(MOST_AT_ONCE, LOGITS_BYTES // (4 * 256 * vocabulary)))
        with _tied_as_it_is(model):
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=context_length(model))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._in_parts(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._in_parts(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        return self._in_parts(super().generate_until, requests)

    def _in_parts(self, do: Callable[..., list[Any]], requests: list[Any]) -> list[Any]:
        done: list[Any] = []
        for start in range(0, len(requests), REQUESTS):
            done += do(requests[start : start + REQUESTS], disable_tqdm=True)
            self._report.report(Progress(self._stage, len(done), len(requests), "requests of the tasks"))
        return done


def measure_tasks(tasks: Tasks, model: Any, tokenizer: Any, *, limit: int | None, reporter: Reporter, stage: str) -> TaskScores:
    """Run the tasks on a model, of each all rows or the first `limit`; raises BenchmarkError for a task that fails."""
    for task in tasks.tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)  # each model is shown the same examples
    names = ", ".join(tasks.tasks)
    with quietly(), _no_bars(), reading(names, BenchmarkError, hint="Leave it out of benchmark.tasks.", what="cannot be run"):
        wrapped = _Loaded(causal_lm(model), tokenizer, reporter, stage)
        found = evaluate(wrapped, tasks.loaded, limit=limit, log_samples=True, bootstrap_iters=0)
    return _read(found)


def _read(found: Mapping[str, Any]) -> TaskScores:
    scores = TaskScores()
    for task, results in {**found["results"], **found.get("groups", {})}.items():
        for key, value in results.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = f"{task}{TASK_SCORE}{metric}{'' if filtered == 'none' else f',{filtered}'}"
            scores.values[name] = float(value)
            rows = _rows(found["samples"].get(task, []), metric, filtered)
            better = found["higher_is_better"].get(task, {}).get(metric)
            if rows and better and math.isclose(sum(rows) / len(rows), value, abs_tol=1e-9):  # it is a mean over rows
                scores.per_row[name] = rows
        if task in found["n-samples"]:
            size = found["n-samples"][task]
            about = {"task": task, "rows": size["effective"], "of": size["original"], "examples": found["n-shot"].get(task, 0)}
            scores.about.append({**about, "version": found["versions"].get(task), PACKAGE: version(PACKAGE)})
    return scores


def _rows(samples: Sequence[Mapping[str, Any]], metric: str, filtered: str) -> list[float]:
    """The metric of each row, in the order of the rows; empty where it has no number for each."""
    rows = sorted((row for row in samples if row["filter"] == filtered), key=lambda row: row["doc_id"])
    values: list[Any] = [row.get(metric) for row in rows]
    return [float(value) for value in values] if all(isinstance(value, int | float) for value in values) else []


@contextmanager
def _tied_as_it_is(model: Any) -> Iterator[None]:
    """lm_eval ties a model's embeddings and head again, which would undo what was trained of one of them."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights


@contextmanager
def _no_bars() -> Iterator[None]:
    """The bars that lm_eval draws while it builds prompts: the engine draws nothing."""
    usual = task_module.tqdm
    task_module.tqdm = partial(usual, disable=True)
    try:
        yield
    finally:
        task_module.tqdm = usual
