"""How the rows of one source are read: its format and the marks beside it are found once, then each row becomes a record or says why not.

reader = RowReader(columns, [row.values for row in sample], spec.columns, "rows.jsonl")
reader.record({"question": "2 + 2?", "answer": "4"})["messages"]      # raises RowProblem, or NotWanted where the data say so
reader.notes()                                                        # what a person should know about all of them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from finetune.data import formats
from finetune.data.formats import turns
from finetune.data.formats.cells import Record, is_blank, is_learned
from finetune.data.formats.marks import Marks, check_text
from finetune.data.formats.messages import Messages
from finetune.data.formats.rendered import Rendered
from finetune.data.formats.text import Text
from finetune.data.formats.tools import is_nothing
from finetune.data.rows import NotWanted, RowProblem, SkippedRow, no_rows
from finetune.errors import DatasetError, UnknownFormat
from finetune.formatting import counted
from finetune.letters import as_seen
from finetune.recipe.settings import ColumnsSpec

LISTED_TOOLS = "<tools>"  # around definitions in a system text, as Hermes writes them
KEPT = 20  # rows of the sample, to which one with a new column is compared
TO_COME = "?"  # stands for the answer of a prompt that has none
NOT_ASKED = "The question is empty, so its answer is learned without one"
TWICE = "Tools are not given to the chat template where a system text lists them already"


class RowReader:
    """With `prompts`, rows need no answers: a column of prompts is read alone, and a conversation may end with a person's words.

    Without `chats` a column of text is text, whatever is in it.
    """

    def __init__(
        self,
        columns: Sequence[str],
        sample: Sequence[dict[str, Any]],
        chosen: ColumnsSpec | None,
        where: str,
        *,
        prompts: bool = False,
        chats: bool = True,
    ) -> None:
        self.where, self.prompts = where, prompts
        inner = [name for name in formats.chosen_columns(chosen).values() if name not in columns and "." in name]
        self.inner = sorted(inner, key=_place, reverse=True)  # of a list the last first: what is taken out moves those behind it
        sample = [self.values(row) for row in sample]
        self.all_columns = list(dict.fromkeys([*columns, *(name for row in sample for name in row)]))
        if self.inner:
            self.all_columns = [name for name in self.all_columns if any(name in row for row in sample)]
        is_named, chosen = bool(chosen), _as_stored(chosen, self.all_columns)
        if prompts and not chosen and (alone := formats.prompts_alone(self.all_columns, sample)):
            chosen = ColumnsSpec(text=alone)
        self.chosen = chosen
        self.format = formats.detect(self.all_columns, sample, chosen, where)
        if prompts and not is_named and isinstance(self.format, Text):
            self.format = Rendered.of(self.format.columns[0], sample, answered=False) or self.format
        if not (chats or chosen) and isinstance(self.format, Rendered):
            self.chosen = ColumnsSpec(text=self.format.columns[0])
            self.format = formats.detect(self.all_columns, sample, self.chosen, where)
        self.marks = Marks.find(self.all_columns, sample, self.format.name, self.format.columns, named=chosen is not None)
        self.columns = [*self.format.columns, *self.marks.columns]
        self.remarks: Counter[str] = Counter()  # rows
        self.first = sample[:KEPT]
        self.filled = {name for row in sample for name, value in row.items() if not is_nothing(value)}

    def values(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the parts of its objects and lists that a person named, translation.en for one, as columns of their own."""
        for name in self.inner:
            with suppress(LookupError):
                part, row = _taken(row, name)
                row[name] = part
        return row

    def widen(self, row: dict[str, Any]) -> bool:
        """Whether a row has the first value of a column that is read from here on: rows before it did without.

        Raises UnknownFormat where the rows before this one would have been read otherwise.
        """
        new = {name for name in row.keys() - self.filled if not is_nothing(row[name])}
        if not new:
            return False
        self.filled |= new
        columns = list(dict.fromkeys([*self.all_columns, *(name for name in row if name in new)]))
        try:
            found = formats.detect(columns, [*self.first, row], self.chosen, self.where)
        except UnknownFormat:  # an only column need not be the only one for ever
            return False
        beside = [name for name in columns if name in new or name in self.marks.columns]
        marks = Marks.find(beside, [*self.first, row], found.name, found.columns, named=self.chosen is not None)
        read = [*found.columns, *marks.columns]
        late = [name for name in read if name not in self.columns]  # not what the rest of the sample speaks against
        if found.name != self.format.name or not late or not new.issuperset(late) or not set(self.columns) <= set(read):
            return False
        if hasattr(found, "to_record"):
            names = ", ".join(late)
            raise UnknownFormat(f"{self.where} has {names} in later rows only.", hint=f"Give every row {names}, or none.")
        self.format, self.marks, self.columns = found, marks, read
        self.all_columns = list(dict.fromkeys([*self.all_columns, *read]))
        return True

    def record(self, row: dict[str, Any]) -> Record:
        """What a row is; `row` comes from `values`."""
        self.marks.check(row)
        if to_record := getattr(self.format, "to_record", None):
            made: Record = to_record(row)
            return made
        if self.prompts and isinstance(self.format, Messages):
            row = _with_answer(row, self.format.messages)
        messages = self.format.to_messages(row)
        if self.prompts and isinstance(self.format, Rendered) and messages[-1]["role"] == "user":
            messages.append({"role": "assistant", "content": TO_COME})
        check_text(messages)
        record: Record = {"messages": messages}
        marked = any(turn.get("learn") is False for turn in messages)
        for turn in messages:
            if turn["role"] == "assistant" and is_blank(turn):
                turn["learn"] = False  # it would only teach the model to say nothing
        if not any(map(is_learned, messages)):
            if isinstance(self.format, Rendered):
                raise NotWanted("no question is answered")  # as others show, it is no chat that is read wrongly
            raise NotWanted("every answer is marked as not to be learned") if marked else RowProblem("it has no answer")
        said = [*getattr(self.format, "remarks", _nothing)(row), *self.marks.remarks(row)]
        if any(turn["role"] == "user" and is_blank(turn) for turn in messages):
            said.append(NOT_ASKED)
        if tools := getattr(self.format, "tools", _nothing)(row):
            if any(turn["role"] == "system" and LISTED_TOOLS in turn["content"] for turn in messages):
                said.append(TWICE)
            else:
                record["tools"] = tools
        self.remarks.update(dict.fromkeys(said, 1))
        return record

    def no_rows(self, skipped: list[SkippedRow], left_out: Mapping[str, int]) -> DatasetError:
        """The error for rows of which none became a record: those that were not skipped or left out are empty."""
        return no_rows(self.where, skipped, left_out, self.columns if len(self.all_columns) > 1 else ())

    def notes(self) -> list[str]:
        """Sentences about the rows that became records."""
        notes: list[str] = list(filter(None, [getattr(self.format, "note", None)]))
        return notes + [f"{sentence} ({counted(rows, 'row')})." for sentence, rows in self.remarks.items()]


