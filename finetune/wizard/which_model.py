"""Which model: those that are offered, and any other by its name, which is checked as far as can be without loading anything.

ask(prompter, here, Question("model", "Model", "gpt2", offered(here, "gpt2")))      # "gpt2", or what was typed instead
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import ModelError, ModelGated, ModelNotFound, RecipeError
from finetune.formatting import count, spoken, strip_control_chars
from finetune.hub.catalogue import CATALOGUE, CatalogueEntry, find
from finetune.recipe import STARTER, Recipe
from finetune.recipe.teacher_settings import SELF
from finetune.wizard.asking import suggest
from finetune.wizard.asking.dropped import dropped
from finetune.wizard.asking.prompter import Choice, Prompter, Question
from finetune.wizard.distilling import served_teacher
from finetune.wizard.host import HostInfo

if TYPE_CHECKING:
    from finetune.models.location import ModelSource

OTHER = "another"
MOST_OFFERED = 5
NONE_REFUSED: Mapping[str, str] = {}
BYTES_TO_TRAIN_A_PARAMETER = 12  # weights, gradients and room to work, roughly
MORE = (
    "A model is a Hugging Face id such as gpt2 (with @revision if you like), a folder on this computer, a .gguf file, "
    "or the output folder of an earlier run."
)


def ask(prompter: Prompter, here: HostInfo, question: Question, refused: Mapping[str, str] = NONE_REFUSED, served: bool = False) -> str:
    """One of the choices, or another model by its name; or the address of a server, if it may be `served`. `refused` says why not."""
    other = Choice(OTHER, "Another model", f"a Hub id, a folder{',' if served else ' or'} a .gguf file{' or a server' if served else ''}")

    def wrong(text: str) -> str | None:
        of_server = served and served_teacher.is_address(text)
        return served_teacher.address_problem(text) if of_server else problem_of(text, here, refused)

    model = str(prompter.ask(replace(question, choices=[*question.choices, other]))) if question.choices else OTHER
    if model == OTHER:
        example = f"For example gpt2, ./my_model{', model.gguf or http://localhost:8000/v1' if served else ' or model.gguf'}"
        model = prompter.text(
            f"{question.key}.name",
            "Name or folder" if question.choices else question.text,
            default="",
            check=wrong,
            help=example if question.choices else f"{question.help} {example}",
            more=MORE if question.choices else question.more,
            complete=lambda text: suggest.models(text, here.hub),
            read=dropped,
        )
    if model != SELF and not served_teacher.is_address(model):
        _tell(model, prompter, here)
    return model


def _tell(name: str, prompter: Prompter, here: HostInfo) -> None:
    """What the Hub says about a model that is still to be downloaded."""
    from finetune.hub.models import facts

    try:
        source = _to_download(name)
        if source and here.hub:
            with prompter.busy("Checking with the Hub"):
                prompter.note([("class:quiet", f"{source.name}: {strip_control_chars(str(facts(source.name, source.revision)))}.")])
    except ModelError:
        return  # downloading it will say what is wrong


def _to_download(name: str) -> ModelSource | None:
    """A model of the Hub that is not on this machine; raises ModelError for what cannot be the name of a model."""
    from finetune.hub.cache import cached
    from finetune.models.location import parse

    source = parse(name)
    return source if source.kind == "hub" and cached(source.name, source.revision) is None else None


def offered(here: HostInfo, default: str, usual: str = "") -> list[Choice]:
    """The default, all earlier runs, the `usual` one, then what fits this machine as far as there is room."""
    runs = earlier_runs()
    first = next((run for run in runs if run.value == default), _choice(default))
    rest = [run for run in runs if run.value != default] + ([_choice(usual)] if usual not in ("", default) else [])
    shown = {entry.id for name in (default, usual) if (entry := find(name))}
    others = [entry_choice(entry) for entry in fitting(here) if entry.id not in shown]
    return [first, *rest, *others[: max(0, MOST_OFFERED - 1 - len(rest))]]


def fitting(here: HostInfo) -> list[CatalogueEntry]:
    """What is known to work, can be downloaded without asking anybody, and can be trained on this machine."""
    room = here.glance.gpu_memory_bytes or here.glance.memory_bytes
    return [entry for entry in CATALOGUE if here.hub and not entry.gated and entry.parameters * BYTES_TO_TRAIN_A_PARAMETER < room]


def earlier_runs() -> list[Choice]:
    """Finished runs in the working folder, newest first."""
    return [Choice(folder, folder, f"your own run: {approach}, {spoken(ago)} ago") for folder, approach, ago in finished()]


def finished() -> Iterator[tuple[str, str, float]]:
    """Folder and approach of each finished run in the working folder, and how many seconds ago it was; newest first."""
    for path in sorted(Path().glob("*/run/benchmark.json"), key=lambda path: -path.stat().st_mtime):
        with suppress(RecipeError):  # written by another version; it can still be typed
            approach = Recipe.load(path.with_name("recipe.yaml")).approach
            yield f"./{path.parent.parent.as_posix()}", approach, max(0.0, time.time() - path.stat().st_mtime)


def _choice(name: str) -> Choice:
    known = find(name)
    return entry_choice(known, name) if known else Choice(name, name)


def entry_choice(entry: CatalogueEntry, name: str | None = None) -> Choice:
    note = "the starter" if entry.id == STARTER else entry.note.partition(";")[0]
    return Choice(name or entry.id, name or entry.id, f"{count(entry.parameters)}, {entry.licence}, {note}")


def problem_of(text: str, here: HostInfo, refused: Mapping[str, str] = NONE_REFUSED) -> str | None:
    """Why this cannot be the model, as far as can be said without loading anything."""
    from finetune.hub.cache import cached
    from finetune.hub.models import facts
    from finetune.hub.reachability import offline_reason
    from finetune.model_folder import weight_files
    from finetune.models.location import namesake, parse

    if not text:
        return "Type a name, a folder or a file."
    if served_teacher.is_address(text):
        return served_teacher.NOT_HERE
    if text in refused:
        return refused[text]
    try:
        source = parse(text)
        if source.path is not None and source.kind == "folder":
            weight_files(source.path, source.name)
        if source.kind != "hub" or source.name == STARTER or cached(source.name, source.revision) is not None:
            return None
        if not here.hub:
            return f"{offline_reason()}, and {text} is not on this machine.{namesake(source.name)}"
        facts(source.name, source.revision)
    except ModelGated as error:
        return f"{error.message} {error.hint}"
    except ModelNotFound as error:
        return f"{error.message}{namesake(text)}"
    except ModelError as error:
        return error.message
    return None
