"""A student that learns in the few bits of its file: which, and the settings that suit it.

draft = ask(draft, prompter)        # one of the advanced settings
"""

from __future__ import annotations

from finetune import registry
from finetune.recipe import known_fields, merge
from finetune.recipe.distillation_settings import DistillationSpec
from finetune.recipe.settings import help_of, label
from finetune.wizard.asking.prompter import Choice, Prompter
from finetune.wizard.draft import Draft, get, imitates, layer, problem, shown

NONE = "none"
KEY = "distillation.quantize"
SUITED = ("distillation.temperature", "distillation.alpha", "training.learning_rate")
MORE = (
    "A file in 4 bits holds rounded weights, and a model that was not trained for it answers a little worse. A student that computes "
    "with rounded weights while it learns gets used to them. Distil first, then train the result once more this way."
)
MORE_SUITED = "The student only has to get used to rounded weights: it takes small steps, and learns from its teacher alone."


def ask(draft: Draft, prompter: Prompter) -> Draft:
    """The grid, then whether to take the settings that suit it; nothing where the recipe would accept none."""
    names = registry.names("grids")
    if not imitates(draft) or problem(draft, KEY, names[0]):
        return draft
    field, now = DistillationSpec.model_fields["quantize"], get(draft, KEY)
    full = Choice(NONE, "Full precision", "a file of any type can be made of it afterwards")
    choices = [full, *(Choice(*found) for found in registry.choices("grids"))]
    chosen = prompter.select(KEY, label("quantize", field), choices, default=now.format if now else NONE, help=help_of(field), more=MORE)
    draft = {**draft, "distillation": {name: value for name, value in draft.get("distillation", {}).items() if name != "quantize"}}
    if chosen == NONE:
        return draft
    draft = merge(draft, layer(KEY, {"format": chosen}))
    suited = {key: get(_without(draft, SUITED), key) for key in SUITED}
    if suited == {key: get(draft, key) for key in SUITED}:
        return draft
    fields = dict(known_fields())
    words = ", ".join(f"{label(key.rpartition('.')[2], fields[key]).lower()} {shown(value)}" for key, value in suited.items())
    if prompter.confirm("few_bits.suited", f"Use what suits it ({words})?", default=True, more=MORE_SUITED):
        for key, value in suited.items():
            draft = merge(draft, layer(key, value))
    return draft


def _without(draft: Draft, keys: tuple[str, ...]) -> Draft:
    """The draft without these answers."""
    kept = dict(draft)
    for key in keys:
        part, _, name = key.partition(".")
        kept[part] = {inner: value for inner, value in kept.get(part, {}).items() if inner != name}
    return kept
