"""The whole sitting at a terminal: questions, review, the run, its results, and the upload that is asked last.

run_wizard(runtime=RuntimeOptions, plain=False)      # 0
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.screen.keys import still_keys
from finetune.screen.quiet import STDERR, quiet
from finetune.wizard import ask_recipe, preload, unfinished
from finetune.wizard.host import HostInfo, InBackground, look_around
from finetune.wizard.prompter import Prompter
from finetune.wizard.undo import Rewind

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.runtime import RuntimeOptions

WELCOME = "Enter accepts the answer shown. Shift+Tab goes back. Ctrl-C leaves."
WELCOME_PLAIN = "Enter accepts the answer in brackets; type back to go back, ? for help. Ctrl-C leaves."


def run_wizard(*, runtime: Callable[[], RuntimeOptions], plain: bool) -> int:
    """Ask, show, run; the exit code."""
    look = InBackground(lambda: look_around(runtime()))

    @cache
    def first_question_is_up() -> None:
        look.start()
        preload.start(after=look)

    with nullcontext() if plain else still_keys(), quiet(None, streams=(STDERR,)):
        prompter = _prompter(plain, first_question_is_up)
        prompter.note(WELCOME_PLAIN if plain else WELCOME)
        try:
            left = unfinished.ask(prompter)
            recipe = None if left else agree(prompter, look)
        except KeyboardInterrupt:
            prompter.note("Cancelled; nothing written.")
            return 130
        if left:
            return _go_on(left.folder.output_dir, prompter, look)
        return _carry_out(recipe, prompter, look) if recipe else 0


def agree(prompter: Prompter, look: Callable[[], HostInfo]) -> Recipe | None:
    """Questions and review until the person starts, saves or leaves; None if there is nothing to run."""
    from finetune.wizard import review

    rewind = Rewind(prompter)
    made_to_fit: list[dict[str, Any]] = []

    def converse(answers: Prompter) -> tuple[Recipe, str | dict[str, Any], int]:
        """What a decision leads to is asked here too, so that one can go back from it to the review."""
        recipe, decision = review.ask(ask_recipe(answers, look).with_changes(*made_to_fit), answers, look())
        step = review.ask_step(recipe, answers) if decision == review.CHANGE else 0
        if decision == review.SAVE:
            review.save(recipe, answers)
        return recipe, decision, step

    while True:
        recipe, decision, step = rewind.run(converse)
        for key in ("review", "change"):
            rewind.forget(key)
        if decision == review.START:
            return recipe
        if decision == review.SAVE:
            return None
        if decision == review.QUIT:
            prompter.note("Nothing was written.")
            return None
        if decision == review.MEASURE:
            review.measure(recipe, look())
        elif decision == review.CHANGE:
            made_to_fit.clear()
            rewind.reopen(step)
        elif isinstance(decision, dict):
            made_to_fit.append(decision)


def _carry_out(recipe: Recipe, prompter: Prompter, look: InBackground) -> int:
    from finetune.screen.console import people
    from finetune.screen.live_run import execute
    from finetune.wizard.review import prepare

    runtime = look().runtime
    tuner, _ = prepare(recipe, runtime)
    result = execute(recipe, runtime, people(), tuner, upload_follows=True)
    return _offer_upload(Path(result.output_dir), prompter, look)


def _go_on(output_dir: Path, prompter: Prompter, look: InBackground) -> int:
    from finetune.screen.console import people
    from finetune.screen.live_run import resume

    runtime = look().runtime
    preload.wait()
    result = resume(output_dir, runtime, people(), upload_follows=True)
    return _offer_upload(Path(result.output_dir), prompter, look)


def _offer_upload(output_dir: Path, prompter: Prompter, look: InBackground) -> int:
    from finetune.wizard import step6_upload

    try:
        prompter.can_go_back = False
        step6_upload.ask(output_dir, prompter, look())
    except KeyboardInterrupt:
        prompter.note(f"Not uploaded. The model is in {output_dir}.")
        return 130
    return 0


def _prompter(plain: bool, on_question: Callable[[], None]) -> Prompter:
    if plain:
        from finetune.wizard.plain import PlainPrompter

        return PlainPrompter(on_question)
    from finetune.wizard.terminal import TerminalPrompter

    return TerminalPrompter(colour=not os.environ.get("NO_COLOR"), on_question=on_question)
