"""Before the run: how much of the text a teacher with another tokenizer can say something about.

notes = alignment_notes(context)        # a sentence for each such teacher
"""

from __future__ import annotations

from finetune.distillation.across_tokenizers.alignment import shorter
from finetune.distillation.across_tokenizers.projected import AVERAGED, OWN_ROWS
from finetune.distillation.across_tokenizers.ways import WAYS
from finetune.distillation.teachers.routes import rows_of, teacher_rows
from finetune.distillation.vocabulary import shared_vocabulary
from finetune.errors import RecipeError
from finetune.models.facts import ModelFacts, describe
from finetune.run_context import RunContext


def check_tokenizers(context: RunContext, student: ModelFacts, teachers: list[ModelFacts]) -> None:
    """Raises VocabularyMismatch for a teacher whose tokens are others, unless the recipe says how the two are compared.

    With that also for tokens that are not byte strings, and RecipeError for teachers that would be averaged.
    """
    if len(teachers) > 1 and not context.recipe.routed_by and any(context.alignments):
        raise RecipeError(AVERAGED, hint=OWN_ROWS)
    for number, teacher in enumerate(teachers):
        if context.alignments[number] is None and not (number == 0 and context.student_is_made):
            shared_vocabulary(student.vocabulary, teacher.vocabulary, context.tokenizer, context.teacher_tokenizers[number])


def alignment_notes(context: RunContext) -> list[str]:
    """How much aligns, a sentence for each teacher with another tokenizer; raises VocabularyMismatch where it is too little.

    RecipeError for rows that are longer than the teacher's context in its tokens. Prepares the data.
    """
    if not context.distils or not any(context.alignments):
        return []
    numbers, notes = teacher_rows(context.recipe, context.data.train), []
    for number, alignment in enumerate(context.alignments):
        if alignment is None:
            continue
        rows, teacher = rows_of(number, context.data.train, numbers), context.teachers_located[number]
        share = WAYS[context.recipe.distillation.across_tokenizers](alignment, 0).measure(rows)
        share.check()
        limit = describe(teacher).context
        if limit and share.longest > limit:
            raise RecipeError(
                f"The longest row has {share.longest:,} tokens of {teacher.name}, whose context is {limit:,}.", hint=shorter(limit)
            )
        notes.append(f"{teacher.name} has another tokenizer: {share}; the others learn from the data alone.")
    return notes
