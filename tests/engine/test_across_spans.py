"""Spans of text that two tokenizers begin and end: which they are, the loss and its gradient in float64, caches, what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from pico import Rows, assert_same_weights, losses
from test_across_projected import OURS, THEIRS, rows_of, sized
from test_across_tokenizers import ALIGNMENTS, PAIRS, TOKENIZERS, WORDS, text_ids
from test_across_training import distiller
from test_distillation_loss import naive_divergence
from torch import Tensor

from finetune import registry
from finetune.data.tokens.collator import Collator
from finetune.distillation.across_tokenizers.alignment import Alignment
from finetune.distillation.across_tokenizers.spans import LONGEST, SpanReading, SpanShare, compared, spans_of
from finetune.distillation.caches.builder import build_cache
from finetune.errors import RecipeError, VocabularyMismatch
from finetune.recipe import Recipe

ROWS = rows_of(OURS) * 2
READING = SpanReading(Alignment(OURS, THEIRS), len(OURS))


def spans(student: Any, folder: Any, **changes: Any) -> Any:
    return distiller(student, folder, across_tokenizers="spans", **changes)


def joined(strings: Any, ids: list[int], places: range) -> bytes:
    """The bytes of what is predicted at some places."""
    return b"".join(strings[ids[place + 1]] or b"" for place in places)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=WORDS)
def test_both_sides_of_a_span_are_the_same_bytes_and_no_span_could_be_cut(pair: tuple[str, str], text: str) -> None:
    alignment = ALIGNMENTS[pair]
    ours, theirs = alignment.ours.strings, alignment.theirs.strings
    ids = text_ids(TOKENIZERS[pair[0]], text)
    row = alignment.row(ids)
    found = list(spans_of(alignment, row, ids, ids))
    for earlier, later in pairwise(found):
        assert earlier.ours.stop <= later.ours.start
        assert earlier.theirs.stop <= later.theirs.start
    for span in found:
        assert 1 <= len(span.ours) <= LONGEST
        assert 1 <= len(span.theirs) <= LONGEST
        assert joined(ours, ids, span.ours) == joined(theirs, row.ids, span.theirs)
        ends = {len(joined(ours, ids, range(span.ours.start, end))) for end in span.ours[1:]}
        assert ends.isdisjoint(len(joined(theirs, row.ids, range(span.theirs.start, end))) for end in span.theirs[1:])


@pytest.mark.parametrize("name", ["byte-level", "with a beginning", "short"])
@settings(max_examples=25, deadline=None)
@given(text=WORDS)
def test_of_one_tokenizer_every_span_is_one_token(name: str, text: str) -> None:
    alignment, ids = ALIGNMENTS[name, name], text_ids(TOKENIZERS[name], text)
    found = list(spans_of(alignment, alignment.row(ids), ids, ids))
    lead = len(alignment.lead)
    assert [(span.ours, span.theirs) for span in found] == [
        (range(place, place + 1), range(place + lead, place + lead + 1)) for place in range(len(ids) - 1)
    ]


def test_no_span_has_a_token_without_a_label_or_one_that_the_teacher_has_not() -> None:
    ours, theirs = TOKENIZERS["byte-level"], TOKENIZERS["short"]
    alignment, mark = Alignment(ours, theirs), ours.convert_tokens_to_ids("<|im_end|>")
    ids = [*text_ids(ours, "the answer"), mark, *text_ids(ours, " rest")]
    labels = [-100] * 2 + ids[2:]
    found = list(spans_of(alignment, alignment.row(ids), ids, labels))
    covered = {place + 1 for span in found for place in span.ours}
    assert covered
    assert min(covered) >= 2
    assert ids.index(mark) not in covered


def textbook(student: Any, teacher: Any, rows: list[dict[str, Any]], name: str, alpha: float, temperature: float) -> Tensor:
    """alpha CE + (1 - alpha) T D for each span, CE alone outside of them, over the supervised tokens; each row alone, from full logits."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        ids, labels = row["input_ids"], row["labels"]
        read = READING.alignment.row(ids)
        log_p = F.log_softmax(student(input_ids=torch.tensor([ids])).logits[0], -1)
        log_q = F.log_softmax(teacher(input_ids=torch.tensor([read.ids])).logits[0], -1).detach()
        inside = set()
        for span in spans_of(READING.alignment, read, ids, labels):
            a, b = (
                torch.stack([log[place, tokens[place + 1]] for place in places]).sum().div(temperature).exp()
                for log, tokens, places in ((log_p, ids, span.ours), (log_q, read.ids, span.theirs))
            )
            total = total + (1 - alpha) * temperature * naive_divergence(name, torch.stack((a, 1 - a)), torch.stack((b, 1 - b)))
            inside.update(span.ours)
        for place, label in enumerate(labels[1:]):
            if label != -100:
                total, count = total - (alpha if place in inside else 1.0) * log_p[place, label], count + 1
    return total / count


