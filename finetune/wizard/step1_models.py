"""STEP 1: which model; when distilling, which teacher and which student."""

from __future__ import annotations

from finetune import registry
from finetune.errors import ModelError
from finetune.formatting import count
from finetune.hub.catalogue import CATALOGUE
from finetune.models.facts import ModelFacts, look_up
from finetune.recipe import STARTER
from finetune.recipe.settings import FromTeacher, help_of, label
from finetune.recipe.teacher_settings import SELF
from finetune.wizard import which_model
from finetune.wizard.asking import suggest
from finetune.wizard.asking.prompter import Choice, Prompter, Question, anything
from finetune.wizard.defaults import defaults, why
from finetune.wizard.distilling import on_policy, rounds, served_teacher, several_teachers
from finetune.wizard.distilling.teachers_run import proposal, sentence
from finetune.wizard.draft import Draft, field_of, get, problem, put, written_by_teacher
from finetune.wizard.host import HostInfo

MADE = "made from the teacher"
MORE_SERVED = "For a teacher on a server choose another model, then type its address, such as http://localhost:8000/v1."
MORE_ITSELF = (
    "The model itself: it learns your rows as in fine-tuning, and part of the loss keeps its answers close to those it would have "
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
        return _learner(draft, prompter, here)
    way = several_teachers.ask_way(prompter)
    teacher = get(draft, "teacher.source")
    offered = which_model.offered(here, teacher, get(defaults(here, "distillation"), "teacher.source"))
    more, served = [which_model.MORE], way in (several_teachers.PLAIN, several_teachers.NOTHING)
    if served:
        more.append(MORE_SERVED)
    if way in (several_teachers.PLAIN, several_teachers.OWN):
        offered.append(Choice(SELF, "The model itself", "learns a task and stays close to what it was"))
        more.append(MORE_ITSELF)
    own = teacher in [folder for folder, approach, _ in which_model.finished() if approach == "fine-tuning"]
    help = "The model to imitate: your own fine-tuning, so that the student knows the same task." if own else "The model to imitate."
    question = Question("teacher", "Teacher", teacher, offered, help=help, more="\n".join(more))
    teacher = which_model.ask(prompter, here, question, served=served)
    if way == several_teachers.NOTHING:
        draft = written_by_teacher(draft)
    if served_teacher.is_address(teacher):
        help = "It must have the same tokenizer as the model on the server."
        ready_made = Question("student", "Student", STARTER, which_model.offered(here, STARTER), help=help, more=which_model.MORE)
        told = served_teacher.ask(prompter, teacher)
        return {**rounds.left_out(draft), "teacher": told, "model": which_model.ask(prompter, here, ready_made)}
    if teacher == SELF:
        draft = _learner(defaults(here, "distillation", itself=True), prompter, here)
        return on_policy.chosen(draft) if way == several_teachers.OWN else _system_prompt(draft, prompter)
    draft = {**draft, "teacher": teacher}
    if way != several_teachers.NOTHING and (found := proposal(teacher)):
        draft = {**draft, **found}
        prompter.note(sentence(found))
    if way == several_teachers.SEVERAL:
        draft = several_teachers.ask(
            draft,
            prompter,
            teacher,
            check=lambda text: which_model.problem_of(text, here),
            complete=lambda text: suggest.models(text, here.hub),
        )
    draft = rounds.left_out(draft)
    if way == several_teachers.ROUNDS:
        return rounds.ask(draft, prompter, _facts(teacher, here))
    draft = _student(draft, prompter, here, teacher)
    return on_policy.chosen(draft) if way == several_teachers.OWN else draft


def _learner(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """The model that learns from rows."""
    default = get(draft, "model")
    question = Question("model", "Model", default, which_model.offered(here, default), more=which_model.MORE)
    return put(draft, "model", which_model.ask(prompter, here, question))


def _system_prompt(draft: Draft, prompter: Prompter) -> Draft:
    """The system prompt that only the teacher sees, if any."""
    field = field_of(draft, "teacher.system")
    told = prompter.text(
        "teacher.system", label("system", field), default="", help=f"{help_of(field)} Enter for none.", more=MORE_SYSTEM, check=anything
    )
    return put(draft, "teacher.system", told) if told else draft


def _student(draft: Draft, prompter: Prompter, here: HostInfo, teacher: str) -> Draft:
    big = _facts(teacher, here)
    same_tokenizer = [entry for entry in CATALOGUE if here.hub and big and entry.vocabulary == big.vocabulary]
    smaller = [which_model.entry_choice(entry) for entry in same_tokenizer if big and entry.parameters < big.parameters]
    offered = [Choice(MADE, "Made from the teacher", "fewer or narrower layers, same tokenizer"), *smaller][: which_model.MOST_OFFERED]
    default = draft["model"] if draft["model"] in [choice.value for choice in smaller] else MADE
    question = Question("student", "Student", default, offered, help="The smaller model to train.", more=MORE_STUDENT)
    picked = which_model.ask(prompter, here, question, refused={teacher: "This is the teacher itself; the student must be smaller."})
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
        return f"{given:g}", f"As a share of the teacher's {of} parameters: {given:g} is {count(given * teacher.parameters)}."
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


def with_own_teacher(draft: Draft) -> Draft:
    """Of a distillation: the newest fine-tuning in the working folder is proposed as the teacher, if there is one."""
    if draft["approach"] != "distillation":
        return draft
    own = next((folder for folder, approach, _ in which_model.finished() if approach == "fine-tuning"), None)
    return {**draft, "teacher": own} if own else draft
