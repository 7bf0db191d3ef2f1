"""Multiple choice: a question, its choices in a list or in columns of their own, and which is right, as a number, a letter or its text.

{"question": "The capital of Norway?", "choices": ["Rome", "Oslo"], "answer": 1}
{"question": "The capital of Norway?", "A": "Rome", "B": "Oslo", "answer": "B"}
    ->  "The capital of Norway?\\n\\nA. Rome\\nB. Oslo"  and  "B. Oslo"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from finetune.data.formats.beside import NOTHING, Beside
from finetune.data.formats.cells import Message, as_text, find_column, is_empty, joined, optional_text
from finetune.data.formats.languages import in_english, names_of
from finetune.data.formats.turns import assistant, user
from finetune.data.json_values import parsed
from finetune.data.rows import RowProblem
from finetune.errors import UnknownFormat
from finetune.letters import as_seen

QUESTIONS = ["question", "question_stem", "stem", "query", "problem", "prompt", "sentence", "goal", "ctx", "q", "sent2", "ctx_b", "input"]
QUESTIONS += ["instruction", "text"]
HALVES = {"sent2": "sent1", "ctx_b": "ctx_a", "input": "instruction"}  # a question that begins in another column
GIVEN = ("context", "passage", "article", "premise", "dialogue")
LISTS = ("choices", "options", "endings", "candidates", "answer_choices", "choice")
ANSWERS = "answers"  # a list of choices where another column numbers the right one
RIGHT = [
    "answer",
    "answers",
    "answerkey",
    "answer_key",
    "answer_idx",
    "answer_index",
    "label",
    "correct",
    "correct_answer",
    "correct_option",
]
RIGHT += ["correct_choice", "correct_index", "right_answer", "target", "gold", "cop", "correct_answer_id", "correct_answer_index"]
RIGHT += ["correct_answers", "correct_answer(s)", "answer_id", "output", "response", "completion"]
OF_CHOICES = "|".join(["option", "choice", "ending", "answer", "ans", "opt", "op", "sol", *names_of("choice"), *names_of("answer")])
COLUMN = re.compile(rf"({OF_CHOICES}|)[ _]?([a-j]|\d)", re.IGNORECASE)
LETTERED = re.compile(r"(?:^|\s{0,9}[\n,;|]\s{0,9})\(?([a-jA-J]) ?[.):] {0,9}")  # "A. Rome\nB. Oslo", "a ) 1 , b ) 2"
SEVERAL = re.compile(r"\s*[,;&+/]\s*")
Choices = dict[str, str]  # by what each is called: A, B, ...


class MultipleChoice:
    name = "multiple_choice"
    title = "multiple choice"
    summary = "question, choices, and which is right, by number, letter or text (MMLU, ARC)"
    order = 25

    def __init__(
        self, question: str, choices: Sequence[str], right: str, first: int | None, given: str | None = None, beside: Beside = NOTHING
    ) -> None:
        """`first` is what numbers count from, None where the texts of the choices are given."""
        self.question, self.choices, self.right, self.first, self.given, self.beside = question, choices, right, first, given, beside
        self.columns = beside.around(given, question, *choices, right)
        self.inside: str | None = None  # the column in whose objects question and choices are
        self.note = "Each question is followed by its choices, and the right one is learned with its letter."

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> MultipleChoice | None:
        if inside := next((name for name in columns if sample and all(_has_choices(row.get(name)) for row in sample)), None):
            rows = [_opened(row, inside) for row in sample]
            found = cls.matches(list(dict.fromkeys(name for row in rows for name in row)), rows)
            if found is not None:
                found.inside, found.columns = inside, found.beside.around(inside, found.right)
            return found
        question = find_column(columns, *QUESTIONS)
        if question is None:
            return None
        given = find_column([column for column in columns if column != question], HALVES.get(in_english(question), ""), *GIVEN)
        lists = [[column] for name in LISTS if (column := find_column(columns, name)) is not None]
        several = [[column] for column in [find_column(columns, ANSWERS)] if column is not None]
        tried = (cls._with(question, given, choices, columns, sample) for choices in [*lists, _of_columns(columns), *several] if choices)
        found = next(filter(None, tried), None)
        return None if found is None or (sample and found._is_told(sample)) else found

    @classmethod
    def _with(
        cls, question: str, given: str | None, choices: Sequence[str], columns: Sequence[str], sample: Sequence[dict[str, Any]]
    ) -> MultipleChoice | None:
        """The format of rows with these choices; None where no column says which is right."""
        several = choices[0].strip().lower() == ANSWERS  # which may all be right
        free = [column for column in columns if column not in (question, given, *choices)]
        unclear: UnknownFormat | None = None
        named = dict.fromkeys(column for name in RIGHT if (column := find_column(free, name)) is not None)
        for number, right in enumerate(named):
            try:
                first = _first(right, choices, sample)
            except UnknownFormat as error:
                unclear = error if number == 0 else unclear  # behind another answer it may be a mark, such as label: 1
                continue
            beside = replace(Beside.find(columns, sample, [question, given, right, *choices]), tools=None)  # a letter calls none
            found = cls(question, choices, right, first, given, beside)
            is_one = 2 * sum(bool(found.answers(row, _choices(row, choices))) for row in sample) >= len(sample)
            if is_one and not (several and first is None):
                return found
        if unclear and not several:
            raise unclear
        return None

    def _is_told(self, sample: Sequence[dict[str, Any]]) -> bool:
        """Whether all questions list their choices by the names that the answers have."""
        told = [(str(row.get(self.question)), name, choice) for row in sample for name, choice in _choices(row, self.choices).items()]
        listed = (re.search(rf"\b{re.escape(name)}\W{{1,3}}{re.escape(choice.strip())}", question, re.I) for question, name, choice in told)
        return all(listed) and not any(_numbers(row.get(self.right)) for row in sample)

    def answers(self, row: Mapping[str, Any], choices: Choices) -> list[str]:
        """What the right ones of a row's choices are called, of several "A, C" or a list; none where nothing says it."""
        said = parsed(row.get(self.right))
        if not isinstance(said, list) and (one := self._called(choices, said)) is not None:
            return [one]
        found = [self._called(choices, each) for each in (said if isinstance(said, list) else SEVERAL.split(str(said)))]
        return [name for name in found if name is not None] if None not in found else []

    def _called(self, choices: Choices, said: Any) -> str | None:
        if said is None or isinstance(said, bool | list | dict):
            return None
        text = str(said).strip()
        bare = text.strip("().: ").upper()
        same = [name for name, choice in choices.items() if choice.strip().casefold() == text.casefold()]
        if self.first is None:
            return same[0] if len(same) == 1 else None
        if bare in choices:
            return bare
        if (number := _number(said)) is not None:
            return list(choices)[number - self.first] if 0 <= number - self.first < len(choices) else None
        by_column = {column.lower(): letter for column, letter in zip(self.choices, ascii_uppercase, strict=False)}
        called = same[0] if len(same) == 1 else by_column.get(text.lower())
        return called if called in choices else None  # the cell of a column may be empty

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        row = _opened(row, self.inside)
        choices = _choices(row, self.choices)
        right = self.answers(row, choices)
        if not right:
            raise RowProblem(f"column {self.right} has {str(row.get(self.right))[:40]!r}, which is none of the choices")
        listed = "\n".join(f"{name}. {text}" for name, text in choices.items())
        question = optional_text(row, self.question) if self.given else [as_text(row.get(self.question), self.question)]
        asked = joined("", [*optional_text(row, self.given), *question, listed])
        return self.beside.before(row, [user(asked), assistant("\n".join(f"{name}. {choices[name]}" for name in right))])


