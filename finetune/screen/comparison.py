"""Two runs side by side on a screen: what differs in their recipes, their scores, and what can be said about them.

console.print(comparison_picture(compare(a, b), console.width))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from finetune.benchmark.names import NAMES, by_verdict, held_out, number, signed
from finetune.formatting import count, enumerated, size, strip_control_chars, times
from finetune.run.comparison import Comparison
from finetune.screen.console import VERDICTS
from finetune.screen.tables import block, legend, score_table, verdict
from finetune.screen.wording import setting

NARROW = 60  # columns; below them the difference is left out
SENTENCES = {
    "better": "B is better",
    "worse": "B is worse",
    "no evidence": "No evidence of a difference",
    "too few rows": "Too few rows to judge",
}
SAME_SHAPE = "both models have the same shape, so what differs is chance"
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("Parameters", count),
    "bytes_on_disk": ("On disk", size),
    "tokens_per_second": ("Tokens/s", lambda rate: f"{rate:,.0f}"),
    "peak_memory_bytes": ("Memory", size),
}


def comparison_picture(found: Comparison, width: int) -> RenderableType:
    """A and B by their letters, which are explained first."""
    names = Text(f"A  {strip_control_chars(found.a)}\nB  {strip_control_chars(found.b)}")
    parts: list[RenderableType] = [names, Text(""), Text("What differs in the recipe", style="bold")]
    parts.append(_differences(found.recipe, width) if found.recipe else Text("Nothing."))
    if found.surroundings:
        parts += [Text(""), Text("What differs in data, machine and versions", style="bold"), _differences(found.surroundings, width)]
    title = "Measured on different rows" if found.why_not else f"On the same {held_out(found.rows)}"
    parts += [Text(""), Text(title if found.scores else "The two runs have no score in common", style="bold"), _scores(found, width)]
    shown = width >= NARROW and any(score.get("low") is not None for score in found.scores.values())
    interval = "[a, b]: 95 % confidence interval of B - A, paired by row." if shown and not found.why_not else ""
    parts += [legend(interval, found.scores), Text(""), *_verdicts(found)]
    if found.students:
        parts += [Text(""), *(Text(f"{side.upper()}: {student['said']}") for side, student in found.students.items())]
    return block(*parts, *_costs(found, width))


def _costs(found: Comparison, width: int) -> list[RenderableType]:
    """Size, speed and memory in two columns, and the ratio where both were measured alike."""
    if not found.costs:
        return []
    rows = {}
    for key, pair in found.costs.items():
        name, say = COSTS[key]
        rows[name] = [Text(say(pair["a"])), Text(say(pair["b"])), _ratio(pair)]
    by_chance = any("chance" in pair for pair in found.costs.values())
    why_not = next((pair["why_not"] for pair in found.costs.values() if "why_not" in pair), SAME_SHAPE if by_chance else None)
    said = [Text(f"Speed and memory: {why_not}.", style="quiet")] if why_not else []
    return [Text(""), Text("Cost of running them", style="bold"), score_table(("A", "B"), rows, change="B is", wide=width >= NARROW), *said]


def _ratio(pair: Mapping[str, Any]) -> Text:
    if "why_not" in pair or "chance" in pair:
        return Text("not alike" if "why_not" in pair else "alike", style="quiet")
    return Text(times(pair["b"] / pair["a"]))


def _differences(pairs: Mapping[str, tuple[Any, Any]], width: int) -> RenderableType:
    """One line per key where there is room, else the two values below it."""
    if width < NARROW:
        return Text("\n").join([Text.assemble((key, "quiet"), f"\n  A {setting(a)}\n  B {setting(b)}") for key, (a, b) in pairs.items()])
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", style="quiet", no_wrap=True, max_width=width // 2)
    for side in ("A", "B"):
        table.add_column(side, overflow="fold")
    for key, (a, b) in pairs.items():
        table.add_row(Text(strip_control_chars(key)), Text(setting(a)), Text(setting(b)))
    return table


def _scores(found: Comparison, width: int) -> RenderableType:
    wide = width >= NARROW
    rows = {
        metric: [*(Text(number(metric, score[side])) for side in ("a", "b")), _change(metric, score, in_numbers=wide)]
        for metric, score in found.scores.items()
    }
    return score_table(("A", "B"), rows, change="" if found.why_not else "B against A", wide=wide)


def _change(metric: str, score: Mapping[str, Any], *, in_numbers: bool) -> Text:
    if "verdict" not in score:
        return Text("not comparable" if "why_not" in score else "", style="quiet")
    if not in_numbers:
        return verdict(score)
    between = f"[{signed(metric, score['low'])}, {signed(metric, score['high'])}] " if score["low"] is not None else ""
    return Text.assemble(f"{signed(metric, score['difference'])} ", (between, "quiet"), verdict(score))


def _verdicts(found: Comparison) -> list[Text]:
    """What can be said, in sentences."""
    if found.why_not:
        return [Text(found.why_not, style="warning")]
    by = by_verdict({metric: score["verdict"] for metric, score in found.scores.items() if "verdict" in score})
    results = [result for result in SENTENCES if result in by]
    said = [Text.assemble((SENTENCES[result], VERDICTS.get(result, "")), f" on {', '.join(by[result])}.") for result in results]
    if found.about_rows:
        said.append(Text(found.about_rows, style="quiet"))
    if found.only:
        named = ", ".join(f"{NAMES.get(metric, metric)} (only {side.upper()})" for metric, side in found.only.items())
        said.append(Text(f"Measured of one alone: {named}.", style="quiet"))
    reasons = by_verdict({metric: score["why_not"] for metric, score in found.scores.items() if "why_not" in score})
    if reasons:
        named = "; ".join(f"{enumerated(names)} ({why})" for why, names in reasons.items())
        said.append(Text(f"Not comparable: {named}.", style="quiet"))
    return said
