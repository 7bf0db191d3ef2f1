"""The results of a run: sample answers, a verdict, scores with intervals, where everything is, what to do next.

show_results(recipe, result, console)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.text import Text

from finetune.benchmark.answers import Answer, sampled, worst
from finetune.benchmark.names import (
    NAMES,
    about_tasks,
    beside_the_teacher,
    between,
    by_label,
    by_letters,
    codes_copied,
    cut_short,
    each_round,
    each_teacher,
    endless,
    explained,
    held_out,
    in_order,
    measured_as,
    number,
    own_answers,
    shared,
    signed,
    too_few,
    until_they_end,
    which_tokens,
)
from finetune.benchmark.report import ranks_in_words
from finetune.benchmark.student_verdict import verdict_on
from finetune.errors import RecipeError
from finetune.export.offer import in_reach, usual_type
from finetune.formatting import count, size, strip_control_chars, times
from finetune.letters import shortened
from finetune.publish.usage import in_short
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder, run_again
from finetune.screen.console import STUDENT
from finetune.screen.tables import NARROW, block, in_words, legend, pairs, score_table, table_width, to_copy, verdict
from finetune.screen.wording import command_name
from finetune.system.shell import quoted
from finetune.training.kept_step import in_words as which_step

if TYPE_CHECKING:
    from finetune.run.finetuner import RunResult

SAMPLES = 3
LONGEST_ANSWER = 200


def show_results(recipe: Recipe, result: RunResult, console: Console, *, upload_follows: bool = False) -> None:
    """Everything worth reading after a run."""
    console.print(samples(result.scores, console.width), scores_table(result.scores, console.width))
    steps = next_steps(Path(result.output_dir), console.width, upload=recipe.upload is None and not upload_follows)
    console.print(steps)


def scores_table(scores: Mapping[str, Any], width: int) -> RenderableType:
    """A row per metric; a change is coloured only if its 95 % interval excludes zero. A student is set beside its teacher first."""
    distilled = bool(scores.get("teacher"))
    first, changes = ("teacher", "against_teacher") if distilled else ("before", "change")
    sides, wide = [side for side in (first, "after") if scores.get(side)], width >= NARROW
    with_change = wide or not distilled

    def cells(*, intervals: bool) -> dict[str, list[Text]]:
        found = {}
        for metric in in_order(list(scores["after"])):
            found[metric] = [_score(scores, side, metric, with_interval=intervals) for side in sides]
            if with_change:
                found[metric].append(_change(metric, (scores.get(changes) or {}).get(metric), in_numbers=wide))
        return found

    rows = cells(intervals=wide)
    if not (fits := wide and table_width(rows) <= width - 2):
        rows = cells(intervals=False)
    names = {"teacher": "Teacher", "before": "Before", "after": "Student" if distilled else "After"}
    heading = "Against teacher" if distilled else "Change"
    table = score_table([names[side] for side in sides], rows, change=heading if with_change else None, wide=wide)
    interval = "[a, b]: 95 % confidence interval." if fits and any(scores.get("intervals", {}).values()) else ""
    parts: list[RenderableType] = [Text(f"On {held_out(scores['rows'])}", style="bold"), table, legend(interval, rows)]
    if not with_change and (verdicts := _judged(scores.get(changes) or {})):
        parts.append(Text.assemble("Against the teacher: ", in_words(verdicts), "."))
    parts += _said_of(scores, rows)
    if distilled:
        beside: list[RenderableType] = [Text(""), Text("Student and teacher compared", style="bold"), pairs(_beside_the_teacher(scores))]
        if of_each := each_teacher(scores):
            beside += [Text(""), Text("Teachers", style="bold"), pairs(of_each)]
        if of_rounds := each_round(scores):
            beside += [Text(""), Text("Rounds", style="bold"), pairs(of_rounds)]
        if practised := own_answers(scores):
            beside += [Text(""), pairs([("Own answers", practised)])]
        parts = [*_student(scores), *parts, *beside, *_before(scores)]
    if kept := which_step(scores.get("kept")):
        parts += [Text(""), pairs([("Kept", kept)])]
    if scores.get("ranks"):
        parts += [Text(""), pairs([("Ranks", ranks_in_words(scores["ranks"]))])]
    return block(*parts, above=1)


def _said_of(scores: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[RenderableType]:
    """What has to be known to read the scores, a sentence each."""
    tokens = which_tokens(scores) if "perplexity" in metrics else ""
    copied, cut, unended = codes_copied(scores), cut_short(scores), endless(scores)
    told = [
        (too_few(scores), "warning"),
        (shared(scores), "quiet"),
        (tokens and f"Perplexity counts {tokens}.", "quiet"),
        (by_letters(scores), "quiet"),
        *((sentence, "quiet") for sentence in (*explained(metrics), *about_tasks(scores), measured_as(scores))),
        (copied and f"Codes copied: {copied}.", ""),
        (by_label(scores), ""),
        (cut and f"{cut} To allow more: --set benchmark.max_new_tokens={scores['longest_reference'] + 1}", "warning"),
        (unended and f"{unended} {until_they_end(scores)}".rstrip(), "warning"),
    ]
    return [Text(said, style=style) for said, style in told if said]


def _student(scores: Mapping[str, Any]) -> list[RenderableType]:
    """The verdict on a student and its costs, before any number."""
    found = verdict_on(scores)
    if found is None:
        return []
    said = Text.assemble((found.sentence, STUDENT.get(found.word, "warning")), f" {found.costs}" if found.costs else "")
    return [said, Text("")]


def _before(scores: Mapping[str, Any]) -> list[RenderableType]:
    """What the student was before it learned: of a student that was cut out of its teacher, wreckage that is easily beaten."""
    before, changes = scores.get("before") or {}, scores.get("change") or {}
    metrics = [metric for metric in in_order(list(before)) if metric in changes]
    if not metrics:
        return []
    known = ", ".join(f"{NAMES.get(metric, metric)} {number(metric, before[metric])}" for metric in metrics)
    now = _judged({metric: changes[metric] for metric in metrics})
    against = f" Against that: {in_words(now).plain}." if now else ""
    return [Text(f"The student before training: {known}.{against}", style="quiet")]


def _judged(changes: Mapping[str, Any]) -> dict[str, str]:
    """The verdict on each metric; empty where there were too few rows for any, which is said once."""
    verdicts = {metric: each["verdict"] for metric, each in changes.items()}
    return verdicts if set(verdicts.values()) != {"too few rows"} else {}


def _beside_the_teacher(scores: Mapping[str, Any]) -> Iterator[tuple[str, Text | str]]:
    """What the student costs beside its teacher; nothing that was not measured."""
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
            yield name, f"{say(student)} against {say(teacher)} ({times(student / teacher)})"


def samples(scores: Mapping[str, Any], width: int) -> RenderableType:
    """A few held-out rows and the worst answer: the prompt, the reference and what each model says."""
    picked, lowest = sampled(scores, SAMPLES), worst(scores, 1)
    if not picked:
        return Text("")
    parts: list[RenderableType] = [Text("Sample answers", style="bold")]
    for answer in picked:
        parts += _sample(answer, width)
    if lowest and lowest[0].row not in [answer.row for answer in picked]:
        parts += [Text("The worst answer", style="bold"), *_sample(lowest[0], width)]
    if lowest:
        parts += [Text("All answers, worst first, are in run/report.html.", style="quiet"), Text("")]
    return block(*parts[:-1], above=1)


def _sample(answer: Answer, width: int) -> list[RenderableType]:
    told: list[tuple[str, Text | str]] = []
    for side, text in answer.sides.items():
        if side == "before" and "teacher" in answer.sides:
            continue  # a student that was cut out of its teacher says nothing yet
        told.append((side, _answer(text, good=side == "after")))
    if answer.missing:
        told.append(("missing", Text(_clip(", ".join(answer.missing), LONGEST_ANSWER), style="warning", overflow="fold")))
    return [Text(_clip(answer.prompt, 2 * width - 10), style="quiet", overflow="fold"), pairs(told), Text("")]


def train_further(output_dir: Path) -> str | None:
    """The command that repeats a run from its result on, without rounds, which begin at a teacher; None without a readable recipe."""
    folder = RunFolder(output_dir)
    try:
        rounds = Recipe.load(folder.recipe).distillation.in_rounds
    except RecipeError:
        return None
    changes = [f"model={output_dir}", *([f"distillation.{rounds}=null"] if rounds else [])]
    return f"{command_name()} {run_again(output_dir, folder.known(folder.environment), changes)}"


def next_steps(output_dir: Path, width: int, *, upload: bool) -> Text:
    """Paths and commands; never broken into lines by us, so that they can be copied."""
    command, folder = command_name(), RunFolder(output_dir)
    rows = [
        ("Model", str(output_dir)),
        ("Records", str(output_dir / "run")),
        ("Report", str(output_dir / "run" / "report.html")),
        ("Chat", f"{command} chat {quoted(output_dir)}"),
        *in_short(output_dir, command),
        ("Repeat", f"{command} {run_again(output_dir, folder.known(folder.environment))}"),
    ]
    if in_reach(output_dir):
        rows.append(("Ollama", f"{command} export {quoted(output_dir)} --to gguf:{usual_type(output_dir)}"))
    if upload:
        rows.append(("Upload", f"{command} upload {quoted(output_dir)} --repo USER/NAME"))
    return Text("\n", no_wrap=True, overflow="ignore").append_text(to_copy(rows, width))


def _score(scores: Mapping[str, Any], side: str, metric: str, *, with_interval: bool) -> Text:
    value = scores[side].get(metric)
    if value is None:
        return Text("-", style="quiet")
    shown = Text(number(metric, value))
    low_high = scores.get("intervals", {}).get(side, {}).get(metric)
    if with_interval and low_high:
        shown.append(f" {between(metric, *low_high)}", style="quiet")
    return shown


def _change(metric: str, change: Mapping[str, Any] | None, *, in_numbers: bool) -> Text:
    if not change:
        return Text("")
    if not in_numbers:
        return verdict(change)
    return Text.assemble((f"{signed(metric, change['difference'])} ", "quiet"), verdict(change))


def _answer(text: str, *, good: bool) -> Text:
    shown = _clip(text, LONGEST_ANSWER)
    return Text(shown, style="good" if good else "", overflow="fold") if shown else Text("(nothing)", style="quiet")


def _clip(text: str, most: int) -> str:
    return shortened(" ".join(strip_control_chars(text).split()), most)
