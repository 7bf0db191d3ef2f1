"""Whole runs with several teachers: mixed and routed, from the recipe to the report, interrupted, planned, and refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from workshop import Workshop, model_folder, recorded

from finetune import LLMFineTuner, RunResult
from finetune.distillation.pair_checks import contradictions
from finetune.errors import DatasetError, FinetuneError, RecipeError, VocabularyMismatch
from finetune.events import Notice, StageStarted
from finetune.formatting import strip_control_chars


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("shop"))
    shop.rows.write_text(divided(shop.rows.read_text()))
    model_folder(shop.folder / "second", layers=4)
    return shop


def divided(rows: str) -> str:
    """The rows with a column that says whose they are."""
    kinds = ("tame", "wild")
    return "".join(json.dumps({**json.loads(row), "animal": kinds[number // 4 % 2]}) + "\n" for number, row in enumerate(rows.splitlines()))


def teachers(shop: Workshop, *more: dict[str, Any]) -> dict[str, Any]:
    named = [str(shop.model), str(shop.folder / "second")]
    return {"teacher": None, "teachers": [{"source": name, **each} for name, each in zip(named, more or ({}, {}), strict=True)]}


def by(value: str) -> dict[str, Any]:
    return {"rows": {"column": "animal", "equals": value}}


WAYS = {"mixed": ({"weight": 3}, {"weight": 1}), "routed": (by("tame"), by("wild"))}


@pytest.fixture(scope="module")
def runs(shop: Workshop) -> dict[str, tuple[LLMFineTuner, RunResult]]:
    tuners = {way: shop.tuner(shop.distilling(**teachers(shop, *more))) for way, more in WAYS.items()}
    return {way: (tuner, tuner.run()) for way, tuner in tuners.items()}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_scores_and_names_every_teacher(way: str, shop: Workshop, runs: dict[str, tuple[LLMFineTuner, RunResult]]) -> None:
    _, result = runs[way]
    of_each = result.scores["teachers"]
    assert [each["source"] for each in of_each] == [str(shop.model), str(shop.folder / "second")]
    assert [each["part"] for each in of_each] == (
        ["weight 3", "weight 1"] if way == "mixed" else ["rows where animal is tame", "rows where animal is wild"]
    )
    rows = result.scores["rows"]
    assert [each["rows"] for each in of_each] == [rows, rows] if way == "mixed" else sum(each["rows"] for each in of_each) == rows
    assert {"kl", "agreement"} <= set(result.scores["after"])
    page = (result.output_dir / "run" / "report.html").read_text()
    assert all(f"{Path(each['source']).name} ({each['part']})" in page for each in of_each)
    assert result.scores["after"]["kl"] < result.scores["before"]["kl"]


def test_a_mixture_is_measured_against_its_heaviest_teacher(runs: dict[str, tuple[LLMFineTuner, RunResult]]) -> None:
    scores = runs["mixed"][1].scores
    assert scores["teacher"]["perplexity"] == pytest.approx(scores["teachers"][0]["perplexity"])


def test_routed_teachers_are_measured_as_one_on_their_own_rows(runs: dict[str, tuple[LLMFineTuner, RunResult]]) -> None:
    tuner, result = runs["routed"]
    one, each = tuner.teacher_scores.one, tuner.teacher_scores.each
    assert sum(one.losses.sums) == pytest.approx(sum(sum(scores.losses.sums) for scores in each))
    assert one.references == tuner.before.references
    assert result.scores["teacher"]["perplexity"] == pytest.approx(one.values["perplexity"])


def test_teachers_are_loaded_one_after_another_and_caches_serve_other_weights(shop: Workshop, runs: Any) -> None:
    caches = {path: path.stat().st_mtime_ns for path in (shop.runtime.cache_dir / "teachers").rglob("*")}
    tuner = shop.tuner(shop.distilling(**teachers(shop, {"weight": 1}, {"weight": 5})))
    tuner.run()
    assert {path: path.stat().st_mtime_ns for path in (shop.runtime.cache_dir / "teachers").rglob("*")} == caches
    titles = [event.title for event in recorded(tuner).of(StageStarted)]
    assert "Loading the teacher 2 of 2" in titles


def test_a_plan_counts_every_teacher_and_what_is_on_the_disk_not_again(tmp_path: Path, shop: Workshop, runs: Any) -> None:
    again = shop.tuner(shop.distilling(**teachers(shop, *WAYS["mixed"]))).plan()
    assert again.cache_bytes == 0
    assert "running the teacher" not in again.stages
    assert shop.tuner(shop.distilling(**teachers(shop), distillation={"temperature": 3.0})).plan().cache_bytes > 0
    shop = Workshop(tmp_path)  # with an empty cache
    shop.rows.write_text(divided(shop.rows.read_text()))
    model_folder(shop.folder / "second", layers=4)
    one = shop.tuner(shop.distilling()).plan()
    mixed = shop.tuner(shop.distilling(**teachers(shop))).plan()
    routed = shop.tuner(shop.distilling(**teachers(shop, *WAYS["routed"]))).plan()
    online = shop.tuner(shop.distilling(**teachers(shop), distillation={"cache": "none"})).plan()
    assert mixed.cache_bytes == 2 * one.cache_bytes
    times = [plan.stages["running the teacher"] / plan.stages["training"] for plan in (one, mixed)]  # however fast this machine is
    assert times[1] > times[0] > 0
    assert routed.cache_bytes == pytest.approx(one.cache_bytes, abs=2 * 1024)
    assert mixed.memory["teacher"] > one.memory["teacher"]
    assert online.memory["teacher"] == one.memory["teacher"] + mixed.memory["teacher"]


def test_twins_teach_what_one_teaches(shop: Workshop) -> None:
    twins = [{"source": str(shop.model)}, {"source": str(shop.model)}]
    one, two = shop.tuner(shop.distilling()), shop.tuner(shop.distilling(teacher=None, teachers=twins))
    one.train()
    two.train()
    assert two.outcome.finished.final_loss == pytest.approx(one.outcome.finished.final_loss, rel=1e-4)


REFUSED = [
    ({"teachers": [{"source": "a", "weight": 0}, "b"]}, RecipeError, "must be greater than 0"),
    ({"teachers": [{"source": "a", **by("tame")}, "b"]}, RecipeError, "others have none"),
    ({"teachers": [{"source": "a", **by("tame")}, {"source": "b", **by("tame")}]}, RecipeError, "a row has one teacher"),
    ({"teachers": [{"source": "a", **by("tame")}, {"source": "b", "rows": {"column": "b", "equals": 1}}]}, RecipeError, "use one column"),
    ({"teachers": [{"source": "a", "weight": 1, **by("tame")}, {"source": "b", **by("wild")}]}, RecipeError, "give one of the two"),
    ({"teachers": ["a", "b"], "teacher": "c"}, RecipeError, "give one of the two"),
    ({"teachers": ["a"]}, RecipeError, "at least 2"),
    ({"teachers": [{"sorce": "a"}, "b"]}, RecipeError, r"^teachers.0.sorce is not a recipe key. Did you mean teachers.source\?"),
    ({"teachers": ["a", "b"], "approach": "fine-tuning", "model": "c"}, RecipeError, "need `approach: distillation`"),
]


@pytest.mark.parametrize(("keys", "kind", "said"), REFUSED)
def test_recipes_that_make_no_sense(keys: dict[str, Any], kind: type[FinetuneError], said: str, shop: Workshop) -> None:
    layer = shop.distilling()
    del layer["teacher"]
    with pytest.raises(kind, match=said):
        shop.tuner({**layer, **keys})


def test_rows_without_a_teacher_and_teachers_without_a_row(shop: Workshop) -> None:
    with pytest.raises(DatasetError, match=r"of 24 rows have no teacher: animal is wild in "):
        shop.tuner(shop.distilling(**teachers(shop, by("tame"), by("mythical")))).plan()
    nowhere = [{"rows": {"column": "plant", "equals": value}} for value in ("a", "b")]
    with pytest.raises(DatasetError, match="no column 'plant' that says whose row it is; it has prompt, completion, animal"):
        shop.tuner(shop.distilling(**teachers(shop, *nowhere))).plan()


def test_a_teacher_with_another_tokenizer(shop: Workshop) -> None:
    from letters import llama, tokenizer

    other = shop.folder / "other tokenizer"
    llama(seed=5, layers=3).save_pretrained(other)
    strange = tokenizer(chat=True)
    strange.add_tokens(["<new>"])
    strange.save_pretrained(other)
    with pytest.raises(VocabularyMismatch) as refused:
        shop.tuner(shop.distilling(teacher=None, teachers=[str(shop.folder / "other tokenizer"), str(shop.model)])).check()
    assert strip_control_chars(refused.value.message)


def test_teachers_that_contradict_each_other_are_named_with_a_number(runs: dict[str, tuple[LLMFineTuner, RunResult]]) -> None:
    texts = [notice.text for notice in runs["mixed"][0].reporter.reporters[0].of(Notice)]
    assert [text for text in texts if "they contradict each other" in text]
    assert not [notice for notice in runs["routed"][0].reporter.reporters[0].of(Notice) if "contradict" in notice.text]
    first = torch.arange(10)
    (warned,) = contradictions(["a", "b"], [first, torch.cat([first[:4], first[:6]])])
    assert warned.level == "warning"
    assert warned.text.startswith("a and b have the same most likely token for 40 % of 10 tokens")
    assert [found.level for found in contradictions(["a", "b", "c"], [first, first, first])] == ["ok"] * 3
