"""REVIEW: the plan, and the question whether to start.

recipe, decision = ask(recipe, prompter, here)      # START, CHANGE, SAVE, QUIT, ...
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.rows import TooManyBadRows
from finetune.errors import FinetuneError
from finetune.formatting import epochs, size
from finetune.recipe import Recipe, schema
from finetune.runtime import RuntimeOptions
from finetune.screen.console import people
from finetune.screen.data import data_report
from finetune.screen.plan_table import review
from finetune.screen.reporter import working
from finetune.screen.wording import about, command_name
from finetune.system.paths import looking_at, typed_path
from finetune.system.shell import quoted
from finetune.system.stopping import until_ctrl_c
from finetune.training.step_count import rows_of_step
from finetune.wizard import preload
from finetune.wizard.asking.dropped import dropped
from finetune.wizard.asking.prompter import Choice, Prompter, hint
from finetune.wizard.draft import shown
from finetune.wizard.error_words import USUAL, in_words, step_of, without_setting
from finetune.wizard.host import HostInfo
from finetune.wizard.rows.data_preview import state

if TYPE_CHECKING:
    from finetune.planning.estimate import Plan
    from finetune.planning.fixes import MemoryFix
    from finetune.run.finetuner import LLMFineTuner

MORE_READY = (
    "Above is what will happen and what it takes. Start trains now and measures the result.\n"
    "Change something goes back to one step; all other answers stay. Save the recipe only writes a file that runs without questions.\n"
    "Quit keeps your answers for the next time."
)
MORE_CHANGE = "The questions of that step are asked again, with your answers as defaults; all other answers stay."
MORE_GPUS = "Each GPU trains on an equal share of the rows of every step, so the result is the same; more of them take less time."
START, MEASURE, GPUS, CHANGE, SAVE, QUIT = "start", "measure", "gpus", "change", "save", "quit"
SKIP_ROWS = "skip rows"  # that cannot be used, though they are many
Changes = dict[str, Any]
Prepared = tuple["LLMFineTuner", "Plan"]
Key = tuple[str, int | None, object]  # of a recipe, of how many processes train, and of the files it reads
REMEMBERED = 4  # recipes, each with its data


def ask(recipe: Recipe, prompter: Prompter, here: HostInfo) -> tuple[Recipe, str | Changes, int]:
    """Show the plan and ask what to do; starting is offered only if the run can work.

    The decision is START, MEASURE, GPUS, CHANGE, SAVE or QUIT, or the changes to the recipe that were agreed to; with it comes the step
    where a fault can be mended.
    """
    prepared = prepare(recipe, here.runtime)
    prompter.step(None, "REVIEW")
    first: list[Choice] = []
    changes: dict[str, Changes] = {}
    unfit, step = True, USUAL
    if isinstance(prepared, FinetuneError):
        step = step_of(prepared, recipe)
        prompter.note([("class:problem", prepared.message), *hint(prepared, recipe.approach)])
        if isinstance(prepared, TooManyBadRows) and prepared.share < 1:
            changes[SKIP_ROWS] = {"dataset": {"bad_rows": prepared.share}}
            first.append(Choice(SKIP_ROWS, "Skip these rows and use the rest"))
        if here.runtime.processes and here.glance.gpus > 1:  # which may be what is wrong
            first.append(Choice(GPUS, "Use as many GPUs as can share a step", f"instead of {here.runtime.processes}"))
    else:
        tuner, found = prepared
        report = tuner.data.report.to_dict()
        prompter.show(data_report({**report, "notes": [*map(without_setting, report["notes"])]}, in_words=prompter.in_words))
        problems, warnings, notes = (
            [in_words(said, recipe.approach) for said in part] for part in (found.problems, found.warnings, found.notes)
        )
        prompter.show(review(tuner.recipe, replace(found, problems=problems, warnings=warnings, notes=notes)))
        unfit = bool(found.problems)
        step = step_of(found.problems[0], recipe) if unfit else USUAL
        for number, fix in enumerate(_fixes(tuner, found)):
            changes[str(number)] = fix.changes
            first.append(Choice(str(number), f"Use {fix.text}", f"{size(fix.memory_total)} of memory"))
        first.append(Choice(START, "Start anyway" if unfit else "Start", about(found.seconds)))
        if not found.measured and not found.making:
            first.append(Choice(MEASURE, "Measure first", "runs a few real steps; about 20 seconds"))
        if found.gpus > 1 and not tuner.context.alone:
            first.append(Choice(GPUS, "Use another number of GPUs", f"now {found.processes} of {found.gpus}"))
    choices = [*first, Choice(CHANGE, "Change something"), Choice(SAVE, "Save the recipe only"), Choice(QUIT, "Quit")]
    proposed = choices[0].value
    answer = prompter.select(
        "review", "Ready?", choices, default=CHANGE if unfit and proposed in (START, SKIP_ROWS, GPUS) else proposed, more=MORE_READY
    )
    return recipe, changes.get(answer, answer), step


def _fixes(tuner: LLMFineTuner, found: Plan) -> list[MemoryFix]:
    """What would make the run fit, if it does not."""
    if found.memory_total <= found.free_memory:
        return []
    from finetune.planning.fixes import memory_fixes

    return memory_fixes(tuner.context, found)


def measure(recipe: Recipe, here: HostInfo) -> None:
    """Make a few real steps; the review then uses their estimate. Ctrl-C only ends these."""
    prepared = prepare(recipe, here.runtime)
    if isinstance(prepared, FinetuneError):
        return  # a file has changed since; the review says what is wrong now
    tuner, _ = prepared
    with until_ctrl_c(), working(people(), "Measuring a few real steps") as reporter:
        tuner.reporter.reporters.append(reporter)
        try:
            _prepared[_key(recipe, here.runtime)] = tuner, tuner.plan(measure=True)
        finally:
            tuner.reporter.leave_out(reporter)


def ask_gpus(recipe: Recipe, prompter: Prompter, here: HostInfo) -> None:
    """How many GPUs train; those are offered that a step's rows can be shared among. As many as can where the number was wrong."""
    prepared = prepare(recipe, here.runtime)
    if isinstance(prepared, FinetuneError):
        here.runtime = replace(here.runtime, processes=None)
        return
    _, found = prepared
    rows = rows_of_step(recipe.training)
    choices = [
        Choice(str(number), str(number), f"{rows // number} of the {rows} rows of a step each")
        for number in range(1, found.gpus + 1)
        if rows % number == 0
    ]
    chosen = prompter.select("gpus", "GPUs", choices, default=str(found.processes), more=MORE_GPUS)
    here.runtime = replace(here.runtime, processes=int(chosen))


