"""Notices about rows that were tokenised (control tokens, HTML, empty answers), counted, and as sentences for the data report.

noticed = RowNotices()
noticed.row(rendered, record)               # for every row
noticed.sentences(["rows.jsonl"])           # ["3 rows already had the token that ends a text or an answer; each has one end."]
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from finetune.data.tokens.pieces import CONTROL, IN_TEXT, REWRITTEN, UNOPENED, Rendered
from finetune.data.tokens.turns import BEGAN, EMPTY, ENDED, JOINED, MUTED, SYSTEM, THOUGHT
from finetune.formatting import counted
from finetune.letters import shortened

FOREIGN = "foreign"  # control tokens of other models, which are found here
HTML = "html"
PARTS = "parts"  # letters and their marks as two characters, which people type as one
TAGS = re.compile(r"&(?:nbsp|amp|lt|gt|quot|#\d{2,5});|<br ?/?>|</(?:p|div|span|li)>")
OTHERS = re.compile(
    r"<\|(?:im_start|im_end|endoftext|end|eot_id|start_header_id|end_header_id|begin_of_text|end_of_text)\|>|<(?:start|end)_of_turn>"
    r"|<\|(?:header_start|header_end|eot|start_of_role|end_of_role|(?:START|END)_OF_TURN_TOKEN|end_of_turn|start|message|return)\|>"
    r"|\[/?INST\]|<</?SYS>>|<｜(?:User|Assistant)｜>|\A\s*<s>|</s>\s*\Z"
)
SENTENCES = {
    BEGAN: "{rows} already had the token that begins a text; each has one beginning.",
    ENDED: "{rows} already had the token that ends a text or an answer; each has one end.",
    EMPTY: "{rows} had an empty answer before another one: it is read, but not learned.",
    MUTED: "{rows} had an answer that is marked as not to be learned: it is read, but has no loss.",
    JOINED: "{rows} had neighbouring turns of one role, or a system message in the middle, which the model's chat template does not "
    "accept: they are joined by a blank line.",
    SYSTEM: "The model's chat template accepts no system message: in {rows} it is put before the first question.",
    THOUGHT: "The model's chat template accepts no reasoning: in {rows} it is left out.",
    REWRITTEN: "The model's chat template leaves out or changes some text in {rows}, such as earlier reasoning.",
    UNOPENED: "In {rows} the answer does not follow the prompt that the model's chat template writes; other programs will ask differently.",
    CONTROL: "{rows} had control tokens of the model inside a message, such as {token} ({place}): they are read as ordinary text. "
    "Rows that were rendered beforehand belong in one column of text.",
    FOREIGN: "{rows} had control tokens of another model, such as {token} ({place}): to this model they are ordinary text.",
    HTML: "{rows} had HTML, such as {token} ({place}): the model reads and learns it as it is.",
    PARTS: "{rows} had letters in parts (Unicode NFD), such as {token} ({place}): people type each as one character, which is another "
    "token to this model. Convert the text to NFC: in Python, unicodedata.normalize('NFC', text).",
    IN_TEXT: "{rows} of plain text had control tokens of the model inside, such as {token} ({place}): they are read as control tokens.",
}
AS_IT_STANDS = (CONTROL, FOREIGN, HTML, PARTS)  # nothing is done to these rows, so a person need not hear of a few among many
LONGEST_WORD = 20  # characters
SELDOM = 0.01  # a smaller share of the rows is seldom
ORDER = (CONTROL, IN_TEXT, FOREIGN, HTML, PARTS, ENDED, BEGAN, MUTED, EMPTY, JOINED, SYSTEM, THOUGHT, REWRITTEN, UNOPENED)
UNBROKEN = "This tokenizer cannot read {count} of them as text: they are control tokens to the model."


class RowNotices:
    """Rows by what was noticed about them; `known` are the tokens that the model has, and whether it `composes` letters itself."""

    def __init__(self, known: Collection[str] = (), *, composes: bool = False) -> None:
        self.known, self.composes, self.seen = known, composes, 0
        self.rows: Counter[str] = Counter()
        self.examples: dict[str, tuple[str, int, int]] = {}  # a token, and where it was: file and line

    def row(self, rendered: Rendered, record: Mapping[str, Any]) -> None:
        """Count one; `file` of the record is a number in the list of files."""
        self.seen += 1
        if rendered.notices:
            self.rows.update(rendered.notices)
            for kind in rendered.notices & {CONTROL, IN_TEXT}:
                self._example(kind, rendered.token or "", record)
        for kind, pattern in ((FOREIGN, OTHERS), (HTML, TAGS)):
            found = (token.strip() for turn in record["messages"] for token in pattern.findall(turn["content"]))
            if token := next((token for token in found if token not in self.known), None):
                self.rows[kind] += 1
                self._example(kind, token, record)

        if not self.composes and (token := next(filter(None, (_in_parts(turn["content"]) for turn in record["messages"])), None)):
            self.rows[PARTS] += 1
            self._example(PARTS, token, record)

    def _example(self, kind: str, token: str, record: Mapping[str, Any]) -> None:
        self.examples.setdefault(kind, (token, record.get("file", 0), record.get("line", 0)))

    def sentences(self, files: Sequence[str], *, unbroken: int = 0) -> Iterator[str]:
        """The most surprising first; of `unbroken` rows the tokens could not be read as text. `seldom` has the rest."""
        for kind in ORDER:
            if self.rows[kind] and not self._seldom(kind, unbroken):
                yield self._sentence(kind, files)
                if kind == CONTROL and unbroken:
                    yield UNBROKEN.format(count=f"{unbroken:,}")

    def seldom(self, files: Sequence[str], *, unbroken: int = 0) -> Iterator[str]:
        """Notices about unchanged text in so few rows that only the data report has them."""
        for kind in AS_IT_STANDS:
            if self.rows[kind] and self._seldom(kind, unbroken):
                yield self._sentence(kind, files)

    def _seldom(self, kind: str, unbroken: int) -> bool:
        few = kind in AS_IT_STANDS and self.rows[kind] < SELDOM * self.seen
        return few and not (kind == CONTROL and unbroken)  # these act as control tokens

    def _sentence(self, kind: str, files: Sequence[str]) -> str:
        token, file, line = self.examples.get(kind, ("", 0, 0))
        place = f"{files[file]} line {line}" if file < len(files) else f"line {line}"
        return SENTENCES[kind].format(rows=counted(self.rows[kind], "row"), token=token, place=place)


def _in_parts(text: str) -> str | None:
    """The first word of a text with a letter that NFC writes as one character; None if it has none."""
    if text.isascii() or unicodedata.is_normalized("NFC", text) or len(unicodedata.normalize("NFC", text)) >= len(text):
        return None
    return next((shortened(word, LONGEST_WORD) for word in text.split() if len(unicodedata.normalize("NFC", word)) < len(word)), None)
