"""STEP 3: how the model learns and where the result goes."""

from __future__ import annotations

from pathlib import Path

from finetune import registry
from finetune.errors import BadInput
from finetune.run_folder import RunFolder
from finetune.screen.method_fit import fit_line, recommended
from finetune.wizard.draft import (
    Draft,
    ask_field,
    get,
    problem,
    put,
)
from finetune.wizard.host import HostInfo
from finetune.wizard.method_memory import options
from finetune.wizard.prompter import Choice, Prompter

MORE_TEMPERATURE = """The teacher's probabilities are softened by this number before the student copies them.
1 copies them as they are; 2 to 3 suits most pairs; 5 is nearly flat."""
MORE_ALPHA = """Loss = alpha x (the data's own next word) + (1 - alpha) x (the teacher's probabilities).
Raise it if the data is better than the teacher, lower it if the teacher is better than the data."""


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """Method, the distillation's two knobs, output folder."""
    prompter.step(3, "Configuration")
    draft = _method(draft, prompter, here)
    if draft["approach"] == "distillation":
        draft = ask_field(
            draft,
            prompter,
            "distillation.temperature",
            "Temperature",
            help="1 to 5. Higher shows the student more of the teacher's second choices.",
            more=MORE_TEMPERATURE,
            between=(1, 5),
        )
        draft = ask_field(
            draft,
            prompter,
            "distillation.alpha",
            "Alpha",
            help="0 to 1. The weight of the data; the rest is the weight of the teacher.",
            more=MORE_ALPHA,
        )
    folder = prompter.text(
        "output_dir", "Output folder", default=get(draft, "output_dir"), validate=_folder_problem, help="For the model and all records."
    )
    return put(draft, "output_dir", folder)


def _method(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    known = {name: registry.load("methods", name) for name in registry.names("methods")}
    current = get(draft, "method.kind")
    found = options(draft, here)
    default = (
        recommended(found.needed, found.free) if found.needed and draft["approach"] == "fine-tuning" and "method" not in draft else current
    )
    if default in found.refused:
        default = next((name for name in known if name not in found.refused), default)
    kind = prompter.select(
        "method.kind",
        "Method",
        [Choice(name, method.title, found.refused.get(name, method.summary)) for name, method in known.items()],
        default=default,
        help=f"Which weights learn. {fit_line(default, found.needed, found.free)}" if found.needed else "Which weights learn.",
    )
    if kind == current:
        return {**draft, "method": {**draft.get("method", {}), "kind": kind}}
    draft = {**draft, "method": {"kind": kind}}
    return put(draft, "training.learning_rate", known[kind].learning_rate) if draft["approach"] == "fine-tuning" else draft


def _folder_problem(text: str) -> str | None:
    try:
        RunFolder(Path(text)).check_free()
    except BadInput as error:
        return error.message
    return problem({}, "output_dir", text)
