"""A teacher on a server, where an address is typed as the name of a teacher: its model, its key and its budget.

ask(prompter, "http://localhost:8000/v1")       # {"server": "http://localhost:8000/v1", "model": "qwen"}
"""

from __future__ import annotations

from typing import Any

from finetune.recipe.settings import help_of, label
from finetune.recipe.teacher_settings import TeacherSpec
from finetune.wizard.asking.prompter import Prompter
from finetune.wizard.draft import problem

NO_KEY, NO_LIMIT = "none", "no limit"
NOT_HERE = "A server can only be the one teacher of a distillation, or write the rows of a fine-tuning."
MORE_MODEL = (
    "The server grades your rows: for each token it returns the likeliest ones, from which the student learns. vLLM can do that. The "
    "review says how many tokens it will be asked for. The student has to be a model with the same tokenizer."
)
MORE_KEY = "The name of the variable, such as OPENAI_API_KEY. What is in it is read when the run asks the server, and written nowhere."
MORE_BUDGET = "Prompts count too. A run that would need more stops, keeps what it has received, and can be continued with as many again."


def is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def address_problem(text: str) -> str | None:
    """Why this cannot be the address of a server; nothing is asked of it yet."""
    return problem({"approach": "distillation", "model": "student"}, "teacher", {"server": text, "model": "teacher"})


def ask(prompter: Prompter, address: str, more: str = MORE_MODEL) -> dict[str, Any]:
    """The `teacher` of a recipe; `more` is what it will be asked for."""
    told: dict[str, Any] = {"server": address}

    def asked(name: str, nothing: str, more: str) -> None:
        def wrong(text: str) -> str | None:
            if text == nothing:
                return None if nothing else "Type the name of the model."
            said = problem({"approach": "distillation", "model": "student"}, "teacher", {"model": "teacher", **told, name: text})
            return said and said.replace(f"Teacher.{name} must", "Must")

        field = TeacherSpec.model_fields[name]
        words = f"{help_of(field)} Enter: {nothing}." if nothing else help_of(field)
        typed = prompter.text(f"teacher.{name}", label(name, field), default=nothing, check=wrong, help=words, more=more)
        if typed != nothing:
            told[name] = int(typed) if typed.isdigit() and name == "budget_tokens" else typed

    asked("model", "", more)
    asked("key", NO_KEY, MORE_KEY)
    asked("budget_tokens", NO_LIMIT, MORE_BUDGET)
    return told
