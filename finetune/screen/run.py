"""A run with its screen around it: live line, library noise in run/debug.log, and the results.

result = execute(recipe, RuntimeOptions(), people())
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from rich.console import Console

from finetune.errors import Interrupted
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen.console import people
from finetune.screen.data import DataScreen
from finetune.screen.keys import still_keys
from finetune.screen.quiet import quiet
from finetune.screen.reporter import reporter_for
from finetune.screen.results import show_results
from finetune.screen.words import command_name

if TYPE_CHECKING:
    from finetune.finetuner import LLMFineTuner, RunResult


def execute(
    recipe: Recipe, runtime: RuntimeOptions, console: Console, prepared: LLMFineTuner | None = None, upload_follows: bool = False
) -> RunResult:
    """Train and benchmark, then show before and after, samples, and what to do next; raises Interrupted after Ctrl-C.

    `prepared` is a tuner of the same recipe that has read the data already; `upload_follows` says that the upload is asked for next.
    """
    folder = RunFolder(recipe.output_dir)
    ours = not folder.output_dir.exists()
    try:
        with still_keys(), reporter_for(console) as reporter, quiet(folder.debug_log):
            from finetune.finetuner import LLMFineTuner

            tuner = prepared or LLMFineTuner(recipe, runtime=runtime)
            tuner.reporter.reporters.append(reporter)
            if prepared is None:  # otherwise its data were shown with the plan
                tuner.reporter.reporters.append(DataScreen(console if console.is_terminal else people(stderr=True)))
            result = tuner.run()
    except KeyboardInterrupt:
        raise _stopped(folder, ours) from None
    show_results(recipe, result, console, upload_follows=upload_follows)
    return result


def _stopped(folder: RunFolder, ours: bool) -> Interrupted:
    """What is left after Ctrl-C outside the training, which ends by itself; records without a model would only be in the way."""
    if any(folder.output_dir.glob("*.safetensors")):
        return Interrupted(
            f"Stopped; the model in {folder.output_dir} is complete but not measured.",
            hint=f"Measure it: {command_name()} benchmark {folder.output_dir}",
            saved=folder.output_dir,
        )
    if ours and not any(folder.checkpoints.glob("*")):
        shutil.rmtree(folder.output_dir, ignore_errors=True)
    return Interrupted("Stopped before there was a model; nothing was kept.")
