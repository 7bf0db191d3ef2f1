"""The score `copied`: numbers and codes of the references that the answers repeat exactly, since ROUGE hardly notices a wrong digit.

    codes("Order AB-1234 ships on 2026-05-01, ask help@shop.example")   # {"ab-1234", "2026-05-01", "help@shop.example"}
    right, of = copied(["Order AB-1243."], ["Order AB-1234 ships in 3 days."])   # [0], [2]

A code is a word with a digit in it, an identifier with an underscore, an e-mail address or a web address; its case does not matter. Words
that are joined to a number are not part of it: "30-day" has the number 30. Nor are letters of scripts without capitals, which stand beside
a number without a space (Chinese, Japanese, Thai) or belong to the sentence (Korean, Hebrew): "订单84731已发货" has the number 84731.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

ADDRESS = r"(?:https?://|www\.)[^\s<>\"'。、」』】》]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
WORD = r"\w+(?:(?:[-./#]|(?<=\d)[,:'](?=\d))[^\W_]+)*"
FOUND = re.compile(f"({ADDRESS})|({WORD})")
AT_THE_END = ".,:;!?)]}'\""


def codes(text: str) -> set[str]:
    """The numbers and codes in a text."""
    found: set[str] = set()
    for match in FOUND.finditer("".join(map(_of_a_code, unicodedata.normalize("NFKC", text.replace("№", " "))))):
        address, word = match.groups()
        found |= {address.rstrip(AT_THE_END).casefold()} if address else _of_word(word)
    return found - {""}


def _of_a_code(character: str) -> str:
    """The character as a code may have it: digits of any script in ASCII; a space for what is no part of one."""
    if character.isascii():
        return character
    kind = unicodedata.category(character)
    return str(unicodedata.decimal(character)) if kind == "Nd" else " " if kind in ("Lo", "Lm") or kind[0] == "M" else character


def _of_word(word: str) -> set[str]:
    """The code in a word with what is joined to it."""
    parts = re.split(r"([-./:,#'])", word)
    while parts and not _belongs(parts[-1]):
        del parts[-2:]
    while parts and not _belongs(parts[0]):
        del parts[:2]
    kept = "".join(parts)
    return {kept.casefold()} if any(map(str.isdigit, kept)) or re.search(r"[^\W_]_\w|__\w", kept) else set()


def _belongs(part: str) -> bool:
    """Whether an end of a joined word may be part of a code: with a digit or an underscore, or in capitals like the AB of AB-12."""
    return any(map(str.isdigit, part)) or "_" in part or part.isupper()


def copied(answers: Sequence[str], references: Sequence[str]) -> tuple[list[int], list[int]]:
    """For each row: how many numbers and codes of the reference the answer has, and how many there are."""
    wanted = [codes(reference) for reference in references]
    return [len(want & codes(answer)) for want, answer in zip(wanted, answers, strict=True)], [len(want) for want in wanted]


def missing(answer: str, reference: str) -> list[str]:
    """The numbers and codes of the reference that the answer lacks."""
    return sorted(codes(reference) - codes(answer))
