"""A student made in rounds: how many layers it keeps, and on which way down.

draft = ask(draft, prompter, facts)      # facts of the teacher, None if they are not known before the download
"""

from __future__ import annotations

from finetune.distillation.rounds import LEAST, gentle_rounds
from finetune.models.facts import ModelFacts
from finetune.recipe import merge
from finetune.recipe.distillation_settings import DistillationSpec
from finetune.recipe.settings import help_of, label
from finetune.wizard.asking.prompter import Prompter
from finetune.wizard.draft import Draft, layer, problem

ALL_ROUNDS, NOT_LISTED = "never", "none"
USUAL_RETENTION = "0.9"
MORE_LAYERS = (
    "Half of the teacher's layers are a good start. Cut at once, such a student loses most of what it can do; in rounds, much less."
)
MORE_ROUNDS = (
    "Layers after each round, the last number is your student. Rounds that leave out at most 30 % of the layers are gentle; more rounds "
    "take longer. Epochs are counted for each round.\n"
    f"{NOT_LISTED}: two layers a round (another number is an advanced setting), as long as the student keeps enough of its teacher."
)

MORE_UNTIL = (
    "After each round the student answers some rows that it has not learned, and that are not among those of the benchmark. Once it keeps "
    "less than this of its teacher, the result is the student of the round before."
)


def left_out(draft: Draft) -> Draft:
    """The draft without rounds or practice that were chosen before."""
    kept = {name: value for name, value in draft.get("distillation", {}).items() if name not in ("rounds", "until", "on_policy")}
    return {**draft, "distillation": kept} if "distillation" in draft else draft


def ask(draft: Draft, prompter: Prompter, teacher: ModelFacts | None) -> Draft:
    """The layers to keep, then the rounds."""
    depth = teacher.layers if teacher else 0
    most = f"to {depth - 1} of the teacher's {depth}" if depth else "on"

    def wrong_layers(text: str) -> str | None:
        fits = text.isdigit() and int(text) >= LEAST and (not depth or int(text) < depth)
        return None if fits else f"A number of layers, from {LEAST} {most}."

    half = str(max(LEAST, depth // 2)) if depth > LEAST else ""
    typed = prompter.text(
        "rounds.layers", "Layers to keep", default=half, check=wrong_layers, help=f"From {LEAST} {most}.", more=MORE_LAYERS
    )
    layers = int(typed)

    def recipe_layer(text: str) -> Draft:
        counts = [int(part) if part.strip().isdigit() else part.strip() for part in text.strip("[] ").split(",")]
        return {"model": {"from_teacher": {"layers": counts[-1]}}, **layer("distillation.rounds", counts)}

    def wrong_rounds(text: str) -> str | None:
        if text == NOT_LISTED:
            return None
        counts = recipe_layer(text)["distillation"]["rounds"]
        if counts[-1] != layers:
            return f"The last number is your student's: {layers}."
        if depth and isinstance(counts[0], int) and counts[0] >= depth:
            return f"The teacher has {depth} layers: begin with fewer."
        return problem({**draft, "model": recipe_layer(text)["model"]}, "distillation.rounds", counts)

    field = DistillationSpec.model_fields["rounds"]
    usual = ", ".join(map(str, gentle_rounds(depth, layers) if depth else [layers]))
    help = f"{help_of(field)} {NOT_LISTED}: a few layers at a time, until it keeps too little."
    typed = prompter.text("distillation.rounds", label("rounds", field), default=usual, check=wrong_rounds, help=help, more=MORE_ROUNDS)
    if typed == NOT_LISTED:
        return _until({**draft, "model": {"from_teacher": {"layers": layers}}}, prompter, listed=False)
    chosen = recipe_layer(typed)
    draft = {**draft, "model": chosen["model"], "distillation": {**draft.get("distillation", {}), **chosen["distillation"]}}
    return _until(draft, prompter, listed=True)


def _until(draft: Draft, prompter: Prompter, *, listed: bool) -> Draft:
    """How much a student must keep for another round to follow; that may be left open where the rounds are `listed`."""

    def wrong(text: str) -> str | None:
        if (listed and text == ALL_ROUNDS) or problem(draft, "distillation.until", {"retention": text}) is None:
            return None
        return f"A share between 0 and 1 such as {USUAL_RETENTION}{f', or: {ALL_ROUNDS}' if listed else ''}."

    typed = prompter.text(
        "distillation.until.retention",
        "Stop when less is kept than",
        default=ALL_ROUNDS if listed else USUAL_RETENTION,
        check=wrong,
        help=f"A share of the teacher's ROUGE-L such as {USUAL_RETENTION}{f'; {ALL_ROUNDS}: all rounds are made' if listed else ''}.",
        more=MORE_UNTIL,
    )
    return draft if typed == ALL_ROUNDS else merge(draft, layer("distillation.until.retention", float(typed)))
