"""Keys of a recipe that do not go together, each pair in one sentence.

    contradiction(recipe)           # "has `teacher` and `teachers`: give one of the two", or None

A recipe asks when it is made, so this file cannot know its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune import registry
from finetune.recipe.settings import GENERATED, TEACHER, StudentSpec
from finetune.recipe.task_settings import practice_of
from finetune.recipe.teacher_settings import problem_of_several


def contradiction(recipe: Any) -> str | None:
    """The first that is found, as half a sentence about the recipe."""
    checks = (_student, _rounds, _teachers, _writers, _grader, _tokenizers, _practice, _few_bits, _features, _evaluation, _new_tokens)
    return next((said for check in checks for said in check(recipe)), None)


def _student(recipe: Any) -> Iterator[str]:
    made, teacher = isinstance(recipe.model, StudentSpec), recipe.teacher
    if recipe.approach == "fine-tuning" and made:
        yield "has `model: {from_teacher: ...}`, which makes a student and needs `approach: distillation`"
    if made and any(each.load_in for each in recipe.named_teachers[:1]):
        yield "has a teacher with `load_in`, and no student can be made from rounded weights: leave it out, or name a student under `model`"
    if recipe.distillation.task and recipe.approach == "fine-tuning":
        yield "has `distillation.task`, which needs `approach: distillation`"
    if teacher and teacher.is_self and recipe.approach == "fine-tuning":
        yield "has `teacher: self`, which needs `approach: distillation`"
    if teacher and teacher.is_self and made:
        yield "has `teacher: self`, which trains a model that is its own teacher: name it under `model`, without `from_teacher`"
    if teacher and teacher.system and recipe.approach == "distillation" and recipe.distillation.supervise == "all":
        yield "has `teacher.system`, a prompt that only the teacher gets, so only answers can be compared: use `supervise: answers`"


def _rounds(recipe: Any) -> Iterator[str]:
    rounds, until = recipe.distillation.rounds, recipe.distillation.until
    if rounds is None and until is None:
        if recipe.distillation.round_teacher != "first":
            yield "has `distillation.round_teacher: previous`, which needs `distillation.rounds` or `distillation.until`"
        return
    if recipe.distillation.round_teacher == "previous" and (recipe.teachers or (recipe.teacher and recipe.teacher.system)):
        other = "teachers" if recipe.teachers else "teacher.system"
        yield f"has `{other}` and `distillation.round_teacher: previous`: a round's student is a single teacher without a system prompt"
    key = f"distillation.{recipe.distillation.in_rounds}"
    if recipe.approach == "fine-tuning":
        yield f"has `{key}`, which need{'' if rounds else 's'} `approach: distillation`"
    if not isinstance(recipe.model, StudentSpec):
        yield f"has `{key}` and a ready-made student: leave out `model`, and it is made from the teacher"
        return
    if until and recipe.teachers:
        yield "has `teachers` and `distillation.until`, which measures how much of one teacher is kept: leave out `until`"
    amounts = dict(recipe.model.from_teacher.amounts())
    if part := next((name for name in amounts if name != "layers"), None):
        verb = "leave" if rounds else "leaves"
        yield f"has `{key}`, which {verb} out layers, and `model.from_teacher.{part}`: give one of the two"
    elif rounds and amounts["layers"] != rounds[-1]:
        yield (
            f"has `distillation.rounds` that end with {rounds[-1]} layers, and `model.from_teacher.layers: {amounts['layers']}`: "
            "give the same number, or leave out `model`"
        )


def _teachers(recipe: Any) -> Iterator[str]:
    if recipe.teachers is None:
        return
    if recipe.teacher is not None:
        yield "has `teacher` and `teachers`: give one of the two"
    if recipe.approach == "fine-tuning":
        yield "has `teachers`, which need `approach: distillation`"
    if recipe.dataset.source == GENERATED:
        yield "has `teachers` and `dataset.source: generated`, which one teacher writes: give `teacher` alone"
    if recipe.dataset.answers == TEACHER:
        yield "has `teachers` and `dataset.answers: teacher`, which one teacher writes: give `teacher` alone"
    if recipe.distillation.correct:
        yield "has `teachers` and `distillation.correct`, which compares one teacher with the data: give one of the two"
    if any(each.server for each in recipe.teachers):
        yield "has several teachers, one of them on a server, which can only teach alone: give it as `teacher`, or name models instead"
    if problem := problem_of_several(recipe.teachers):
        yield f"has `teachers` {problem}"


def _writers(recipe: Any) -> Iterator[str]:
    teacher, generated, answers = recipe.teacher, recipe.dataset.source == GENERATED, recipe.dataset.answers == TEACHER
    if recipe.teaches_itself and (generated or answers):
        key = "dataset.source: generated" if generated else "dataset.answers: teacher"
        yield f"has `teacher: self` and `{key}`: a model learns nothing new from rows that it wrote itself"
    if teacher and teacher.system and recipe.approach == "fine-tuning" and not answers:
        yield "has `teacher.system`, which needs `approach: distillation` or `dataset: {answers: teacher}`"
    if recipe.approach == "distillation" or not teacher or not teacher.server:
        return
    if not generated and not answers:
        yield (
            "has a teacher on a server, which writes rows: use it with `dataset: {source: generated}`, or `dataset: {answers: teacher}`, "
            "or let it grade yours: `approach: distillation`"
        )
    if teacher.top_k is not None:
        yield "has `teacher.top_k`, of a server that grades rows, which needs `approach: distillation`"


def _grader(recipe: Any) -> Iterator[str]:
    """Of a server that tells likeliest tokens of rows, and nothing else of its model."""
    if recipe.grader is None:
        return
    spec = recipe.distillation
    if isinstance(recipe.model, StudentSpec):
        yield "has a teacher on a server, which gives no weights to make a student from: name one with the same tokenizer under `model`"
    if recipe.training.learning_rate == "auto":
        yield "has a teacher on a server and `training.learning_rate: auto`, which runs the teacher here: give a number"
    others = {
        f"distillation.cache: {spec.cache}": spec.cache != "auto",
        "distillation.correct": spec.correct,
        f"distillation.across_tokenizers: {spec.across_tokenizers}": spec.across_tokenizers != "none",
        f"distillation.features.{next(iter(spec.features.asked), '')}": spec.features.asked,
    }
    if key := next((key for key, asked in others.items() if asked), None):
        yield f"has `{key}` and a teacher on a server, which returns its likeliest tokens and nothing else: leave out one of the two"
    if spec.practice:
        yield f"has {practice_of(spec.task)} and a teacher on a server, which is asked before training: leave out one of the two"


def _tokenizers(recipe: Any) -> Iterator[str]:
    if recipe.distillation.across_tokenizers == "none":
        return
    if recipe.distillation.correct or (recipe.teacher and recipe.teacher.system):
        key = "distillation.correct" if recipe.distillation.correct else "teacher.system"
        yield f"has `{key}` and `distillation.across_tokenizers`, which cannot be combined: leave out one of the two"
    if recipe.distillation.across_tokenizers == "spans" and recipe.teachers:
        yield "has `teachers` and `distillation.across_tokenizers: spans`, which compares one teacher: give `teacher` alone, or `projected`"
    if recipe.distillation.across_tokenizers == "spans" and recipe.distillation.cache in ("hidden", "gradient"):
        kind = recipe.distillation.cache
        yield f"has `distillation.across_tokenizers: spans`, which keeps likelihoods, and `distillation.cache: {kind}`: use auto or none"


def _practice(recipe: Any) -> Iterator[str]:
    if recipe.distillation.on_policy and recipe.approach == "fine-tuning":
        yield "has `distillation.on_policy`, which needs `approach: distillation`"
    if recipe.distillation.practice is None:
        return
    epochs, practice = recipe.training.epochs, practice_of(recipe.distillation.task)
    if epochs != "auto" and epochs <= 1:
        yield f"has {practice}, which begins after the first epoch, and `training.epochs: {epochs:g}`: train for 2 or more"
    if recipe.teacher and recipe.teacher.system:
        yield f"has {practice} and `teacher.system`, which cannot be combined: leave out one of the two"
    if recipe.distillation.across_tokenizers != "none":
        yield f"has {practice} and `distillation.across_tokenizers`: only a teacher with the same tokenizer can read answers"


def _few_bits(recipe: Any) -> Iterator[str]:
    if recipe.distillation.quantize is None:
        return
    if recipe.approach == "fine-tuning":
        yield "has `distillation.quantize`, which needs `approach: distillation`: name the model as `teacher` and as `model`"
    if recipe.teaches_itself:
        yield "has `distillation.quantize` and `teacher: self`, which would be rounded too: name the model as `teacher` and as `model`"
    if key := recipe.distillation.in_rounds:
        yield f"has `distillation.quantize` and `distillation.{key}`: distil in rounds first, then in few bits with `model: THAT_FOLDER`"
    method = registry.load("methods", recipe.method.kind)
    if method.footprint(recipe.method).adapter:
        yield f"has `distillation.quantize`, which trains the weights themselves, and {method.title} trains an adapter: use `method: full`"
    elif not method.keeps_head(recipe.method, head_settled=True):
        yield "has `distillation.quantize`, which rounds embeddings and head for good, and a method that trains them: use `freeze: head`"


def _features(recipe: Any) -> Iterator[str]:
    spec = recipe.distillation
    asked = spec.features.asked
    if not asked:
        return
    inside = [name for name in asked if name != "last"]
    key = f"distillation.features.{(inside or asked)[0]}"
    if spec.alpha == 1:
        yield f"has `{key}` and `distillation.alpha: 1`, which asks no teacher: give one of the two"
    if recipe.teachers is not None:
        yield f"has `{key}`, which compares the student with one teacher, and `teachers`: give one of the two"
    if spec.across_tokenizers != "none":
        yield f"has `{key}`, which compares the states of equal tokens, and `distillation.across_tokenizers`: give one of the two"
    if spec.practice:
        yield f"has `{key}` and {practice_of(spec.task)}, which cannot be combined: leave out one of the two"
    if spec.features.relations and recipe.teacher and recipe.teacher.system:
        yield "has `distillation.features.relations`, which compare all tokens, and `teacher.system`, which the student lacks: give one"
    if spec.compares_other_layers and spec.round_teacher == "previous":
        yield "has `distillation.features.layers`, which compares the layers of one teacher, and `round_teacher: previous`: give one"
    if spec.compares_other_layers and spec.cache in ("hidden", "gradient"):
        others = "has `distillation.features.layers`, which change in each round, so that the teacher runs at every step,"
        yield f"{others} and `distillation.cache: {spec.cache}`: leave out one of the two"
    if spec.features.last and spec.cache == "gradient":
        yield "has `distillation.features.last`, which compares hidden states, and `distillation.cache: gradient`, which has none: give one"


def _evaluation(recipe: Any) -> Iterator[str]:
    spec, theirs = recipe.training, recipe.distillation.in_rounds
    if spec.evaluates and theirs:
        ours = "keep: best" if spec.keep == "best" else "patience" if spec.patience else "evaluate_every"
        yield f"has `training.{ours}`, which looks at one training, and `distillation.{theirs}`, which has several: give one of the two"


def _new_tokens(recipe: Any) -> Iterator[str]:
    if not recipe.dataset.add_tokens:
        return
    if recipe.approach == "distillation":
        yield "has `dataset.add_tokens` and `approach: distillation`, whose teacher knows no new tokens: fine-tune with them afterwards"
    method = registry.load("methods", recipe.method.kind)
    if not method.trains_tokens(recipe.method):
        yield f"has `dataset.add_tokens`, which {method.title} with these settings does not train: use `method: lora`, or `method: full`"
