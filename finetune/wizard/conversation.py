"""A complete session at a terminal: questions, review, the run, its results, and the upload that is asked last.

run_wizard(runtime=RuntimeOptions, plain=False)      # 0
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import FinetuneError, Interrupted
from finetune.screen.keys import still_keys
from finetune.screen.quiet import STDERR, quiet
from finetune.wizard import ask_recipe, preload, unfinished
from finetune.wizard.asking.prompter import Prompter
from finetune.wizard.asking.undo import Rewind
from finetune.wizard.host import HostInfo, Once, look_around
from finetune.wizard.saved_answers import KeptAnswers, Session

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.run.resume import Unfinished
    from finetune.runtime import RuntimeOptions

WELCOME = "Enter accepts what is shown, Shift+Tab goes back, ? explains, Ctrl-C leaves."
WELCOME_PLAIN = "Enter accepts the answer in brackets. Type `back` to go back, `?` for help. Ctrl-C leaves."


def run_wizard(*, runtime: Callable[[], RuntimeOptions], plain: bool) -> int:
    """Ask, show, run; the exit code. What was answered and not used is kept, and that is said."""
    look = Once(lambda: look_around(runtime()))
    at_first_question = cache(lambda: preload.start(after=look))
    kept = KeptAnswers.here()
    with nullcontext() if plain else still_keys(), quiet(None, streams=(STDERR,)):
        prompter = _prompter(plain, at_first_question)
        prompter.note(WELCOME_PLAIN if plain else WELCOME)
        try:
            begun = unfinished.ask(prompter, session=kept.load())
            agreed = agree(prompter, look, kept, begun) if begun is None or isinstance(begun, Session) else begun
            code = _carry_out(agreed, prompter, look(), kept) if agreed else 0
        except KeyboardInterrupt:
            prompter.note("Cancelled." if kept.written or kept.problem else "Cancelled; nothing written.")
            code = 130
        except FinetuneError as error:
            raise _spoken(error, kept) from None
        except Exception as error:
            if not hasattr(error, "__notes__") and (told := kept.in_short()):  # else the run can be continued, which has them all
                error.add_note(told)
            raise
        if farewell := kept.farewell():
            prompter.note(farewell)
        return code


def _spoken(error: FinetuneError, kept: KeptAnswers) -> FinetuneError:
    """The same error with a hint for a conversation. It is the last thing on the screen, so it says what becomes of the answers too."""
    from finetune.wizard.error_words import spoken_hint

    told = kept.in_short()
    again = isinstance(error, Interrupted) and error.saved is None and kept.written > 0  # with the answers, and nothing else
    error.hint = "\n".join(filter(None, ["" if again else spoken_hint(error), told])) or None
    return error


def agree(
    prompter: Prompter, look: Callable[[], HostInfo], kept: KeptAnswers | None = None, earlier: Session | None = None
) -> Recipe | None:
    """Questions and review until the person starts, saves or leaves; None if there is nothing to run.

    Every answer goes into `kept`; with the answers of an `earlier` session it begins where that one ended.
    """
    from finetune.wizard import review

    kept = kept or KeptAnswers(None)
    before = earlier or Session({}, [], 0.0)
    kept.written = len(before.answers)
    made_to_fit: list[dict[str, Any]] = list(before.changes)
    rewind = Rewind(prompter, before.answers, lambda answers, taken_back: kept.keep(answers, made_to_fit, taken_back), before.taken_back)

    def converse(answers: Prompter) -> tuple[Recipe, str | dict[str, Any], int]:
        """What a decision leads to is asked here too, so that one can go back from it to the review."""
        recipe, decision, fault = review.ask(ask_recipe(answers, look).with_changes(*made_to_fit), answers, look())
        step = review.ask_step(recipe, answers, fault) if decision == review.CHANGE else 0
        if decision == review.GPUS:
            review.ask_gpus(recipe, answers, look())
        if decision == review.SAVE:
            review.save(recipe, answers)
        if decision == review.QUIT:
            answers.note("Nothing was written.")
        return recipe, decision, step

    while True:
        recipe, decision, step = rewind.run(converse)
        for key in ("review", "change", "gpus"):
            rewind.forget(key)
        if decision == review.START:
            return recipe
        if decision in (review.SAVE, review.QUIT):
            if decision == review.SAVE:
                kept.drop()
            return None
        if decision == review.MEASURE:
            review.measure(recipe, look())
        elif decision == review.CHANGE:
            made_to_fit.clear()
            rewind.reopen(step)
        elif isinstance(decision, dict):
            made_to_fit.append(decision)


def _carry_out(agreed: Recipe | Unfinished, prompter: Prompter, here: HostInfo, kept: KeptAnswers) -> int:
    """The run, and the offer to upload its model; its answers are kept until the run itself can be continued."""
    from finetune.recipe import Recipe
    from finetune.screen.console import people
    from finetune.screen.live_run import execute, resume
    from finetune.screen.reporter import working
    from finetune.wizard import offer_export, step6_upload
    from finetune.wizard.review import prepare

    if isinstance(agreed, Recipe):
        prepared = prepare(agreed, here.runtime)
        if isinstance(prepared, FinetuneError):
            raise prepared
        try:
            result = execute(agreed, here.runtime, people(), prepared[0], upload_follows=True)
        except Interrupted as stopped:
            if stopped.saved:
                kept.drop()
            raise
        kept.drop()
    else:
        with working(people(), "Starting"):
            preload.wait()
        result = resume(agreed.folder.output_dir, here.runtime, people(), upload_follows=True)
    try:
        prompter.can_go_back = False
        offer_export.ask(Path(result.output_dir), prompter, here)
        step6_upload.ask(Path(result.output_dir), prompter, here)
    except KeyboardInterrupt:
        prompter.note(f"Not uploaded. The model is in {result.output_dir}.")
        return 130
    return 0


def _prompter(plain: bool, on_question: Callable[[], None]) -> Prompter:
    if plain:
        from finetune.wizard.asking.plain import PlainPrompter

        return PlainPrompter(on_question)
    gc.disable()  # imports make many objects and no garbage: 15 ms of the time to the first question
    from finetune.wizard.asking.terminal import TerminalPrompter

    gc.enable()
    return TerminalPrompter(colour=not os.environ.get("NO_COLOR"), on_question=on_question)
