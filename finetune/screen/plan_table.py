"""The plan as a table: what will happen, and whether it fits.

console.print(review(recipe, tuner.plan()))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from finetune.benchmark.names import FEWEST_ROWS, held_out, in_few_bits
from finetune.distillation.terms import in_words
from finetune.events import DataPrepared, Event, Planned
from finetune.formatting import count, kept, percent, ratio, size, strip_control_chars
from finetune.planning.estimate import Plan
from finetune.recipe import Recipe, StudentSpec, TeacherSpec
from finetune.recipe.task_settings import task_words
from finetune.recipe.teacher_settings import OneTeacherSpec, grading_words, host_of, part_of
from finetune.registry import load, title
from finetune.screen.console import draws_nothing
from finetune.screen.data import data_report
from finetune.screen.tables import block, pairs
from finetune.screen.wording import about, as_typed, briefly
from finetune.training.step_count import rows_of_step

LEAST_SHOWN = 0.02  # of the time
CACHES = {
    "auto": "the teacher runs once; its outputs are cached on disk",
    "hidden": "the teacher runs once; its hidden states are cached on disk",
    "gradient": "the teacher runs once; what the gradient needs is cached on disk",
    "none": "none: the teacher runs at every step",
    "graded": "the server is asked once; its answers are cached on disk",
}


def review(recipe: Recipe, plan: Plan) -> RenderableType:
    """One fact per line; what does not fit is marked and explained below."""
    return block(pairs(_facts(recipe, plan)), *_remarks(plan))


class PlanScreen:
    """A reporter that shows the data and the cost of a run before it trains."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def report(self, event: Event) -> None:
        if isinstance(event, DataPrepared):
            self.console.print(data_report(event.report, examples=False, in_words=draws_nothing(self.console)))
        elif isinstance(event, Planned):
            plan = Plan(**event.plan)
            self.console.print(block(pairs(_cost(plan)), *_remarks(plan)))


def _remarks(plan: Plan) -> list[Text]:
    """What a person would not expect, and what does not fit."""
    notes = [Text(as_typed(strip_control_chars(note))) for note in [*plan.notes, *plan.alignment]]
    return notes + [Text(f"! {as_typed(strip_control_chars(said))}", style="warning") for said in [*plan.problems, *plan.warnings]]


def _facts(recipe: Recipe, plan: Plan) -> Iterator[tuple[str, Text | str]]:
    training, teacher, upload = recipe.training, recipe.all_teachers, recipe.upload
    itself = recipe.teaches_itself
    if teacher and not itself:
        for each in teacher:
            part = f", {part_of(each)}" if isinstance(each, OneTeacherSpec) else ""
            yield "Teacher", f"{each.source}{part}{_told(each)}"
        yield "Student", _student(recipe)
        if plan.speed_up:
            yield "", f"about {count(plan.parameters)} parameters and {ratio(plan.speed_up, 1)} times the speed of its teacher"
    elif recipe.grader:
        yield "Teacher", f"{strip_control_chars(recipe.grader.model or '')} at {host_of(str(recipe.grader.server))}{_told(recipe.grader)}"
        yield "", f"returns {grading_words(recipe.grader.likeliest)}"
        yield "Student", str(recipe.model)
    else:
        yield "Model", str(recipe.model)
        if itself:
            yield "Teacher", f"the model itself, as it is before the run{_told(teacher[0])}"
    trained, share = count(plan.trainable_parameters), plan.trainable_parameters / plan.parameters
    method = title("methods", recipe.method.kind)
    yield "Method", f"{method}: {trained} of {count(plan.parameters)} parameters are trained ({100 * share:.1f} %)"
    known = load("methods", recipe.method.kind)
    if not known.footprint(recipe.method).adapter and known.keeps_head(recipe.method, head_settled=recipe.head_settled):
        yield "", "all but the embeddings and the head, which stay as they are"
    if 0 < plan.linear_share < 1:
        yield "", f"{percent(plan.linear_share, 1)} of the weights in linear layers learn"
    yield "", Text(fit_line(recipe.method.kind, plan.methods, plan.free_memory), style="quiet")
    if plan.making:
        made = plan.making
        served = f", about {count(made['tokens'])} tokens of the server" if made["tokens"] else ""
        budget = f" (at most {count(made['budget'])})" if made["budget"] else ""
        yield "Written", f"{count(made['rows'])} rows by {strip_control_chars(made['by'])} first, {about(made['seconds'])}{served}{budget}"
        wanted = {"topic": recipe.dataset.topic, "examples": recipe.dataset.examples}
        if said := "; ".join(f"{name}: {strip_control_chars(value)}" for name, value in wanted.items() if value):
            yield "", said
    if plan.grading:
        yield "Graded", _graded(plan.grading)
    if (server := recipe.teacher) and server.server and server.key:
        yield "", f"the key in {server.key} is sent to {host_of(server.server)}"
    yield "Data", f"{strip_control_chars(recipe.dataset.source)}: {count(plan.rows)} rows, {count(plan.tokens)} tokens"
    passes = f"{f'{len(plan.rounds)} x ' if plan.rounds else ''}{plan.epochs or training.passes:g}"
    together = count(plan.step_rows or rows_of_step(training))
    yield "Training", f"{_steps(plan.steps)}: {passes} x {count(plan.rows)} rows, {together} per step"
    if plan.processes > 1 or plan.gpus > 1:
        shared = f", which share the {together} rows of each step" if plan.processes > 1 else f" of {plan.gpus}"
        yield "GPUs" if plan.device == "cuda" else "Processes", f"{plan.processes}{shared}"
    if plan.rounds:
        kept_layers = ", ".join(str(each["layers"]) for each in plan.rounds)
        yield "Rounds", f"{len(plan.rounds)}, each over all epochs: {kept_layers} layers"
    if teacher or recipe.grader:
        loss = recipe.distillation
        if loss.task:
            yield "Good at", task_words(loss.task)
        mixed = f"{percent(loss.alpha)} from the data, {percent(1 - loss.alpha)} from the teacher"
        yield "Loss", f"{mixed} ({title('objectives', loss.objective)} at temperature {loss.temperature:g})"
        if loss.quantize:
            yield "Learns in", in_few_bits(loss.quantize.model_dump())
        if loss.correct:
            yield "", f"where the teacher's first choice is wrong, the data is put ahead of it by {loss.correct:g}"
        if beside := in_words(loss.features):
            yield "", f"and in addition: {beside}"
        yield (
            "Cache",
            CACHES["graded" if recipe.grader else "none" if loss.compares_other_layers else loss.cache]
            + (f"; {size(plan.cache_bytes)} at most" if plan.cache_bytes else "")
            + ("; then it reads the student's own answers" if loss.practice and loss.cache != "none" else ""),
        )
    who = f"teacher{'s' if len(teacher) > 1 else ''}, student before and after" if teacher and not itself else "before and after"
    asked, rows = recipe.benchmark.rows, min(recipe.benchmark.rows, plan.held_out_rows)
    yield "Benchmark", _benchmark(rows, who) + (f"; {asked} were asked for, but there are only {rows}" if rows < asked else "")
    yield from _cost(plan)
    yield "Output", recipe.output_dir
    yield "Upload", f"{upload.repo}, {'private' if upload.private else 'PUBLIC'}" if upload else "nothing leaves this machine"