@pytest.mark.parametrize("name", registry.BUILT_IN["objectives"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.3, 5.0)])
def test_the_loss_and_its_gradient_are_those_of_the_formula(name: str, alpha: float, temperature: float, tmp_path: Any) -> None:
    student, teacher = sized(OURS, dtype=torch.float64), sized(THEIRS, seed=3, dtype=torch.float64)
    trainer = spans(student, tmp_path, teacher_model=teacher, objective=name, alpha=alpha, temperature=temperature)
    loss = trainer.compute_loss(student.eval(), Collator(0)(ROWS))  # outside of a training, where TAID has reached its teacher
    expected = textbook(student, teacher, ROWS, name, alpha, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    parameters = list(student.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_the_derivative_is_that_of_the_divergence_of_two_outcomes(name: str) -> None:
    """Where the likelihoods of pico models never are: from next to nothing to nearly certain."""
    log_a = torch.tensor([-1e-3, -0.3, -2.0, -9.0, -25.0], dtype=torch.float64, requires_grad=True)
    log_b = torch.tensor([-0.4, -1e-3, -8.0, -0.2, -3.0], dtype=torch.float64)
    a, b = log_a.exp(), log_b.exp()
    expected = naive_divergence(name, torch.stack((a, 1 - a), 1), torch.stack((b, 1 - b), 1))
    value, slope = compared(registry.load("objectives", name)(), log_a.detach(), log_b)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), log_a)[0], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_a_student_as_certain_as_its_teacher_has_nothing_to_learn(name: str) -> None:
    same = torch.tensor([-1e-9, -0.5, -20.0], dtype=torch.float64)
    for found in compared(registry.load("objectives", name)(), same, same.clone()):
        torch.testing.assert_close(found, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10)


def test_in_single_precision_the_certain_and_the_impossible_are_finite() -> None:
    for name in registry.names("objectives"):
        log_a, log_b = torch.tensor([0.0, -1e-9, -300.0, -1e-9]), torch.tensor([-300.0, 0.0, -1e-9, -300.0])
        for found in compared(registry.load("objectives", name)(), log_a, log_b):
            assert found.isfinite().all(), name


def test_a_cache_of_four_bytes_a_token_trains_as_the_teacher_itself(tmp_path: Any) -> None:
    def trained(**given: Any) -> Any:
        trainer = spans(sized(OURS, dtype=torch.float64), tmp_path, alpha=0.3, num_train_epochs=2, **given)
        trainer.train()
        return trainer

    teacher = sized(THEIRS, seed=3, dtype=torch.float64)
    cache = build_cache("spans", teacher, ROWS, tmp_path / "cache", reading=READING)
    (values,) = cache.read([0], [sum(label != -100 for label in ROWS[0]["labels"][1:])])
    assert (values.shape[1], values.dtype) == (1, torch.float32)
    online, cached = trained(teacher_model=teacher), trained(cache=cache)
    assert losses(online)[0] > losses(online)[-1]
    assert losses(cached) == pytest.approx(losses(online), rel=1e-5)
    assert cached.last_parts == pytest.approx(online.last_parts, rel=1e-5)
    assert online.last_parts.keys() == {"ce", "approximate_kl"}
    assert_same_weights(online.model, cached.model, tolerance=1e-5)


@pytest.mark.parametrize("name", registry.names("objectives"))
def test_a_student_comes_closer_under_every_objective(name: str, tmp_path: Any) -> None:
    student = sized(OURS)
    changes = {"objective": name, "alpha": 0.0, "temperature": 5.0, "num_train_epochs": 8, "learning_rate": 0.003}
    trainer = spans(student, tmp_path, teacher_model=sized(THEIRS, seed=3), **changes)
    before = trainer.evaluate(Rows(ROWS))
    trainer.train()
    assert "eval_kl" not in before
    assert trainer.evaluate(Rows(ROWS))["eval_approximate_kl"] < before["eval_approximate_kl"]


def test_the_share_counts_tokens_in_spans() -> None:
    row = ROWS[0]
    found = list(spans_of(READING.alignment, READING.alignment.row(row["input_ids"]), row["input_ids"], row["labels"]))
    share = READING.measure([row, row])
    assert isinstance(share, SpanShare)
    assert (share.aligned, share.spans) == (2 * sum(len(span.ours) for span in found), 2 * len(found))
    assert share.tokens == 2 * (len(row["input_ids"]) - 2)
    assert str(share).endswith("which is approximate")
    with pytest.raises(VocabularyMismatch, match=r"^Only 40 % of the supervised tokens \(4 of 10 in 1 rows\) are in 2 spans"):
        SpanShare(4, 10, 1, 9, 2).check()


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"teachers": [{"source": "gpt2"}, {"source": "gpt2-medium"}]}, "which compares one teacher"),
            ({"distillation": {"cache": "hidden"}}, "which keeps likelihoods, and `distillation.cache: hidden`"),
            ({"distillation": {"correct": 0.2}}, "has `distillation.correct` and `distillation.across_tokenizers`"),
            ({"distillation": {"on_policy": {}}}, "only a teacher with the same tokenizer can read answers"),
            ({"distillation": {"features": {"last": 0.1}}}, "compares the states of equal tokens"),
            ({"teacher": {"source": "gpt2", "system": "Be brief."}, "distillation": {"supervise": "answers"}}, "has `teacher.system`"),
        ],
    )
    def test_keys_that_do_not_go_together(self, change: dict[str, Any], said: str) -> None:
        with pytest.raises(RecipeError) as refused:
            Recipe.from_layers({"approach": "distillation", "distillation": {"across_tokenizers": "spans"}}, change)
        assert said in refused.value.message
        assert "\n" not in refused.value.message

    def test_several_teachers(self, tmp_path: Any) -> None:
        teachers = [sized(THEIRS), sized(THEIRS, seed=1)]
        with pytest.raises(RecipeError, match="Spans compare one teacher"):
            spans(sized(OURS), tmp_path, teacher_model=teachers, theirs=[THEIRS, THEIRS], teacher_rows=[0, 1] * 3)

    @pytest.mark.parametrize(("kind", "way"), [("hidden", "spans"), ("spans", "projected")])
    def test_a_cache_for_another_comparison(self, kind: str, way: str, tmp_path: Any) -> None:
        cache = build_cache(kind, sized(THEIRS, seed=3), ROWS, tmp_path / kind, reading=READING)
        with pytest.raises(RecipeError, match=f"This {kind} cache has .*likelihoods of spans"):
            distiller(sized(OURS), tmp_path, across_tokenizers=way, cache=cache)
