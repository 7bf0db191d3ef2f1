"""Models that are measured on the same rows, on a screen: a column for each, and what can be said of all but the first.

found, picture = measure(["gpt2", "./finetuned_model"], "questions.jsonl", [], runtime, console)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from finetune.benchmark.names import about_tasks, between, by_letters, by_verdict, endless, in_order, number, shared, signed, too_few
from finetune.errors import BadInput
from finetune.formatting import count, strip_control_chars
from finetune.runtime import RuntimeOptions
from finetune.screen.tables import NARROW, block, in_words, legend, score_table, table_width, verdict


def measure(
    models: Sequence[str], data: str, overrides: Sequence[str], runtime: RuntimeOptions, console: Console, *, judge: str | None = None
) -> tuple[dict[str, Any], RenderableType]:
    """Measure them, and show how far it is; what was found, and its picture. `judge` is the score by which B may fail against A."""
    from finetune.screen.reporter import working

    with working(console) as reporter:
        from finetune.benchmark.fail_if_worse import check_gate
        from finetune.run.measured import measure_models, recipe_of

        recipe = recipe_of(models, data, overrides)
        if judge:
            check_gate(judge, recipe)
            if len(models) != 2:
                raise BadInput("--fail-if-worse compares two models here.", hint="Name the two, the one that may be worse last.")
        found = measure_models(models, recipe, runtime, reporter)
    return found, measured_picture(found, console.width)


def judged(found: Mapping[str, Any], judge: str | None, code: int) -> int:
    """The exit code; raises BenchmarkError if B is worse than A, and says so where that could not be judged."""
    from finetune.benchmark.fail_if_worse import gate_models

    if judge and (why := gate_models(found, judge)):
        print(why, file=sys.stderr)
    return code


def measured_picture(found: Mapping[str, Any], width: int) -> RenderableType:
    """The models by their letters, which are explained first; of two, also the paired difference."""
    models, two = found["models"], len(found["models"]) == 2
    metrics = in_order(list(dict.fromkeys(metric for each in models for metric in each["scores"])))

    def cells(*, intervals: bool) -> dict[str, list[Text]]:
        return {metric: _row(found, metric, intervals=intervals, numbers=width >= NARROW) for metric in metrics}

    rows = cells(intervals=True)
    if not (fits := table_width(rows) <= width - 2):
        rows = cells(intervals=False)
    names = [each["letter"] for each in models]
    table = score_table(names, rows, change="B against A" if two else None, wide=width >= NARROW)
    rows_said = {"rows": found["rows"], "per_row": found["models"][0]["per_row"]}
    few = too_few(rows_said)
    interval = "[a, b]: 95 % confidence interval." if fits and not few else ""
    title = f"On {found['rows']:,} rows of {strip_control_chars(found['data'])}"
    parts: list[RenderableType] = [*map(_name, models), Text(""), Text(title, style="bold"), table, legend(interval, rows)]
    letters = by_letters({"after": models[0]["scores"], "generations": models[0].get("generations")})
    parts += [Text(sentence, style="quiet") for sentence in (*filter(None, [letters]), *about_tasks(found))]
    if few:
        parts.append(Text(few, style="warning"))
    if together := shared(rows_said):
        parts.append(Text(together, style="quiet"))
    for each in models:
        if said := endless({**each, "rows": found["rows"], "endless": {"after": each["endless"]}}):
            parts.append(Text(f"{each['letter']}: {said}", style="warning"))
    return block(*parts, *_sentences(found, more_than_two=len(models) > 2), above=1)


def _name(model: Mapping[str, Any]) -> Text:
    note = f"; {model['note']}" if model["note"] else ""
    return Text(strip_control_chars(f"{model['letter']}  {model['model']} ({count(model['parameters'])} parameters{note})"))


def _row(found: Mapping[str, Any], metric: str, *, intervals: bool, numbers: bool) -> list[Text]:
    row = []
    for each in found["models"]:
        value, ends = each["scores"].get(metric), each["intervals"].get(metric)
        shown = Text("-", style="quiet") if value is None else Text(number(metric, value))
        row.append(shown.append(f" {between(metric, *ends)}", style="quiet") if intervals and ends else shown)
    if len(found["models"]) == 2:
        row.append(_change(metric, found["against_first"]["B"].get(metric, {}), intervals=intervals, numbers=numbers))
    return row


def _change(metric: str, change: Mapping[str, Any], *, intervals: bool, numbers: bool) -> Text:
    if "verdict" not in change:
        return Text("not comparable" if change else "", style="quiet")
    if not numbers:
        return verdict(change)
    ends = f"[{signed(metric, change['low'])}, {signed(metric, change['high'])}] " if intervals and change["low"] is not None else ""
    return Text.assemble((f"{signed(metric, change['difference'])} {ends}", "quiet"), verdict(change))


def _sentences(found: Mapping[str, Any], *, more_than_two: bool) -> Iterator[Text]:
    """What can be said of each model against the first, and why nothing can be said."""
    for letter, changes in found["against_first"].items():
        if verdicts := {metric: each["verdict"] for metric, each in changes.items() if "verdict" in each}:
            yield Text.assemble(f"{letter} against A: ", in_words(verdicts))
        for reason, names in by_verdict({metric: each["why_not"] for metric, each in changes.items() if "why_not" in each}).items():
            yield Text(f"{letter} and A cannot be compared by {', '.join(names)}: {reason}.", style="quiet")
    if more_than_two:
        yield Text("Each is compared with A alone. One such verdict in 20 is chance.", style="quiet")
