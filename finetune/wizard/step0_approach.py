"""STEP 0: fine-tuning or distillation."""

from __future__ import annotations

from finetune.wizard.asking.prompter import Choice, Prompter

MORE = (
    "Fine-tuning: you have examples of what you want (prompts and answers, or texts), and a model learns from them. "
    "Takes minutes on a laptop with the defaults.\n"
    "Distillation: you have a model that is good but too large or too slow, and a smaller one learns to predict the same "
    "probabilities for every next token."
)


def ask(prompter: Prompter) -> str:
    """The approach."""
    prompter.step(0, "Approach")
    return prompter.select(
        "approach",
        "What would you like to do?",
        [
            Choice("fine-tuning", "Fine-tuning", "teach a model your task with examples"),
            Choice("distillation", "Distillation", "train a small model to imitate a large one"),
        ],
        default="fine-tuning",
        more=MORE,
    )
