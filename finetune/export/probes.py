"""The inputs on which an exported file is compared with the model: texts that tokenizers cut differently, chats, and prompts.

probes = Probes.of(run, PromptFormat.of(run, tokenizer))
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from finetune.errors import ModelError
from finetune.export.prompt_format import PromptFormat, Turns
from finetune.foreign import reading
from finetune.models.templates.chat_template import added_tokens, fixed_date, render_chat
from finetune.publish import merged
from finetune.run_folder import REMADE, RunFolder

MOST_TOKENS = 128  # of a prompt
PROMPTS = (
    *merged.PROMPTS[:1],
    " ".join(merged.PROMPTS * 5),  # long: a wrong rotation of positions hardly shows in short ones
    *merged.PROMPTS[1:],
    "The opposite of hot is",
    "import numpy as",
    "Water boils at a temperature of",
    "She opened the door and",
    "Dear Sir or Madam,",
    "In 1969, the first human landed on the",
    "SELECT name FROM users WHERE",
    "Die Hauptstadt von Deutschland ist",
    "Two plus two equals",
    "A recipe for bread: mix flour,",
    "The quick brown fox jumps over the lazy",
    "<html>\n<head>\n<title>",
    "Question: Who wrote Hamlet?\nAnswer:",
    "for i in range(10):\n    print(",
)
TEXTS = (
    "Hello, world! 12 + 3 = 15",
    "  two  spaces,   three,\tone tab and a line\n\nand\r\n\r\nmore   ",
    " ",
    "\n",
    "\n\n\n   \n\t\t",
    "I'm here, you're there; we'll see. IT'S HE'D THEY'VE",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F ½ ² ٣",
    "naïve café — “quoted” … ‘single’ ¿qué? ß ﬁ",
    "日本語のテキスト。中文文本，繁體字。한국어 텍스트",
    "Привет, мир! Γειά σου κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया ไทย",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 ☕️",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n\n\nclass A(B):\n\tpass\n",
    '<div class="a">&nbsp;</div> https://example.org/a?b=c&d=e#f user@example.org',
    "CamelCase snake_case kebab-case SCREAMING_SNAKE __dunder__ a.b.c",
    '{"key": [1, 2.5, null, true], "other": "va\\"lue"}',
    "\u200bzero\u200dwidth\u00a0no-break\u3000wide",
    "a" * 60 + " " + "=" * 40 + " " + "!" * 9,
    "∑∞ᵢ₌₀ xⁱ ≤ ∫√π ℝ → ⊂ ∅",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀",
)
CHATS: tuple[Turns, ...] = (
    [{"role": "user", "content": "What can you do?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour, please."}],
    [
        {"role": "user", "content": "1 + 1?\n"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": " And <b>2 + 2</b>? 'Say' \"it\" 😀"},
    ],
)


@dataclass(frozen=True)
class Probes:
    """`chats` are those that the template takes, with the text that it makes of them, but for the beginning that programs put there.

    `texts` are cut as they stand, that beginning included; `ids` are theirs, by our tokenizer. `dated` is whether the template writes the
    date of the day.
    """

    texts: list[str]
    ids: list[list[int]]
    chats: list[Turns]
    rendered: list[str]
    prompts: list[list[int]]
    dated: bool

    @classmethod
    def of(cls, run: RunFolder, asked: PromptFormat) -> Probes:
        tokenizer = asked.tokenizer
        rendered = _rendered(asked)
        prompts = [unicodedata.normalize("NFC", text) for text in _asked(run)]
        marks = added_tokens(tokenizer)
        between = "" if asked.scheme == "first" else "".join(f"a{mark}{'' if asked.scheme else ' '}b" for mark in marks[:20])
        texts = list(filter(None, map(asked.probe, (*TEXTS, between, *prompts))))
        bare = [text.removeprefix(asked.begin) for _, text in rendered]
        return cls(
            [*texts, *bare],
            [*map(asked.ids, texts), *(asked.chat_ids(text) for _, text in rendered)],
            [turns for turns, _ in rendered],
            bare,
            [ids for text in prompts if (ids := asked.ids(text)[:MOST_TOKENS])],
            fixed_date(tokenizer) is not None,
        )


def _asked(run: RunFolder) -> list[str]:
    """Half of them prompts of the run's own benchmark, as they were asked, if it has any."""
    with reading(run.benchmark, hint=REMADE):
        rows = run.known(run.benchmark).get("generations", [])
        own = [str(row["prompt"]) for row in rows][: len(PROMPTS) // 2]
    return [*own, *PROMPTS[: len(PROMPTS) - len(own)]]


def _rendered(asked: PromptFormat) -> list[tuple[Turns, str]]:
    """Chats that the template takes: some refuse a system turn."""
    found: list[tuple[Turns, str]] = []
    for turns in filter(None, map(asked.turns, CHATS)) if asked.tokenizer.chat_template else ():
        try:
            found.append((turns, render_chat(asked.tokenizer, turns, add_generation_prompt=True)))
        except ModelError:
            continue
    return found
