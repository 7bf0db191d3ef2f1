"""STEP 1: which model; when distilling, which teacher and which student."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import registry
from finetune.errors import ModelError, RecipeError
from finetune.formatting import count, spoken, strip_control_chars
from finetune.hub.catalogue import CATALOGUE, CatalogueEntry, find
from finetune.models.facts import ModelFacts, look_up
from finetune.recipe import STARTER, Recipe
from finetune.settings import FromTeacher, help_of, label
from finetune.teacher_settings import SELF
from finetune.wizard import on_policy, rounds, served_teacher, several_teachers, suggest
from finetune.wizard.defaults import defaults, why
from finetune.wizard.draft import Draft, field_of, get, problem, put, written_by_teacher
from finetune.wizard.host import HostInfo
from finetune.wizard.prompter import Choice, Prompter, Question, anything
from finetune.wizard.teachers_run import proposal, sentence

if TYPE_CHECKING:
    from finetune.models.location import ModelSource

OTHER, MADE = "another", "made from the teacher"
MOST_OFFERED = 5
BYTES_TO_TRAIN_A_PARAMETER = 12  # weights, gradients and room to work, roughly
MORE = (
    "A model is a Hugging Face id such as gpt2 (with @revision if you like), a folder on this computer, a .gguf file, "
    "or the output folder of an earlier run."
)
MORE_SERVED = "For a teacher on a server choose another model, then type its address, such as http://localhost:8000/v1."
MORE_ITSELF = (
    "The model itself: it learns your rows like in a fine-tuning, and part of the loss keeps its answers close to those it would have "
    "given before, so that it forgets less of everything else."
)
MORE_SYSTEM = (
    "A rule for every answer, such as: Answer in one short sentence. The model learns to answer as if it had been told this each time, so "
    "the prompt can be left out afterwards. It suits rules, not facts that belong to one question."
)
MORE_STUDENT = (
    "Made from the teacher: some of its layers, or of their width, are left out, the rest is copied.\n"
    "Any other student must have the teacher's tokenizer, unless you let the two be compared across tokenizers (in the advanced settings)."
)
MORE_BY = (
    "At equal size, narrower layers keep much more of what the teacher knows, and fewer layers answer somewhat faster.\n"
    "The best mix measures a few students of one size and takes the one that begins closest to the teacher."
)
MORE_AMOUNT = {
    "layers": "More layers: a better and slower student. Two thirds are a good start; below half, expect much less than the teacher "
    "can do.\nA number such as 20, or a share such as 0.67.",
    "ffn": "The feed-forward part of a layer has most of its weights. Half of its width and more leaves a student that still speaks.",
    "heads": "Attention heads are few and each knows much: leaving one out costs more than as many weights of the feed-forward part.",
    "size": "The embeddings stay as they are, so the layers shrink by more than this. Three quarters are a good start.",
}
USUAL_SHARES = {"layers": 0.67, "ffn": 0.75, "heads": 0.67, "size": 0.75}


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """The model; when distilling, the teacher first."""
    prompter.step(1, "Models")
    prompter.note(why(here))
    if draft["approach"] == "fine-tuning":
        default = get(draft, "model")
        return put(draft, "model", _ask_model(prompter, here, Question("model", "Model", default, _offered(here, default), more=MORE)))
    way = several_teachers.ask_way(prompter)
    teacher = get(draft, "teacher.source")
    offered = _offered(here, teacher, get(defaults(here, "distillation"), "teacher.source"))
    more, served = [MORE], way == several_teachers.PLAIN
    if served:
        more.append(MORE_SERVED)
    if way not in (several_teachers.SEVERAL, several_teachers.NOTHING):
        offered.append(Choice(SELF, "The model itself", "learns a task and stays close to what it was"))
        more.append(MORE_ITSELF)
    own = teacher in [folder for folder, approach, _ in _finished() if approach == "fine-tuning"]
    help = "The model to imitate: your own fine-tuning, so that the student knows the same task." if own else "The model to imitate."
    question = Question("teacher", "Teacher", teacher, offered, help=help, more="\n".join(more))
    teacher = _ask_model(prompter, here, question, served=served)
    if served_teacher.is_address(teacher):
        help = "It must have the tokens of the model on the server."
        ready_made = Question("student", "Student", STARTER, _offered(here, STARTER), help=help, more=MORE)
        return served_teacher.ask(rounds.left_out(draft), prompter, teacher, lambda: _ask_model(prompter, here, ready_made))
    if teacher == SELF:
        draft = defaults(here, "distillation", itself=True)
        default = get(draft, "model")
        draft = put(draft, "model", _ask_model(prompter, here, Question("model", "Model", default, _offered(here, default), more=MORE)))
        return on_policy.chosen(draft) if way == several_teachers.OWN else _system_prompt(draft, prompter)
    draft = {**draft, "teacher": teacher}
    if way == several_teachers.NOTHING:
        draft = written_by_teacher(draft)
    elif found := proposal(teacher):
        draft = {**draft, **found}
        prompter.note(sentence(found))
    if way == several_teachers.SEVERAL:
        draft = several_teachers.ask(
            draft,
            prompter,
            teacher,
            check=lambda text: _model_problem(text, here, None),
            complete=lambda text: suggest.models(text, here.hub),
        )
    draft = rounds.left_out(draft)
    if way == several_teachers.ROUNDS:
        return rounds.ask(draft, prompter, _facts(teacher, here))
    draft = _student(draft, prompter, here, teacher)
    return on_policy.chosen(draft) if way == several_teachers.OWN else draft


def _system_prompt(draft: Draft, prompter: Prompter) -> Draft:
    """What only the teacher is told, if anything."""
    field = field_of(draft, "teacher.system")
    told = prompter.text(
        "teacher.system", label("system", field), default="", help=f"{help_of(field)} Enter for none.", more=MORE_SYSTEM, check=anything
    )
    return put(draft, "teacher.system", told) if told else draft


def _student(draft: Draft, prompter: Prompter, here: HostInfo, teacher: str) -> Draft:
    big = _facts(teacher, here)
    same_tokenizer = [entry for entry in CATALOGUE if here.hub and big and entry.vocabulary == big.vocabulary]
    smaller = [_entry_choice(entry) for entry in same_tokenizer if big and entry.parameters < big.parameters]
    offered = [Choice(MADE, "Made from the teacher", "fewer or narrower layers, same tokenizer"), *smaller][:MOST_OFFERED]
    default = draft["model"] if draft["model"] in [choice.value for choice in smaller] else MADE
    question = Question("student", "Student", default, offered, help="The smaller model to train.", more=MORE_STUDENT)
    picked = _ask_model(prompter, here, question, refused=teacher)
    return _made(draft, prompter, big) if picked == MADE else put(draft, "model", picked)


def _made(draft: Draft, prompter: Prompter, teacher: ModelFacts | None) -> Draft:
    """What is left out of the teacher, and how much stays."""
    given = dict(draft["model"]["from_teacher"]) if isinstance(draft["model"], dict) else {}
    ways = [Choice(*found) for found in registry.choices("students") if found[0] in FromTeacher.model_fields]
    usual = next(reversed(given), "size")
    by = prompter.select("student.by", "Smaller by", ways, default=usual, help="Which part of the teacher is left out.", more=MORE_BY)
    draft = {**draft, "model": STARTER}  # so that no other part is left out too

    def check(text: str) -> str | None:
        if problem(draft, "model", {"from_teacher": {by: text}}):
            return f"A share of the teacher's such as {USUAL_SHARES[by]}{f', or a number, not {text}' if by != 'size' else ''}."
        if by == "layers" and teacher and not 2 <= round(float(text) * (teacher.layers if float(text) < 1 else 1)) < teacher.layers:
            return f"From 2 to {teacher.layers - 1} layers of the teacher's {teacher.layers} can be kept."
        return None

    field = FromTeacher.model_fields[by]
    default, help = _proposed(by, given.get(by, USUAL_SHARES[by]), teacher)
    amount = prompter.text(
        f"student.{by}", label(by, field), default=default, check=check, help=help or help_of(field), more=MORE_AMOUNT[by]
    )
    return put(draft, "model", {"from_teacher": {by: amount}})


def _proposed(by: str, given: float, teacher: ModelFacts | None) -> tuple[str, str]:
    """The default of an amount, and what it means for this teacher where that is known."""
    if teacher is None:
        return f"{USUAL_SHARES[by]:g}", ""
    of = count(teacher.parameters)
    if by == "size":
        return f"{given:g}", f"As a share of the teacher's {of} parameters: {given:g} are {count(given * teacher.parameters)}."
    if by != "layers":
        return f"{given:g}", ""
    layers = round(given * teacher.layers) if given < 1 else round(given)
    layers = layers if layers < teacher.layers else round(USUAL_SHARES[by] * teacher.layers)
    left = count(made_parameters(teacher, layers))
    return str(layers), f"The teacher has {teacher.layers}; with {layers} layers the student has {left} of {of} parameters."


def _facts(teacher: str, here: HostInfo) -> ModelFacts | None:
    """The teacher in numbers; None if they are not known before the download."""
    try:
        facts = look_up(teacher, here.runtime)
    except ModelError:
        return None  # the review will say what is wrong with it
    return facts if facts and facts.layers else None


def made_parameters(teacher: ModelFacts, layers: int) -> int:
    """Parameters of a student that keeps `layers` of the teacher's: all embeddings stay."""
    embeddings = teacher.vocabulary * teacher.hidden
    return round(embeddings + (teacher.parameters - embeddings) * layers / teacher.layers)


