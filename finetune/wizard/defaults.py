"""The defaults: the run you get by pressing Enter at every question, and why. All default sizes are here, also those of --yes.

defaults(here, "fine-tuning")        # {"approach": "fine-tuning", "dataset": {"samples": 450}, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune import registry
from finetune.formatting import counted, size
from finetune.hub.reachability import offline_reason
from finetune.recipe import STARTER, merge
from finetune.recipe.teacher_settings import SELF
from finetune.wizard.host import HostInfo


def defaults(here: HostInfo, approach: str, *, method: str = "lora", fresh_folder: bool = True, itself: bool = False) -> dict[str, Any]:
    """The recipe layer that fits this machine; `fresh_folder` avoids an output folder that is in use.

    With `itself`, of a model that is its own teacher: it learns like one that is fine-tuned.
    """
    folder = "distilled_model" if approach == "distillation" else "finetuned_model"
    if approach == "distillation" and not itself:
        chosen = DISTIL_ON_GPU if uses_gpu(here) and here.hub else DISTIL_ANYWHERE
    else:
        chosen = TUNE_ON_GPU if uses_gpu(here) else TUNE_ON_CPU
        chosen = {**chosen, "training": {**chosen["training"], "learning_rate": registry.load("methods", method).learning_rate}}
        chosen |= {"teacher": SELF} if itself else {}
    return {"approach": approach, **chosen, "output_dir": f"./{unused(Path(folder)) if fresh_folder else folder}"}


def with_epochs(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer in which the epochs are those of its data: as measured for the data of the defaults (docs/log.md), else `auto`."""
    dataset = layer["dataset"]
    source = dataset.get("source") if isinstance(dataset, Mapping) else dataset
    ours = {chosen["dataset"]["source"] for chosen in (TUNE_ON_CPU, TUNE_ON_GPU, DISTIL_ON_GPU, DISTIL_ANYWHERE)}
    return dict(layer) if source in ours else merge(layer, {"training": {"epochs": "auto"}})


def why(here: HostInfo) -> str:
    """One line that describes the machine and how long the defaults take on it."""
    glance = here.glance
    cores = f"{counted(glance.cores, 'core')}, {size(glance.memory_bytes)} of memory"
    if uses_gpu(here):
        machine = f"{glance.gpu} with {size(glance.gpu_memory_bytes)}"
    elif glance.gpu and here.runtime.device != "cpu":
        machine = f"{cores}; the installed torch cannot use its {glance.gpu}"
    else:
        machine = f"{cores}, no GPU {'used' if glance.gpu else 'found'}"
    hub = "" if here.hub else f" {offline_reason()}."
    return f"This machine: {machine}. The defaults take minutes on it.{hub}"


def uses_gpu(here: HostInfo) -> bool:
    """Whether a run would be on the GPU, as far as can be said without importing torch."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return here.glance.gpu is not None and here.runtime.device != "cpu" and not torch.endswith("+cpu")


def unused(folder: Path) -> Path:
    """`folder`, or NAME-2, NAME-3, ... if it already contains something."""
    from finetune.run_folder import free_name

    return free_name(folder) if folder.is_file() or (folder.is_dir() and any(folder.iterdir())) else folder


TUNE_ON_CPU: dict[str, Any] = {
    "model": STARTER,
    "dataset": {"source": "builtin:python-docs", "samples": 450},
    "training": {"epochs": 1, "batch_size": 8},
    "benchmark": {"rows": 45},
}

TUNE_ON_GPU: dict[str, Any] = {
    "model": STARTER,
    "dataset": {"source": "builtin:python-docs", "samples": 2000},
    "training": {"epochs": 2, "batch_size": 16},
    "benchmark": {"rows": 100},
}

DISTIL_ON_GPU: dict[str, Any] = {
    "teacher": "gpt2-medium",
    "model": "gpt2",
    "dataset": {"source": "wikitext", "config": "wikitext-2-raw-v1", "samples": 5000},
    "distillation": {"temperature": 2.0, "alpha": 0.5},
    "training": {"epochs": 3, "batch_size": 4, "learning_rate": 2e-4},
    "benchmark": {"rows": 100},
}

DISTIL_ANYWHERE: dict[str, Any] = {
    "teacher": STARTER,
    "model": {"from_teacher": {"size": 0.75}},
    "dataset": {"source": "builtin:python-docs", "samples": 450},
    "distillation": {"temperature": 1.0, "alpha": 0.2},
    "training": {"epochs": 1, "batch_size": 4},
    "benchmark": {"rows": 45},
}
