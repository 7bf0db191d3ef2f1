"""Who answers the wizard in the unit tests, and on which machine.

recipe = Rewind(enter_all_the_way(training__epochs="2")).run(lambda answers: ask_recipe(answers, here))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.hardware.machine import Glance
from finetune.runtime import RuntimeOptions
from finetune.wizard.host import HostInfo
from finetune.wizard.prompter import Choice, ScriptedPrompter

LAPTOP = Glance("a processor", 2, 16 * 2**30, 12 * 2**30, 100 * 2**30, None, 0)
DEFAULT, BACK = ScriptedPrompter.DEFAULT, ScriptedPrompter.BACK


def here(glance: Glance = LAPTOP, hub: bool = False) -> HostInfo:
    return HostInfo(glance, hub, RuntimeOptions())


def enter_all_the_way(**answers: object) -> ScriptedPrompter:
    return ScriptedPrompter({key.replace("__", "."): answer for key, answer in answers.items()}, otherwise_default=True)


class Listening(ScriptedPrompter):
    """Keeps what each question says: `questions`, `helps` and `offered`, by key."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(answers, otherwise_default=True)
        self.questions: dict[str, str] = {}
        self.helps: dict[str, str] = {}
        self.offered: dict[str, list[Choice]] = {}

    def _hear(self, key: str, question: str, help: str) -> None:
        self.questions[key], self.helps[key] = question, help

    def select(self, key: str, question: str, choices: Sequence[Choice], default: str, help: str = "", more: str = "") -> str:
        self._hear(key, question, help)
        self.offered[key] = list(choices)
        return super().select(key, question, choices, default, help, more)

    def text(self, key: str, question: str, default: str, *given: Any, help: str = "", **more: Any) -> str:
        self._hear(key, question, help)
        return super().text(key, question, default, *given, help=help, **more)

    def confirm(self, key: str, question: str, default: bool, help: str = "", more: str = "") -> bool:
        self._hear(key, question, help)
        return super().confirm(key, question, default, help, more)
