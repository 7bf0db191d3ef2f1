"""What came of a run: before and after with intervals, samples side by side, where everything is, what to do next.

show_results(recipe, result, console)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from finetune.recipe import Recipe
from finetune.run_folder import free_name
from finetune.screen.tables import block
from finetune.screen.words import command_name, harmless

if TYPE_CHECKING:
    from finetune.finetuner import RunResult

NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "perplexity": "Perplexity"}
SAMPLES = 3
LONGEST_ANSWER = 200
NARROW = 70  # columns; below it, intervals go


def show_results(recipe: Recipe, result: RunResult, console: Console, *, upload_follows: bool = False) -> None:
    """Everything worth reading after a run."""
    console.print(scores_table(result.scores, console.width), samples(result.scores, console.width))
    steps = next_steps(Path(result.output_dir), console.width, upload=recipe.upload is None and not upload_follows)
    console.print(steps, soft_wrap=True)


def scores_table(scores: Mapping[str, Any], width: int) -> RenderableType:
    """One row a metric; a change is coloured only if its 95 % interval leaves out zero."""
    sides = [side for side in ("teacher", "before", "after") if scores.get(side)]
    table = Table(box=None, padding=(0, 2 if width >= NARROW else 1, 0, 0), title_justify="left", pad_edge=False)
    table.add_column("", no_wrap=True)
    for side in sides:
        table.add_column(side.capitalize(), justify="right", no_wrap=True)
    table.add_column("Change", no_wrap=True)
    for metric in sorted(scores["before"], key=lambda metric: [*NAMES, metric].index(metric)):
        cells = [_score(scores, side, metric, intervals=width >= NARROW) for side in sides]
        table.add_row(NAMES.get(metric, metric), *cells, _change(metric, scores.get("change", {}).get(metric), in_numbers=width >= NARROW))
    title = Text(f"On {scores['rows']} rows it never trained on", style="bold")
    legend = Text("[a, b]: 95 % confidence interval. Perplexity: lower is better.", style="quiet")
    if width < NARROW:
        legend = Text("Perplexity: lower is better.", style="quiet")
    return block(Group(title, table, legend))


def samples(scores: Mapping[str, Any], width: int) -> RenderableType:
    """A few held-out rows: the question, the reference and each model's answer."""
    rows = [row for row in scores.get("generations", []) if "after" in row]
    if not rows:
        return Text("")
    picked = rows[:: max(1, len(rows) // SAMPLES)][:SAMPLES]
    sides = [side for side in ("reference", "teacher", "before", "after") if side in picked[0]]
    parts: list[RenderableType] = [Text("Sample answers", style="bold")]
    for row in picked:
        parts.append(Text(_clip(row["prompt"], 2 * width - 10), style="quiet"))
        answers = Table.grid(padding=(0, 2, 0, 0))
        answers.add_column(style="quiet", no_wrap=True)
        answers.add_column(overflow="fold")
        for side in sides:
            answers.add_row(side, _answer(row[side], good=side == "after"))
        parts += [answers, Text("")]
    return block(Group(*parts[:-1]))


def next_steps(output_dir: Path, width: int, *, upload: bool) -> RenderableType:
    """Paths and commands; never broken into lines by us, so that they can be copied as they are."""
    command = command_name()
    rows = [
        ("Model", str(output_dir)),
        ("Records", str(output_dir / "run")),
        ("Chat", f"{command} chat {output_dir}"),
        ("Repeat", f"{command} run {output_dir / 'run' / 'recipe.yaml'} --output-dir {free_name(output_dir)}"),
    ]
    if upload:
        rows.append(("Upload", f"{command} upload {output_dir} --repo USER/NAME"))
    between = "  " if width >= NARROW else "\n  "
    lines = [Text.assemble("  ", (f"{name:<7}" if width >= NARROW else name, "quiet"), between, fact) for name, fact in rows]
    return Text("\n").join([Text(""), *lines])


def _score(scores: Mapping[str, Any], side: str, metric: str, *, intervals: bool) -> Text:
    value = scores[side].get(metric)
    if value is None:
        return Text("-", style="quiet")
    shown = Text(_number(metric, value))
    low_high = scores.get("intervals", {}).get(side, {}).get(metric)
    if intervals and low_high:
        shown.append(f" [{_number(metric, low_high[0])}, {_number(metric, low_high[1])}]", style="quiet")
    return shown


def _change(metric: str, change: Mapping[str, Any] | None, *, in_numbers: bool) -> Text:
    if not change:
        return Text("")
    style = {"better": "good", "worse": "bad"}.get(change["verdict"], "quiet")
    if not in_numbers:
        return Text(change["verdict"], style=style)
    sign = "+" if change["difference"] >= 0 else "-"
    return Text.assemble((f"{sign}{_number(metric, abs(change['difference']))} ", "quiet"), (change["verdict"], style))


def _number(metric: str, value: float) -> str:
    if metric.startswith("rouge"):
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}"


def _answer(text: str, *, good: bool) -> Text:
    shown = _clip(text, LONGEST_ANSWER)
    return Text(shown, style="good" if good else "") if shown else Text("(nothing)", style="quiet")


def _clip(text: str, most: int) -> str:
    words = " ".join(harmless(text).split())
    return words if len(words) <= most else words[: most - 1] + "…"
