"""Before STEP 0: what was begun in this folder: runs that were interrupted, with how far they came, and answers that led to no run yet.

left = ask(prompter, session=KeptAnswers.here().load())          # None: there is nothing, or something new is wanted
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune.wizard.asking.prompter import Choice, Prompter
from finetune.wizard.saved_answers import Session

if TYPE_CHECKING:
    from finetune.run.resume import Unfinished

OFFERED = 5
NEW, ANSWERS = "new", "answers"
MORE = (
    "Continuing a run trains from the last saved step and gives the same result as without the interruption. "
    "Nothing is deleted if you start something new; `resume FOLDER` continues the run later."
)
MORE_ANSWERS = (
    "Continuing shows what you answered and asks the next question; Shift+Tab goes back to any of them. "
    "If you start anew, your first answer takes the place of the old ones."
)


def ask(prompter: Prompter, where: Path = Path(), session: Session | None = None) -> Unfinished | Session | None:
    """The run or the answers to continue with."""
    left = _runs(where)
    if session is not None and any(run.has_something and _is_of(run, session) for run in left):
        session = None  # the run has them all; one without anything may have failed over an answer, which can be changed
    if not left and session is None:
        return None
    choices = [Choice(str(number), f"Continue {run.folder.output_dir.name}", run.progress()) for number, run in enumerate(left)]
    if session is not None:
        title = f"Continue with your answers from {session.when()}" if left else "Continue"
        choices.append(Choice(ANSWERS, title, session.summary()))
    choices.append(Choice(NEW, "Start something new" if left else "Start anew"))
    if not left and session is not None:
        question = f"Continue with your answers from {session.when()}?"
    else:
        question = "There is an unfinished run here." if len(left) == 1 else "There are unfinished runs here."
    answer = prompter.select("unfinished", question, choices, default=choices[0].value, more=MORE if left else MORE_ANSWERS)
    return None if answer == NEW else session if answer == ANSWERS else left[int(answer)]


def _runs(where: Path) -> list[Unfinished]:
    if not any(where.glob("*/run/recipe.yaml")):
        return []
    from finetune.run.resume import unfinished_runs

    return unfinished_runs(where)[:OFFERED]


def _is_of(run: Unfinished, session: Session) -> bool:
    """Whether a run was begun with these answers: in their folder, after the last of them."""
    folder = session.answers.get("output_dir")
    if folder is None or Path(str(folder.given)).resolve() != run.folder.output_dir.resolve():
        return False
    return run.folder.recipe.stat().st_mtime >= session.saved_at
