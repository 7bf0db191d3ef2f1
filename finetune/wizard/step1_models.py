"""STEP 1: which model, and when distilling which teacher and which student."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import ModelError, RecipeError
from finetune.models.catalogue import CATALOGUE
from finetune.recipe import STARTER, Recipe
from finetune.wizard import suggest
from finetune.wizard.defaults import why
from finetune.wizard.draft import Draft, get, put
from finetune.wizard.here import Here
from finetune.wizard.prompter import Choice, Prompter

OTHER = "another"
MOST_OFFERED = 5
MORE = """A model is a Hugging Face id such as gpt2 (with @revision if you like), a folder on this
computer, a .gguf file, or the output folder of an earlier run."""


def ask(draft: Draft, prompter: Prompter, here: Here) -> Draft:
    """The model; when distilling, the teacher first."""
    prompter.step(1, "Models")
    prompter.note(why(here, draft["approach"]))
    if draft["approach"] == "distillation":
        return _teacher_and_student(draft, prompter, here)
    return put(draft, "model", ask_model(prompter, here, "model", "Model to fine-tune", get(draft, "model")))


def ask_model(prompter: Prompter, here: Here, key: str, question: str, default: str, help: str = "") -> str:
    """One model: from a short list, or typed."""
    offered = choices(here, default)
    picked = prompter.select(
        key,
        question,
        [*offered, Choice(OTHER, "Another model", "a Hub id, a folder or a .gguf file")],
        default=default,
        help=help,
        more=MORE,
    )
    if picked != OTHER:
        return picked
    return prompter.text(
        f"{key}.name",
        "Its name or folder",
        default=default,
        validate=lambda text: model_problem(text, here),
        help="For example gpt2, Qwen/Qwen3-0.6B, ./my_model or model.gguf",
        more=MORE,
        complete=lambda text: suggest.models(text, here.hub),
    )


def choices(here: Here, default: str) -> list[Choice]:
    """Earlier runs first to catch the eye, then what fits this machine."""
    room = here.glance.gpu_memory_bytes or here.glance.memory_bytes
    runs = [Choice(folder, folder, f"your earlier run: {note}") for folder, note in earlier_runs()]
    catalogue = [
        Choice(entry.id, entry.id, f"{_millions(entry.parameters)}, {entry.licence}")
        for entry in CATALOGUE
        if entry.id in (STARTER, default) or (here.hub and entry.parameters * 4 * 3 < room)
    ]
    known = [*runs, *catalogue]
    if default not in [choice.value for choice in known]:
        known.insert(0, Choice(default, default))
    at = next(at for at, choice in enumerate(known) if choice.value == default)
    return [known[at], *(known[:at] + known[at + 1 :])][:MOST_OFFERED]


def earlier_runs() -> list[tuple[str, str]]:
    """Finished runs in the working folder: (folder, what it is), newest first."""
    found = sorted(Path().glob("*/run/benchmark.json"), key=lambda path: -path.stat().st_mtime)
    runs: list[tuple[str, str]] = []
    for path in found[:3]:
        try:
            recipe = Recipe.load(path.with_name("recipe.yaml"))
        except RecipeError:
            continue  # written by another version; it can still be typed
        runs.append((f"./{path.parent.parent}", recipe.approach))
    return runs


def model_problem(text: str, here: Here) -> str | None:
    """Why this cannot be a model, without loading anything."""
    from finetune.models.sources import parse

    try:
        parse(text)
    except ModelError as error:
        return error.message
    return None


def _millions(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _teacher_and_student(draft: Draft, prompter: Prompter, here: Here) -> Draft:
    raise NotImplementedError