def _ask_model(prompter: Prompter, here: HostInfo, question: Question, refused: str | None = None, served: bool = False) -> str:
    """One of the choices, or another model by its name; or the address of a server, if it may be `served`."""
    other = Choice(OTHER, "Another model", f"a Hub id, a folder{',' if served else ' or'} a .gguf file{' or a server' if served else ''}")

    def wrong(text: str) -> str | None:
        of_server = served and served_teacher.is_address(text)
        return served_teacher.address_problem(text) if of_server else _model_problem(text, here, refused)

    model = str(prompter.ask(replace(question, choices=[*question.choices, other])))
    if model == OTHER:
        model = prompter.text(
            f"{question.key}.name",
            "Name or folder",
            default="",
            check=wrong,
            help=f"For example gpt2, ./my_model{', model.gguf or http://localhost:8000/v1' if served else ' or model.gguf'}",
            more=MORE,
            complete=lambda text: suggest.models(text, here.hub),
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


def with_own_teacher(draft: Draft) -> Draft:
    """Of a distillation: the newest fine-tuning in the working folder is proposed as the teacher, if there is one."""
    if draft["approach"] != "distillation":
        return draft
    own = next((folder for folder, approach, _ in _finished() if approach == "fine-tuning"), None)
    return {**draft, "teacher": own} if own else draft


def _offered(here: HostInfo, default: str, usual: str = "") -> list[Choice]:
    """The default, all earlier runs, the `usual` one, then what fits this machine as far as there is room."""
    room = here.glance.gpu_memory_bytes or here.glance.memory_bytes
    fitting = [entry for entry in CATALOGUE if here.hub and not entry.gated and entry.parameters * BYTES_TO_TRAIN_A_PARAMETER < room]
    runs = _earlier_runs()
    first = next((run for run in runs if run.value == default), _choice(default))
    rest = [run for run in runs if run.value != default] + ([_choice(usual)] if usual not in ("", default) else [])
    shown = {entry.id for name in (default, usual) if (entry := find(name))}
    others = [_entry_choice(entry) for entry in fitting if entry.id not in shown]
    return [first, *rest, *others[: max(0, MOST_OFFERED - 1 - len(rest))]]


def _earlier_runs() -> list[Choice]:
    """Finished runs in the working folder, newest first."""
    return [Choice(folder, folder, f"your own run: {approach}, {spoken(ago)} ago") for folder, approach, ago in _finished()]


def _finished() -> Iterator[tuple[str, str, float]]:
    """Folder and approach of each finished run in the working folder, and how many seconds ago it was; newest first."""
    for path in sorted(Path().glob("*/run/benchmark.json"), key=lambda path: -path.stat().st_mtime):
        with suppress(RecipeError):  # written by another version; it can still be typed
            approach = Recipe.load(path.with_name("recipe.yaml")).approach
            yield f"./{path.parent.parent.as_posix()}", approach, max(0.0, time.time() - path.stat().st_mtime)


def _choice(name: str) -> Choice:
    known = find(name)
    return _entry_choice(known, name) if known else Choice(name, name)


def _entry_choice(entry: CatalogueEntry, name: str | None = None) -> Choice:
    note = "the starter" if entry.id == STARTER else entry.note.partition(";")[0]
    return Choice(name or entry.id, name or entry.id, f"{count(entry.parameters)}, {entry.licence}, {note}")


def _model_problem(text: str, here: HostInfo, refused: str | None) -> str | None:
    """Why this cannot be the model, as far as can be said without loading anything."""
    from finetune.hub.models import facts
    from finetune.hub.reachability import offline_reason

    if not text:
        return "Type a name, a folder or a file."
    if served_teacher.is_address(text):
        return served_teacher.NOT_HERE
    if text == refused:
        return "This is the teacher itself; the student must be smaller."
    try:
        source = _to_download(text)
        if source is None or source.name == STARTER:
            return None
        if not here.hub:
            return f"{offline_reason()}, and {text} is not on this machine."
        facts(source.name, source.revision)
    except ModelError as error:
        return error.message
    return None
