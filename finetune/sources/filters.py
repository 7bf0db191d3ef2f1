"""Which of the rows that a teacher wrote are kept: those that end, say something, do not repeat themselves, and are not all the same.

filters = Filters(examples=["Write a docstring ..."])
filters.prompt("How do I prune roses?")         # None: kept, and later ones are compared with it
filters.prompt("How do I prune roses ?")        # "the same prompt again"
filters.answer("Cut them in March.")            # None
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from finetune.data.prompts import SAME
from finetune.letters import LETTERS_OF_A_WORD, is_unspaced, words

ENDED, SHORT, REPEATS = "a prompt that does not end", "a prompt that says nothing", "a prompt that repeats itself"
NEAR, OPENING = "nearly the same prompt again", "too many prompts begin alike"
ANSWER_ENDED, ANSWER_EMPTY, ANSWER_REPEATS = "an answer that does not end", "an empty answer", "an answer that repeats itself"
FEWEST_WORDS = 3
GRAM, MOST_REPEATED = 4, 0.3  # share of the groups of four words that occurred before
NEARLY = 0.7  # of the pairs of words in either prompt are in both
OPENING_WORDS, SHARE_OF_OPENING, OPENINGS = 3, 0.1, 5  # so many prompts may always begin alike


class Filters:
    """Each method returns why a text is thrown away, or None. Kept prompts are remembered, and rows that are given as `examples` too."""

    def __init__(self, examples: Sequence[str] = ()) -> None:
        self.known: set[str] = set()
        self.pairs: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self.sizes: list[int] = []
        self.openings: Counter[tuple[str, ...]] = Counter()
        self.kept = 0
        begins = Counter(_words(text)[0:OPENING_WORDS] for text in examples)
        self.allowed = {opening: number / len(examples) for opening, number in begins.items()}
        for text in examples:
            self._remember(_words(text))

    def prompt(self, text: str | None) -> str | None:
        """`text` is None if the prompt did not end."""
        if text is None:
            return ENDED
        words = _words(text)
        reason = self._prompt(text, words)
        if reason is None:
            self.take(text)
        return reason

    def take(self, text: str) -> None:
        """Remember a prompt that is kept."""
        words = _words(text)
        self.kept += 1
        self.openings[words[:OPENING_WORDS]] += 1
        self._remember(words)

    def answer(self, text: str | None) -> str | None:
        """`text` is None if the answer did not end."""
        if text is None:
            return ANSWER_ENDED
        if not text.strip():
            return ANSWER_EMPTY
        return ANSWER_REPEATS if repeated(text) else None

    def _prompt(self, text: str, words: tuple[str, ...]) -> str | None:
        if len(words) < FEWEST_WORDS and len(text) < 4 * FEWEST_WORDS:  # as a question that is one long word
            return SHORT
        if repeated(text):
            return REPEATS
        if " ".join(words) in self.known:
            return SAME
        if self._near(words):
            return NEAR
        opening = words[:OPENING_WORDS]
        most = max(SHARE_OF_OPENING, self.allowed.get(opening, 0.0)) * (self.kept + 1)
        return OPENING if self.openings[opening] >= max(OPENINGS, most) else None

    def _near(self, words: tuple[str, ...]) -> bool:
        """Whether most pairs of words are those of a known prompt (Jaccard)."""
        own = _pairs(words)
        shared = Counter(number for pair in own for number in self.pairs.get(pair, ()))
        return any(both >= NEARLY * (len(own) + self.sizes[number] - both) for number, both in shared.items())

    def _remember(self, words: tuple[str, ...]) -> None:
        self.known.add(" ".join(words))
        own = _pairs(words)
        for pair in own:
            self.pairs[pair].append(len(self.sizes))
        self.sizes.append(len(own))


def repeated(text: str) -> bool:
    """Whether a text says the same again and again."""
    words = _words(text)
    grams = [words[start : start + GRAM] for start in range(len(words) - GRAM + 1)]
    return len(grams) > GRAM and 1 - len(set(grams)) / len(grams) > MOST_REPEATED


def _words(text: str) -> tuple[str, ...]:
    """Of scripts without spaces each letter with the two behind it stands for a word."""
    found = words(text)
    if is_unspaced(text):
        return tuple("".join(found[start : start + LETTERS_OF_A_WORD]) for start in range(max(1, len(found) - LETTERS_OF_A_WORD + 1)))
    return tuple(found)


def _pairs(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[start : start + 2] for start in range(max(1, len(words) - 1))}
