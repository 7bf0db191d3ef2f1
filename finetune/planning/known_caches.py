"""Which teachers an earlier run has asked about the same rows, told without loading one: the plan does not count their caches again.

    remember(context, 0, cache)             # after a teacher was asked
    known(context, 0, "gradient")           # later, and in any other run

A mark in the cache folder, named by all that a cache depends on as far as it can be told from files, names the cache.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import registry
from finetune.recipe import StudentSpec
from finetune.run_context import RunContext
from finetune.system.storage import digest, write_whole

if TYPE_CHECKING:
    from finetune.distillation.caches.on_disk import TeacherCache


def remember(context: RunContext, number: int, cache: TeacherCache) -> None:
    """Note that this teacher's answers are in `cache`."""
    if known(context, number, cache.key.kind):
        return
    with suppress(OSError):  # a plan is then too careful
        write_whole(_mark(context, number, cache.key.kind), cache.folder.name, shared=True)


def known(context: RunContext, number: int, kind: str) -> bool:
    """Whether a complete cache of this teacher is there."""
    from finetune.distillation.caches.on_disk import read_index  # torch, which the wizard's plan must not wait for

    try:
        index = read_index(_folder(context) / _mark(context, number, kind).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False
    return index is not None and index.complete


def _folder(context: RunContext) -> Path:
    return context.runtime.cache_dir / "teachers"


def _mark(context: RunContext, number: int, kind: str) -> Path:
    recipe, spec = context.recipe, context.recipe.all_teachers[number]
    rows = recipe.teachers[number].rows if recipe.teachers else None
    teacher = [context.teachers_located[number].identity, str(spec.load_in), str(spec.system), str(recipe.teaches_itself)]
    teacher.append("margins" if recipe.distillation.correct else "")
    features, model = recipe.distillation.features, recipe.model
    if features.layers != "none" or features.relations:  # which layers is known of the student alone
        whose = model.model_dump_json() if isinstance(model, StudentSpec) else context.located.identity
        teacher += [str(features.layers), str(features.relations), whose if features.layers != "none" else ""]
    parts = [kind, *teacher, context.machine.dtype, context.data.fingerprint, str(rows)]
    if not registry.load("signals", kind).keeps_head:  # it holds the student's
        adapter = context.method.footprint(recipe.method).adapter
        parts += [context.located.identity, str(adapter), str(recipe.distillation.temperature)]
    return _folder(context) / "asked" / digest(parts)