def _cost(plan: Plan) -> Iterator[tuple[str, Text | str]]:
    """Memory and disk against what is free, and time."""
    yield "Memory", _against(plan.memory_total, plan.free_memory, plan.memory)
    yield "Disk", _against(plan.disk_bytes, plan.free_disk)
    time = Text(about(plan.seconds), style="bold")
    if plan.measured and plan.measured["steps"]:
        time.append(f"  measured: {_steps(plan.measured['steps'])}, {count(plan.measured['tokens_per_second'])} tokens/s", style="quiet")
    shown = [f"{name} {briefly(seconds)}" for name, seconds in plan.stages.items() if seconds >= max(1.0, LEAST_SHOWN * plan.seconds)]
    if len(shown) > 1:
        time.append(f"\n{', '.join(shown)}", style="quiet")
    yield "Time", time


def fit_line(chosen: str, needed: Mapping[str, int], free: int, *, at_most: bool = False) -> str:
    """What the chosen method needs of the free memory, and one to compare: the one that needs least, or LoRA or full if that is chosen.

    `at_most` where the numbers are not of the rows themselves but of the longest that are allowed.
    """
    most = "up to " if at_most else ""
    verdict = "fits" if needed[chosen] <= free else "does not fit"
    least = min(needed, key=lambda name: needed[name])
    other = least if least != chosen else next((name for name in ("lora", "full") if name in needed and name != chosen), None)
    line = f"{verdict}: {title('methods', chosen)} {most}{size(needed[chosen])} of {size(free)}"
    return f"{line}; {title('methods', other)} would need {most}{size(needed[other])}" if other else line


def _steps(number: int) -> str:
    return f"{count(number)} step{'s' if number != 1 else ''}"


def _benchmark(rows: int, who: str) -> str:
    return f"{held_out(rows)}, {who}{'; too few to judge' if rows < FEWEST_ROWS else ''}"


def _student(recipe: Recipe) -> str:
    if not isinstance(recipe.model, StudentSpec):
        return recipe.model
    return f"made from the teacher with {kept(dict(recipe.model.from_teacher.amounts()))}"


def _graded(found: Mapping[str, Any]) -> str:
    """What a server is asked for."""
    if not found["rows"]:
        return "all rows, by an earlier run: nothing is asked of the server"
    budget = f" (at most {count(found['budget'])})" if found["budget"] else ""
    return f"{count(found['rows'])} rows first, {about(found['seconds'])}, {count(found['tokens'])} tokens of the server{budget}"


def _told(teacher: TeacherSpec) -> str:
    return f", system prompt: {strip_control_chars(teacher.system)}" if teacher.system else ""


def _against(needed: float, free: float, parts: Mapping[str, int] | None = None) -> Text:
    text = Text.assemble(f"{size(needed)} of {size(free)} free", ("" if needed <= free else "  does not fit", "bad"))
    if parts:
        largest = sorted(parts, key=lambda part: -parts[part])[:3]
        shown = [*largest, *(["teacher"] if "teacher" in parts and "teacher" not in largest else [])]
        text.append(f"\n{', '.join(f'{part} {size(parts[part])}' for part in shown)}", style="quiet")
    return text
