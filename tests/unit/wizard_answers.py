"""Who answers the wizard in the unit tests, and on which machine.

recipe = Rewind(enter_all_the_way(training__epochs="2")).run(lambda answers: ask_recipe(answers, here))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.hardware.machine import Glance
from finetune.runtime import RuntimeOptions
from finetune.wizard.asking.prompter import Choice, Question, ScriptedPrompter
from finetune.wizard.host import HostInfo

LAPTOP = Glance("a processor", 2, 16 * 2**30, 12 * 2**30, 100 * 2**30, None, 0)
DEFAULT, BACK = ScriptedPrompter.DEFAULT, ScriptedPrompter.BACK


def here(glance: Glance = LAPTOP, hub: bool = False) -> HostInfo:
    return HostInfo(glance, hub, RuntimeOptions())


def model_folder(path: Path) -> Path:
    """A folder with the files of a model; nothing can be loaded from it."""
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (path / "model.safetensors").touch()
    return path


def enter_all_the_way(**answers: object) -> ScriptedPrompter:
    return ScriptedPrompter({key.replace("__", "."): answer for key, answer in answers.items()}, otherwise_default=True)


class Listening(ScriptedPrompter):
    """Keeps what each question says: `questions`, `helps`, `more` and `offered`, by key."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(answers, otherwise_default=True)
        self.questions: dict[str, str] = {}
        self.helps: dict[str, str] = {}
        self.more: dict[str, str] = {}
        self.offered: dict[str, list[Choice]] = {}

    def ask(self, question: Question) -> str | bool:
        self.questions[question.key], self.helps[question.key] = question.text, question.help
        self.more[question.key] = question.more
        self.offered[question.key] = list(question.choices)
        return super().ask(question)
