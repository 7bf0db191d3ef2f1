"""Any models on any rows, one after another: the scores that a run has, for models from anywhere.

recipe = recipe_of(["gpt2", "./finetuned_model"], "questions.jsonl", ["benchmark.rows=200"])
found = measure_models(["gpt2", "./finetuned_model"], recipe, runtime, reporter)
found["models"][1]["scores"]["rougeL"], found["against_first"]["B"]["rougeL"]["verdict"]      # 0.51, "better"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from finetune.benchmark.harness import check_tasks
from finetune.benchmark.intervals import change
from finetune.benchmark.names import is_task
from finetune.benchmark.scoring import Scores, benchmark_model, generations, intervals
from finetune.data.reading import Rows, read_rows
from finetune.data.to_measure import ToMeasure, drawn, to_measure
from finetune.errors import BadInput, EmptyDataset, RecipeError
from finetune.events import Fanout, Notice, Reporter
from finetune.formatting import counted
from finetune.methods.lora_kernel import speed_up
from finetune.models.load import load_model, load_tokenizer
from finetune.models.location import LocatedModel, locate
from finetune.recipe import Recipe, dotted, parse_override
from finetune.run.chat import asked_to_think
from finetune.run.check import find_tasks
from finetune.run.several import LETTERS
from finetune.run_context import RunContext
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions
from finetune.system.library_warnings import hush

PARTS = ("dataset", "benchmark", "seed")  # of a recipe: what says on which rows, and how, a model is measured
OF_RUNS = ("dataset.held_out", "dataset.eval_split", "dataset.answers", "benchmark.speed")


def recipe_of(models: Sequence[str], data: str, overrides: Sequence[str]) -> Recipe:
    """What is measured and how; raises BadInput for too many models or a key that only a run has, RecipeError for a wrong value."""
    if len(models) > len(LETTERS):
        raise BadInput(f"At most {len(LETTERS)} models can be measured at once, not {len(models)}.", hint="Leave some of them out.")
    layers = [parse_override(text) for text in overrides]
    for key, _ in chain.from_iterable(dotted(layer) for layer in layers):
        if key.partition(".")[0] not in PARTS or key in OF_RUNS:
            raise BadInput(f"{key} has no effect on a measurement.", hint="--set takes keys of dataset and benchmark here, and seed.")
    return Recipe.from_layers({"model": models[0], "dataset": {"source": data, "samples": None}}, *layers)


@dataclass(frozen=True)
class Measured:
    """One model: its letter, what it was called, what was found, and its rows in its own tokens."""

    letter: str
    located: LocatedModel
    rows: list[dict[str, Any]]
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        scores = self.scores
        return {
            "letter": self.letter,
            "model": self.located.pinned,
            "note": self.located.note,
            "parameters": scores.parameters,
            "scores": scores.values,
            "intervals": intervals(scores),
            "tokens_counted": scores.counted,
            "max_new_tokens": scores.max_new_tokens,
            "endless": scores.endless,
            "per_row": {key: [round(value, 6) for value in values] for key, values in scores.row_scores().items()},
            "generations": generations({"answer": scores}),
        }


def measure_models(models: Sequence[str], recipe: Recipe, runtime: RuntimeOptions, reporter: Reporter) -> dict[str, Any]:
    """The scores of each, and of all but the first the paired changes against the first; rows that one model cannot take are left out.

    Raises what locating, loading and reading raise: everything that can be found before the first model is loaded is found then.
    """
    hush()
    check_tasks(recipe.benchmark)
    context = RunContext(recipe, runtime, Fanout(reporter))
    located = [locate(name, runtime, reporter) for name in models]
    find_tasks(context)
    rows = read_rows(recipe.dataset, runtime, reporter)
    chosen = drawn(rows, recipe.dataset, most=recipe.benchmark.rows, seed=recipe.seed)
    tokenizers = [load_tokenizer(each) for each in located]
    encoded = [
        to_measure(rows, chosen, recipe.dataset, tokenizer, thinking=_thinking(each))
        for each, tokenizer in zip(located, tokenizers, strict=True)
    ]
    fitting = [place for place in range(len(chosen)) if all(each.rows[place] for each in encoded)]
    refused = [f"{each.name}, {row}" for each, found in zip(located, encoded, strict=True) for row in found.refused]
    if not fitting:
        raise EmptyDataset(f"No row can be measured ({refused[0]}).", hint="Raise dataset.max_length, or give other rows.")
    for sentence in chain(_said(rows, recipe, len(chosen), encoded, refused, len(chosen) - len(fitting)), _known(located, recipe)):
        reporter.report(Notice(sentence))
    measured = []
    for letter, each, tokenizer, found in zip(LETTERS, located, tokenizers, encoded, strict=False):
        own = [row for place in fitting for row in found.rows[place]]
        with context.stage("load", f"Loading {each.name}"):
            model = load_model(each, context.machine, load_in=each.base_load_in, merge=False)
            speed_up(model)  # an adapter is measured with the arithmetic it was trained with
        with context.stage(letter, f"Measuring {each.name}"):
            scores = benchmark_model(model, tokenizer, own, recipe.benchmark, seed=recipe.seed, reporter=reporter, stage=letter)
        del model  # before the next is loaded
        measured.append(Measured(letter, each, own, scores))
    return _document(measured, rows, recipe)


def _thinking(located: LocatedModel) -> bool | None:
    """As an earlier run asked it; None for a model of no run."""
    return asked_to_think(located.folder) if RunFolder(located.folder).recipe.is_file() else None


def _said(rows: Rows, recipe: Recipe, chosen: int, encoded: Sequence[ToMeasure], refused: Sequence[str], left_out: int) -> Iterator[str]:
    """What has to be known of the rows."""
    facts = rows.facts
    if chosen < len(rows):
        more = f"--set benchmark.rows={len(rows)} measures all"
        yield f"{chosen:,} of the {len(rows):,} rows are measured, drawn with seed {recipe.seed}; {more}."
    if facts.skipped_rows:
        first = facts.skipped_rows[0]
        yield f"{counted(facts.skipped, 'row')} cannot be used, such as {first.file} line {first.line}: {first.reason}."
    if left_out:
        yield f"{counted(left_out, 'row', 'are')} left out for every model, because one of them cannot take it, such as {refused[0]}."
    if cut := max(each.cut for each in encoded):
        yield f"{counted(cut, 'row', 'are')} longer than {recipe.dataset.max_length} tokens and cut; --set dataset.max_length=N takes more."


def _known(located: Sequence[LocatedModel], recipe: Recipe) -> Iterator[str]:
    """Which models are of runs that trained on these rows: their scores are better than on rows that they never saw."""
    for each in located:
        trained = RunFolder(each.folder).recipe
        try:
            source = Recipe.load(trained).dataset.source if trained.is_file() else ""
        except RecipeError:  # of another version; the model can be measured all the same
            continue
        if source and same_rows(source, recipe.dataset.source):
            yield (
                f"{each.name} was trained on rows of {recipe.dataset.source}, so its scores here are likely better than on new rows; "
                f"without --data it is measured on the rows that its training did not see."
            )


def same_rows(one: str, other: str) -> bool:
    """Whether two names of data mean the same: a Hub id, whatever its revision, or a file seen from this folder."""
    return one == other or one.startswith(f"{other}@") or Path(one).resolve() == Path(other).resolve()


def _document(measured: Sequence[Measured], rows: Rows, recipe: Recipe) -> dict[str, Any]:
    first, *others = measured
    return {
        "data": rows.facts.pinned or rows.facts.origin,
        "rows": first.scores.rows,
        "usable_rows": len(rows),
        "seed": recipe.seed,
        "models": [each.to_dict() for each in measured],
        "tasks": first.scores.tasks,
        "against_first": {each.letter: _against(each, first) for each in others},
    }


def _against(now: Measured, first: Measured) -> dict[str, dict[str, Any]]:
    """Of each score that both have the paired change, or under "why_not" why the two cannot be compared."""
    new, old = now.scores.statistics(), first.scores.statistics()
    found: dict[str, dict[str, Any]] = {}
    for metric in old:
        if metric in new:
            reason = _not_alike(metric, now, first)
            found[metric] = {"why_not": reason} if reason else change(metric, new[metric], old[metric])
    return found


def _not_alike(metric: str, now: Measured, first: Measured) -> str | None:
    """Why a score of these two models does not measure the same thing."""
    if is_task(metric):
        return None  # both have just run it
    if metric == "perplexity":
        return None if [row["labels"] for row in now.rows] == [row["labels"] for row in first.rows] else "other tokens"
    asked: list[list[tuple[str, str]]] = [list(zip(each.scores.prompts, each.scores.references, strict=True)) for each in (now, first)]
    return None if asked[0] == asked[1] else "other blocks of the text"
