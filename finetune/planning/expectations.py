"""What can be said of a result before the run: a student cut too small to be usable, a teacher smaller than it, held-out rows too few to
judge by, answers longer than a student may write, answers cut off, steps too few to change much.

for sentence in expectations(context, [30, 4]):
    ...        # "9 held-out rows ... --set dataset.held_out=0.2"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from finetune.benchmark.names import FEWEST_ROWS, of_only, share
from finetune.distillation.rounds import gentle_rounds
from finetune.distillation.teachers.sizes import swapped
from finetune.formatting import counted
from finetune.models.facts import describe
from finetune.planning.practice import likely_cut
from finetune.recipe import StudentSpec
from finetune.run_context import RunContext
from finetune.training.step_count import steps_of

ENOUGH = 20  # held-out rows to propose: with the fewest, only large changes are seen
MOST_HELD_OUT = 0.3  # of the rows; beyond it, more rows are needed
MANY_CUT = 0.1  # of the rows
FEW_STEPS, SMALL_BATCH = 10, 4  # a step moves no weight farther than about the learning rate
FEWEST_LAYERS = 0.5  # of the teacher's


def expectations(context: RunContext, depths: Sequence[int]) -> list[str]:
    """Sentences for people, each with what to do about it; `depths` are the layers of teacher and each student."""
    return [
        said
        for said in (
            _too_small(context, depths),
            _swapped(context),
            _cut(context),
            _few_steps(context),
            _too_few(context),
            likely_cut(context),
            _tasks(context),
        )
        if said
    ]


def _tasks(context: RunContext) -> str | None:
    """Of tasks of lm-evaluation-harness, whose rows can take longer than the training."""
    spec = context.recipe.benchmark
    if not spec.tasks:
        return None
    models = "three models" if context.has_other_teacher else "two models"
    if spec.task_rows:
        return (
            f"benchmark.tasks run on {models} with the first {counted(spec.task_rows, 'row')} of each; this plan does not count their time."
        )
    return (
        f"benchmark.tasks run on {models} with all of their rows; this plan does not count their time. Fewer rows: "
        "--set benchmark.task_rows=100"
    )


def _too_small(context: RunContext, depths: Sequence[int]) -> str | None:
    """Of a student that is cut out of its teacher: measured, those of half the layers answer poorly and smaller ones nonsense."""
    model, last = context.recipe.model, depths[-1]
    number = next((number for number, (of, layers) in enumerate(pairwise(depths)) if layers < FEWEST_LAYERS * of), None)
    if not isinstance(model, StudentSpec) or number is None:
        return None
    of, layers = depths[number], depths[number + 1]
    whose = f"the {of} layers of round {number}" if number else f"its teacher's {of} layers"
    said = f"The student keeps {layers} of {whose} ({share(layers / of)}). Below half in one go, expect it to be not usable: "
    keep, rounds = math.ceil(of * 2 / 3), ",".join(map(str, gentle_rounds(depths[0], last)))
    by_layers = [name for name, _ in model.from_teacher.amounts()] == ["layers"]
    same = "" if not by_layers or model.from_teacher.layers == last else f" --set model.from_teacher.layers={last}"
    in_rounds = f"get there in rounds (--set distillation.rounds=[{rounds}]{same}), or " if by_layers else ""
    return f"{said}{in_rounds}keep about {keep} (--set model.from_teacher.layers={keep}) and make a smaller one from the result."


def _swapped(context: RunContext) -> str | None:
    """Of teachers that are smaller than the student, the smallest; an adapter does not count."""
    if not context.has_other_teacher or context.student_is_made:
        return None
    student, *teachers = (describe(each.home).parameters for each in (context.located, *context.teachers_located))
    return swapped(min(teachers), student)


def _cut(context: RunContext) -> str | None:
    """Of rows that are cut: a model that sees few ends goes on and on, and one that sees no beginnings is asked something else."""
    report = context.data.report
    few = MANY_CUT * report.train_sequences
    if max(report.truncated_answers, report.truncated_prompts) < max(few, 1):
        return None
    if report.truncated_answers >= few:
        number, what, loses = report.truncated_answers, "answer", "are cut off, so they do not teach the model to end"
    else:
        number, what, loses = report.truncated_prompts, "prompt", "lose their beginning"
    model = describe(context.located)
    limit = model.context or report.longest
    whole = "whole" if report.longest <= limit else "longer"
    better = f"--set dataset.max_length={min(limit, report.longest)} keeps them {whole}, and takes more memory."
    if context.recipe.dataset.max_length >= limit:
        better = f"{model.name} reads {limit:,} tokens at most: only a model with a longer context takes them whole."
    return f"{number:,} of {counted(report.train_sequences, what)} {loses}. {better}"


def _few_steps(context: RunContext) -> str | None:
    """Of a training that ends before it has begun, most often because a step takes nearly all rows."""
    spec, rows = context.recipe.training, context.data.report.train_sequences
    steps = steps_of(spec, rows)
    if steps >= FEW_STEPS:
        return None
    smaller = steps_of(spec.model_copy(update={"batch_size": SMALL_BATCH, "gradient_accumulation": 1}), rows)
    one = "" if spec.gradient_accumulation == 1 else " --set training.gradient_accumulation=1"
    better = f"{smaller}: --set training.batch_size={SMALL_BATCH}{one}" if smaller >= FEW_STEPS else "more: --set training.epochs=auto"
    return f"In {counted(steps, 'step')} a model changes little; for {better}."


def _too_few(context: RunContext) -> str | None:
    """Of held-out rows that are too few for any verdict, and how there would be enough."""
    report, recipe = context.data.report, context.recipe
    alone = report.held_out_groups or report.held_out  # rows of one prompt count as one
    rows = min(recipe.benchmark.rows, alone)
    if rows >= FEWEST_ROWS:
        return None
    few = counted(rows, "held-out row", "are")
    if rows < min(recipe.benchmark.rows, report.held_out):
        few = f"{counted(report.held_out, 'held-out row')} {of_only(rows)} are"
    said = f"{few} too few to judge the result: {FEWEST_ROWS} would do, {ENOUGH} are better"
    if alone >= FEWEST_ROWS:
        return f"{said} (--set benchmark.rows={min(ENOUGH, report.held_out)})."
    all_alone = max(1, report.train + report.held_out) * alone / report.held_out  # by the share of those held out
    wanted = math.ceil(100 * ENOUGH / all_alone) / 100
    own = recipe.dataset.eval_split is None  # rows of another split are as many as it has, whatever is trained on
    if own and wanted <= MOST_HELD_OUT:
        return f"{said} (--set dataset.held_out={wanted:g})."
    used = report.train + report.held_out + report.deciding
    more = min(used + report.not_asked, math.ceil(ENOUGH * used / alone))
    if own and more * alone >= FEWEST_ROWS * used:
        return f"{said} (--set dataset.samples={more})."
    if own and MOST_HELD_OUT * all_alone >= FEWEST_ROWS > recipe.dataset.held_out * all_alone:
        return f"{said} (--set dataset.held_out={MOST_HELD_OUT})."
    return f"{said}. Add rows{' with other prompts' if alone < report.held_out else ''} to the data."
