"""Every setting that has a good default: asked only when the person wants to change something.

The fields of the chosen method come from its own spec, so a new method brings its own questions.
"""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from finetune import registry
from finetune.wizard.draft import Draft, ask_field, get, problem, put, shown
from finetune.wizard.prompter import Choice, Prompter

HELP = {
    "method.r": "Rank: size of the small matrices. 8 to 64.",
    "method.alpha": "Scale of what they add; twice the rank is usual.",
    "method.dropout": "Share of it dropped at random while training. 0 to 0.1.",
    "method.rslora": "Scale by the root of the rank: for high ranks. yes or no.",
    "method.dora": "Train the length of weights too: better, slower. yes or no.",
    "method.init_r": "Rank of every layer at the start; auto is half more than r.",
    "method.orthogonality": "Weight of the term that keeps ranks comparable. 0 to 0.5.",
    "method.start": "Share of the steps before the ranks begin to move.",
    "method.end": "Share of the steps after they have settled.",
    "method.freeze": "Leave embeddings and head as they are.",
    "method.target_modules": "auto = all linear layers, or names with commas.",
    "dataset.max_length": "Longest row in tokens; longer ones are cut.",
    "dataset.held_out": "Share of rows kept from training for the benchmark.",
    "training.gradient_accumulation": "Batches added up into one step.",
    "training.scheduler": "How the learning rate moves during training.",
    "training.warmup": "Share of the steps that ramp the learning rate up.",
    "benchmark.max_new_tokens": "Longest answer in tokens; auto fits the data.",
    "distillation.objective": "How student and teacher are compared.",
    "distillation.supervise": "Every token, or the answers only.",
    "distillation.cache": "Whether the teacher's output is kept on disk.",
    "seed": "The same seed gives the same run.",
}


def ask_advanced(draft: Draft, prompter: Prompter) -> Draft:
    """All remaining settings, one line each."""
    draft = _ask_method(draft, prompter)
    if draft["approach"] == "distillation":
        draft = _ask_choice(draft, prompter, "distillation.objective", registry.names("objectives"))
        draft = _ask_choice(draft, prompter, "distillation.supervise", ["all", "answers"])
        draft = _ask_choice(draft, prompter, "distillation.cache", ["auto", "none", "hidden", "gradient"])
    for key in ("dataset.max_length", "dataset.held_out", "training.gradient_accumulation"):
        draft = _ask_text(draft, prompter, key)
    draft = _ask_choice(draft, prompter, "training.scheduler", ["cosine", "linear", "constant", "constant_with_warmup"])
    for key in ("training.warmup", "benchmark.max_new_tokens", "seed"):
        draft = _ask_text(draft, prompter, key)
    return draft


def _ask_method(draft: Draft, prompter: Prompter) -> Draft:
    spec = registry.load("methods", get(draft, "method.kind")).Spec
    for name, field in spec.model_fields.items():
        key = f"method.{name}"
        if name == "kind":
            continue
        if get_origin(field.annotation) is Literal:
            draft = _ask_choice(draft, prompter, key, [str(option) for option in get_args(field.annotation)])
        elif _takes_list(field):
            draft = _ask_list(draft, prompter, key)
        else:
            draft = _ask_text(draft, prompter, key)
    return draft


def _ask_text(draft: Draft, prompter: Prompter, key: str) -> Draft:
    return ask_field(draft, prompter, key, _name(key), help=HELP.get(key, ""))


def _ask_choice(draft: Draft, prompter: Prompter, key: str, options: list[str]) -> Draft:
    choices = [Choice(option, option) for option in options]
    return put(draft, key, prompter.select(key, _name(key), choices, default=str(get(draft, key)), help=HELP.get(key, "")))


def _ask_list(draft: Draft, prompter: Prompter, key: str) -> Draft:
    current = get(draft, key)
    answer = prompter.text(
        key,
        _name(key),
        default=", ".join(current) if isinstance(current, list) else shown(current),
        validate=lambda text: problem(draft, key, _listed(text)),
        help=HELP.get(key, ""),
    )
    return put(draft, key, _listed(answer))


def _takes_list(field: FieldInfo) -> bool:
    return any(get_origin(option) is list for option in get_args(field.annotation))


def _listed(text: str) -> str | list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return text if names in (["auto"], []) else names


def _name(key: str) -> str:
    """`training.gradient_accumulation` -> Gradient accumulation."""
    words = key.rpartition(".")[2].replace("_", " ")
    return {"r": "Rank (r)"}.get(words, words[:1].upper() + words[1:])
