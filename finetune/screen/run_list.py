"""The runs in a folder on a screen: a few lines each, so that narrow terminals and screen readers lose nothing.

console.print(runs_picture(find_runs("."), "."))
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from finetune.benchmark.names import IN_SHORT, NAMES, number
from finetune.benchmark.student_verdict import verdict_on
from finetune.formatting import spoken, strip_control_chars
from finetune.run.history import RUNNING, UNFINISHED, UNREADABLE, Run
from finetune.run_folder import FINISHED
from finetune.screen.console import STUDENT
from finetune.screen.tables import block, verdict
from finetune.screen.wording import command_name


def runs_picture(runs: Sequence[Run], where: str) -> RenderableType:
    """Latest first; what to do next where there is one clear thing."""
    if not runs:
        return Text(f"There are no runs in {'this folder' if where == '.' else strip_control_chars(where)}.")
    parts: list[RenderableType] = []
    for run in runs:
        parts += [Text(""), Text(strip_control_chars(run.name), style="bold"), block(*_lines(run))]
    if any(run.state == UNFINISHED for run in runs):
        parts.append(Text(f"\nContinue an unfinished run: {command_name()} resume FOLDER", style="quiet"))
    return Group(*parts[1:])


def _lines(run: Run) -> Iterator[Text]:
    if run.recipe:
        method = "" if run.approach == "distillation" and run.method == "Full" else f"{run.method} "
        said = f"{method}{run.what} on {run.data}"
        yield Text(strip_control_chars(said[:1].upper() + said[1:]))
    if found := verdict_on(run.scores):
        yield Text(f"{found.sentence} {found.costs}".rstrip(), style=STUDENT.get(found.word, "warning"))
    elif scored := _changes(run):
        yield scored
    state, style = {
        FINISHED: (f"finished {spoken(time.time() - run.when)} ago", "quiet"),
        UNREADABLE: (f"cannot be read: {strip_control_chars(run.progress)}", "problem"),
        RUNNING: (f"running now: {run.progress}", "done"),
        UNFINISHED: (f"unfinished: {run.progress}", "warning"),
    }[run.state]
    yield Text(state, style=style)


def _changes(run: Run) -> Text | None:
    """ "ROUGE-L 0.165 to 0.370, Perplexity 23.4 to 9.13: better", scores of one verdict together; None without scores."""
    after, before, changes = (run.scores.get(part) or {} for part in ("after", "before", "change"))
    by: dict[str, list[str]] = {}
    for metric in (metric for metric in IN_SHORT if metric in after):
        shown = " to ".join(number(metric, side[metric]) for side in (before, after) if side.get(metric) is not None)
        by.setdefault((changes.get(metric) or {}).get("verdict", ""), []).append(f"{NAMES[metric]} {shown}")
    parts = [Text.assemble(", ".join(told), ": " if word else "", verdict({"verdict": word})) for word, told in by.items()]
    return Text("; ").join(parts) if parts else None
