"""Letters of any script: the words of a text, also where none has spaces, and texts cut between letters.

words("It's 5 km.")         # ["it", "s", "5", "km"]
words("東京は 12月")          # ["東", "京", "は", "12", "月"]: where there are no spaces between words, each letter is one
shortened("naïve", 4)       # "na…", also where the ï is an i with a mark behind it
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import takewhile
from typing import Literal

import regex

# Scripts written without spaces between words, by the names of their letters.
UNSPACED = ("CJK ", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR")
LETTERS_OF_A_WORD = 3  # there, about
FULL_STOPS = ".。।॥۔։።။។"  # of Chinese and Japanese, Hindi, Urdu, Armenian, Amharic, Burmese, Khmer
# Wide and narrow forms are the usual letters; joiners, marks of direction and choices of a form (❤ and ❤️) are not seen; the
# space without width parts words.
_AS_SEEN: dict[int, str | None] = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFEF)}
_AS_SEEN |= dict.fromkeys((0xAD, 0x61C, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10))) | {0x200B: " "}
_DOTTED = "i\u0307"  # what a Turkish capital İ becomes
LETTER = regex.compile(r"\X")  # with its marks: joined emoji, flags and syllables are one (Unicode Standard Annex 29)
LONGEST_LETTER = 64  # characters, of what people write
_Kind = Literal["part", "word", "mark", "none"]


def as_seen(text: str) -> str:
    """A text as a reader sees it: composed (NFC), in letters of the usual width, without characters that only steer how it is shown."""
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_AS_SEEN))


def without_case(text: str) -> str:
    """Lower case in which both forms of a letter are the same, also those of the Turkish i with and without a dot."""
    return as_seen(text).casefold().replace(_DOTTED, "i").replace("ı", "i")


def words(text: str) -> list[str]:
    """The words of a text in lower case; of scripts without spaces each letter is one."""
    found: list[str] = []
    before: _Kind = "none"
    for character in as_seen(text).lower().replace(_DOTTED, "i"):
        kind = _kind(character)
        if kind == before == "part" or (kind == "mark" and before != "none"):
            found[-1] += character
        elif kind in ("part", "word"):
            found.append(character)
        before = before if kind == "mark" else kind
    return found


def word_count(text: str) -> int:
    """How many words with blanks between them a text has; of scripts without spaces about."""
    return sum(max(1, -(-sum(_kind(letter) == "word" for letter in part) // LETTERS_OF_A_WORD)) for part in as_seen(text).split())


def is_unspaced(text: str) -> bool:
    """Whether most of a text is in scripts without spaces."""
    pieces = words(text)
    letters = sum(_kind(piece[0]) == "word" for piece in pieces)
    return letters > LETTERS_OF_A_WORD * (len(pieces) - letters)


@lru_cache(maxsize=4096)
def _kind(character: str) -> _Kind:
    """Whether a character is a part of a word, a word of its own, a mark on the letter before it, or none of these."""
    if character.isascii():
        return "part" if character.isalnum() else "none"
    category = unicodedata.category(character)
    if category[0] == "L" and unicodedata.name(character, "").startswith(UNSPACED):
        return "word"
    return "mark" if category in ("Mn", "Mc") else "part" if category[0] in "LN" else "none"


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters: the beginning of a longer one, and "…"."""
    return text if len(text) <= most else f"{text[: whole_letters(text, most - 1)]}…"


def last_letters(text: str, most: int) -> str:
    """The end of a text, of at most so many characters."""
    window = text[-(most + LONGEST_LETTER) :]
    torn = max(0, len(window) - most)
    return window[next((letter.start() for letter in LETTER.finditer(window) if letter.start() >= torn), torn) :]


def whole_letters(text: str, most: int) -> int:
    """Where to cut a text that is longer: after as many characters, or a few less, so that no letter loses its marks."""
    ends = (letter.end() for letter in LETTER.finditer(text[: most + LONGEST_LETTER]))
    return max(takewhile(most.__ge__, ends), default=most)
