"""Before STEP 0: runs in this folder that were interrupted, with how far they came.

left = ask(prompter)          # None: there are none, or something new is wanted
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.wizard.prompter import Choice, Prompter

if TYPE_CHECKING:
    from finetune.run.resume import Unfinished

OFFERED = 5
NEW = "new"
MORE = (
    "Continuing trains from the last saved step and gives the same result as the run would have had without the interruption. "
    "Nothing is deleted if you start something new; `resume FOLDER` continues it later."
)


def ask(prompter: Prompter, where: Path = Path()) -> Unfinished | None:
    """The run to continue."""
    if not any(where.glob("*/run/recipe.yaml")):
        return None
    from finetune.run.resume import unfinished_runs

    left = unfinished_runs(where)[:OFFERED]
    if not left:
        return None
    choices = [Choice(str(number), f"Continue {run.folder.output_dir.name}", run.progress()) for number, run in enumerate(left)]
    question = "There is an unfinished run here." if len(left) == 1 else "There are unfinished runs here."
    answer = prompter.select("unfinished", question, [*choices, Choice(NEW, "Start something new")], default="0", more=MORE)
    return None if answer == NEW else left[int(answer)]