def _as_stored(chosen: ColumnsSpec | None, columns: Sequence[str]) -> ColumnsSpec | None:
    """The columns that a person named, by the names in the file, where the same letters are stored in parts (NFD)."""
    stored = {as_seen(column): column for column in reversed(columns)}
    named = {role: name for role, name in formats.chosen_columns(chosen).items() if name not in columns}
    return chosen and chosen.model_copy(update={role: stored.get(as_seen(name), name) for role, name in named.items()})


def _place(path: str) -> list[tuple[int, str]]:
    """What paths are sorted by: t.2 before t.10."""
    return [(int(part) if part.isdecimal() else 0, part) for part in path.split(".")]


def _taken(cell: Any, path: str) -> tuple[Any, Any]:
    """The part of nested objects and lists at a path such as answers.text.0, and what is left of them; raises LookupError."""
    name, _, deeper = path.partition(".")
    parts = cell if isinstance(cell, dict) else {str(place): value for place, value in enumerate(cell if isinstance(cell, list) else ())}
    if path in parts:  # a name with a dot
        name, deeper = path, ""
    part, rest = _taken(parts[name], deeper) if deeper else (parts[name], None)
    left = {key: rest if key == name else value for key, value in parts.items() if key != name or rest}
    return part, left if isinstance(cell, dict) else list(left.values())


def _with_answer(row: dict[str, Any], column: str) -> dict[str, Any]:
    """A conversation that ends with a person's words, with something in place of the answer."""
    said = turns.turns_of(row.get(column))
    if said and isinstance(said[-1], dict) and turns.role_of(said[-1]) == "user":
        return {**row, column: [*said, {"role": "assistant", "content": TO_COME}]}
    return row


def _nothing(row: dict[str, Any]) -> list[Any]:
    return []
