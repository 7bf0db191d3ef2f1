"""The lines of a model card about a distillation: one for each setting that is not the usual one.

distillation_lines(recipe)      # ["- Distillation: forward_kl, temperature 2.0, alpha 0.5 on the hard labels"]
"""

from __future__ import annotations

from finetune.benchmark.names import in_few_bits
from finetune.distillation.terms import in_words
from finetune.formatting import strip_control_chars
from finetune.recipe import Recipe
from finetune.recipe.task_settings import task_words
from finetune.recipe.teacher_settings import grading_words


def distillation_lines(recipe: Recipe) -> list[str]:
    """In Markdown, as parts of a list."""
    spec, lines = recipe.distillation, []
    teacher = "from the model itself as it was before, " if recipe.teacher and recipe.teacher.is_self else ""
    if recipe.grader:
        lines.append(f"- The teacher, {recipe.grader.model} on a server, told of each token {grading_words(recipe.grader.likeliest)}")
    if recipe.teacher and recipe.teacher.system:
        told = strip_control_chars(" ".join(recipe.teacher.system.split()))
        lines.append(f"- The teacher, and only the teacher, had this system prompt: {told}")
    if spec.task:
        lines.append(f"- Good at: {task_words(spec.task)}")
    lines.append(f"- Distillation: {teacher}{spec.objective}, temperature {spec.temperature}, alpha {spec.alpha} on the hard labels")
    if spec.across_tokenizers == "spans":
        lines.append("- Where the tokenizers differ, likelihoods of spans of text were compared, which is approximate")
    if spec.quantize:
        lines.append(f"- Learned in few bits, as its file has it: {in_few_bits(spec.quantize.model_dump())}")
    if spec.round_teacher == "previous":
        lines.append("- From the second round on, the student of the round before was the teacher")
    if spec.correct:
        lines.append(f"- Where the teacher's first choice was not the label, the label was put ahead of it by {spec.correct:g}")
    if inside := in_words(spec.features):
        lines.append(f"- Also compared with the teacher: {inside}")
    return lines
