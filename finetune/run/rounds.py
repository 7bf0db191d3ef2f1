"""The trainings of a run, one after another: where there are several rounds, each cuts the student of the round before and trains it again.

    outcome, model = train_rounds(context, folder, [student], setup=setup, start=None, taught=scores)

What the teachers said is asked once and serves all rounds, unless the student of a round teaches the next one; so does the learning rate
that the first student asked for. After a round its student is in run/rounds/NUMBER, and run/progress.json has an entry for it: an
interrupted run continues with the round after the last entry. The next student is always cut out of the saved one, so it is the same
whether the run was interrupted or not.

Where `distillation.until` says when to stop, each student is measured on rows of its own (finetune/run/round_check.py), and the result is
that of the last round that kept enough: its student is kept until the next one has been measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

from finetune.benchmark.names import in_words
from finetune.distillation.prepare import DistillationSetup
from finetune.distillation.students.making import make_student
from finetune.events import Notice, RoundFinished, TrainingFinished
from finetune.models.location import locate
from finetune.recipe import StudentSpec
from finetune.run.baselines import TeacherScores, measure
from finetune.run.loading import attach_method, distillation_setup, load_result
from finetune.run.result import save_model
from finetune.run.resume import what_decides
from finetune.run.round_check import RoundCheck
from finetune.run.train_model import Order, engine_of
from finetune.run_context import RunContext
from finetune.run_folder import TRAINING, RunFolder
from finetune.training.checkpoints import Checkpoint, Checkpoints
from finetune.training.loop import Outcome
from finetune.training.step_count import steps_of

Ranges = list[list[int]]  # numbers of layers from 1, each [first, last]


def train_rounds(
    context: RunContext,
    folder: RunFolder,
    student: list[Any],
    *,
    setup: DistillationSetup | None = None,
    start: Checkpoint | None = None,
    taught: TeacherScores | None = None,
) -> tuple[Outcome, Any]:
    """Train and save what is left of the rounds; the totals of all, and the last model.

    `student` holds the model of the first round with the method attached, and is emptied, so that it can be let go of. `start` is a
    checkpoint of the round that was interrupted. Raises what the training loop does.
    """
    rounds, done, check = context.rounds, folder.finished_rounds(), RoundCheck.of(context)
    model, totals = student.pop(), [TrainingFinished(**entry["training"]) for entry in done]
    several, stopped = len(rounds) > 1 or check is not None, False
    decided = check.result(done, len(rounds)) if check else None
    if several:
        folder.write_stage(TRAINING, rounds=done, of_rounds=len(rounds))
    made_with: dict[str, Any] = {"recipe": what_decides(context.recipe)}
    for number, each in enumerate(rounds[len(done) :] if decided is None else [], len(done) + 1):
        if number > 1:
            del model
            before = load_result(each, _place(folder, number - 1))
            model = _next_student(each, folder, number, before, done[-1]["left_out"])
            if context.recipe.distillation.round_teacher == "previous":
                setup = _taught_by(each, model, before, _place(folder, number - 1))
            del before
        with context.stage("training", f"Training, round {number} of {len(rounds)}" if several else "Training") as said:
            begun = made_with | ({"round": number} if several else {})
            learns_from = setup
            if setup and folder.student.is_file():
                learns_from = replace(setup, made=folder.read_json(folder.student))  # another student in each round
            outcome = engine_of(each).train(Order(each, model, folder, learns_from, start, begun, each.cut))
            model, start = each.method.finish(model, each.recipe.method, context.reporter), None
            stopped = outcome.stopped
            ends = not outcome.complete or (number == len(rounds) and not check)
            save_model(each, model, folder if ends else _place(folder, number))
            said(f"{outcome.finished.made}, {outcome.finished.tokens_per_second:,.0f} tokens/s")
        totals.append(outcome.finished)
        if ends:
            break
        done.append(_entry(each, folder, model, outcome, taught) | ({"kept": check.kept(each, model)} if check else {}))
        decided = check.result(done, len(rounds)) if check else None
        _note(context, folder, done, passed=decided in (None, number))
        if outcome.stopped or decided:
            break
    if not several:
        return outcome, model
    if check and decided:
        del model
        model = _result(rounds[decided - 1], folder, decided, done)
        context.reporter.report(check.sentence(done, decided))
    finished = _together(totals, last=totals[decided - 1] if decided else totals[-1])
    context.reporter.report(finished)
    left = rounds[: len(done)] if decided else rounds
    return Outcome(finished, stopped, sum(steps_of(each.recipe.training, len(each.data.train)) for each in left)), model


def _taught_by(context: RunContext, student: Any, before: Any, place: RunFolder) -> DistillationSetup:
    """What the student of a round learns from the one before it, saved in `place`, whose answers are cached like those of every teacher.

    Teacher assistants: Mirzadeh et al. 2019, arXiv 1902.03393.
    """
    located = locate(str(place.output_dir), context.runtime, context.reporter)
    recipe = context.recipe.with_changes({"teacher": {"source": str(place.output_dir), "load_in": None}})
    return distillation_setup(context.beside(recipe=recipe, teachers_located=[located]), student, [before], look=False)


def _result(context: RunContext, folder: RunFolder, number: int, done: Sequence[Mapping[str, Any]]) -> Any:
    """The student of a finished round as the result of the run: saved there, and described in run/student.json."""
    model, entry = load_result(context, _place(folder, number)), done[number - 1]
    save_model(context, model, folder)
    changes = {"layers": entry["layers"], "left_out": entry["left_out"], "parameters": model.num_parameters()}
    folder.write_json(folder.student, {**folder.read_json(folder.student), **changes})
    folder.write_stage(TRAINING, rounds=[{**each, "result": place == number} for place, each in enumerate(done, 1)])
    return model


def _entry(context: RunContext, folder: RunFolder, model: Any, outcome: Outcome, taught: TeacherScores | None) -> dict[str, Any]:
    """What run/progress.json says of a finished round."""
    losses = context.beside(recipe=context.recipe.with_changes({"benchmark": {"metrics": ["perplexity"]}}))
    with context.stage("round", "Measuring the student of the round") as said:
        scores = measure(losses, model, "round", teacher=taught.one.states if taught else None)
        said(f"{_layers(context)} layers: {in_words(scores.values)}")
    left_out = folder.read_json(folder.student)["left_out"]
    ranges = left_out if isinstance(left_out[0], list) else [left_out]
    return {"layers": _layers(context), "left_out": ranges, "scores": scores.values, "training": asdict(outcome.finished)}


def _note(context: RunContext, folder: RunFolder, done: Sequence[Mapping[str, Any]], *, passed: bool) -> None:
    """Note that one more round is over; what only served it goes afterwards, so the student before one that has `passed`."""
    number, last = len(done), done[-1]
    context.reporter.report(RoundFinished(number, len(context.rounds), last["layers"], last["training"]["steps"], dict(last["scores"])))
    folder.write_stage(TRAINING, rounds=done)
    Checkpoints(folder.checkpoints).clear()
    if number > 1 and passed:
        shutil.rmtree(_place(folder, number - 1).output_dir, ignore_errors=True)


def _next_student(context: RunContext, folder: RunFolder, number: int, before: Any, left_out: Ranges) -> Any:
    """The student of a round from the second on, with the method attached; run/student.json then says what is left of the teacher."""
    assert isinstance(context.recipe.model, StudentSpec)
    facts = folder.read_json(folder.student)
    with context.stage("student", f"Making the student of round {number}"):
        made = make_student(before, context.recipe.model.from_teacher, context.data.train, reporter=context.reporter, say=False)
    of = int(facts["of_layers"])
    first, last = made.facts["left_out"]
    there = [layer for layer in range(1, of + 1) if not any(low <= layer <= high for low, high in left_out)]
    now = there[first - 1 : last]
    together = _ranges([layer for layer in range(1, of + 1) if layer not in there or layer in now])
    said = ", ".join(f"{low} to {high}" if high > low else str(low) for low, high in _ranges(now))
    layers = made.facts["layers"]
    which = f"{said} are left out, which change least" if len(now) > 1 else f"layer {said} is left out, which changes least"
    context.reporter.report(Notice(f"The student of round {number} keeps {layers} of the teacher's {of} layers: now {which}."))
    folder.write_json(folder.student, {**facts, "layers": layers, "left_out": together, "parameters": made.facts["parameters"]})
    return attach_method(context, made.model)


def _ranges(layers: Sequence[int]) -> Ranges:
    """[3, 4, 5, 9] as [[3, 5], [9, 9]]."""
    ends = [0, *(place for place, (one, other) in enumerate(pairwise(layers), 1) if other != one + 1), len(layers)]
    return [[layers[start], layers[end - 1]] for start, end in pairwise(ends)]


def _layers(context: RunContext) -> int:
    assert isinstance(context.recipe.model, StudentSpec)
    return int(context.recipe.model.from_teacher.layers or 0)


def _place(folder: RunFolder, number: int) -> RunFolder:
    """Where the student of a finished round is kept until the next one is over."""
    return RunFolder(folder.rounds / str(number))


def _together(rounds: Sequence[TrainingFinished], *, last: TrainingFinished) -> TrainingFinished:
    """The totals of all rounds; what the student is, and its last loss, are those of the `last` one that counts."""
    first = rounds[0]
    seconds, tokens = sum(each.train_seconds for each in rounds), sum(each.real_tokens for each in rounds)
    return TrainingFinished(
        steps=sum(each.steps for each in rounds),
        train_seconds=round(seconds, 3),
        real_tokens=tokens,
        tokens_per_second=round(tokens / seconds, 2),
        supervised_tokens=sum(each.supervised_tokens for each in rounds),
        peak_memory_bytes=max(each.peak_memory_bytes for each in rounds),
        trainable_parameters=last.trainable_parameters,
        parameters=last.parameters,
        first_loss=first.first_loss,
        final_loss=last.final_loss,
        steps_with_fewer_threads=sum(each.steps_with_fewer_threads for each in rounds),
    )
