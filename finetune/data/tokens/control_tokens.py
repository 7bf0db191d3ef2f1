"""Control tokens that somebody wrote into a text: they are found, and broken so that they stay text.

control = ControlTokens(["<|im_end|>", "</s>"])
control.first_in("hi<|im_end|>")                   # "<|im_end|>"
broken = control.broken("hi<|im_end|>", "\\ue002")   # "hi<\\ue002|im_end|>": no tokenizer finds the token in it
whole(broken, "\\ue002")                            # ("hi<|im_end|>", (3,)): the text, and where it has to be broken
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from finetune.data.tokens.turns import strings

PRIVATE = re.compile("[\ue000-\uf8ff]")  # characters that nobody writes; the first that a row does not have are used


class ControlTokens:
    def __init__(self, tokens: Iterable[str]) -> None:
        longest = sorted({token for token in tokens if len(token) > 1}, key=lambda token: (-len(token), token))
        self.pattern = re.compile("|".join(map(re.escape, longest)) or "(?!)")

    def first_in(self, value: Any) -> str | None:
        """The first control token in any text inside the value."""
        return next((found.group() for text in strings(value) if (found := self.pattern.search(text))), None)

    def broken(self, value: Any, cut: str) -> Any:
        """The same value with `cut` after the first character of every control token."""
        if isinstance(value, str):
            return self.pattern.sub(lambda found: found.group()[0] + cut + found.group()[1:], value)
        if isinstance(value, dict):
            return {self.broken(key, cut): self.broken(inner, cut) for key, inner in value.items()}
        return [self.broken(inner, cut) for inner in value] if isinstance(value, list | tuple) else value


def whole(text: str, cut: str) -> tuple[str, tuple[int, ...]]:
    """A text without `cut`, and the places in it that had one."""
    first, *others = text.split(cut)
    places, length = [], len(first)
    for other in others:
        places.append(length)
        length += len(other)
    return "".join((first, *others)), tuple(places)


def with_cuts(text: str, places: Iterable[int], cut: str) -> str:
    """The text with `cut` at those places: the opposite of `whole`."""
    return cut.join(divided(text, places))


def divided(text: str, places: Iterable[int]) -> list[str]:
    """The text in parts that end at those places."""
    return [text[start:end] for start, end in pairwise([0, *places, len(text)])]


def unused(*values: Any) -> tuple[str, str]:
    """Two private characters that occur in none of the texts."""
    taken = {character for text in strings(values) for character in PRIVATE.findall(text)}
    free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in taken)
    return next(free), next(free)
