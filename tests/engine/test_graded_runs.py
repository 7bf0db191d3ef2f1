"""A teacher on a server that grades rows: what the student learns is what the model there says, asked once; a budget, resume, refusals."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from completions_server import MODEL, CompletionsServer
from forks import Forks, job, log
from grading_server import GradingServer
from letters import LETTERS, tokenizer
from rich.console import Console
from safetensors.torch import load_file
from several_processes import TOLERANCE, compare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from workshop import Workshop, recorded

from finetune import LLMFineTuner
from finetune.distillation.caches import server as server_cache
from finetune.distillation.caches.builder import build_cache
from finetune.distillation.caches.on_disk import TeacherCache
from finetune.errors import FinetuneError, ModelError, RecipeError, VocabularyMismatch
from finetune.events import HeldOutLoss, Notice, Recorder, TrainingStep
from finetune.recipe import Recipe
from finetune.recipe.teacher_settings import host_of
from finetune.runtime import RuntimeOptions
from finetune.screen.console import THEME
from finetune.screen.plan_table import review
from finetune.sources import server as server_module
from finetune.sources.account import BudgetUsedUp
from finetune.sources.grader import Grader
from finetune.sources.server import Told


@pytest.fixture
def server(shop: Workshop) -> Iterator[GradingServer]:
    with GradingServer(shop.model) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WAITS", (0.01, 0.01))


def layer_of(shop: Workshop, server: CompletionsServer, teacher: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    told = {"server": server.address, "model": MODEL, **(teacher or {})}
    return shop.layer(approach="distillation", teacher=told, model=str(shop.smaller_model()), **more)


def tuner_of(shop: Workshop, cache: Path, server: CompletionsServer, teacher: dict[str, Any] | None = None, **more: Any) -> LLMFineTuner:
    runtime = RuntimeOptions(device="cpu", dtype="float32", cache_dir=cache)
    return LLMFineTuner(layer_of(shop, server, teacher, **more), reporter=Recorder(), runtime=runtime)


def cache_in(folder: Path) -> TeacherCache:
    (index,) = (folder / "teachers").glob("*/index.json")
    return TeacherCache.open(index.parent)


def weights(tuner: LLMFineTuner) -> dict[str, Any]:
    return load_file(tuner.folder.output_dir / "model.safetensors")


def test_a_student_learns_what_the_model_on_the_server_says(shop: Workshop, server: GradingServer, tmp_path: Path) -> None:
    tuner = tuner_of(shop, tmp_path, server)
    planned = tuner.plan()
    assert not server.asked, "a plan asks for nothing"
    assert planned.grading is not None
    rows = [tuple(row["input_ids"]) for row in tuner.data.train]
    assert planned.grading["tokens"] == sum(len(row) + 1 for row in rows)
    assert planned.grading["rows"] == len(rows)
    assert planned.stages["grading rows"] == planned.grading["seconds"] > 0
    tuner.run()
    assert Counter(server.graded) == Counter(rows), "each row is asked for once"
    local = build_cache("top_k", AutoModelForCausalLM.from_pretrained(shop.model), tuner.data.train, tmp_path / "local")
    theirs, counts = cache_in(tmp_path), [sum(label != -100 for label in row["labels"][1:]) for row in tuner.data.train]
    assert theirs.key.kind == "top_k"
    (values, ids), (ours, same) = (cache.read(range(len(rows)), counts) for cache in (theirs, local))
    assert ids is not None
    assert same is not None
    assert torch.equal(ids, same)
    torch.testing.assert_close(values, ours, rtol=1e-4, atol=1e-5)
    steps = recorded(tuner).of(TrainingStep)
    assert steps
    assert {"ce", "approximate_kl"} <= steps[-1].parts.keys()
    assert steps[-1].parts["approximate_kl"] < steps[0].parts["approximate_kl"]


def test_what_is_approximate_is_called_so_wherever_it_is_shown(
    shop: Workshop, server: GradingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SERVERS", "a key of theirs")
    tuner = tuner_of(shop, tmp_path, server, {"top_k": 5, "key": "OUR_SERVERS"})
    console = Console(file=io.StringIO(), width=200, theme=THEME)
    console.print(review(tuner.recipe, tuner.plan()))
    words = "its 5 likeliest tokens, the rest as one, which is approximate"
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"returns {words}" in shown
    assert "24 rows first" in shown
    assert f"the key in OUR_SERVERS is sent to {host_of(server.address)}" in shown
    assert "at temperature 2" in shown
    tuner.run()
    card, page = tuner.folder.card.read_text(), (tuner.folder.run / "report.html").read_text()
    assert f"The teacher, {MODEL} on a server, told of each token {words}" in card
    assert f"A student model distilled from {MODEL} on a server" in card
    assert server.address not in card
    assert words in page
    stages = [json.loads(line) for line in tuner.folder.events.read_text().splitlines()]
    assert any("which is approximate" in event.get("summary", "") for event in stages if event.get("stage") == "teacher cache")


def test_what_is_graded_is_not_asked_for_again_even_if_the_server_is_gone(shop: Workshop, tmp_path: Path) -> None:
    with GradingServer(shop.model) as server:
        first = tuner_of(shop, tmp_path, server)
        first.run()
    again = tuner_of(shop, tmp_path, server)
    planned = again.plan()
    assert planned.grading is not None
    assert planned.grading["tokens"] == planned.grading["bytes"] == 0
    assert "grading rows" not in planned.stages
    again.run()
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    with pytest.raises(ModelError, match="cannot be reached"):
        tuner_of(shop, tmp_path, server, {"top_k": 4}).check()


def test_a_budget_that_is_used_up_keeps_what_was_graded_and_resume_goes_on(
    shop: Workshop, server: GradingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_cache, "SHARD_TOKENS", 60)
    whole = tuner_of(shop, tmp_path / "a", server)
    whole.run()
    asked = len(server.asked)
    tuner = tuner_of(shop, tmp_path / "b", server, {"budget_tokens": 250})
    (warning,) = [said for said in tuner.plan().warnings if "budget_tokens" in said]
    assert "the run will stop partway" in warning
    with pytest.raises(BudgetUsedUp) as refused:
        tuner.run()
    assert "of 24 rows are graded and kept." in refused.value.message
    assert refused.value.hint == f"`finetune-cli resume {tuner.folder.output_dir}` may take as many again."
    for _ in range(6):
        left = LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=tuner.context.runtime)
        with suppress(BudgetUsedUp):
            left.run()
            break
    rows = [tuple(asked["prompt"]) for asked in server.asked[asked:] if isinstance(asked.get("prompt"), list)]
    wanted = Counter(tuple(row["input_ids"]) for row in left.data.train)
    assert {row: count for row, count in Counter(rows).items() if row in wanted} == wanted, "no row is paid for twice"
    assert all(torch.equal(value, weights(left)[name]) for name, value in weights(whole).items())
    with pytest.raises(RecipeError, match="A budget of 9 tokens is too small: one batch of requests may take"):
        tuner_of(shop, tmp_path / "c", server, {"budget_tokens": 9}).run()


@pytest.mark.long
def test_two_processes_learn_from_what_one_of_them_was_told(forks: Forks, shop: Workshop, server: GradingServer, tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch_size": 22, "learning_rate": 3e-4}  # of a last step of one row one process has none
    rows = {"source": str(shop.rows), "samples": 31, "max_length": 64, "held_out": 0.25}
    layers, asked = [layer_of(shop, server, training=settings, dataset=rows) for _ in range(2)], []
    for processes, layer in enumerate(layers, 1):
        done = job(shop, layer, processes=processes, scored=True) | {"cache": str(tmp_path / str(processes))}
        assert forks.run(done) == 0, log(shop)
        asked.append(Counter(json.dumps(each, sort_keys=True) for each in server.asked))
    assert asked[1] == asked[0] + asked[0], "the server is asked once, however many train"
    found = compare(*layers)
    assert found.steps == 4
    assert max(found.loss, found.weight) <= TOLERANCE
    assert found.score is not None
    assert found.score <= TOLERANCE


def test_tokens_of_a_padded_head_count_as_rest() -> None:
    told = {7: Told(-0.5, "b"), 40: Told(-1.5, None), 3: Told(-2.0, "a")}
    made = tokenizer(chat=True)
    assert len(made) < 40
    server: Any = None
    found = Grader(server, made, likeliest=3, vocabulary=len(made), budget=None)._likeliest(told)
    assert found == {7: -0.5, 3: -2.0, 0: -50.0}
    assert Grader(server, made, likeliest=2, vocabulary=41, budget=None)._likeliest(told) == {7: -0.5, 40: -1.5}


def test_a_server_can_write_answers_and_then_grade_them(shop: Workshop, server: GradingServer, tmp_path: Path) -> None:
    tuner = tuner_of(shop, tmp_path, server)
    rows = {**tuner.recipe.dataset.model_dump(exclude_unset=True), "answers": "teacher"}
    tuner = tuner_of(shop, tmp_path, server, dataset=rows)
    planned = tuner.plan()
    assert planned.making is not None
    assert planned.grading is not None
    assert planned.grading["tokens"] > 0
    tuner.train()
    assert Counter(server.graded) == Counter(tuple(row["input_ids"]) for row in tuner.data.train)
    assert any("messages" in asked for asked in server.asked)


def test_rows_to_decide_by_are_graded_too(shop: Workshop, server: GradingServer, tmp_path: Path) -> None:
    training = {"epochs": 4, "batch_size": 4, "learning_rate": 0.01, "keep": "best", "evaluate_every": 4}
    tuner = tuner_of(shop, tmp_path, server, training=training)
    tuner.train()
    data = tuner.data
    assert data.deciding is not None
    assert Counter(server.graded) == Counter(tuple(row["input_ids"]) for rows in (data.train, data.deciding) for row in rows)
    measured = recorded(tuner).of(HeldOutLoss)
    assert measured
    assert all("approximate_kl" in event.parts for event in measured)


def test_a_busy_server_is_asked_again(shop: Workshop, server: GradingServer, tmp_path: Path) -> None:
    tuner = tuner_of(shop, tmp_path, server)
    tuner.check()
    server.faults += [503, 429]
    tuner.train()
    assert any("answered 503; trying again in 0 s." in notice.text for notice in recorded(tuner).of(Notice))


def test_a_teacher_that_is_told_more_reads_its_own_rows_and_answers_for_the_students(
    shop: Workshop, server: GradingServer, tmp_path: Path
) -> None:
    tuner = tuner_of(shop, tmp_path, server, {"system": "be brief"})
    tuner.train()
    assert Counter(server.graded) == Counter(tuple(row["teacher_ids"]) for row in tuner.data.train)


def other_tokens(*, shifted: bool) -> PreTrainedTokenizerFast:
    """A tokenizer that reads the same letters under other numbers; or the same but for one control token."""
    made = tokenizer(chat=True)
    pieces = {made.decode([number]): number for number in range(len(made))}
    if shifted:
        letters = list(LETTERS)
        pieces |= {letter: pieces[letters[place - 1]] for place, letter in enumerate(letters)}
    else:
        pieces |= {"<|user|>": pieces["<|system|>"], "<|system|>": pieces["<|user|>"]}
    backend = Tokenizer(models.WordLevel(pieces, unk_token="."))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


@pytest.mark.parametrize(
    ("how", "teacher", "kind", "words", "hint"),
    [
        ({"text": True}, {}, ModelError, "does not return log-probabilities of prompts, so it cannot grade rows.", "vLLM"),
        ({"most": None}, {}, ModelError, "does not return log-probabilities of prompts, so it cannot grade rows.", "dataset.answers"),
        ({"most": 5}, {}, ModelError, "greater than max allowed: 5", "--set teacher.top_k=5"),
        ({"raw": True}, {}, ModelError, "numbers that are not log-probabilities", "--logprobs-mode raw_logprobs"),
        ({"tokenizer": other_tokens(shifted=True)}, {}, VocabularyMismatch, "it splits text differently", "same model family"),
        ({"tokenizer": other_tokens(shifted=False)}, {}, VocabularyMismatch, "is '<|system|>' there and '<|user|>' here", "model family"),
        ({}, {"model": "other"}, ModelError, "has no model 'other'", "--set teacher.model=NAME"),
    ],
)
def test_servers_that_cannot_grade_are_refused_before_the_run(
    shop: Workshop, tmp_path: Path, how: dict[str, Any], teacher: dict[str, Any], kind: type[FinetuneError], words: str, hint: str
) -> None:
    with CompletionsServer() if how.get("text") else GradingServer(shop.model, **how) as server:
        tuner = tuner_of(shop, tmp_path, server, teacher)
        with pytest.raises(kind) as refused:
            tuner.run()
        assert words in refused.value.message
        assert hint in (refused.value.hint or "")
        assert refused.value.exit_code == 2
        tuner.folder.check_free()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"model": {"from_teacher": {"layers": 2}}}, "no weights to make a student from"),
        ({"model": None}, "no weights to make a student from"),
        ({"distillation": {"cache": "hidden"}}, "`distillation.cache: hidden` and a teacher on a server"),
        ({"distillation": {"correct": 0.2}}, "`distillation.correct` and a teacher on a server"),
        ({"distillation": {"features": {"last": 0.1}}}, "`distillation.features.last` and a teacher on a server"),
        ({"distillation": {"across_tokenizers": "projected"}}, "across_tokenizers: projected` and a teacher on a server"),
        ({"distillation": {"on_policy": {"share": 0.5}}, "training": {"epochs": 2}}, "asked before training"),
        ({"training": {"learning_rate": "auto"}}, "learning_rate: auto"),
        ({"approach": "fine-tuning"}, "let it grade yours"),
        ({"approach": "fine-tuning", "dataset": {"answers": "teacher"}, "teacher": {"top_k": 3}}, "`teacher.top_k`"),
        ({"teacher": {"top_k": 0}}, "teacher.top_k"),
        ({"teacher": {"server": None, "model": None, "source": "x", "top_k": 3}}, "has `top_k`, which is for a teacher on a `server`"),
    ],
)
def test_recipes_that_ask_more_of_a_server_than_it_tells(layer: dict[str, Any], words: str) -> None:
    usual = {
        "approach": "distillation",
        "model": "org/student",
        "teacher": {"server": "http://localhost:8000/v1", "model": "m"},
        "dataset": {"source": "rows.csv"},
    }
    Recipe.from_layers(usual)
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers(usual, layer)
    assert words in refused.value.message
    assert refused.value.exit_code == 2


def test_a_plan_is_not_measured(shop: Workshop, server: GradingServer, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="sends nothing to a server"):
        tuner_of(shop, tmp_path, server).plan(measure=True)
    assert not server.asked
