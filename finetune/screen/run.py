"""A run with its screen around it: live line, library noise in run/debug.log, and the results.

result = execute(recipe, RuntimeOptions(), people())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.screen.keys import still_keys
from finetune.screen.quiet import quiet
from finetune.screen.reporter import reporter_for
from finetune.screen.results import show_results

if TYPE_CHECKING:
    from finetune.finetuner import LLMFineTuner, RunResult


def execute(
    recipe: Recipe, runtime: RuntimeOptions, console: Console, prepared: LLMFineTuner | None = None, upload_follows: bool = False
) -> RunResult:
    """Train and benchmark, then show before and after, samples, and what to do next.

    `prepared` is a tuner of the same recipe that has read the data already; `upload_follows` says that the upload is asked for next.
    """
    with still_keys(), reporter_for(console) as reporter, quiet(RunFolder(recipe.output_dir).debug_log):
        from finetune.finetuner import LLMFineTuner

        tuner = prepared or LLMFineTuner(recipe, runtime=runtime)
        tuner.reporter.reporters.append(reporter)
        result = tuner.run()
    show_results(recipe, result, console, upload_follows=upload_follows)
    return result
