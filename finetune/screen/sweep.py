"""Runs a sweep: one run after another, each with its screen, and one table at the end.

rows = run_sweep(combinations(arguments.set, load), runtime, console)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from finetune.errors import BadInput, FinetuneError, Interrupted, TrainingError
from finetune.recipe import dotted
from finetune.run.history import read_run
from finetune.run.several import RunRow, table_of
from finetune.run.sweep import SweepRun
from finetune.run_folder import FINISHED, RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen.live_run import execute, resume
from finetune.screen.several import runs_table

COMPARED = ("approach", "dataset", "method", "distillation", "training", "benchmark", "seed")  # models are pinned, or made


def run_sweep(runs: Sequence[SweepRun], runtime: RuntimeOptions, console: Console) -> list[RunRow]:
    """Do what is left of each run, then show the table; one that fails does not end the others.

    Raises Interrupted at once if a person stops it, TrainingError at the end if a run failed.
    """
    failed: list[tuple[str, FinetuneError]] = []
    for number, run in enumerate(runs, 1):
        console.print(Text(f"\nRun {number} of {len(runs)}: {', '.join(run.overrides)}", style="bold"))
        try:
            _one(run, runtime, console)
        except Interrupted as error:
            hint = "Continue: the same command again; what is finished is kept."
            raise Interrupted(error.message, hint=hint, saved=error.saved) from error
        except FinetuneError as error:
            console.print(Text(f"  {error.message}", style="problem"))
            failed.append((run.name, error))
    done = [run for run in runs if run.name not in [name for name, _ in failed]]
    rows = table_of([read_run(Path(run.recipe.output_dir)) for run in done]) if done else []
    if rows:
        console.print(Text(""), runs_table(rows, console.width))
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(name for name, _ in failed)}.", hint=failed[0][1].message
        )
    return rows


def _one(run: SweepRun, runtime: RuntimeOptions, console: Console) -> None:
    """A run from its beginning or from where it stopped; a finished one is kept if it is of the same recipe."""
    folder = RunFolder(Path(run.recipe.output_dir))
    if folder.stage is None:
        execute(run.recipe, runtime, console)
        return
    if not _same(run, folder):
        raise BadInput(f"{folder.output_dir} has a run of another recipe.", hint="Choose another --output-dir for the sweep.")
    if folder.stage != FINISHED:
        resume(folder.output_dir, runtime, console)
        return
    console.print(f"  {folder.output_dir} is finished; it is kept.", soft_wrap=True)


def _same(run: SweepRun, folder: RunFolder) -> bool:
    """Whether the run there was asked for with the same keys; it has pinned revisions since, and found values for what is `auto`."""
    there, wanted = (dict(dotted(recipe)) for recipe in (read_run(folder.output_dir).recipe, run.recipe.model_dump(mode="json")))
    source = "dataset.source"
    if str(there.pop(source, "")).partition("@")[0] != str(wanted.pop(source)).partition("@")[0]:
        return False
    return all(value in ("auto", there.get(key)) for key, value in wanted.items() if key.startswith(COMPARED))
