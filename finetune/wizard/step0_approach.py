"""STEP 0: fine-tuning or distillation."""

from __future__ import annotations

from finetune.wizard.prompter import Choice, Prompter

MORE = """Fine-tuning: you have examples of what you want (questions and answers, texts),
and a model learns from them. Minutes on a laptop with the defaults.
Distillation: you have a model that is good but too big or too slow, and a
smaller one learns to give the same probabilities for every next word."""


def ask(prompter: Prompter) -> str:
    """The approach."""
    prompter.step(0, "Approach")
    return prompter.select(
        "approach",
        "What would you like to do?",
        [
            Choice("fine-tuning", "Fine-tuning", "teach a model your task with examples"),
            Choice("distillation", "Distillation", "make a small model imitate a big one"),
        ],
        default="fine-tuning",
        more=MORE,
    )