def _has_choices(cell: Any) -> bool:
    """Whether a cell is a question with its choices: {"stem": "Which?", "choices": [...]}."""
    return isinstance(cell, dict) and any(name in cell for name in LISTS) and any(name in cell for name in QUESTIONS)


def _opened(row: dict[str, Any], inside: str | None) -> dict[str, Any]:
    """A row with the parts of an object as columns of their own."""
    cell = row.get(inside) if inside is not None else None
    return {**{name: value for name, value in row.items() if name != inside}, **cell} if isinstance(cell, dict) else row


def _of_columns(columns: Sequence[str]) -> list[str]:
    """Columns called A, B, C or option1, option2 and the like, at least two that follow each other; none if there are none.

    Two answers beside a label may be equal, or one better, so that of answers there must be three.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for column in columns:
        if (named := COLUMN.fullmatch(as_seen(column).strip())) and (named[1] or named[2].isalpha()):
            found.setdefault(in_english(named[1]), []).append((named[2].lower(), column))
    for of, names in ((of, sorted(names)) for of, names in found.items()):
        signs = "".join(sign for sign, _ in names)
        if len(signs) > (2 if of in ("answer", "ans") else 1) and signs in "abcdefghij" + "0123456789" and signs[0] in "a01":
            return [column for _, column in names]
    return []


def _choices(row: Mapping[str, Any], columns: Sequence[str]) -> Choices:
    """The choices of a row; none where there are fewer than two."""
    cells = [row.get(column) for column in columns]
    if any(isinstance(cell, bytes) or (len(columns) > 1 and isinstance(cell, list | dict)) for cell in cells):
        return {}
    if len(columns) > 1:
        found = {letter: str(cell) for letter, cell in zip(ascii_uppercase, cells, strict=False) if not is_empty(cell)}
    else:
        found = _listed(parsed(cells[0]))
    return found if len(found) > 1 else {}


def _listed(cell: Any) -> Choices:
    """["a", "b"], {"text": ["a", "b"], "label": ["A", "B"]}, [{"label": "A", "text": "a"}, ...], {"A": "a", "B": "b"} or "A. a\\nB. b"."""
    if isinstance(cell, str):
        before, *parts = LETTERED.split(cell.strip())
        found = {letter.upper(): text for letter, text in zip(parts[::2], parts[1::2], strict=True)}
        return found if not before and "".join(found) == ascii_uppercase[: len(parts) // 2] else {}
    if isinstance(cell, list) and cell and all(isinstance(each, dict) and {"label", "text"} <= each.keys() for each in cell):
        cell = {"text": [each["text"] for each in cell], "label": [each["label"] for each in cell]}
    if isinstance(cell, dict) and isinstance(texts := cell.get("text"), list) and isinstance(names := cell.get("label"), list):
        return {str(name).upper(): str(text) for name, text in zip(names, texts, strict=False)}
    if isinstance(cell, dict) and all(isinstance(text, str | None) for text in cell.values()):
        return {str(name).strip().upper(): text for name, text in cell.items() if text}
    if isinstance(cell, list) and len(cell) <= len(ascii_uppercase) and not any(isinstance(text, list | dict) for text in cell):
        found = {letter: str(text) for letter, text in zip(ascii_uppercase, cell, strict=False)}
        lettered = all(re.match(rf"\(?{letter}[).:]", text) for letter, text in found.items())  # "A) 21"
        return {letter: re.sub(r"^\(?[A-Z][).:]\s*", "", text) if lettered else text for letter, text in found.items()}
    return {}


def _first(right: str, choices: Sequence[str], sample: Sequence[dict[str, Any]]) -> int | None:
    """Whether numbers count from 0 or 1: one that is 0, or as many as there are choices, says it, or else the names of the columns.

    None where all answers are texts of choices, be they numbers. Raises UnknownFormat where nothing says it.
    """
    found = [_choices(row, choices) for row in sample]
    if sample and all(str(row.get(right)).strip() in map(str.strip, each.values()) for row, each in zip(sample, found, strict=True)):
        return None
    numbers = [(number, each) for row, each in zip(sample, found, strict=True) for number in _numbers(row.get(right))]
    if any(number == 0 for number, _ in numbers):
        return 0
    if any(number == len(each) for number, each in numbers) or (len(choices) > 1 and choices[0].strip().endswith("1")):
        return 1
    if len(choices) > 1 and choices[0].strip().endswith("0"):
        return 0
    if any(number < len(each) and str(number) not in each for number, each in numbers):
        raise UnknownFormat(
            f"The column {right} says by numbers which choice is right, and they may count from 0 or from 1.",
            hint="Write the letters of the choices (A, B ...) in their place, or their texts.",
        )
    return 0


def _numbers(value: Any) -> list[int]:
    said = parsed(value)
    return [number for each in (said if isinstance(said, list) else [said]) if (number := _number(each)) is not None]


def _number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else None
