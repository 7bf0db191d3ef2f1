"""The results of a run: scores before and after with intervals, sample answers, where everything is, what to do next.

show_results(recipe, result, console)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from finetune.benchmark.names import NAMES, beside_the_teacher, in_order, number, retained, signed
from finetune.benchmark.report import ranks_in_words
from finetune.formatting import count, size, strip_control_chars
from finetune.publish.elsewhere import in_short
from finetune.recipe import Recipe
from finetune.run_folder import free_name
from finetune.screen.tables import block, legend, pairs, score_table, verdict
from finetune.screen.wording import command_name
from finetune.shell import quoted

if TYPE_CHECKING:
    from finetune.run.finetuner import RunResult

SAMPLES = 3
LONGEST_ANSWER = 200
NARROW, WIDE = 70, 110  # columns; below them intervals are left out: of two models, of three


def show_results(recipe: Recipe, result: RunResult, console: Console, *, upload_follows: bool = False) -> None:
    """Everything worth reading after a run."""
    console.print(scores_table(result.scores, console.width), samples(result.scores, console.width))
    steps = next_steps(Path(result.output_dir), console.width, upload=recipe.upload is None and not upload_follows)
    console.print(steps, soft_wrap=True)


def scores_table(scores: Mapping[str, Any], width: int) -> RenderableType:
    """A row per metric; a change is coloured only if its 95 % interval excludes zero."""
    sides = [side for side in ("teacher", "before", "after") if scores.get(side)]
    in_numbers = width >= NARROW
    with_intervals = width >= (NARROW if len(sides) < 3 else WIDE)
    with_change = in_numbers or len(sides) < 3
    rows = {}
    for metric in in_order(list(scores["after"])):
        rows[metric] = [_score(scores, side, metric, with_interval=with_intervals) for side in sides]
        if with_change:
            rows[metric].append(_change(metric, scores.get("change", {}).get(metric), in_numbers=in_numbers))
    table = score_table([side.capitalize() for side in sides], rows, change="Change" if with_change else None, wide=in_numbers)
    interval = "[a, b]: 95 % confidence interval." if with_intervals else ""
    parts: list[RenderableType] = [Text(f"On {scores['rows']} held-out rows", style="bold"), table, legend(interval, rows)]
    if scores.get("ranks"):
        parts += [Text(""), pairs([("Ranks", ranks_in_words(scores["ranks"]))])]
    if scores.get("teacher"):
        parts += [Text(""), Text("Student and teacher compared", style="bold"), pairs(_beside_the_teacher(scores))]
    return block(*parts, above=1)


def _beside_the_teacher(scores: Mapping[str, Any]) -> Iterator[tuple[str, RenderableType]]:
    """What the student retains and what it costs; nothing that was not measured."""
    for metric, kept in retained(scores).items():
        share = f"{kept['value']:.0%} of the teacher by {NAMES.get(metric, metric)}"
        yield "Retention", Text.assemble(share, (f" [{kept['low']:.0%}, {kept['high']:.0%}]", "quiet"))
    if words := beside_the_teacher(scores):
        yield "Perplexity", words
    for name, group, key, say in (
        ("Parameters", "size", "parameters", count),
        ("On disk", "size", "bytes_on_disk", size),
        ("Speed", "speed", "tokens_per_second", lambda rate: f"{rate:,.0f} tokens/s"),
        ("Memory", "speed", "peak_memory_bytes", size),
    ):
        student, teacher = (scores.get(group, {}).get(side, {}).get(key) for side in ("after", "teacher"))
        if student and teacher:
            yield name, f"{say(student)} against {say(teacher)} ({student / teacher:.2f} times)"


def samples(scores: Mapping[str, Any], width: int) -> RenderableType:
    """A few held-out rows: the prompt, the reference and each model's answer."""
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
    return block(*parts[:-1], above=1)


def next_steps(output_dir: Path, width: int, *, upload: bool) -> RenderableType:
    """Paths and commands; never broken into lines by us, so that they can be copied."""
    command = command_name()
    rows = [
        ("Model", str(output_dir)),
        ("Records", str(output_dir / "run")),
        ("Report", str(output_dir / "run" / "report.html")),
        ("Chat", f"{command} chat {quoted(output_dir)}"),
        ("Elsewhere", in_short(output_dir, command)),
        ("Repeat", f"{command} run {quoted(output_dir / 'run' / 'recipe.yaml')} --output-dir {quoted(free_name(output_dir))}"),
    ]
    if upload:
        rows.append(("Upload", f"{command} upload {quoted(output_dir)} --repo USER/NAME"))
    between = "  " if width >= NARROW else "\n  "
    lines = [Text.assemble("  ", (f"{name:<9}" if width >= NARROW else name, "quiet"), between, fact) for name, fact in rows]
    return Text("\n").join([Text(""), *lines])


def _score(scores: Mapping[str, Any], side: str, metric: str, *, with_interval: bool) -> Text:
    value = scores[side].get(metric)
    if value is None:
        return Text("-", style="quiet")
    shown = Text(number(metric, value))
    low_high = scores.get("intervals", {}).get(side, {}).get(metric)
    if with_interval and low_high:
        shown.append(f" [{number(metric, low_high[0])}, {number(metric, low_high[1])}]", style="quiet")
    return shown


def _change(metric: str, change: Mapping[str, Any] | None, *, in_numbers: bool) -> Text:
    if not change:
        return Text("")
    if not in_numbers:
        return verdict(change)
    return Text.assemble((f"{signed(metric, change['difference'])} ", "quiet"), verdict(change))


def _answer(text: str, *, good: bool) -> Text:
    shown = _clip(text, LONGEST_ANSWER)
    return Text(shown, style="good" if good else "") if shown else Text("(nothing)", style="quiet")


def _clip(text: str, most: int) -> str:
    words = " ".join(strip_control_chars(text).split())
    return words if len(words) <= most else words[: most - 1] + "…"
