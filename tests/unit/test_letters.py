"""Words and letters of scripts that English does not have."""

from __future__ import annotations

import pytest

from finetune.letters import is_unspaced, last_letters, shortened, word_count, words
from finetune.wizard.asking.layout import beginning, end

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # of three joined emoji


@pytest.mark.parametrize(
    ("text", "found", "count"),
    [
        ("It's 5 km.", ["it", "s", "5", "km"], 3),
        ("東京は 12月", ["東", "京", "は", "12", "月"], 2),
        ("ｶﾞｲﾄﾞＡ１", ["ガ", "イ", "ド", "a1"], 1),
        ("น้ำดี", ["น้", "ำ", "ดี"], 1),
        ("हिन्दी में", ["हिन्दी", "में"], 2),
        ("می\u200cخواهم", ["میخواهم"], 1),
        ("İyi GÜN", ["iyi", "gün"], 2),
        ("👍 !", [], 2),
        ("I \u2764\ufe0f it, 1\ufe0f\u20e3 \u0301so", ["i", "it", "1", "so"], 5),
    ],
)
def test_the_words_of_a_text(text: str, found: list[str], count: int) -> None:
    assert (words(text), word_count(text)) == (found, count)
    assert is_unspaced(text) == (text in ("東京は 12月", "น้ำดี"))


@pytest.mark.parametrize(
    ("text", "most", "short", "last"),
    [
        ("abcdef", 6, "abcdef", "abcdef"),
        ("abcdef", 4, "abc…", "cdef"),
        ("ai\u0308ve", 3, "a…", "ve"),
        (f"a{FAMILY}b", 4, "a…", "b"),
        ("🇩🇪🇫🇷 ok", 2, "🇩…", "ok"),
        ("हिन्दी है", 3, "हि…", " है"),
        ("각\u1112\u1161\u11ab", 3, "각…", "\u1112\u1161\u11ab"),
    ],
)
def test_no_letter_is_cut_in_two(text: str, most: int, short: str, last: str) -> None:
    assert (shortened(text, most), last_letters(text, most)) == (short, last)


def test_columns_of_a_terminal_are_filled_with_whole_letters() -> None:
    assert (beginning("日本語", 5), end("日本語", 5)) == ("日本", "本語")
    assert (beginning(f"a{FAMILY}b", 4), end(f"a{FAMILY}b", 4)) == ("a", "b")
    assert (beginning("nai\u0308ve", 3), end("nai\u0308ve", 3)) == ("nai\u0308", "i\u0308ve")
