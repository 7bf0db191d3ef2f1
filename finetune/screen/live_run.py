"""Runs a recipe with its screen: a live line, library output in run/debug.log, and the results.

result = execute(recipe, RuntimeOptions(), people())
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from finetune.errors import FinetuneError, Interrupted
from finetune.events import Event, Notice, Reporter
from finetune.recipe import Recipe
from finetune.run.resume import find
from finetune.run_folder import FINISHED, RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen.console import people
from finetune.screen.keys import still_keys
from finetune.screen.plan_table import PlanScreen
from finetune.screen.reporter import working
from finetune.screen.results import show_results
from finetune.screen.wording import command_name
from finetune.system.shell import quoted

if TYPE_CHECKING:
    from finetune.run.finetuner import LLMFineTuner, RunResult


def execute(
    recipe: Recipe, runtime: RuntimeOptions, console: Console, prepared: LLMFineTuner | None = None, upload_follows: bool = False
) -> RunResult:
    """Train and benchmark, then show before and after, samples, and what to do next; raises Interrupted after Ctrl-C.

    `prepared` is a tuner of the same recipe that has read the data already; with `upload_follows` no command for it is shown.
    """
    folder = RunFolder(recipe.output_dir)
    folder.check_free()
    # The data of a prepared tuner were shown with the plan.
    return _carry_out(folder, lambda tuner: prepared or tuner(recipe, runtime=runtime), console, upload_follows, show_plan=prepared is None)


def resume(output_dir: str | Path, runtime: RuntimeOptions, console: Console, upload_follows: bool = False) -> RunResult:
    """The same for the rest of an interrupted run."""
    folder = RunFolder.of(output_dir)
    return _carry_out(folder, lambda tuner: tuner.unfinished(output_dir, runtime=runtime), console, upload_follows, show_plan=True)


def _carry_out(
    folder: RunFolder, make: Callable[[type[LLMFineTuner]], LLMFineTuner], console: Console, upload_follows: bool, *, show_plan: bool
) -> RunResult:
    folder.check_unclaimed()
    new, known = not folder.output_dir.exists(), folder.recipe.is_file()
    tuner: LLMFineTuner | None = None
    words = console if console.is_terminal else people(stderr=True)  # while stderr is what it is
    try:
        with still_keys(), working(console, log=folder.debug_log) as reporter:
            from finetune.run.finetuner import LLMFineTuner

            tuner = make(LLMFineTuner)
            tuner.reporter.reporters.append(reporter if show_plan else _New(reporter, tuner.data.report.notes))
            if show_plan:
                tuner.reporter.reporters.append(PlanScreen(words))
            result = tuner.run()
    except KeyboardInterrupt:
        raise _stopped(tuner.folder if tuner else folder, new=new, known=known) from None
    except FinetuneError:
        raise  # its hint says what to do
    except Exception as error:
        if tuner and (saved := _saved(tuner.folder)):
            error.add_note(saved)
        raise
    assert tuner is not None
    show_results(tuner.recipe, result, console, upload_follows=upload_follows)
    return result


@dataclass(frozen=True)
class _New:
    """Passes on what was not shown with the plan."""

    to: Reporter
    shown: Sequence[str]

    def report(self, event: Event) -> None:
        if not (isinstance(event, Notice) and event.text in self.shown):
            self.to.report(event)


def _saved(folder: RunFolder) -> str:
    """What an unexpected error leaves that the run can go on from, and the command that does; empty if there is nothing."""
    try:
        left = find(folder.output_dir) if folder.held else None
    except (FinetuneError, OSError):
        return ""
    if left is None or not left.has_something:
        return ""
    return f"{folder.output_dir}: {left.progress()}. Continue: {command_name()} resume {quoted(folder.output_dir)}"


def _stopped(folder: RunFolder, *, new: bool, known: bool) -> Interrupted:
    """What Ctrl-C outside the training leaves; the training ends by itself.

    Records of a run that has nothing yet are removed where this process made the folder (`new`). One that it has neither held nor `known`
    to be its run may be another's meanwhile: it stays as it is.
    """
    ours = folder.held or known
    left = find(folder.output_dir) if ours else None
    if ours and left is None and folder.stage == FINISHED:
        return Interrupted(
            f"Stopped. The run in {folder.output_dir} is finished.",
            hint=f"Talk with it: {command_name()} chat {quoted(folder.output_dir)}",
            saved=folder.output_dir,
        )
    if left is None or (new and not left.has_something):
        if new and folder.held:
            shutil.rmtree(folder.output_dir, ignore_errors=True)
        again = "Start it again with the same command; what is in the cache is used again."  # such as what a teacher has said so far
        return Interrupted("Stopped before anything was trained.", hint=again)
    return Interrupted(
        f"Stopped. {folder.output_dir}: {left.progress()}.",
        hint=f"Continue: {command_name()} resume {quoted(folder.output_dir)}",
        saved=folder.output_dir,
    )
