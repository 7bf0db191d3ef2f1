"""STEP 4: how long and how fast; everything else behind one question."""

from __future__ import annotations

from finetune import registry
from finetune.wizard.advanced import ask_advanced
from finetune.wizard.draft import Draft, ask_field, field_of, get
from finetune.wizard.host import HostInfo
from finetune.wizard.prompter import Prompter

MORE_RATE = """Too high and the loss jumps or becomes NaN, too low and nothing is learned.
Adapters take higher rates than whole models, students among them."""


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """Epochs, batch size, learning rate."""
    prompter.step(4, "Training")
    for key in ("training.epochs", "training.batch_size"):
        draft = ask_field(draft, prompter, key)
    draft = ask_field(draft, prompter, "training.learning_rate", help=_rate_help(draft), more=MORE_RATE)
    if prompter.confirm("advanced", "Change advanced settings?", default=False, help="Each has a default that works."):
        draft = ask_advanced(draft, prompter)
    return draft


def _rate_help(draft: Draft) -> str:
    """In a fine-tuning, the method knows better than the setting what is usual."""
    if draft["approach"] == "distillation":
        return ""
    method = registry.load("methods", get(draft, "method.kind"))
    return f"{field_of(draft, 'training.learning_rate').description} {method.title} usually takes about {method.learning_rate:g}."
