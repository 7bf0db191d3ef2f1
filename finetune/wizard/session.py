"""The whole sitting at a terminal: questions, review, the run, its results, and the upload that is asked last.

run_wizard(runtime=RuntimeOptions, plain=False)      # 0
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from finetune.screen.keys import still_keys
from finetune.screen.quiet import STDERR, quiet
from finetune.wizard import ask_recipe
from finetune.wizard.here import InBackground, look_around
from finetune.wizard.prompter import Prompter
from finetune.wizard.rewind import Rewind

if TYPE_CHECKING:
    from finetune.runtime import RuntimeOptions

WELCOME = "Enter accepts the answer shown. Shift+Tab goes back. Ctrl-C leaves."
WELCOME_PLAIN = "Enter accepts the answer in brackets; type back to go back, ? for help. Ctrl-C leaves."


def run_wizard(*, runtime: Callable[[], RuntimeOptions], plain: bool) -> int:
    """Ask, show, run; the exit code."""
    look = InBackground(lambda: look_around(runtime()))

    def once_the_first_question_is_up() -> None:
        look.start()
        threading.Thread(target=_warm_imports, args=(look,), name="warm-imports", daemon=True).start()

    with still_keys(), quiet(None, streams=(STDERR,)):
        prompter = _prompter(plain, once_the_first_question_is_up)
        prompter.note(WELCOME_PLAIN if plain else WELCOME)
        return _sitting(prompter, look)


def _sitting(prompter: Prompter, look: InBackground) -> int:
    rewind = Rewind(prompter)
    recipe = rewind.run(lambda answers: ask_recipe(answers, look))
    print(recipe.to_yaml())
    return 0


def _prompter(plain: bool, on_first_question: Callable[[], None]) -> Prompter:
    if plain:
        from finetune.wizard.plain import PlainPrompter

        return PlainPrompter(on_first_question)
    from finetune.wizard.terminal import TerminalPrompter

    return TerminalPrompter(colour=not os.environ.get("NO_COLOR"), on_first_question=on_first_question)


def _warm_imports(look: InBackground) -> None:
    """Import what the run will need while the person reads; whatever fails here fails again, and is reported, where it is needed."""
    with suppress(Exception):
        look()
        for module in ("torch", "transformers.trainer", "datasets", "peft"):
            import_module(module)
