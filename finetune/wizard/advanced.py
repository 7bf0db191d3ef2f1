"""Every setting that has a good default: asked only when the person wants to change something.

draft = ask_advanced(draft, prompter)        # the settings of the chosen method come from its own spec
"""

from __future__ import annotations

from finetune import registry
from finetune.wizard.draft import Draft, ask_field, get
from finetune.wizard.prompter import Prompter

DISTILLING = ("distillation.objective", "distillation.supervise", "distillation.cache")
ALWAYS = (
    "dataset.max_length",
    "dataset.held_out",
    "training.gradient_accumulation",
    "training.scheduler",
    "training.warmup",
    "benchmark.max_new_tokens",
    "seed",
)


def ask_advanced(draft: Draft, prompter: Prompter) -> Draft:
    """All remaining settings, one line each."""
    spec = registry.load("methods", get(draft, "method.kind")).Spec
    of_the_method = [f"method.{name}" for name in spec.model_fields if name != "kind"]
    for key in (*of_the_method, *(DISTILLING if draft["approach"] == "distillation" else ()), *ALWAYS):
        draft = ask_field(draft, prompter, key)
    return draft