def ask_step(recipe: Recipe, prompter: Prompter, start: int = USUAL) -> int:
    """Which step to answer again; the list begins at `start`, where the fault is."""
    training = recipe.training
    choices = [
        Choice("0", "Approach", recipe.approach),
        Choice("1", "Models", recipe.model if isinstance(recipe.model, str) else "made from the teacher"),
        Choice("2", "Dataset", recipe.dataset.source),
        Choice("3", "Configuration", f"{recipe.method.kind}, {recipe.output_dir}"),
        Choice("4", "Training", f"{epochs(training.epochs)}, batch {training.batch_size}, rate {shown(training.learning_rate)}"),
        Choice("5", "Benchmark", f"{recipe.benchmark.rows} rows"),
    ]
    return int(prompter.select("change", "Change what?", choices, default=str(start), more=MORE_CHANGE))


def save(recipe: Recipe, prompter: Prompter) -> None:
    """Write the recipe under a name that is free."""
    number = ""  # each question is its own
    while True:
        path = typed_path(prompter.text(f"recipe_file{number}", "Save as", default=_free("recipe"), check=_file_problem, read=dropped))
        try:
            schema.save(recipe, path)
            break
        except OSError as error:
            prompter.note([("class:problem", f"{path} cannot be written: {error.strerror or error}.")])
            number = f"-{int(number[1:] or 1) + 1}"
    prompter.note([("class:quiet", "Saved. To run it:\n"), ("class:command", f"{command_name()} run {quoted(path)}")])


def prepare(recipe: Recipe, runtime: RuntimeOptions) -> Prepared | FinetuneError:
    """A tuner that has read the data of a recipe, and its plan, remembered until a file changes; or the error it ended in."""
    key = _key(recipe, runtime)
    if key not in _prepared:
        try:
            prepared = _prepare(recipe, runtime)
        except FinetuneError as error:
            return error
        while len(_prepared) >= REMEMBERED:
            _prepared.pop(next(iter(_prepared)))
        _prepared[key] = prepared
    return _prepared[key]


_prepared: dict[Key, Prepared] = {}


def _key(recipe: Recipe, runtime: RuntimeOptions) -> Key:
    return recipe.model_dump_json(), runtime.processes, state(recipe.dataset.source)


def _prepare(recipe: Recipe, runtime: RuntimeOptions) -> Prepared:
    with working(people(), "Planning") as reporter:
        preload.wait()
        from finetune.run.finetuner import LLMFineTuner

        tuner = LLMFineTuner(recipe, runtime=runtime)
        tuner.reporter.reporters.append(reporter)
        tuner.check()
        found = tuner.plan()
        tuner.reporter.leave_out(reporter)  # the run has one of its own
        return tuner, found


def _free(name: str) -> str:
    number = 1
    while Path(shown := f"{name}.yaml" if number == 1 else f"{name}-{number}.yaml").exists():
        number += 1
    return shown


def _file_problem(text: str) -> str | None:
    path = typed_path(text)
    with looking_at(path):
        if path.exists():
            return f"{text} exists already; nothing is overwritten."
        return None if path.parent.is_dir() else f"There is no folder {path.parent}."
