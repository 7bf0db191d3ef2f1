"""Whole runs whose teacher has another tokenizer: plan, training, scores, report, and what is refused before the work."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from bytes_tokenizer import CHATML, CORPUS, byte_level
from test_across_projected import sized
from test_across_tokenizers import small_merges, word_piece
from workshop import Workshop, recorded

from finetune.distillation.caches.on_disk import TeacherCache
from finetune.errors import FinetuneError, RecipeError, VocabularyMismatch
from finetune.events import Notice, TrainingStep
from finetune.publish.card import card_of
from finetune.run_folder import RunFolder

ACROSS = {"across_tokenizers": "projected"}
LINES = CORPUS[0].split()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("across"))
    rows = [{"prompt": f"the question {place}?", "completion": " ".join(LINES[place % 9 :][:6])} for place in range(24)]
    made.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def saved(folder: Path, tokenizer: Any, *, seed: int = 0, **changes: Any) -> str:
    if not folder.exists():
        sized(tokenizer, seed=seed, **changes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def across(shop: Workshop, *, teacher: str = "", **distillation: Any) -> dict[str, Any]:
    """A small student with byte-level tokens, and a teacher with shorter ones."""
    student = saved(shop.folder / "student", byte_level(CHATML))
    teacher = teacher or saved(shop.folder / "teacher", small_merges(), seed=3)
    method = {"kind": "full", "freeze": "head"}
    return shop.distilling(model=student, teacher=teacher, method=method, distillation={**ACROSS, **distillation})


def test_a_student_learns_from_a_teacher_with_another_tokenizer(shop: Workshop) -> None:
    tuner = shop.tuner(across(shop))
    plan = tuner.plan()
    (said,) = plan.alignment
    assert said.startswith("teacher has another tokenizer: ")
    assert said.endswith("in 18 rows); the others learn from the data alone.")
    scores = tuner.run().scores
    assert {"rougeL", "perplexity"} <= scores["after"].keys()
    assert "perplexity" not in scores["teacher"]  # of other tokens: not to be compared
    assert "rougeL" in scores["teacher"]
    assert "kl" not in scores["after"]
    folder = RunFolder(tuner.recipe.output_dir)
    report = folder.benchmark.with_name("report.html").read_text(encoding="utf-8")
    assert said in unescape(report)
    (cache,) = [TeacherCache.open(path) for path in (shop.runtime.cache_dir / "teachers").iterdir() if (path / "index.json").exists()]
    assert cache.key.kind == "gradient"
    assert tuner.folder.recipe.read_text(encoding="utf-8").count("across_tokenizers: projected") == 1


def test_spans_are_compared_approximately_and_called_so(shop: Workshop) -> None:
    tuner = shop.tuner(across(shop, across_tokenizers="spans", task="compress"))
    plan = tuner.plan()
    (said,) = plan.alignment
    assert "spans that both tokenizers begin and end, whose likelihoods are compared, which is approximate" in said
    assert plan.cache_bytes == 4 * plan.supervised_tokens
    scores = tuner.run().scores
    assert {"rougeL", "perplexity"} <= scores["after"].keys()
    steps = [event for event in recorded(tuner).events if isinstance(event, TrainingStep)]
    assert all(step.parts.keys() == {"ce", "approximate_kl"} for step in steps)
    assert said in unescape((tuner.folder.run / "report.html").read_text(encoding="utf-8"))
    assert "which is approximate" in card_of(tuner.folder, repo=None)
    kinds = [TeacherCache.open(path.parent).key.kind for path in (shop.runtime.cache_dir / "teachers").glob("*/index.json")]
    assert "spans" in kinds
    assert "kl" not in scores["after"]


def test_the_teacher_of_spans_may_stay_in_memory(shop: Workshop) -> None:
    layer = across(shop, across_tokenizers="spans", cache="none", objective="jsd")
    losses = [event.loss for event in run(shop, layer) if isinstance(event, TrainingStep)]
    assert losses[-1] < losses[0]


def test_the_teacher_may_stay_in_memory_and_the_head_may_train(shop: Workshop) -> None:
    layer = across(shop, cache="none", objective="jsd")
    losses = [event.loss for event in run(shop, {**layer, "method": {"kind": "full"}}) if type(event).__name__ == "TrainingStep"]
    assert losses[-1] < losses[0]


def run(shop: Workshop, layer: dict[str, Any]) -> list[Any]:
    tuner = shop.tuner(layer)
    tuner.run()
    return list(recorded(tuner).events)


def test_without_the_setting_the_run_is_refused_and_the_hint_names_it(shop: Workshop) -> None:
    with pytest.raises(VocabularyMismatch, match="do not share a tokenizer") as error:
        shop.tuner(across(shop, across_tokenizers="none")).check()
    assert "--set distillation.across_tokenizers=projected" in str(error.value.hint)


def test_a_text_that_hardly_aligns_is_refused_before_the_work(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.distillation.across_tokenizers.alignment.LEAST", 0.99)
    tuner = shop.tuner(across(shop))
    with pytest.raises(VocabularyMismatch, match=r"^Only \d+ % of the supervised tokens align with the teacher's tokens \("):
        tuner.run()
    assert not tuner.folder.output_dir.exists()


def test_a_text_that_aligns_badly_is_a_warning(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.distillation.pair_checks.ALIGNS_WELL", 0.99)
    warnings = [event.text for event in run(shop, across(shop)) if isinstance(event, Notice) and event.level == "warning"]
    assert any(text.startswith("The teacher has another tokenizer: ") for text in warnings)


def test_a_teacher_whose_tokens_are_no_byte_strings_is_refused(shop: Workshop) -> None:
    teacher = saved(shop.folder / "words", word_piece(), padding=8)
    with pytest.raises(VocabularyMismatch, match=r"^The teacher's tokens are not byte strings"):
        shop.tuner(across(shop, teacher=teacher)).check()


def test_a_teacher_that_cannot_hold_the_rows_is_refused(shop: Workshop) -> None:
    teacher = saved(shop.folder / "short", small_merges(), max_position_embeddings=16)
    with pytest.raises(RecipeError, match="tokens of short, whose context is 16") as error:
        shop.tuner(across(shop, teacher=teacher)).plan()
    assert "dataset.max_length=8" in str(error.value.hint)


def test_teachers_with_other_tokenizers_are_not_averaged(shop: Workshop) -> None:
    layer = across(shop)
    teacher = layer.pop("teacher")
    two = {**layer, "teachers": [{"source": teacher}, {"source": teacher, "load_in": None}]}
    with pytest.raises(FinetuneError, match="other tokenizers cannot be averaged"):
        shop.tuner(two).check()


def test_a_teacher_with_the_same_tokenizer_is_compared_as_ever(shop: Workshop) -> None:
    """The setting changes nothing where it is not needed."""
    teacher = saved(shop.folder / "same", byte_level(CHATML), seed=5)
    scores = [shop.tuner(across(shop, teacher=teacher, **setting)).run().scores for setting in ({}, {"across_tokenizers": "none"})]
    assert scores[0]["after"] == scores[1]["after"]
    assert {"kl", "agreement", "perplexity"} <= scores[0]["after"].keys()
