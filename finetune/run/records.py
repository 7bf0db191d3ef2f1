"""The records of a run, written down before it starts: its recipe with every revision, what it runs on, its data and its cost.

write_records(context, folder, plan)
environment(context)        # environment.json: versions, machine, fingerprints
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from finetune import __version__
from finetune.errors import BadInput
from finetune.events import DataPrepared, Fanout, JsonLines, Notice, Planned
from finetune.models.location import LocatedModel
from finetune.planning.estimate import Plan
from finetune.recipe.schema import EDITOR_LINE, recipe_schema
from finetune.run_context import RunContext
from finetune.run_folder import ROWS, TRAINING, RunFolder

PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "tokenizers", "bitsandbytes", "rouge-score")


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a run computes."""
    found = {"python": platform.python_version(), "finetune-cli": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def environment(context: RunContext) -> dict[str, Any]:
    """Everything beside the recipe that the numbers may depend on."""
    return {
        "versions": versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": asdict(context.machine),
        "asked": context.runtime.asked,
        "processes": context.processes * context.runtime.nodes,
        "model": {**_facts(context.located), "loads_with": _loads_with(context.located)},
        "teacher": _facts(context.teacher_located) if context.recipe.named_teachers and not context.teaches_itself else None,
        **({"teachers": [_facts(located) for located in context.teachers_located]} if context.recipe.teachers else {}),
        "dataset_fingerprint": context.data.fingerprint,
        "dataset_contents": context.data.contents,
        "seed": context.recipe.seed,
    }


def _loads_with(located: LocatedModel) -> str:
    """The class of transformers that loads the model: another one where it also sees pictures."""
    from finetune.models.kind import auto_class, configuration

    name: str = auto_class(configuration(located), located).__name__
    return name


def _facts(located: LocatedModel) -> dict[str, Any]:
    return {
        "name": located.name,
        "revision": located.revision,
        "note": located.note,
        "bytes": located.bytes,
        "identity": located.identity,
    }


def open_records(reporter: Fanout, folder: RunFolder) -> None:
    """From now on events are written into the folder, first what its file system cannot do."""
    if any(isinstance(each, JsonLines) for each in reporter.reporters):
        return
    reporter.reporters.append(JsonLines(folder.events))
    for weakness in folder.weaknesses:
        reporter.report(Notice(weakness, "warning"))


def begin_records(context: RunContext, folder: RunFolder) -> None:
    """The recipe and the machine, for a run whose rows are still to be written."""
    folder.write_text(folder.recipe, EDITOR_LINE + context.recipe.to_yaml())
    folder.write_json(folder.recipe_schema, recipe_schema())
    folder.write_json(folder.environment, {"machine": asdict(context.machine), "asked": context.runtime.asked})
    folder.write_stage(ROWS)


def write_missing_rows(context: RunContext, folder: RunFolder, *, resumed: bool, load: Callable[[], Any]) -> None:
    """Have the missing rows written into a folder that is claimed; unless `resumed`, a teacher that cannot write leaves no folder behind.

    `load` loads the teacher.
    """
    try:
        open_records(context.reporter, folder)
        if not resumed:
            begin_records(context, folder)
        context.source.make(context, folder, load)
    except BadInput:
        if not resumed:
            folder.forget()
        raise
    finally:
        folder.release()


def write_records(context: RunContext, folder: RunFolder, plan: Plan) -> None:
    """Into the run's folder, and to whoever listens; the recipe should be pinned to what was found."""
    report = context.data.report
    folder.write_text(folder.recipe, EDITOR_LINE + context.recipe.to_yaml())
    folder.write_json(folder.recipe_schema, recipe_schema())
    began = folder.known(folder.environment).get("asked", {})  # with, where it goes on
    found = environment(context)
    folder.write_json(folder.environment, {**found, "asked": {**began, **found["asked"]}})
    folder.write_json(folder.data_report, report.to_dict())
    context.source.keep(context, folder)
    if context.earlier:
        folder.write_json(folder.continued, {"adapter": context.located.pinned, "base": context.base_located.pinned})
    folder.write_stage(TRAINING)
    context.reporter.report(DataPrepared(report.to_dict()))
    context.reporter.report(Planned(plan.to_dict()))
    for note in [*report.notes, *getattr(context.tokenizer, "notes", [])]:
        context.reporter.report(Notice(note))


def write_student(context: RunContext, folder: RunFolder, facts: Mapping[str, Any]) -> None:
    """How a student was made and what was decided once it was there; the recipe then says the same, so that a repeated run need not."""
    if facts and not folder.student.is_file():  # a resumed run finds what was decided when it began
        folder.write_json(folder.student, facts)
        folder.write_text(folder.recipe, EDITOR_LINE + context.recipe.to_yaml())
