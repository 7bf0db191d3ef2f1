"""The runs below a folder on a screen: a few lines each, so that narrow terminals and screen readers lose nothing.

console.print(runs_picture(find_runs("."), "."))
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from finetune.benchmark.names import NAMES, number
from finetune.formatting import spoken, strip_control_chars
from finetune.run.history import RUNNING, SCORED, UNFINISHED, UNREADABLE, Run
from finetune.run_folder import FINISHED
from finetune.screen.console import VERDICTS
from finetune.screen.wording import command_name


def runs_picture(runs: Sequence[Run], where: str) -> RenderableType:
    """Latest first; what to do next where there is one clear thing."""
    if not runs:
        return Text(f"There is no run in {strip_control_chars(where)} or below it.")
    parts: list[RenderableType] = []
    for run in runs:
        parts += [
            Padding(Text(strip_control_chars(run.name), style="bold"), (1 if parts else 0, 0, 0, 0)),
            *(Padding(line, (0, 0, 0, 2)) for line in _lines(run)),
        ]
    if any(run.state == UNFINISHED for run in runs):
        parts.append(Text(f"\nGo on with an unfinished one: {command_name()} resume FOLDER", style="quiet"))
    return Group(*parts)


def _lines(run: Run) -> Iterator[Text]:
    if run.recipe:
        student = f" of {run.teacher} into {run.model}" if run.approach == "distillation" else f" of {run.model}"
        method = "" if run.approach == "distillation" and run.method == "Full" else f"{run.method} "
        said = f"{method}{run.approach}{student} on {run.data}"
        yield Text(strip_control_chars(said[:1].upper() + said[1:]))
    scored = [_change(run, metric) for metric in SCORED if metric in run.scores.get("after", {})]
    if scored:
        yield Text("; ").join(scored)
    ago = f"{spoken(time.time() - run.when)} ago"
    if run.state == FINISHED:
        yield Text(f"finished {ago}", style="quiet")
    elif run.state == UNREADABLE:
        yield Text(f"cannot be read: {strip_control_chars(run.progress)}", style="problem")
    elif run.state == RUNNING:
        yield Text(f"running now: {run.progress}", style="done")
    else:
        yield Text(f"unfinished: {run.progress}", style="warning")


def _change(run: Run, metric: str) -> Text:
    after, before = run.scores["after"][metric], (run.scores.get("before") or {}).get(metric)
    shown = f"{number(metric, before)} to {number(metric, after)}" if before is not None else number(metric, after)
    verdict = ((run.scores.get("change") or {}).get(metric) or {}).get("verdict", "")
    return Text.assemble(f"{NAMES[metric]} {shown} ", (verdict, VERDICTS.get(verdict, "quiet")))
