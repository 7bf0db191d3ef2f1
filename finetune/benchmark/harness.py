"""Tasks of EleutherAI's lm-evaluation-harness: found and loaded before any training, so that errors are reported early.

check_tasks(recipe.benchmark)                        # raises RecipeError with the command that installs the package
check_names(recipe.benchmark)                        # and for a task that there is not; reads no rows
tasks = load_tasks(("hellaswag", "my_task.yaml"))    # raises BenchmarkError where there is no such task, or its rows are out of reach
tasks.names, tasks.fingerprint
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune.errors import BenchmarkError, RecipeError
from finetune.foreign import reading
from finetune.formatting import counted
from finetune.hub.reachability import hub_reachable, offline_reason
from finetune.recipe import BenchmarkSpec
from finetune.registry import did_you_mean
from finetune.system.paths import typed_path

PACKAGE = "lm_eval"
INSTALL = "pip install lm_eval"
FILES = (".yaml", ".yml")
FEWSHOT_SEED = 1234  # lm_eval's own, which draws the examples that a task shows first


@dataclass(frozen=True)
class Tasks:
    """`loaded` is what lm_eval's TaskManager gives; `fingerprint` is the same where tasks, their rows and lm_eval are the same."""

    loaded: dict[str, Any]
    fingerprint: str

    @property
    def tasks(self) -> dict[str, Any]:
        """By name, each with its rows; a group's are here too."""
        found: dict[str, Any] = self.loaded["tasks"]
        return found

    def sizes(self) -> dict[str, int]:
        """How many rows each has."""
        return {name: len(task.eval_docs) for name, task in self.tasks.items()}


def check_tasks(spec: BenchmarkSpec) -> None:
    """Raises RecipeError if lm_eval is needed and not installed; looks for no task."""
    if spec.tasks:
        _check_installed()


def check_names(spec: BenchmarkSpec) -> None:
    """Raises RecipeError for tasks that cannot be run for want of lm_eval, and for names that it does not have; reads no rows."""
    if spec.tasks:
        _check_installed()
        with quietly():
            _places(tuple(spec.tasks))


def _check_installed() -> None:
    if find_spec(PACKAGE) is None:
        raise RecipeError("benchmark.tasks needs the package lm_eval, which is not installed.", hint=f"Install it: {INSTALL}")


def rows_of(tasks: Tasks, spec: BenchmarkSpec) -> str:
    """ "hellaswag, 10,042 rows; pets, the first 4 of 6 rows"."""
    said = []
    for name, rows in tasks.sizes().items():
        some = spec.task_rows is not None and spec.task_rows < rows
        said.append(f"{name}, the first {spec.task_rows:,} of {rows:,} rows" if some else f"{name}, {counted(rows, 'row')}")
    return "; ".join(said)


def is_file(task: str) -> bool:
    return Path(task).suffix.lower() in FILES


@lru_cache(maxsize=4)
def load_tasks(names: tuple[str, ...]) -> Tasks:
    """The tasks with their rows; raises RecipeError for a name that lm_eval does not have, BenchmarkError for rows that cannot be had."""
    _check_installed()  # a run may be measured again on another machine
    with quietly():
        offline = not hub_reachable()  # asked first: the libraries try for minutes otherwise
        manager, wanted = _places(names)
        try:
            with reading(", ".join(names), BenchmarkError, hint="Check the task file, or the name.", what="cannot be loaded as a task"):
                loaded = manager.load(wanted)
        except BenchmarkError as error:
            if offline and isinstance(error.__cause__, ConnectionError):
                hint = "Leave out tasks that need it; task files with rows of your own work."
                raise BenchmarkError(f"{str(error.__cause__).partition(' (')[0]}: {offline_reason()}.", hint=hint) from error
            raise
    return Tasks(loaded, _fingerprint(loaded))


@cache
def _manager(*, of_lm_eval: bool) -> Any:
    """What knows the tasks; lm_eval's own take ten seconds to look through."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=of_lm_eval)


def _places(names: tuple[str, ...]) -> tuple[Any, list[str]]:
    """What knows the tasks, and what it finds each by."""
    manager = _manager(of_lm_eval=not all(map(is_file, names)))
    return manager, [_place(name, manager) for name in names]


def _place(name: str, manager: Any) -> str:
    """What lm_eval finds the task by."""
    if is_file(name):
        path = typed_path(name)
        if not path.is_file():
            raise RecipeError(f"There is no task file {name}.", hint="Give its path from the folder in which you start the program.")
        return str(path)
    if name not in manager.task_index:
        raise RecipeError(
            f"lm-evaluation-harness has no task {name!r}.{did_you_mean(name, manager.all_tasks)}", hint="`lm-eval ls tasks` lists them."
        )
    return name


def _fingerprint(loaded: dict[str, Any]) -> str:
    """Of every task its configuration and all of its rows."""
    parts: list[Any] = [version(PACKAGE)]
    for name, task in sorted(loaded["tasks"].items()):
        parts += [name, json.dumps(task.dump_config(), default=str, sort_keys=True)]
        parts += [json.dumps(row, default=str, sort_keys=True) for row in task.eval_docs]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


@contextmanager
def quietly() -> Iterator[None]:
    """lm_eval says for every task what it takes as a default, and datasets draws bars."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    log, no_bars = logging.getLogger(PACKAGE), are_progress_bars_disabled()
    level = log.level
    log.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if not no_bars:
            enable_progress_bars()
