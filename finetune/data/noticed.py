"""What was noticed while rows became tokens, counted, and as sentences for the data report.

noticed = Noticed()
noticed.row(rendered, record)               # for every row
noticed.sentences(["rows.jsonl"])           # ["3 rows already had the token that ends a text or an answer; each has one end."]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.data.pieces import CONTROL, IN_TEXT, REWRITTEN, UNOPENED, Rendered
from finetune.data.turns import BEGAN, EMPTY, ENDED, JOINED, MUTED, SYSTEM, THOUGHT

SENTENCES = {
    BEGAN: "{rows} already had the token that begins a text; each has one beginning.",
    ENDED: "{rows} already had the token that ends a text or an answer; each has one end.",
    EMPTY: "{rows} had an empty answer before another one: it is read, but not learned.",
    MUTED: "{rows} had an answer that is marked as not to be learned: it is read, but has no loss.",
    JOINED: "{rows} had neighbouring turns of one role, or a system message in the middle, which the model's chat template does not take: "
    "they are joined by a blank line.",
    SYSTEM: "The model's chat template takes no system message: in {rows} it is put before the first question.",
    THOUGHT: "The model's chat template takes no reasoning: in {rows} it is left out.",
    REWRITTEN: "The model's chat template leaves out some text in {rows}, such as earlier reasoning.",
    UNOPENED: "In {rows} the answer does not follow the prompt that the model's chat template writes; other programs will ask differently.",
    CONTROL: "{rows} had control tokens of the model inside a message, such as {token} ({place}): they are read as ordinary text. "
    "Rows that were rendered beforehand belong in one column of text.",
    IN_TEXT: "{rows} of plain text had control tokens of the model inside, such as {token} ({place}): they are read as control tokens.",
}
UNBROKEN = "This tokenizer cannot read {count} of them as text: they are control tokens to the model."


class Noticed:
    """Rows by what was noticed about them."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.examples: dict[str, tuple[str, int, int]] = {}  # a token, and where it was: file and line

    def row(self, rendered: Rendered, record: Mapping[str, Any]) -> None:
        """Count one; `file` of the record is a number in the list of files."""
        if rendered.notices:
            self.rows.update(rendered.notices)
            for kind in rendered.notices & {CONTROL, IN_TEXT}:
                self.examples.setdefault(kind, (rendered.token or "", record.get("file", 0), record.get("line", 0)))

    def sentences(self, files: Sequence[str], *, unbroken: int = 0) -> Iterator[str]:
        """The most surprising first."""
        for kind in (CONTROL, IN_TEXT, ENDED, BEGAN, MUTED, EMPTY, JOINED, SYSTEM, THOUGHT, REWRITTEN, UNOPENED):
            if self.rows[kind]:
                token, file, line = self.examples.get(kind, ("", 0, 0))
                place = f"{files[file]} line {line}" if file < len(files) else f"line {line}"
                rows = f"{self.rows[kind]:,} row{'s' if self.rows[kind] > 1 else ''}"
                yield SENTENCES[kind].format(rows=rows, token=token, place=place)
                if kind == CONTROL and unbroken:
                    yield UNBROKEN.format(count=f"{unbroken:,}")
