"""Two runs side by side on a screen: what differs in their recipes, their scores, and what can be said about them.

console.print(comparison_picture(compare(a, b), console.width))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from finetune.benchmark.names import LOWER_IS_BETTER, NAMES, number, signed
from finetune.formatting import strip_control_chars
from finetune.run.comparison import Comparison
from finetune.screen.console import VERDICTS
from finetune.screen.tables import block

NARROW = 60  # columns; below them the difference goes
SENTENCES = {"better": "B is better", "worse": "B is worse", "no evidence": "No evidence of a difference"}


def comparison_picture(found: Comparison, width: int) -> RenderableType:
    """A and B by their letters, which are explained first."""
    names = Text(f"A  {strip_control_chars(found.a)}\nB  {strip_control_chars(found.b)}")
    parts: list[RenderableType] = [names, Text(""), Text("What differs in the recipe", style="bold")]
    parts.append(_differences(found.recipe, width) if found.recipe else Text("Nothing."))
    if found.surroundings:
        parts += [Text(""), Text("What differs around it", style="bold"), _differences(found.surroundings, width)]
    title = "Measured on different rows" if found.why_not else f"On the same {found.rows:,} rows that neither trained on"
    parts += [Text(""), Text(title if found.scores else "There is no score that both have", style="bold"), _scores(found, width)]
    lower = " and ".join(NAMES[metric] for metric in LOWER_IS_BETTER if metric in found.scores)
    interval = "" if found.why_not or width < NARROW else "[a, b]: 95 % confidence interval of B - A, paired by row. "
    parts += [Text(f"{interval}{lower}: lower is better." if lower else interval, style="quiet"), Text(""), *_verdicts(found)]
    return block(Group(*parts), above=0)


def _differences(pairs: Mapping[str, tuple[Any, Any]], width: int) -> RenderableType:
    """One line a key where there is room, else the two values below it."""
    if width < NARROW:
        return Text("\n").join([Text.assemble((key, "quiet"), f"\n  A {_value(a)}\n  B {_value(b)}") for key, (a, b) in pairs.items()])
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", style="quiet", no_wrap=True, max_width=width // 2)
    for side in ("A", "B"):
        table.add_column(side, overflow="fold")
    for key, (a, b) in pairs.items():
        table.add_row(Text(strip_control_chars(key)), Text(_value(a)), Text(_value(b)))
    return table


def _scores(found: Comparison, width: int) -> RenderableType:
    table = Table(box=None, padding=(0, 2 if width >= NARROW else 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for side in ("A", "B"):
        table.add_column(side, justify="right", no_wrap=True)
    table.add_column("" if found.why_not else "B against A", no_wrap=True)
    for metric, score in found.scores.items():
        a, b = (number(metric, score[side]) for side in ("a", "b"))
        table.add_row(NAMES.get(metric, metric), a, b, _verdict(metric, score, in_numbers=width >= NARROW))
    return table


def _verdict(metric: str, score: Mapping[str, Any], *, in_numbers: bool) -> Text:
    if "verdict" not in score:
        return Text(f"not comparable: {score['why_not']}" if in_numbers and "why_not" in score else "", style="quiet")
    verdict = Text(score["verdict"], style=VERDICTS.get(score["verdict"], "quiet"))
    if not in_numbers:
        return verdict
    between = f"[{signed(metric, score['low'])}, {signed(metric, score['high'])}]"
    return Text.assemble(f"{signed(metric, score['difference'])} ", (f"{between} ", "quiet"), verdict)


def _verdicts(found: Comparison) -> list[Text]:
    """What can be said, in sentences."""
    if found.why_not:
        return [Text(found.why_not, style="warning")]
    said = []
    for verdict, words in SENTENCES.items():
        names = [NAMES.get(metric, metric) for metric, score in found.scores.items() if score.get("verdict") == verdict]
        if names:
            said.append(Text.assemble((words, VERDICTS.get(verdict, "")), f" by {', '.join(names)}."))
    incomparable = [f"{NAMES.get(metric, metric)} ({score['why_not']})" for metric, score in found.scores.items() if "why_not" in score]
    if incomparable:
        said.append(Text(f"Not comparable: {', '.join(incomparable)}.", style="quiet"))
    return said


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return strip_control_chars(
        ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
    )
