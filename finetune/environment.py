"""What a run ran on, for environment.json: versions, machine, fingerprints."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.finetuner import LLMFineTuner

PACKAGES = ("finetune-cli", "torch", "transformers", "peft", "datasets", "accelerate", "tokenizers", "bitsandbytes", "rouge-score")


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def environment(tuner: LLMFineTuner) -> dict[str, Any]:
    """Everything beside the recipe that the numbers may depend on."""
    from finetune.models.machine import as_dict

    return {
        "versions": versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": as_dict(tuner.machine),
        "model": {"name": tuner.located.name, "revision": tuner.located.revision, "note": tuner.located.note, "bytes": tuner.located.bytes},
        "dataset_fingerprint": tuner.data.fingerprint,
        "seed": tuner.recipe.seed,
    }
