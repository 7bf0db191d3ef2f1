"""STEP 3: how the model learns and where the result goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune import registry
from finetune.errors import BadInput
from finetune.recipe.settings import MethodSpec, help_of, label
from finetune.run_folder import RunFolder
from finetune.screen.plan_table import fit_line
from finetune.wizard.asking.dropped import dropped
from finetune.wizard.asking.prompter import Choice, Prompter
from finetune.wizard.draft import Draft, ask_field, get, imitates, put
from finetune.wizard.host import HostInfo
from finetune.wizard.method_memory import Options, options, recommended

MORE_METHOD = (
    "LoRA and its relatives leave the model as it is and train a small file that is added to it. They suit most tasks and any laptop.\n"
    "Full changes the model itself: it needs several times the memory, and pays off with many rows."
)
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
    return ask_field(draft, prompter, "output_dir", check=_folder_problem, read=dropped)


def _method(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """One of the methods that can work here; if there is only one, it is shown, not asked."""
    known = {name: registry.load("methods", name) for name in registry.names("methods")}
    current = default = get(draft, "method.kind")
    found = options(draft, here)
    usable = [name for name in known if name not in found.refused] or list(known)
    needed = {name: found.needed[name] for name in usable if name in found.needed}
    best = recommended(needed, found.free) if needed and not imitates(draft) else default
    if "method" not in draft:
        default = best
    if default not in usable:
        default = usable[0]
    kind = usable[0] if len(usable) == 1 else _ask_method(prompter, known, usable, default, best, found)
    if len(usable) == 1:
        why = next(iter(found.refused.values()), "there is no other").rstrip(".")
        prompter.note(f"Method: {known[kind].title}, {known[kind].summary}. It is the only one here: {why}.")
    if kind == current:
        return {**draft, "method": {**draft.get("method", {}), "kind": kind}}
    draft = {**draft, "method": {"kind": kind}}
    return draft if imitates(draft) else put(draft, "training.learning_rate", known[kind].learning_rate)


def _ask_method(prompter: Prompter, known: Mapping[str, Any], usable: list[str], default: str, best: str, found: Options) -> str:
    field = MethodSpec.model_fields["kind"]
    titles = {name: f"{known[name].title}{' (recommended)' if name == best else ''}" for name in usable}
    refused = [f"Not possible here: {known[name].title} ({reason.rstrip('.')})." for name, reason in found.refused.items()]
    fits = [_sentence(fit_line(default, found.needed, found.free, at_most=True))] if default in found.needed else []
    return prompter.select(
        "method.kind",
        label("kind", field),
        [Choice(name, titles[name], known[name].summary) for name in usable],
        default=default,
        help=" ".join([help_of(field), *fits]),
        more="\n".join([MORE_METHOD, *refused]),
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _folder_problem(text: str) -> str | None:
    try:
        RunFolder(Path(text)).check_free()
    except BadInput as error:
        return error.message
    return None
