"""ROUGE agrees with rouge-score on English and does not throw other languages away."""

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from finetune.benchmark.rouge import KEYS, Rouge

WORDS = ["The", "parsers", "return", "Returning", "a", "list's", "of-items", "in_order", "3.5", "files;", "naïvely", "running", "runs"]


def test_plain_english_scores_equal_those_of_rouge_score_with_its_own_words():
    choose = random.Random(0)
    plain = [word for word in WORDS if word.isascii()]
    reference_scorer = RougeScorer(list(KEYS), use_stemmer=True)
    predictions = [" ".join(choose.choices(plain, k=choose.randint(1, 12))) for _ in range(50)]
    references = [" ".join(choose.choices(plain, k=choose.randint(1, 12))) for _ in range(50)]
    ours = Rouge().per_row(predictions, references)
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        theirs = reference_scorer.score(reference, prediction)
        assert {key: ours[key][row] for key in KEYS} == {key: theirs[key].fmeasure for key in KEYS}


def test_the_score_of_a_set_is_the_mean_of_its_rows():
    predictions, references = ["a cat sat", "nothing shared", ""], ["the cat sat", "quite other", "empty answer"]
    metric = Rouge()
    rows = metric.per_row(predictions, references)
    for key, value in metric.compute(predictions=predictions, references=references).items():
        assert value == pytest.approx(sum(rows[key]) / 3)
    assert rows["rouge1"] == [pytest.approx(2 / 3), 0.0, 0.0]


def test_endings_do_not_count():
    assert Rouge().compute(predictions=["returns parsed files"], references=["return parsing file"])["rougeL"] == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("12月 ガイド", "１２月 ｶﾞｲﾄﾞ"),
        ("tie\u0302\u0301ng Vie\u0323\u0302t", "tiếng Việt"),
        ("İyi günler", "iyi günler"),
        ("שלום\u200f", "שלום"),
        ("श्री", "श्\u200dरी"),
    ],
)
def test_width_marks_and_what_is_not_seen_do_not_count(answer, reference):
    assert Rouge().compute(predictions=[answer], references=[reference])["rouge1"] == 1.0


def test_a_number_between_letters_without_spaces_is_a_word_of_its_own():
    """月 and 日 are right, and 3 of the 6 words."""
    assert Rouge().compute(predictions=["3月12日"], references=["5月14日"])["rouge1"] == 0.5


@pytest.mark.parametrize(
    ("text", "half"),
    [
        ("Привет большой мир", "Привет большой дом"),
        ("今天天气很好", "今天天气很坏"),
        ("नमस्ते दुनिया अच्छी", "नमस्ते दुनिया बुरी"),
        ("μια καλή ημέρα", "μια κακή ημέρα"),
        ("สวัสดีชาวโลก", "สวัสดีชาวบ้าน"),
    ],
)
def test_a_perfect_answer_in_any_script_scores_one_and_a_near_one_less(text, half):
    metric = Rouge()
    assert metric.compute(predictions=[text], references=[text])["rougeL"] == 1.0
    assert 0 < metric.compute(predictions=[half], references=[text])["rougeL"] < 1
