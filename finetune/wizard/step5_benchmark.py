"""STEP 5: how the result is measured."""

from __future__ import annotations

from finetune.wizard.draft import Draft, ask_field, get, parsed, put
from finetune.wizard.host import HostInfo
from finetune.wizard.prompter import Prompter

LARGEST_SHARE = 0.5  # of the rows; the rest is there to learn from
USUAL_SHARE = 0.2  # the most that is proposed
MORE = (
    "These rows are held out before training and answered twice: by the model before training and by the trained one. "
    "More rows give narrower intervals and take longer."
)


def ask(draft: Draft, prompter: Prompter, here: HostInfo) -> Draft:
    """The number of held-out rows; the share that is held out follows where it would be too small."""
    prompter.step(5, "Benchmark")
    samples, share = get(draft, "dataset.samples"), get(draft, "dataset.held_out")

    def check(text: str) -> str | None:
        if samples and parsed(draft, "benchmark.rows", text) > samples * LARGEST_SHARE:
            return f"At most {int(samples * LARGEST_SHARE)}: half of the {samples} rows to use."
        return None

    usual = get(draft, "benchmark.rows")
    default = str(min(usual, max(1, int(samples * USUAL_SHARE))) if samples else usual)
    draft = ask_field(draft, prompter, "benchmark.rows", default=default, check=check, more=MORE)
    needed = get(draft, "benchmark.rows") / samples if samples else 0
    return put(draft, "dataset.held_out", round(needed + 0.005, 2)) if needed > share else draft
