"""The records of a run, written down before it starts: its recipe with every revision, what it runs on, its data and its cost.

write_records(tuner)
environment(tuner)          # environment.json: versions, machine, fingerprints
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.events import DataPrepared, Notice, Planned
from finetune.run_folder import TRAINING
from finetune.schema import EDITOR_LINE, recipe_schema

if TYPE_CHECKING:
    from finetune.models.location import LocatedModel
    from finetune.run.finetuner import LLMFineTuner

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


def environment(tuner: LLMFineTuner) -> dict[str, Any]:
    """Everything beside the recipe that the numbers may depend on."""
    from finetune.hardware.machine import as_dict

    return {
        "versions": versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": as_dict(tuner.machine),
        "model": _facts(tuner.located),
        "teacher": _facts(tuner.teacher_located) if tuner.distils else None,
        "dataset_fingerprint": tuner.data.fingerprint,
        "seed": tuner.recipe.seed,
    }


def _facts(located: LocatedModel) -> dict[str, Any]:
    return {
        "name": located.name,
        "revision": located.revision,
        "note": located.note,
        "bytes": located.bytes,
        "identity": located.identity,
    }


def write_records(tuner: LLMFineTuner) -> None:
    """Into the run's folder, and to whoever listens; the recipe of the run is pinned to what was found."""
    report, folder = tuner.data.report, tuner.folder
    pinned: dict[str, Any] = {} if tuner.student_is_made else {"model": tuner.located.pinned}
    if tuner.distils:
        pinned["teacher"] = {"source": tuner.teacher_located.pinned}
    if report.pinned_source:
        pinned["dataset"] = {"source": report.pinned_source}
    tuner.recipe = tuner.recipe.with_changes(pinned)
    folder.write_text(folder.recipe, EDITOR_LINE + tuner.recipe.to_yaml())
    folder.write_json(folder.recipe_schema, recipe_schema())
    folder.write_json(folder.environment, environment(tuner))
    folder.write_json(folder.data_report, report.to_dict())
    folder.write_stage(TRAINING)
    tuner.reporter.report(DataPrepared(report.to_dict()))
    tuner.reporter.report(Planned((tuner.planned or tuner.plan()).to_dict()))
    for note in [*report.notes, *getattr(tuner.tokenizer, "notes", [])]:
        tuner.reporter.report(Notice(note))
