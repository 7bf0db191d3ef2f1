"""The plan as a table: what will happen, and whether it fits.

console.print(review(recipe, tuner.plan()))
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.text import Text

from finetune.events import DataPrepared, Event, Planned
from finetune.formatting import count, size, strip_control_chars
from finetune.planning.estimate import Plan
from finetune.recipe import Recipe, StudentSpec
from finetune.registry import title
from finetune.screen.data import data_report
from finetune.screen.method_fit import fit_line
from finetune.screen.tables import block, pairs
from finetune.screen.wording import about

CACHES = {
    "auto": "the teacher is asked once, its answers kept on disk",
    "hidden": "the teacher is asked once, its last states kept on disk",
    "gradient": "the teacher is asked once, its gradients kept on disk",
    "none": "none: the teacher is asked at every step",
}


def review(recipe: Recipe, plan: Plan) -> RenderableType:
    """One fact a line; what does not fit is marked and explained below."""
    return block(Group(pairs(_facts(recipe, plan)), *_problems(plan)), above=0)


class PlanScreen:
    """A reporter that shows the data and the cost of a run before it trains."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def report(self, event: Event) -> None:
        if isinstance(event, DataPrepared):
            self.console.print(data_report(event.report, examples=False, ascii_only=self.console.options.ascii_only))
        elif isinstance(event, Planned):
            plan = Plan(**event.plan)
            self.console.print(block(Group(pairs(cost(plan)), *_problems(plan)), above=0))


def _problems(plan: Plan) -> list[Text]:
    return [Text.assemble(("! ", "warning"), (problem, "warning")) for problem in plan.problems]


def _facts(recipe: Recipe, plan: Plan) -> list[tuple[str, RenderableType]]:
    training = recipe.training
    method = title("methods", recipe.method.kind)
    together = count(training.batch_size * training.gradient_accumulation)
    share = f"{100 * plan.trainable_parameters / plan.parameters:.1f} %"
    facts: list[tuple[str, RenderableType]] = []
    if recipe.teacher:
        facts += [("Teacher", recipe.teacher.source), ("Student", _student(recipe))]
    else:
        facts += [("Model", str(recipe.model))]
    facts += [
        ("Method", f"{method}: {count(plan.trainable_parameters)} of {count(plan.parameters)} parameters learn ({share})"),
        ("", Text(fit_line(recipe.method.kind, plan.methods, plan.free_memory), style="quiet")),
        ("Data", f"{strip_control_chars(recipe.dataset.source)}: {count(plan.rows)} rows, {count(plan.tokens)} tokens"),
        ("Training", f"{_steps(plan.steps)}: {training.epochs:g} x {count(plan.rows)} rows, {together} a step"),
        *(_lesson(recipe, plan) if recipe.teacher else []),
        (
            "Benchmark",
            _benchmark(
                min(recipe.benchmark.rows, plan.held_out_rows),
                "teacher, student before and after" if recipe.teacher else "before and after",
            ),
        ),
        *cost(plan),
        ("Output", recipe.output_dir),
        (
            "Upload",
            f"{recipe.upload.repo}, {'private' if recipe.upload.private else 'PUBLIC'}" if recipe.upload else "nothing leaves this machine",
        ),
    ]
    return facts


def cost(plan: Plan) -> list[tuple[str, RenderableType]]:
    """Memory and disk against what is free, and time."""
    return [
        ("Memory", _against(plan.memory_total, plan.free_memory, plan.memory)),
        ("Disk", _against(plan.disk_bytes, plan.free_disk)),
        ("Time", _time(plan)),
    ]


def _lesson(recipe: Recipe, plan: Plan) -> list[tuple[str, RenderableType]]:
    spec = recipe.distillation
    on_disk = f"; {size(plan.cache_bytes)} at most" if plan.cache_bytes else ""
    teacher = f"{title('objectives', spec.objective)} at temperature {spec.temperature:g}"
    return [
        (
            "Loss",
            f"{spec.alpha:.0%} the data, {1 - spec.alpha:.0%} the teacher ({teacher})",
        ),
        ("Cache", CACHES[spec.cache] + on_disk),
    ]


def _steps(number: int) -> str:
    return f"{count(number)} step{'s' if number != 1 else ''}"


def _benchmark(rows: int, who: str) -> str:
    from finetune.benchmark.bootstrap import FEWEST_ROWS

    few = "; too few to prove anything" if rows < FEWEST_ROWS else ""
    return f"{rows} held-out rows, {who}{few}"


def _student(recipe: Recipe) -> str:
    if isinstance(recipe.model, StudentSpec):
        layers = recipe.model.from_teacher.layers
        return f"made from the teacher: {layers} layers" if layers >= 1 else f"made from the teacher: {layers:.0%} of its layers"
    return recipe.model


def _time(plan: Plan) -> Text:
    text = Text(about(plan.seconds), style="bold")
    if plan.measured and plan.measured["steps"]:
        text.append(f"  measured: {_steps(plan.measured['steps'])}, {count(plan.measured['tokens_per_second'])} tokens/s", style="quiet")
    return text


def _against(needed: float, free: float, parts: Mapping[str, int] | None = None) -> Text:
    text = Text.assemble(f"{size(needed)} of {size(free)} free", ("" if needed <= free else "  does not fit", "bad"))
    if parts:
        largest = sorted(parts, key=lambda part: -parts[part])[:3]
        shown = [*largest, *(["teacher"] if "teacher" in parts and "teacher" not in largest else [])]
        text.append(f"\n{', '.join(f'{part} {size(parts[part])}' for part in shown)}", style="quiet")
    return text
