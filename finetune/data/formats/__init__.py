"""What a record means: which columns are the question and which the answer. One small class a format, chosen by column names.

detect(["question", "answer"], sample, None, "rows.jsonl")  ->  QuestionAnswer(question="question", answer="answer")

Every format turns a record into turns, `[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]`; plain text
becomes one turn with the role "text". What a format has, also for those that other packages register:

    name: str                                   as in the registry
    title, summary: str                         what people read: "question and answer", and the columns it looks for
    order: int                                  formats are tried from the lowest to the highest, and the first that matches wins. Built-in
                                                ones have 7, 10, 20, 25, 30 ... 60: 5 comes before all of them, 58 before plain text, and
                                                one without an order after it
    columns: tuple[str, ...]                    the columns it reads; the others are reported as ignored
    matches(columns, sample) -> Format | None   a format ready to read rows with these columns
    to_messages(row) -> list[Message]           raises RowProblem for a record that cannot be used
    note: str                                   optional: one sentence a person should know before training
    left_out(row) -> iterator of (name, value)  optional: text inside its columns that is in no turn, for the report
    tools(row) -> list of definitions           optional: the tools of a row, as a chat template takes them
    remarks(row) -> iterator of sentences       optional: what a person should know about some rows; they are counted
    to_record(row) -> Record                    optional, instead of to_messages: for rows that are tokens already
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

from finetune import registry
from finetune.data.formats.beside import Beside
from finetune.data.formats.cells import Message, find_column, only_text
from finetune.data.formats.exports import IN_ONE_ROW, what_it_is
from finetune.data.formats.languages import in_english
from finetune.data.formats.marks import judgement
from finetune.data.formats.messages import Messages
from finetune.data.formats.prompt_completion import PAIRS, PromptCompletion
from finetune.data.formats.rendered import Rendered
from finetune.data.formats.text import NAMES as TEXT_NAMES
from finetune.data.formats.text import Text
from finetune.data.formats.turns import SPEAKER, TEXT, are_texts, role_of, turns_alone, turns_of
from finetune.errors import UnknownFormat
from finetune.recipe.settings import ColumnsSpec
from finetune.system.shell import quoted

SHOWN_COLUMNS = 12
LAST = 100
WITHOUT_SPACES = "\u0e00"  # from Thai on, most scripts put no spaces between words
COMPLETIONS = {"solution", *chain.from_iterable(completions for _, completions in PAIRS)}
ASKED_AND_ANSWERED = ("question", "answer", "correct_answer", "instruction", "output")
PROMPTS = ("prompt", "question", "instruction", "instructions", "query", "problem", "user", "human")

ANSWERS = re.compile("answer|repl(?:y|ies)|respon[sd]|resol|solution|output|completion|target|assistant|agent|translation", re.IGNORECASE)
NUMBER_OF = re.compile(r"(?:^|[_ ])(?:id|idx|index|uuid|url)$", re.IGNORECASE)  # of a row: no prompt and no answer
PARTS = ("input", "inputs", "context", "passage", "system", "history", "choices", "options")  # beside a prompt


class Format(Protocol):
    name: str
    title: str
    summary: str
    order: int
    columns: tuple[str, ...]

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Format | None: ...

    def to_messages(self, row: dict[str, Any]) -> list[Message]: ...


def detect(columns: Sequence[str], sample: Sequence[dict[str, Any]], chosen: ColumnsSpec | None, where: str) -> Format:
    """The format of these records; raises UnknownFormat naming the columns that were seen in `where`."""
    if chosen is not None:
        return _as_chosen(columns, sample, chosen, where)
    found = _matching(columns, sample)
    nothing = found is None or (isinstance(found, Text) and all(isinstance(row.get(found.columns[0]), dict) for row in sample))
    if nothing and (export := what_it_is(columns)):
        raise UnknownFormat(f"{_has(where)} {export.has}.", hint=export.instead)
    if found is None or isinstance(found, Text):
        _check_whole(columns, sample, where)
    if found is not None:
        return found
    raise _unknown(columns, sample, where)


def is_known(columns: Sequence[str], sample: Sequence[dict[str, Any]], chosen: ColumnsSpec | None) -> bool:
    """Whether the names of the columns say what they mean, or a person said it; the only column there is may be anything."""
    if not set(chosen_columns(chosen).values()).isdisjoint(columns):
        return True
    found = _matching(columns, sample)
    return found is not None and not (isinstance(found, Text) and find_column(columns, *TEXT_NAMES) is None)


def prompts_alone(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> str | None:
    """The column with prompts, where no column with a known name has answers to them, or another part of the prompts."""
    whole = find_column(columns, *PARTS) is None and _matching(columns, sample) is None
    return find_column(columns, *PROMPTS) if whole else None


def _matching(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Format | None:
    judged = judgement(columns, sample)
    columns = _without_translations([column for column in columns if column != judged])
    known = [registry.load("formats", name) for name in registry.names("formats")]
    ordered = sorted(known, key=lambda kind: getattr(kind, "order", LAST))
    return next((found for kind in ordered if (found := kind.matches(columns, sample)) is not None), None)


def _without_translations(columns: Sequence[str]) -> Sequence[str]:
    """The columns of a table, but where prompt and answer have English names, none that says the same in another language."""
    names = {column.strip().lower() for column in columns}
    if names.isdisjoint(PROMPTS) or names.isdisjoint(COMPLETIONS):
        return columns
    return [column for column in columns if column.strip().lower() in ASKED_AND_ANSWERED or in_english(column) not in ASKED_AND_ANSWERED]


def chosen_columns(chosen: ColumnsSpec | None) -> dict[str, str]:
    """The role of each column that a person named."""
    return {role: column for role, column in chosen if column is not None} if chosen is not None else {}


def _unknown(columns: Sequence[str], sample: Sequence[dict[str, Any]], where: str) -> UnknownFormat:
    nested = next((column for column in columns if all(_is_pair(row.get(column)) for row in sample) and sample), None)
    if nested is not None and find_column(columns, *PROMPTS) is None:
        one, two = list(sample[0][nested])[:2]
        return UnknownFormat(
            f"{_has(where)} pairs in the column {nested} ({one} and {two}), but does not say which is the prompt.",
            hint=f"Name the columns: --set {_set('prompt', f'{nested}.{one}')} --set {_set('completion', f'{nested}.{two}')}",
        )
    chat = next((column for column in columns if sample and all(_is_talk(row.get(column)) for row in sample)), None)
    if chat is not None:
        return UnknownFormat(
            f"{_has(where)} conversations in the column {chat}, a name that is not recognised.",
            hint=f"Name the column: --set {_set('messages', chat)}",
        )
    talk = next((column for column in columns if sample and all(_is_talk_of_others(row.get(column)) for row in sample)), None)
    if talk is not None:
        return UnknownFormat(f"{_has(where)} conversations in the column {talk}, whose turns are not recognised.", hint=IN_ONE_ROW)
    prompt = find_column(columns, *PROMPTS)
    texts = [name for name in columns if all(_is_text(row.get(name)) for row in sample) and not NUMBER_OF.search(name)]
    opened = [{**row, **parts(row)} for row in sample]
    said = wordy(list(dict.fromkeys(chain(columns, *opened))), opened)
    likely = sorted([*said, *texts], key=lambda name: in_english(name) in COMPLETIONS)  # which are no prompts
    likely = [name for name in likely if prompt is None or in_english(name) not in PARTS]
    proposed = list(dict.fromkeys([*filter(None, [prompt]), *likely])) or sorted(
        columns, key=lambda name: NUMBER_OF.search(name) is not None
    )
    example, other = (asked_and_answered(said, opened) if prompt is None else []) or [*proposed, "NAME", "NAME"][:2]
    hint = f"Name them: --set {_set('prompt', example)} --set {_set('completion', other)} (or --set {_set('text', example)})."
    if prompt is None and len(columns) > 1 and len(said) == 1 and likely == said:
        two = f"--set {_set('prompt', 'NAME')} --set {_set('completion', 'NAME')}"
        hint = f"To learn {example} as text: --set {_set('text', example)}. Or name a prompt and its completion: {two}"
    if row := next((name for name in columns if any(row.get(name) == name for row in sample)), None):
        hint = f"Its first line may be a row, since {row!r} is in others too: put a line with column names above it. {hint}"
    elif any(map(_is_sentence, columns)):
        hint = f"Its first line may be a row: put a line with column names above it. {hint}"
    if prompt is None:
        unknown = f"{_has(where)} {_listed(columns)}, and none of them is a known name for prompt, answer, text or messages."
        return UnknownFormat(unknown, hint=hint)
    if len(columns) == 1:
        return UnknownFormat(f"{_has(where)} prompts only (column {prompt}), and no answers to learn.", hint="Give rows with answers.")
    return UnknownFormat(f"{_has(where)} {_listed(columns)}: prompts in {prompt}, but no column with a known name for answers.", hint=hint)


def _is_sentence(name: str) -> bool:
    """Whether a name of a column is a text of at least three words; the questions of a form are names too."""
    return name.endswith((".", "。")) and len(name.split(maxsplit=2)) > 2


def asked_and_answered(likely: Sequence[str], sample: Sequence[dict[str, Any]]) -> list[str]:
    """The column whose name says that it answers, behind the longest of the others; none if no name says it."""
    answer = next(filter(_answers, likely), None)
    asked = [name for name in likely if not _answers(name) and find_column([name], *PARTS) is None]
    return [max(asked, key=lambda name: sum(len(str(row.get(name))) for row in sample)), answer] if asked and answer else []


def _answers(name: str) -> bool:
    return ANSWERS.search(in_english(name)) is not None


def parts(row: dict[str, Any]) -> dict[str, Any]:
    """The parts of a row's objects by the names that a person can give them, such as data.text, and texts that are alone in a list."""
    alone = {name: text for name, cell in row.items() if isinstance(cell, list) and (text := only_text(cell)) is not None}
    return alone | {f"{name}.{part}": inner for name, cell in row.items() if isinstance(cell, dict) for part, inner in cell.items()}


