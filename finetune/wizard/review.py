"""REVIEW: what would happen, and the last word before the long work.

recipe, decision = ask(recipe, prompter, here)      # START, CHANGE, SAVE or QUIT
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.rows import TooManyBadRows
from finetune.errors import FinetuneError
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.screen.console import people
from finetune.screen.data import data_report
from finetune.screen.quiet import quiet
from finetune.screen.reporter import reporter_for
from finetune.screen.review import review
from finetune.screen.words import about, command_name
from finetune.wizard import warm
from finetune.wizard.here import Here
from finetune.wizard.prompter import Choice, Prompter, hint
from finetune.words import size

if TYPE_CHECKING:
    from finetune.finetuner import LLMFineTuner
    from finetune.planning import WayOut
    from finetune.training.plan import Plan

START, MEASURE, CHANGE, SAVE, QUIT = "start", "measure", "change", "save", "quit"
SKIP_ROWS = "skip rows"  # that cannot be used, though they are many


def ask(recipe: Recipe, prompter: Prompter, here: Here) -> tuple[Recipe, str]:
    """Show the plan and ask what to do; starting is offered only if the run can work.

    The decision is START, MEASURE, CHANGE, SAVE, QUIT, SKIP_ROWS, or the number of a way out in `ways_of`.
    """
    tuner, found = _newest(recipe, here)
    prompter.step(None, "REVIEW")
    start: list[Choice] = []
    if tuner is None or isinstance(found, FinetuneError):
        assert isinstance(found, FinetuneError)
        prompter.note([("class:problem", found.message), *hint(found)])
        start = [Choice(SKIP_ROWS, "Skip these rows and use the others")] if bad_rows(recipe, here) else []
    else:
        prompter.show(data_report(tuner.data.report.to_dict()))
        prompter.show(review(recipe, found))
        ways = [(f"Use {way.text}", f"{size(way.memory_total)} of memory") for way in ways_of(recipe, here)]
        start = [Choice(str(number), text, memory) for number, (text, memory) in enumerate(ways)]
        start.append(Choice(START, "Start all the same" if found.problems else "Start", about(found.seconds)))
        if not found.measured:
            start.append(Choice(MEASURE, "Measure first", "a few real steps; 20 seconds at most"))
    choices = [*start, Choice(CHANGE, "Change something"), Choice(SAVE, "Save the plan only"), Choice(QUIT, "Quit")]
    unfit = start and start[0].value == START and not isinstance(found, FinetuneError) and found.problems
    default = CHANGE if unfit or choices[0].value == SKIP_ROWS else choices[0].value
    return recipe, prompter.select("review", "Ready?", choices, default=default)


def ways_of(recipe: Recipe, here: Here) -> list[WayOut]:
    """What would make the run fit, if it does not."""
    tuner, found = _newest(recipe, here)
    if tuner is None or isinstance(found, FinetuneError) or found.memory_total <= found.free_memory:
        return []
    from finetune.planning import ways_out

    return ways_out(tuner, found)


def measure(recipe: Recipe, here: Here) -> None:
    """Make a few real steps; the review then goes by them. Ctrl-C only ends these."""
    tuner, _ = prepare(recipe.to_yaml(), here.runtime)
    assert tuner is not None, "what cannot be prepared is not offered to be measured"
    with reporter_for(people(), brief="Measuring a few real steps") as reporter, quiet(None):
        tuner.reporter.reporters.append(reporter)
        try:
            _measured[recipe.to_yaml()] = tuner.plan(measure=True)
        except KeyboardInterrupt:
            pass
        finally:
            tuner.reporter.reporters.remove(reporter)


_measured: dict[str, Plan] = {}  # by recipe, as long as the wizard runs


def _newest(recipe: Recipe, here: Here) -> tuple[LLMFineTuner | None, Plan | FinetuneError]:
    tuner, found = prepare(recipe.to_yaml(), here.runtime)
    return tuner, _measured.get(recipe.to_yaml(), found)


def bad_rows(recipe: Recipe, here: Here) -> float | None:
    """The share of rows that cannot be used, if that is what the run ended in."""
    _, found = prepare(recipe.to_yaml(), here.runtime)
    return found.share if isinstance(found, TooManyBadRows) else None


def ask_step(recipe: Recipe, prompter: Prompter) -> int:
    """Which step to answer again."""
    training = recipe.training
    choices = [
        Choice("0", "Approach", recipe.approach),
        Choice("1", "Models", recipe.model if isinstance(recipe.model, str) else "made from the teacher"),
        Choice("2", "Dataset", recipe.dataset.source),
        Choice("3", "Configuration", f"{recipe.method.kind}, {recipe.output_dir}"),  # type: ignore[attr-defined]
        Choice("4", "Training", f"{training.epochs:g} epochs, batch {training.batch_size}, rate {training.learning_rate:g}"),
        Choice("5", "Benchmark", f"{recipe.benchmark.rows} rows"),
    ]
    return int(prompter.select("change", "Change what?", choices, default="4"))


def save(recipe: Recipe, prompter: Prompter) -> None:
    """Write the recipe under a name that is free."""
    path = Path(prompter.text("recipe_file", "Save as", default=_free("recipe"), validate=_file_problem))
    recipe.save(path)
    prompter.note([("class:quiet", "Saved. To run it:\n"), ("class:command", f"{command_name()} run {path}")])


@lru_cache(maxsize=4)
def prepare(recipe: str, runtime: RuntimeOptions) -> tuple[LLMFineTuner | None, Plan | FinetuneError]:
    """A tuner that has read the data of a recipe (in YAML), and its plan or the error it ended in; remembered for going back and forth."""
    import yaml

    console = people()
    try:
        with reporter_for(console, brief="Working out the plan") as reporter, quiet(None):
            warm.wait()
            from finetune.finetuner import LLMFineTuner

            tuner = LLMFineTuner(Recipe.from_layers(yaml.safe_load(recipe)), reporter=reporter, runtime=runtime)
            tuner.check()
            return tuner, tuner.plan()
    except FinetuneError as error:
        return None, error


def _free(name: str) -> str:
    number = 1
    while Path(shown := f"{name}.yaml" if number == 1 else f"{name}-{number}.yaml").exists():
        number += 1
    return shown


def _file_problem(text: str) -> str | None:
    path = Path(text)
    if path.exists():
        return f"{text} exists; nothing is overwritten."
    return None if path.parent.is_dir() else f"There is no folder {path.parent}."
