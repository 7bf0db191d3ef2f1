"""A teacher's chat template up to the user's words: in every family of templates, with a topic and with examples."""

from __future__ import annotations

from typing import Any

import pytest
from chat_templates import FAMILIES

from finetune.sources.prompt_builder import BRIEF, PromptBuilder, problem

WORDS = "How often should I water roses?"
EXAMPLES = [[{"role": "user", "content": f"ask {name}"}, {"role": "assistant", "content": f"reply {name}"}] for name in "abcde"]


def asked(name: str, **options: Any) -> PromptBuilder:
    return PromptBuilder(FAMILIES[name].tokenizer, **{"topic": None, "examples": [], "seed": 42, **options})


@pytest.mark.parametrize("name", FAMILIES)
def test_the_words_stand_where_the_template_writes_a_persons_words(name: str) -> None:
    assert problem(FAMILIES[name].tokenizer, name) is None
    asking = asked(name, examples=EXAMPLES[:1])
    opening, question = asking.opening(0), asking.question(0, WORDS)
    assert question.startswith(opening)
    said, closed, _ = question[len(opening) :].partition(asking.closing)
    assert said.strip() == WORDS
    assert closed, "what ends the words"
    assert BRIEF in asked(name).question(0, WORDS)


@pytest.mark.parametrize("name", FAMILIES)
def test_words_end_at_the_closing_and_hold_no_control_token(name: str) -> None:
    asking, tokenizer = asked(name), FAMILIES[name].tokenizer

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert asking.words(tokens(f"{WORDS} {asking.closing} and more")) == WORDS
    assert asking.words(tokens(WORDS)) is None, "it does not end"
    token = FAMILIES[name].eos
    if token != asking.closing:
        assert asking.words(tokens(f"{WORDS}{token}{asking.closing}")) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_topic_and_examples_come_before_the_words(name: str) -> None:
    asking = asked(name, topic="gardening", examples=EXAMPLES)
    opening = asking.opening(3)
    assert "gardening" in opening
    shown = [text for turns in EXAMPLES for turn in turns if (text := turn["content"]) in opening]
    assert len(shown) == 8, "four of them, prompts and answers"
    assert asking.question(3, WORDS).startswith(opening), "the same with these words"
    assert BRIEF not in opening


def test_a_long_example_is_shown_with_no_other() -> None:
    long = [[{"role": "user", "content": f"{name} " * 900}, {"role": "assistant", "content": "yes"}] for name in "abc"]
    assert len(asked("chatml", examples=long).shown(0)) == 2
