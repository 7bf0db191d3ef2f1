"""Which rows of a teacher are kept: each reason with a text that has it, and one that nearly has it."""

from __future__ import annotations

import pytest

from finetune.publish.card_metadata import covers
from finetune.sources import filters
from finetune.sources.filters import Filters, repeated

ROSES = "How should I prune the old roses in my garden this spring?"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ROSES, None),
        (None, filters.ENDED),
        ("", filters.SHORT),
        ("Hi there", filters.SHORT),
        ("Explain photosynthesis", None),
        ("我的玫瑰花应该怎么样修剪才好", None),
        ("如何修剪玫瑰？", None),
        ("你好", filters.SHORT),
        ("the cat and the dog and " * 6, filters.REPEATS),
        ("玫瑰花应该怎么样修剪" * 6, filters.REPEATS),
        ("กุหลาบควรตัดแต่งอย่างไร" * 6, filters.REPEATS),
    ],
)
def test_a_prompt_must_end_and_say_something(text: str | None, reason: str | None) -> None:
    assert Filters().prompt(text) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ROSES, filters.SAME),
        (ROSES.upper().replace("?", " !"), filters.SAME),
        (ROSES.replace("this spring", "this autumn"), filters.NEAR),
        ("Which old roses in my garden should I give to my neighbour this spring?", None),
        ("How should I feed my cat?", None),
    ],
)
def test_the_same_and_nearly_the_same_prompt_is_kept_once(text: str, reason: str | None) -> None:
    found = Filters()
    assert found.prompt(ROSES) is None
    assert found.prompt(text) == reason
    assert Filters([ROSES]).prompt(text) == reason, "examples are known prompts"


def test_the_same_is_seen_in_prompts_without_spaces_and_with_vowel_signs() -> None:
    found = Filters(["春天我应该怎么修剪花园里的老玫瑰？", "मैं अपने बगीचे के पुराने गुलाब कब और कैसे काटूँ?"])
    assert found.prompt("春天我应该怎么修剪花园里的老玫瑰") == filters.SAME
    assert found.prompt("春天我应该怎么修剪花园里的老玫瑰呢？") == filters.NEAR
    assert found.prompt("我的猫应该吃什么？") is None
    assert found.prompt("मैं अपने बगीचे के पुराने गुलाब कब और कैसे काटूं?") == filters.NEAR
    assert found.prompt("मेरी बिल्ली को क्या खिलाऊँ?") is None


def test_prompts_that_begin_alike_are_capped_unless_the_examples_begin_so() -> None:
    def kept(found: Filters) -> int:
        return sum(found.prompt(f"Write a poem {number} {number + 1} {number + 2}") is None for number in range(20))

    assert kept(Filters()) == filters.OPENINGS
    assert kept(Filters(["Write a poem about one cat", "Write a poem for two dogs"])) == 20
    others = Filters()
    for number in range(100):
        assert others.prompt(f"{number} apples cost {number * 7} cents {number}") is None
    assert kept(others) == 12, "a tenth of all"


def test_an_answer_must_end_and_not_repeat_itself() -> None:
    assert Filters().answer("Cut them in March.") is None
    assert Filters().answer(None) == filters.ANSWER_ENDED
    assert Filters().answer(" \n") == filters.ANSWER_EMPTY
    assert Filters().answer("I do not know what to say. " * 8) == filters.ANSWER_REPEATS


def test_a_refrain_is_no_repetition() -> None:
    verses = "Row your boat down the stream, merrily merrily. Life is a dream of rivers and reeds. Row your boat down the stream, now."
    assert not repeated(verses)
    assert not repeated("")


@pytest.mark.parametrize(
    ("licence", "word"), [("llama2", "may not"), ("llama3.2", "Llama"), ("gemma", "derivative"), ("apache-2.0", None), (None, None)]
)
def test_licences_that_cover_outputs(licence: str | None, word: str | None) -> None:
    said = covers(licence)
    assert said is None if word is None else said is not None and word in said
