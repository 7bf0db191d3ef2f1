"""STEP 4: how long and how fast; all other settings behind one question."""

from __future__ import annotations

from finetune import registry
from finetune.errors import DatasetError, RecipeError
from finetune.events import Recorder
from finetune.recipe import Recipe, merge
from finetune.recipe.settings import GENERATED, OF_RATE, help_of, label
from finetune.recipe.task_settings import TASKS, practises
from finetune.wizard import preload
from finetune.wizard.asking import suggest
from finetune.wizard.asking.dropped import dropped
from finetune.wizard.asking.prompter import Choice, Prompter
from finetune.wizard.distilling import few_bits, on_policy, several_teachers
from finetune.wizard.draft import NULL, Draft, ask_field, field_of, get, has_writer, imitates, layer, put
from finetune.wizard.host import HostInfo

MORE_RATE = (
    "If it is too high, the loss jumps or becomes NaN; if it is too low, nothing is learned.\n"
    "Adapters need higher rates than full models and students."
)
NO_TASK = "none"
MORE_TASK = (
    "Each fills in how student and teacher are compared and what is measured; whatever it sets can still be changed. Where the student "
    'also learns from its own answers, it took longer in our tests and was no better: try "The same as the teacher" first.'
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
    "training.keep",
    "benchmark.metrics",
    "benchmark.tasks",
    "benchmark.task_rows",
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
    usual = f"{OF_RATE}. {method.title} usually takes about {method.learning_rate:g}."
    draft = ask_field(draft, prompter, "training.learning_rate", help="" if imitates(draft) else usual, more=MORE_RATE)
    if prompter.confirm("advanced", "Change advanced settings?", default=False, help="All have defaults that work."):
        of_the_method = [f"method.{name}" for name in method.Spec.model_fields if name != "kind"]
        draft = several_teachers.ask_weights(draft, prompter)
        draft = _task(draft, prompter) if distilling else draft
        named: tuple[str, ...] = OF_ANOTHER_FAMILY if distilling and isinstance(draft["model"], str) else ()
        named += _of_rounds(draft)
        named += ("teacher.top_k",) if Recipe.from_layers(draft).grader else ()
        if get(draft, "dataset.source") == GENERATED:
            draft = ask_field(
                draft, prompter, "dataset.examples", check=lambda text: _examples_problem(text, here), complete=suggest.paths, read=dropped
            )
        elif has_writer(draft):
            named += ("dataset.answers",)
        practice = on_policy.ADVANCED if on_policy.practises(draft) else ()
        for key in (*of_the_method, *(DISTILLING if distilling else ()), *practice, *named, *ALWAYS):
            if key != "benchmark.task_rows" or get(draft, "benchmark.tasks"):
                draft = ask_field(draft, prompter, key)
        draft = few_bits.ask(draft, prompter)
    return draft


def _of_rounds(draft: Draft) -> tuple[str, ...]:
    """What can be set of rounds; how many layers each leaves out only where they are not listed."""
    spec = Recipe.from_layers(draft).distillation
    if spec.in_rounds is None:
        return ()
    step = ("distillation.until.step",) if spec.in_rounds == "until" else ()
    return step if draft.get("teachers") else (*step, "distillation.round_teacher")


def _examples_problem(text: str, here: HostInfo) -> str | None:
    """Why a file does not show which rows are wanted; it is read as the run will read it."""
    if text == NULL["dataset.examples"]:
        return None
    preload.wait()
    from finetune.sources.examples import read_examples

    try:
        read_examples(text, here.runtime, Recorder())
    except DatasetError as error:
        return error.message
    return None


def _task(draft: Draft, prompter: Prompter) -> Draft:
    """What the student should be good at, with the settings for it; the questions that follow have them as defaults."""
    choices = [Choice(NO_TASK, "Nothing in particular", "the settings stay as they are")]
    choices += [Choice(name, task.title, task.summary) for name, task in TASKS.items() if _with_task(draft, name)]
    now = get(draft, "distillation.task") or NO_TASK
    field = field_of(draft, "distillation.task")
    picked = prompter.select("distillation.task", label("task", field), choices, default=now, help=help_of(field), more=MORE_TASK)
    if picked == now:
        return draft
    if picked == NO_TASK:
        return put(draft, "distillation.task", None)
    made = _with_task(draft, picked) or draft
    loss, epochs = TASKS[picked].distillation, get(made, "training.epochs")
    more = f" It takes {epochs:g} epochs, the first of them on the data alone." if epochs != get(draft, "training.epochs") else ""
    prompter.note([("class:quiet", f"Temperature {loss['temperature']:g} and alpha {loss['alpha']:g} go with it.{more}")])
    return made


def _with_task(draft: Draft, name: str) -> Draft | None:
    """The draft with all that a task decides; None where the recipe does not accept it, such as practice of a teacher with a prompt."""
    task, loss = TASKS[name], dict(draft.get("distillation", {}))
    if practises(get(draft, "distillation.task")):  # another task, whose practice goes with it
        loss.pop("on_policy", None)
    more = on_policy.enough_epochs(draft) if task.practises else {}
    made = merge(merge(merge({**draft, "distillation": loss}, task.layer()), more), layer("distillation.task", name))
    try:
        Recipe.from_layers(made)
    except RecipeError:
        return None
    return made
