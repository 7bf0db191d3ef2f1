"""A teacher's distribution seen in the student's tokens, against the formula in float64; caches of it against the teacher itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bytes_tokenizer import CORPUS, byte_level, sentence_piece
from pico import pico
from test_across_tokenizers import small_merges, text_ids

from finetune.data.tokens.collator import Collator
from finetune.distillation.across_tokenizers.alignment import NOWHERE, Alignment
from finetune.distillation.across_tokenizers.projected import ProjectedHead, Reading, teacher_logits
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.caches.choice import signals_for
from finetune.training.head import Head, head_of
from finetune.training.loss.chunked import softmax_
from finetune.training.loss.workspace import Workspace

OURS, THEIRS = byte_level(), small_merges()
TEXTS = [CORPUS[0][:40], CORPUS[0][20:90], "ü the 数字 answer"]


def sized(tokenizer: Any, *, seed: int = 0, padding: int = 0, **changes: Any) -> Any:
    """A pico model for a tokenizer."""
    return pico("llama", seed=seed, vocab_size=len(tokenizer) + padding, **changes)


def rows_of(tokenizer: Any) -> list[dict[str, list[int]]]:
    ids = [text_ids(tokenizer, text) for text in TEXTS]
    return [{"input_ids": row, "labels": [-100, -100, *row[2:]]} for row in ids]


def naive(states: torch.Tensor, head: Head, target: list[int], vocabulary: int, temperature: float) -> torch.Tensor:
    """normalise(softmax(z / T) M) with M written out."""
    q = F.softmax(head.logits(states) / temperature, -1)
    matrix = torch.zeros(head.vocabulary, vocabulary, dtype=q.dtype)
    for token, student_token in enumerate(target):
        if student_token != NOWHERE:
            matrix[token, student_token] = 1
    q = q @ matrix
    return q / q.sum(-1, keepdim=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("pair", [(OURS, THEIRS), (THEIRS, OURS), (sentence_piece(), OURS)])
def test_the_projected_distribution_is_the_formula(pair: tuple[Any, Any], temperature: float) -> None:
    ours, theirs = pair
    teacher = sized(theirs, dtype=torch.float64, padding=3)  # ids without a token begin no student token
    alignment = Alignment(ours, theirs)
    head = Reading(alignment, len(ours) + 2).head(head_of(teacher).detach())
    states = torch.randn(7, 24, dtype=torch.float64)
    target = [*alignment.target.tolist(), *[NOWHERE] * 3]
    expected = naive(states, head_of(teacher), target, len(ours) + 2, temperature)
    logits = teacher_logits("teacher", states, head, temperature)
    logits.load(slice(0, 7), Workspace())
    block = logits.block(slice(0, 7), Workspace())
    softmax_(block)
    torch.testing.assert_close(block, expected, rtol=1e-12, atol=1e-15)
    if temperature == 1:
        torch.testing.assert_close(F.softmax(head.logits(states), -1), expected, rtol=1e-12, atol=1e-15)
    assert head.vocabulary == len(ours) + 2
    fewer = naive(states, head_of(teacher), [token if token < 200 else NOWHERE for token in target], 200, 1.0)
    torch.testing.assert_close(F.softmax(head.first(200).logits(states), -1), fewer, rtol=1e-12, atol=1e-15)


def test_a_head_of_the_same_tokenizer_is_the_head_itself() -> None:
    teacher = head_of(sized(OURS, dtype=torch.float64)).detach()
    head = Reading(Alignment(OURS, OURS), len(OURS)).head(teacher)
    states = torch.randn(4, 24, dtype=torch.float64)
    torch.testing.assert_close(head.logits(states), F.log_softmax(teacher.logits(states), -1), rtol=1e-12, atol=1e-12)


def test_a_batch_finds_the_states_of_aligned_tokens_in_their_rows() -> None:
    reading = Reading(Alignment(OURS, THEIRS), len(OURS))
    rows = rows_of(OURS)
    asked = reading.batch(Collator(0)(rows), mask=True)
    width = asked.inputs["input_ids"].shape[1]
    expected, aligned = [], []
    for number, row in enumerate(rows):
        read = reading.alignment.row(row["input_ids"])
        assert asked.inputs["input_ids"][number, : len(read.ids)].tolist() == read.ids
        assert int(asked.inputs["attention_mask"][number].sum()) == len(read.ids)
        for place in read.places[1:-1]:
            expected.append(number * width + max(place, 0))
            aligned.append(place != NOWHERE)
    assert asked.index.tolist() == expected
    assert asked.aligned.tolist() == aligned
    assert 0 < sum(aligned) < len(aligned)


def test_a_batch_without_a_supervised_token_asks_nothing() -> None:
    ids = text_ids(OURS, "the answer")
    asked = Reading(Alignment(OURS, THEIRS), len(OURS)).batch(Collator(0)([{"input_ids": ids, "labels": [-100] * len(ids)}]))
    assert len(asked.index) == len(asked.aligned) == 0


@pytest.mark.parametrize("kind", signals_for(spans=False))
def test_a_cache_keeps_what_the_teacher_says_at_the_aligned_tokens(kind: str, tmp_path) -> None:
    student, teacher = sized(OURS, dtype=torch.float64), sized(THEIRS, seed=3, dtype=torch.float64)
    ours, reading, rows = head_of(student).detach(), Reading(Alignment(OURS, THEIRS), len(OURS)), rows_of(OURS)
    cache = build_cache(kind, teacher, rows, tmp_path / kind, student_head=ours, temperature=2.0, reading=reading)
    assert cache.key.vocabulary == len(OURS)
    asked = reading.batch(Collator(0)(rows))
    states = teacher.model(**asked.inputs).last_hidden_state.flatten(0, 1)[asked.index]
    values, *more = cache.read(range(len(rows)), [len(row["labels"]) - 2 for row in rows])
    if kind == "hidden":
        assert cache.head is not None
        assert not isinstance(cache.head, ProjectedHead)
        torch.testing.assert_close(values, states.detach())
    else:
        q = naive(states, head_of(teacher), reading.alignment.target.tolist(), len(OURS), 2.0)
        torch.testing.assert_close(values, (q @ ours.weight).detach(), rtol=1e-9, atol=1e-12)
        (negentropy,) = more
        torch.testing.assert_close(negentropy, torch.special.xlogy(q, q).sum(-1).detach(), rtol=1e-9, atol=1e-12)
    # Another reading of the same teacher is another cache.
    assert reading.identity("a") != Reading(Alignment(OURS, byte_level(bos=True)), len(OURS)).identity("a")
