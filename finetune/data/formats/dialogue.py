"""What people said to each other, which is one text to learn from, and no conversation with a model.

in_lines([{"speaker": "Tom", "text": "Hi"}, {"speaker": "Ann", "text": "Hello!"}])  ->  "Tom: Hi\\nAnn: Hello!"
in_lines(["#Person1#: Hi", "#Person2#: Hello!"])                                   ->  "#Person1#: Hi\\n#Person2#: Hello!"
"""

from __future__ import annotations

from typing import Any

from finetune.data.formats.turns import SPEAKER, TEXT, are_texts, role_of, turns_of
from finetune.data.json_values import parsed

DIALOGUES = ("dialogue", "dialog")  # columns
SUMMARIES = ("summary", "highlights")  # beside one


def between_people(value: Any) -> bool:
    """Whether a cell has turns, and none of them is a model's."""
    value = parsed(value)
    turns = turns_of(value)
    return bool(turns) and (are_texts(value) or all(isinstance(turn, dict) and not _is_model(turn) for turn in turns))


def _is_model(turn: dict[str, Any]) -> bool:
    """An agent may be a person too."""
    return role_of(turn) == "assistant" and not any(str(turn.get(name)).strip().lower() == "agent" for name in SPEAKER)


def in_lines(value: Any) -> str | None:
    """Texts, or what is said in turns, as one text with a line for each; None for anything else."""
    value = parsed(value)
    turns = value if are_texts(value) else turns_of(value)
    lines = [turn if isinstance(turn, str) else _line(turn) for turn in turns if isinstance(turn, str | dict)]
    return "\n".join(lines) if turns and len(lines) == len(turns) else None


def _line(turn: dict[str, Any]) -> str:
    who, text = (next((turn[name] for name in names if turn.get(name) is not None), "") for names in (SPEAKER, TEXT))
    return f"{who}: {text}" if who else str(text)
