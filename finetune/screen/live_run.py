"""A run with its screen around it: live line, library noise in run/debug.log, and the results.

result = execute(recipe, RuntimeOptions(), people())
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from finetune.errors import Interrupted
from finetune.formatting import quoted
from finetune.recipe import Recipe
from finetune.run.resume import find
from finetune.run_folder import TRAINING, RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen.console import people
from finetune.screen.data import DataScreen
from finetune.screen.keys import still_keys
from finetune.screen.plan_table import CostScreen
from finetune.screen.quiet import quiet
from finetune.screen.reporter import reporter_for
from finetune.screen.results import show_results
from finetune.screen.wording import command_name

if TYPE_CHECKING:
    from finetune.run.finetuner import LLMFineTuner, RunResult


def execute(
    recipe: Recipe, runtime: RuntimeOptions, console: Console, prepared: LLMFineTuner | None = None, upload_follows: bool = False
) -> RunResult:
    """Train and benchmark, then show before and after, samples, and what to do next; raises Interrupted after Ctrl-C.

    `prepared` is a tuner of the same recipe that has read the data already; `upload_follows` says that the upload is asked for next.
    """

    def made() -> LLMFineTuner:
        from finetune.run.finetuner import LLMFineTuner

        return prepared or LLMFineTuner(recipe, runtime=runtime)

    folder = RunFolder(recipe.output_dir)
    folder.check_free()
    # A tuner that is prepared had its data shown with the plan.
    return _carry_out(folder, made, console, upload_follows, show_data=prepared is None)


def resume(output_dir: str | Path, runtime: RuntimeOptions, console: Console, upload_follows: bool = False) -> RunResult:
    """The same for what is left of an interrupted run."""

    def made() -> LLMFineTuner:
        from finetune.run.finetuner import LLMFineTuner

        return LLMFineTuner.unfinished(output_dir, runtime=runtime)

    return _carry_out(RunFolder.of(output_dir), made, console, upload_follows)


def _carry_out(
    folder: RunFolder, made: Callable[[], LLMFineTuner], console: Console, upload_follows: bool, *, show_data: bool = True
) -> RunResult:
    folder.check_unclaimed()
    ours = not folder.output_dir.exists()
    try:
        with still_keys(), _terminated_like_ctrl_c(), reporter_for(console) as reporter, quiet(folder.debug_log):
            tuner = made()
            tuner.reporter.reporters.append(reporter)
            if show_data:
                screen = console if console.is_terminal else people(stderr=True)
                tuner.reporter.reporters += [DataScreen(screen), CostScreen(screen)]
            result = tuner.run()
    except KeyboardInterrupt:
        raise _stopped(folder, ours) from None
    show_results(tuner.recipe, result, console, upload_follows=upload_follows)
    return result


def _stopped(folder: RunFolder, ours: bool) -> Interrupted:
    """What is left after Ctrl-C outside the training, which ends by itself; records without a model would only be in the way."""
    left = find(folder.output_dir)
    if left is None or (ours and left.stage == TRAINING and not left.step):
        if ours:
            shutil.rmtree(folder.output_dir, ignore_errors=True)
        return Interrupted("Stopped before there was a model; nothing was kept.")
    return Interrupted(
        f"Stopped. {folder.output_dir}: {left.progress()}.",
        hint=f"Go on: {command_name()} resume {quoted(folder.output_dir)}",
        saved=folder.output_dir,
    )


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """SIGTERM interrupts like Ctrl-C, so that what is left is said and the exit code is the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
