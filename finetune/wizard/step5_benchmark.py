"""STEP 5: how the result is measured."""

from __future__ import annotations

from finetune.wizard.draft import Draft, ask_field
from finetune.wizard.here import Here
from finetune.wizard.prompter import Prompter

MORE = """The rows are set aside before training and answered twice: by the model as it is and by
the trained one. More rows give narrower intervals and take longer."""


def ask(draft: Draft, prompter: Prompter, here: Here) -> Draft:
    """The number of held-out rows."""
    prompter.step(5, "Benchmark")
    return ask_field(draft, prompter, "benchmark.rows", "Rows to test on", help="Never trained on; answered before and after.", more=MORE)
