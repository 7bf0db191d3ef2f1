"""Plain text: the model learns every token; a text beside its label is a prompt, and the label its answer.

{"text": "The tower is 324 metres tall."}
{"text": "My parcel has not come.", "label": "Shipping"}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.formats.cells import Message, as_text, find_column, is_empty
from finetune.data.formats.prompt_completion import PromptCompletion
from finetune.system.shell import quoted

ONLY_PROMPTS = ("prompt", "prompts", "question", "questions", "instruction", "instructions", "query", "problem")  # alone, nothing to learn
NAMES = ("text", "content", "document", "body", "article", "sentence", "story", "code", "review", "abstract")
ANSWERS = ("answer", "answers", "response", "reply", "output", "completion", "translation", "target")  # to a text
SURE_LABELS = ("label", "labels", "label_text", "sentiment", "intent", "emotion")
LABELS = (*SURE_LABELS, "class", "category", "code")  # of a text; the last ones may also sort articles
LABEL_WORDS = 5  # at most, of a label
LABELLED = "`{label}` is learned from `{text}`, as its label. To learn `{text}` itself, as text: --set {named}"
SPEAKERS = ("speaker", "author", "user", "username", "sender", "sender_name", "from", "character")  # of a message
SAID = (
    "Each row is learned by itself: who says it (`{speaker}`) and what was said before are not. "
    "For a chat, put the turns of each conversation into one row, as `messages`."
)
SHOWN = 80  # characters of a name; a table without a header has its first text there


class Text:
    name = "text"
    title = "plain text"
    summary = "text; the model learns every token"
    order = 60

    def __init__(self, text: str, note: str = "") -> None:
        self.columns: tuple[str, ...] = (text,)
        self.note = note

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Text | PromptCompletion | None:
        column = find_column(columns, *NAMES)
        if column is None and len(columns) == 1 and find_column(columns, *ONLY_PROMPTS) is None:
            column = columns[0] if any(_is_wordy(row.get(columns[0])) for row in sample) else None
            return None if column is None else cls(column, f"The only column, `{column[:SHOWN]}`, is learned as text.")
        if column is None:
            return None
        pair, speaker = other_reading(columns, column), find_column(columns, *SPEAKERS)
        if pair and pair[0] == column and (label := _label(columns, column, sample)) is not None:
            named = quoted(f"dataset.columns.text={column}")
            return PromptCompletion(column, label, note=LABELLED.format(label=label, text=column, named=named))
        if not pair and speaker is not None and _are_few(speaker, sample):
            return cls(column, SAID.format(speaker=speaker))
        return cls(column, f"The column `{column}` alone is learned, as text. {_instead(*pair)}" if pair else "")

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        """One turn; blank text is allowed here (raw corpora are full of blank lines) and left out by the reader of rows."""
        column = self.columns[0]
        return [{"role": "text", "content": as_text(row.get(column), column)}]


def other_reading(columns: Sequence[str], text: str) -> tuple[str, str] | None:
    """A prompt and a completion that a column of text may be one of: its question is in another column, or its answer or label is."""
    free = [column for column in columns if column != text]
    if (asked := find_column(free, *ONLY_PROMPTS)) is not None:
        return asked, text
    label = find_column(free, *ANSWERS, *LABELS)
    return (text, label) if label is not None else None


def _label(columns: Sequence[str], text: str, sample: Sequence[dict[str, Any]]) -> str | None:
    """The column with the label of a text in words; its number may be in another, with a better known name."""
    found = (find_column([column for column in columns if column != text], name) for name in (*ANSWERS, *LABELS))
    return next((column for column in found if column is not None and _is_label(column, columns, sample)), None)


def _is_label(column: str, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> bool:
    """Whether a column beside a text has a few words that many rows share; numbers may as well be an index or a score."""
    there = [row.get(column) for row in sample if not is_empty(row.get(column))]
    words = all(_is_wordy(value) and len(str(value).split()) <= LABEL_WORDS for value in there)
    sure = column.strip().lower() in SURE_LABELS or len(columns) == 2
    return words and sure and 0 < 2 * len(set(there)) <= len(there)


def _are_few(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether a few names are in many rows, as those who take part in a chat."""
    return len({str(row.get(column)) for row in sample}) * 4 <= len(sample)


def _instead(prompt: str, completion: str) -> str:
    named = [quoted(f"dataset.columns.{role}={column}") for role, column in (("prompt", prompt), ("completion", completion))]
    return f"To learn `{completion}` from `{prompt}`: --set {named[0]} --set {named[1]}"


def _is_wordy(value: Any) -> bool:
    return isinstance(value, str) and any(character.isalpha() for character in value)
