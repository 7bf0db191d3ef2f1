"""STEP 5: how the result is measured."""

from __future__ import annotations

from finetune.recipe import Recipe
from finetune.recipe.settings import BenchmarkSpec, help_of
from finetune.wizard.asking.prompter import Prompter
from finetune.wizard.draft import Draft, ask_field, get, parsed, put
from finetune.wizard.host import HostInfo
from finetune.wizard.rows.data_preview import Rows, rows_of

LARGEST_SHARE = 0.5  # of the rows; the rest is there to learn from
USUAL_SHARE = 0.2  # the most that is proposed
HELP = help_of(BenchmarkSpec.model_fields["rows"])
MORE = (
    "These rows are held out before training and answered twice: by the model before training and by the trained one. "
    "More rows give narrower intervals and take longer."
)


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """The number of held-out rows; the share that is held out follows where it would be too small."""
    prompter.step(5, "Benchmark")
    found = rows_of(Recipe.from_layers(draft).dataset, here.runtime)
    share, rows = get(draft, "dataset.held_out"), _rows_to_use(draft, found)

    def check(text: str) -> str | None:
        if rows and parsed(draft, "benchmark.rows", text) > rows * LARGEST_SHARE:
            return f"At most {int(rows * LARGEST_SHARE)}: half of the {rows:,} rows to use."
        return None

    usual = get(draft, "benchmark.rows")
    default = min(usual, max(1, int(rows * USUAL_SHARE))) if rows else usual
    of = f" {rows:,} rows are used in all." if rows and found else ""
    draft = ask_field(draft, prompter, "benchmark.rows", default=str(default), check=check, help=f"{HELP}{of}", more=MORE)
    needed = get(draft, "benchmark.rows") / rows if rows else 0
    return put(draft, "dataset.held_out", round(needed + 0.005, 2)) if needed > share else draft


def _rows_to_use(draft: Draft, found: Rows | None) -> int | None:
    """The rows that will be used: those asked for, or all that there are."""
    numbers = (get(draft, "dataset.samples"), found.number if found else None)
    return min((number for number in numbers if number), default=None)
