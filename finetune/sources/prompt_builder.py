"""How a teacher is asked for rows: its chat template up to the user's words, which it then writes itself, and afterwards the answer.

    asking = PromptBuilder(tokenizer, topic="gardening", examples=[], seed=42)
    asking.opening(0)                   # "<|im_start|>system\\n...<|im_end|>\\n<|im_start|>user\\n"
    asking.question(0, "How often ...") # a chat with these words, up to where the answer begins

Magpie (Xu et al. 2024, arXiv 2406.08464). A topic is a system turn; examples are earlier turns of the chat, drawn anew for every batch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import ModelError
from finetune.models.templates.chat_template import TemplateFailure, added_tokens, render_chat
from finetune.models.templates.template_facts import prompt_options

MARK = "probe words of a person"
HELPFUL = "You are a helpful assistant."
ABOUT = "Everything that the user asks is about this: {topic}"
BRIEF = "You answer in one or two short sentences."  # without it, two of three answers of the starter do not end in time
AGREED = "All right."  # to what is told, in templates without system turns
SHOWN = 4  # examples in one context
SHOWN_TOKENS = 512  # of examples in one context

Turns = list[dict[str, str]]


class PromptBuilder:
    """The texts that a teacher continues. `examples` are rows as chat turns; each batch sees some of them, in another order.

    They also show how long answers are. Without them answers are asked to be short.
    """

    def __init__(self, tokenizer: Any, *, topic: str | None, examples: Sequence[Turns], seed: int) -> None:
        self.tokenizer, self.examples, self.seed = tokenizer, examples, seed
        self.options = prompt_options(tokenizer, thinking=False)
        about = [ABOUT.format(topic=topic)] if topic else []
        self.told = _told(tokenizer, [HELPFUL, *about]) if about else []
        self.told_to_answer = self.told if examples else _told(tokenizer, [HELPFUL, *about, BRIEF])
        self.closing = _closing(tokenizer, self.options)

    def shown(self, batch: int) -> Turns:
        """The examples that come before a person's words."""
        chosen: Turns = []
        left = SHOWN_TOKENS
        order = random.Random(f"{self.seed} {batch}").sample(range(len(self.examples)), min(SHOWN, len(self.examples)))
        for number in order:
            turns = self.examples[number]
            left -= sum(len(self.tokenizer(turn["content"], add_special_tokens=False)["input_ids"]) for turn in turns)
            if left < 0 and chosen:
                break
            chosen += turns
        return chosen

    def opening(self, batch: int) -> str:
        """The text up to where a person's words begin."""
        return _opening(self.tokenizer, [*self.told, *self.shown(batch)], self.options)

    def question(self, batch: int, words: str) -> str:
        """The text up to where the answer to these words begins."""
        asked = [*self.told_to_answer, *self.shown(batch), {"role": "user", "content": words}]
        return render_chat(self.tokenizer, asked, add_generation_prompt=True, **self.options)

    def words(self, tokens: Sequence[int]) -> str | None:
        """What a person says in these tokens; None if it does not end, or is no plain text."""
        said, ended, _ = str(self.tokenizer.decode(tokens, skip_special_tokens=False)).partition(self.closing)
        return said.strip() if ended and not any(token in said for token in added_tokens(self.tokenizer)) else None


def problem(tokenizer: Any, name: str) -> ModelError | None:
    """Why this model cannot write a person's words, or None."""
    hint = "Name a chat model as the teacher, or use rows of your own: --set dataset.source=FILE"
    if not tokenizer.chat_template:
        return ModelError(f"{name} has no chat template, so it cannot write what a person might ask.", hint=hint)
    options = prompt_options(tokenizer, thinking=False)
    try:
        if _opening(tokenizer, [], options) and _closing(tokenizer, options):
            return None
    except TemplateFailure as error:
        return ModelError(f"{name} cannot write what a person might ask: {error.message}", hint=hint)
    return ModelError(f"The chat template of {name} does not show where a person's words begin and end, so it cannot write any.", hint=hint)


def _told(tokenizer: Any, sentences: Sequence[str]) -> Turns:
    """What the teacher is told before the chat: a system turn where the template has one, else a first exchange."""
    text = " ".join(sentences)
    try:
        if text in render_chat(tokenizer, [{"role": "system", "content": text}, {"role": "user", "content": MARK}]):
            return [{"role": "system", "content": text}]
    except TemplateFailure:
        pass
    return [{"role": "user", "content": text}, {"role": "assistant", "content": AGREED}]


def _opening(tokenizer: Any, turns: Turns, options: Mapping[str, Any]) -> str:
    text, found, _ = _marked(tokenizer, turns, options).rpartition(MARK)
    return text.rstrip(" ") if found else ""  # a blank belongs to the first word


def _closing(tokenizer: Any, options: Mapping[str, Any]) -> str:
    """What ends a person's words: a control token where there is one, else all that the template writes behind them."""
    behind = _marked(tokenizer, [], options).rpartition(MARK)[2].strip()
    return next((token for token in added_tokens(tokenizer) if behind.startswith(token)), behind)


def _marked(tokenizer: Any, turns: Turns, options: Mapping[str, Any]) -> str:
    return render_chat(tokenizer, [*turns, {"role": "user", "content": MARK}], add_generation_prompt=True, **options)
