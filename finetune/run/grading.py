"""A run whose teacher is on a server: it is checked before the long work, and grades the rows before the first step.

check_grading(context)                      # raises what makes it impossible, unless all rows are graded
setup = graded_setup(context, student)
"""

from __future__ import annotations

from typing import Any

from finetune.distillation.caches.server import Graded, tokens_of
from finetune.distillation.pair_checks import examine
from finetune.distillation.prepare import DistillationSetup, tell
from finetune.distillation.teachers.model_or_cache import Teacher
from finetune.errors import VocabularyMismatch
from finetune.formatting import size
from finetune.recipe.teacher_settings import grading_words, host_of
from finetune.run_context import RunContext
from finetune.sources.account import BudgetUsedUp
from finetune.sources.grader import Grader
from finetune.sources.server import Server
from finetune.system.shell import quoted
from finetune.training.head import head_of


def check_grading(context: RunContext) -> None:
    """Raises what `Grader.check` raises; a server is not asked where an earlier run has all that it could tell. Prepares the data."""
    if context.source.missing(context) or _graded(context).left().rows:
        _grader(context).check()


def graded_setup(context: RunContext, student: Any, *, look: bool = True) -> DistillationSetup:
    """What the student learns from. Raises BudgetUsedUp with what was kept, TrainingError for a problem that a check finds."""
    recipe = context.recipe
    spec = recipe.grader
    assert spec is not None
    assert spec.server is not None
    graded, ours = _graded(context), head_of(student).vocabulary
    if graded.key.vocabulary > ours:
        said = f"The tokenizer has {graded.key.vocabulary:,} tokens and the student's head {ours:,}, so a server may return unknown ones."
        raise VocabularyMismatch(said, hint="Give them embeddings with model.resize_token_embeddings(len(tokenizer)) of transformers.")
    name = f"{spec.model} at {host_of(spec.server)}"
    with context.stage("teacher cache", f"{name} grades the rows") as done:
        if look:
            tell(examine(student, None, context.data.train, context.data.held_out, tokenizer=context.tokenizer), set(), context.reporter)
        left = graded.left()
        try:
            cache = graded.cache(_grader(context), context.reporter)
        except BudgetUsedUp as error:
            rows = len(graded.rows)
            kept = f"{error.message} {rows - graded.left().rows:,} of {rows:,} rows are graded and kept."
            raise BudgetUsedUp(kept, hint=f"`finetune-cli resume {quoted(recipe.output_dir)}` may take as many again.") from None
        asked = f"asked for {left.rows:,} of {len(graded.rows):,} rows" if left.rows else "nothing was left to ask for"
        reason = f"the server returns {grading_words(spec.likeliest)}: {size(cache.nbytes)}, {asked}"
        done(reason)
    return DistillationSetup(recipe.distillation, [Teacher(None, cache, context.tokenizer)], reason, reporter=context.reporter)


def _graded(context: RunContext) -> Graded:
    return Graded.of(context.recipe, context.data, context.tokenizer, context.runtime)


def _grader(context: RunContext) -> Grader:
    spec, tokenizer = context.recipe.grader, context.tokenizer
    assert spec is not None
    server = Server(spec, context.reporter)
    return Grader(server, tokenizer, likeliest=spec.likeliest, vocabulary=tokens_of(tokenizer), budget=spec.budget_tokens)
