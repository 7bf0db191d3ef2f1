"""finetune-cli: fine-tune or distil a language model from the terminal, with proof that it got better.

    from finetune import LLMFineTuner, Recipe
    LLMFineTuner(Recipe.from_layers({"training": {"epochs": 1}})).run()

The public names are imported when they are first used: `import finetune` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from os import environ
from typing import Any

__version__ = "2.1.0"  # the one place that says so: installed metadata may belong to another project with this name

# Threads of OpenMP wait by spinning, 300,000 times by default, which stalls a training beside any other busy program. Read when torch is
# loaded, so it is set before.
if "OMP_WAIT_POLICY" not in environ:
    environ.setdefault("GOMP_SPINCOUNT", "1000")
    environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; LLVM's and Intel's

_PUBLIC = {
    "LLMFineTuner": "finetune.run.finetuner",
    "RunResult": "finetune.run.finetuner",
    "DistillationTrainer": "finetune.distillation.trainer",
    "Recipe": "finetune.recipe",
    "RuntimeOptions": "finetune.runtime",
    "PlainReporter": "finetune.screen.reporter",
    "FinetuneError": "finetune.errors",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    from finetune.system.library_warnings import hush

    hush()  # before bitsandbytes is loaded with the module
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
