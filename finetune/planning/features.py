"""Before the run: whether what the recipe wants to compare of the models' inside can be compared, and what that takes.

check_features(context, wanted)         # raises ModelError or RecipeError, from the configurations alone
features_notes(context, widths)         # sentences about what a person would not expect
kept_bytes(context, 0, 9000, 9500, 15)  # on disk, of the inner layers and relations of a teacher
"""

from __future__ import annotations

from finetune.distillation.terms import weights_of
from finetune.recipe.distillation_settings import FeaturesSpec
from finetune.recipe.settings import FromTeacher
from finetune.run_context import RunContext

TRAINED = 16  # bytes of a weight in float32 that trains, with its gradient and Adam's state
SCORES = 6  # matrices of scores that exist at once: see distillation/terms/autograd.py


def check_features(context: RunContext, wanted: FromTeacher | None) -> None:
    """Raises ModelError for models whose inside cannot be compared, RecipeError for layers that the student does not have."""
    if not context.distils or not weights_of(context.recipe.distillation.features):
        return
    from finetune.distillation.terms.features import Features
    from finetune.planning.without_weights import without_weights

    student = without_weights(context.located, wanted)
    teacher = without_weights(context.teacher_located) if context.has_other_teacher else student
    Features(context.recipe.distillation.features, student, teacher)


def features_memory(spec: FeaturesSpec, tokens: int, longest: int, widths: tuple[int, int], layers: int) -> dict[str, int]:
    """Bytes of a step beside those of the model; `widths` are those of the student and of its teacher.

    Of each compared layer the teacher's states, the gradient and a map that trains, where the widths differ; of relations the scores.
    """
    if not (weights := weights_of(spec)):
        return {}
    from finetune.distillation.terms.autograd import SCORE_BYTES

    ours, theirs = widths
    states = 4 * tokens * (ours + theirs) + (TRAINED * ours * theirs if ours != theirs else 0)
    scores = min(4 * tokens * longest, max(4 * longest**2, SCORE_BYTES))
    compared = {
        "last": states,
        "layers": states * (layers if spec.layers == "auto" else len(spec.layers)),
        "relations": states + SCORES * scores,
    }
    return {"features": sum(size for name, size in compared.items() if name in weights)}


def kept_bytes(context: RunContext, number: int, tokens: int, places: int, layers: int) -> int:
    """On disk, beside what else is cached of a teacher's answers to rows of so many supervised `tokens` and `places` in all.

    Of a student of `layers` layers that is still to be made: as if all of them were compared.
    """
    spec = context.recipe.distillation.features
    if not {"layers", "relations"} & weights_of(spec).keys():
        return 0
    import torch

    from finetune.distillation.terms.internals import Compared
    from finetune.models.kind import configuration

    count = {"none": 0, "auto": layers}[spec.layers] if isinstance(spec.layers, str) else len(spec.layers)
    config = configuration(context.teachers_located[number]).get_text_config()
    return Compared(spec, range(count)).kept(config, layers).bytes(tokens, places, torch.float32)


def features_notes(context: RunContext, widths: tuple[int, int]) -> list[str]:
    """What a person would not expect."""
    spec, notes = context.recipe.distillation.features, []
    if context.distils and widths[0] != widths[1] and {"last", "layers"} & weights_of(spec).keys():
        notes.append(
            f"The student's states have {widths[0]:,} numbers and the teacher's {widths[1]:,}: "
            "maps from one to the other train with the student, and are not saved with it."
        )
    return notes