def wordy(columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> list[str]:
    """The columns that mostly hold sentences, which may be prompts and answers; not names, dates and numbers."""
    return [column for column in columns if 2 * sum(_is_said(row.get(column)) for row in sample) > len(sample)]


def _is_said(value: Any) -> bool:
    """Whether a cell is mostly letters, and more than a word."""
    letters = list(filter(str.isalpha, value)) if isinstance(value, str) else []
    return bool(letters) and 2 * len(letters) > len(value) and (len(value.split()) > 1 or max(letters) >= WITHOUT_SPACES)


def _check_whole(columns: Sequence[str], sample: Sequence[dict[str, Any]], where: str) -> None:
    """Raises UnknownFormat if rows are the single turns of conversations."""
    speaker = next((name for name in map(partial(find_column, columns), SPEAKER) if name and _speaks(name, sample)), None)
    said = find_column(columns, *TEXT)
    if speaker is not None and said is not None:
        raise UnknownFormat(
            f"{_has(where)} one turn of a conversation in each row (columns {speaker} and {said}).",
            hint=IN_ONE_ROW,
        )


def _speaks(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    said = [role_of({"role": row.get(column)}) if isinstance(row.get(column), str) else None for row in sample]
    return bool(said) and all(said)


def _is_talk(cell: Any) -> bool:
    return turns_alone(cell) and len(turns_of(cell)) > 1


def _is_talk_of_others(cell: Any) -> bool:
    """Whether a cell has turns of somebody unknown."""
    turns = turns_of(cell)
    return len(turns) > 1 and not are_texts(cell) and all(isinstance(turn, dict) and find_column([*turn], *SPEAKER) for turn in turns)


def _is_text(cell: Any) -> bool:
    return not isinstance(cell, list | dict) or are_texts(cell)


def _is_pair(cell: Any) -> bool:
    return isinstance(cell, dict) and len(cell) >= 2 and all(isinstance(text, str) for text in cell.values())


def _set(role: str, column: str) -> str:
    return quoted(f"dataset.columns.{role}={column}")


def _as_chosen(columns: Sequence[str], sample: Sequence[dict[str, Any]], chosen: ColumnsSpec, where: str) -> Format:
    wanted = chosen_columns(chosen)
    for role, column in wanted.items():
        if column not in columns:
            raise UnknownFormat(
                f"{_has(where)} no column {column!r} for dataset.columns.{role}.{registry.did_you_mean(column, list(columns))}",
                hint=f"It has {_listed(columns)}.",
            )
    names = list(wanted.values())
    if "text" in wanted:
        return Text(wanted["text"])
    chat = "messages" in wanted
    beside = Beside.find(columns, sample, names, history=not chat, reasoning=not chat)
    if chat:
        return Rendered.of(wanted["messages"], sample) or Messages(wanted["messages"], beside)
    return PromptCompletion(wanted["prompt"], wanted["completion"], beside, sample=sample)


def _has(where: str) -> str:
    return f"{where} {'have' if ', ' in where else 'has'}"


def _listed(columns: Sequence[str]) -> str:
    if not columns:
        return "no columns"
    more = f" and {len(columns) - SHOWN_COLUMNS} more" if len(columns) > SHOWN_COLUMNS else ""
    return f"the column{'s' if len(columns) > 1 else ''} {', '.join(columns[:SHOWN_COLUMNS])}{more}"
