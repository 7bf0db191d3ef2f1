"""STEP 3: how the model learns and where the result goes."""

from __future__ import annotations

from pathlib import Path

from finetune import registry
from finetune.errors import BadInput
from finetune.run_folder import RunFolder
from finetune.screen.plan_table import fit_line
from finetune.settings import MethodSpec, help_of, label
from finetune.wizard.draft import Draft, ask_field, get, put
from finetune.wizard.host import HostInfo
from finetune.wizard.method_memory import options, recommended
from finetune.wizard.prompter import Choice, Prompter

MORE_TEMPERATURE = (
    "This number softens the teacher's probabilities before the student learns them.\n"
    "1 leaves them as they are; 2 to 3 suit most pairs; 5 is nearly flat."
)
MORE_ALPHA = (
    "Loss = alpha x (the next token in the data) + (1 - alpha) x (the teacher's probabilities).\n"
    "Raise it if the data is better than the teacher, lower it if the teacher is better than the data."
)


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """Method, temperature and alpha of a distillation, output folder."""
    prompter.step(3, "Configuration")
    draft = _method(draft, prompter, here)
    if draft["approach"] == "distillation":
        draft = ask_field(draft, prompter, "distillation.temperature", more=MORE_TEMPERATURE, only_usual=True)
        draft = ask_field(draft, prompter, "distillation.alpha", more=MORE_ALPHA)
    return ask_field(draft, prompter, "output_dir", check=_folder_problem)


def _method(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    known = {name: registry.load("methods", name) for name in registry.names("methods")}
    current = default = get(draft, "method.kind")
    found = options(draft, here)
    if found.needed and draft["approach"] == "fine-tuning" and "method" not in draft:
        default = recommended(found.needed, found.free)
    if default in found.refused:
        default = next((name for name in known if name not in found.refused), default)
    field = MethodSpec.model_fields["kind"]
    kind = prompter.select(
        "method.kind",
        label("kind", field),
        [Choice(name, method.title, found.refused.get(name, method.summary)) for name, method in known.items()],
        default=default,
        help=" ".join([help_of(field), *([fit_line(default, found.needed, found.free)] if found.needed else [])]),
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
    return None
