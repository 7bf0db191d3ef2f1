"""STEP 4: how long and how fast; all other settings behind one question."""

from __future__ import annotations

from finetune import registry
from finetune.wizard import few_bits, on_policy, several_teachers
from finetune.wizard.draft import Draft, ask_field, field_of, get, imitates
from finetune.wizard.host import HostInfo
from finetune.wizard.prompter import Prompter

MORE_RATE = (
    "If it is too high, the loss jumps or becomes NaN; if it is too low, nothing is learned.\n"
    "Adapters need higher rates than full models and students."
)
FEATURES = ("distillation.features.last", "distillation.features.layers", "distillation.features.relations")
DISTILLING = ("distillation.objective", "distillation.supervise", "distillation.correct", *FEATURES, "distillation.cache")
OF_ANOTHER_FAMILY = ("distillation.across_tokenizers",)  # a student that is made from its teacher has its tokenizer
ALWAYS = (
    "dataset.max_length",
    "dataset.held_out",
    "training.gradient_accumulation",
    "training.scheduler",
    "training.warmup",
    "benchmark.max_new_tokens",
    "benchmark.speed",
    "seed",
)


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """Epochs, batch size, learning rate; then everything else if the person wants to change something."""
    prompter.step(4, "Training")
    for key in ("training.epochs", "training.batch_size"):
        draft = ask_field(draft, prompter, key)
    method = registry.load("methods", get(draft, "method.kind"))
    distilling = draft["approach"] == "distillation"
    # Where a model learns from rows, the method knows better than the setting what is usual.
    usual = f"{field_of(draft, 'training.learning_rate').description} {method.title} usually takes about {method.learning_rate:g}."
    draft = ask_field(draft, prompter, "training.learning_rate", help="" if imitates(draft) else usual, more=MORE_RATE)
    if prompter.confirm("advanced", "Change advanced settings?", default=False, help="All have defaults that work."):
        of_the_method = [f"method.{name}" for name in method.Spec.model_fields if name != "kind"]
        draft = several_teachers.ask_weights(draft, prompter)
        named = OF_ANOTHER_FAMILY if distilling and isinstance(draft["model"], str) else ()
        practice = on_policy.ADVANCED if on_policy.practises(draft) else ()
        for key in (*of_the_method, *(DISTILLING if distilling else ()), *practice, *named, *ALWAYS):
            draft = ask_field(draft, prompter, key)
        draft = few_bits.ask(draft, prompter)
    return draft
