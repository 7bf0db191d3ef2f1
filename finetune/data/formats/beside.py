"""Columns beside the prompt and its answer that a chat template takes too: a system text, earlier turns, tools, reasoning.

Beside.find(["system", "history", "prompt", "completion"], sample, taken=["prompt", "completion"]).before(row, [prompt])
    ->  [system, earlier question, earlier answer, prompt]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.formats.cells import Message, find_column, optional_text
from finetune.data.formats.parts import read_parts
from finetune.data.formats.tools import COLUMNS, calls_in, is_nothing, read_tools
from finetune.data.formats.turns import REASONING, read_messages, turns_of
from finetune.data.json_values import parsed
from finetune.data.rows import RowProblem

SYSTEM = ("system", "system_prompt", "system_message", "system_instruction", "systeminstruction", "sys_prompt")
THOUGHTS = (*REASONING, "complex_cot", "cot", "chain_of_thought")
HISTORY = ("history", "chat_history", "conversation_history", "dialog_history", "previous_turns")


@dataclass(frozen=True)
class Beside:
    """The names of the columns, None where there is none."""

    system: str | None = None
    history: str | None = None
    tools: str | None = None
    reasoning: str | None = None

    @classmethod
    def find(
        cls,
        columns: Sequence[str],
        sample: Sequence[dict[str, Any]],
        taken: Sequence[str | None],
        *,
        history: bool = True,
        reasoning: bool = False,
    ) -> Beside:
        """Those among `columns` that hold what their names say; one that does not is left to be reported as ignored."""
        free = [column for column in columns if column not in taken]
        system, earlier, given, thought = (find_column(free, *names) for names in (SYSTEM, HISTORY, COLUMNS, THOUGHTS))
        return cls(
            system,
            earlier if history and earlier is not None and _all_read(earlier, sample, _is_history) else None,
            given if given is not None and _all_read(given, sample, _is_tools) else None,
            thought if reasoning and thought is not None and _all_read(thought, sample, _is_text) else None,
        )

    def around(self, *columns: str | None) -> tuple[str, ...]:
        """All columns that are read where `columns` are the prompt and its answer."""
        return tuple(column for column in (self.system, self.history, *columns, self.reasoning, self.tools) if column is not None)

    def before(self, row: dict[str, Any], messages: list[Message]) -> list[Message]:
        """`messages` with the system text and the earlier turns of their row; a system text among them is the one that counts."""
        earlier = (
            [] if self.history is None or is_nothing(parsed(row.get(self.history))) else read_messages(row[self.history], self.history)
        )
        own = messages[:1] if messages[:1] and messages[0]["role"] == "system" else []
        told = own if own or (earlier and earlier[0]["role"] == "system") else self._system(row)
        return [*told, *earlier, *messages[len(own) :]]

    def remarks(self, row: dict[str, Any], messages: list[Message]) -> Iterator[str]:
        """What a person should know about a row's system text."""
        told = self._system(row)
        if told and messages[0] != told[0]:
            yield f"Column `{self.system}` is not used in rows whose messages begin with a system text of their own"

    def tools_of(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The tool definitions of a row."""
        return [] if self.tools is None else read_tools(row.get(self.tools), self.tools)

    def answer(self, row: dict[str, Any], text: str) -> Message:
        """An answer in a column of text, with what is thought before it; where a row has tools, the JSON of calls is calls."""
        calls = calls_in(text) if self.tools_of(row) else []
        answer: Message = {"role": "assistant", "content": "", "tool_calls": calls} if calls else {"role": "assistant", "content": text}
        thought = optional_text(row, self.reasoning)
        return {**answer, "reasoning_content": thought[0]} if thought and "</think>" not in text else answer

    def _system(self, row: dict[str, Any]) -> list[Message]:
        if self.system is None or is_nothing(row.get(self.system)):
            return []
        text = read_parts(row[self.system], self.system).text or ""
        return [{"role": "system", "content": text}] if text.strip() else []


NOTHING = Beside()


def _all_read(column: str, sample: Sequence[dict[str, Any]], fits: Callable[[Any, str], bool]) -> bool:
    return all(is_nothing(parsed(row.get(column))) or fits(row[column], column) for row in sample)


def _is_history(value: Any, column: str) -> bool:
    return bool(turns_of(value))


def _is_text(value: Any, column: str) -> bool:
    return isinstance(value, str)


def _is_tools(value: Any, column: str) -> bool:
    try:
        return bool(read_tools(value, column))
    except RowProblem:
        return False
