"""STEP 4: how long and how fast; everything else behind one question."""

from __future__ import annotations

from finetune.wizard.advanced import ask_advanced
from finetune.wizard.draft import Draft, ask_field
from finetune.wizard.host import HostInfo
from finetune.wizard.prompter import Prompter

MORE_RATE = """How far each step moves the weights. Too high and the loss jumps or becomes NaN,
too low and nothing is learned. LoRA: 1e-4 to 1e-3. Full or distillation: 1e-5 to 5e-4."""


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """Epochs, batch size, learning rate."""
    prompter.step(4, "Training")
    draft = ask_field(draft, prompter, "training.epochs", "Epochs", help="How often the model sees all rows. 1 to 3 is usual.")
    draft = ask_field(draft, prompter, "training.batch_size", "Batch size", help="Rows per step. Lower it if memory runs out.")
    usual = "1e-5 to 5e-4" if draft["approach"] == "distillation" else "1e-5 to 1e-3"
    draft = ask_field(draft, prompter, "training.learning_rate", "Learning rate", help=f"Usually {usual}.", more=MORE_RATE)
    if prompter.confirm("advanced", "Change advanced settings?", default=False, help="Each has a default that works."):
        draft = ask_advanced(draft, prompter)
    return draft
