"""A teacher on a server: rows the same again, tries again, a budget, a key that is nowhere else, and refusals in a sentence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from completions_server import MODEL, CompletionsServer
from workshop import Workshop, recorded, synthetic

from finetune import LLMFineTuner
from finetune.errors import EmptyDataset, FinetuneError, ModelError, ModelNotFound, RecipeError
from finetune.events import Notice, Recorder, RowsWritten
from finetune.recipe import Recipe
from finetune.recipe.teacher_settings import TeacherSpec
from finetune.runtime import RuntimeOptions
from finetune.sources import server as server_module
from finetune.sources.account import BudgetUsedUp
from finetune.sources.server import Server

KEY = "not-to-be-seen-anywhere-0123456789"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WAITS", (0.01, 0.01))


def tuner_of(shop: Workshop, cache: Path, server: CompletionsServer, teacher: dict[str, Any] | None = None, **dataset: Any) -> LLMFineTuner:
    told = {"server": server.address, "model": MODEL, **(teacher or {})}
    rows = {"source": "generated", "samples": 20, "max_length": 64, "held_out": 0.25, **dataset}
    layer = shop.layer(teacher=told, dataset=rows, training={"epochs": 1, "batch_size": 6, "learning_rate": 0.01})
    return LLMFineTuner(layer, reporter=Recorder(), runtime=RuntimeOptions(device="cpu", dtype="float32", cache_dir=cache))


def test_a_model_learns_what_a_server_writes(shop: Workshop, server: CompletionsServer, tmp_path: Path) -> None:
    tuner = tuner_of(shop, tmp_path, server, topic="birds")
    planned = tuner.plan()
    assert planned.making is not None
    assert planned.making["tokens"] > 0
    assert planned.making["budget"] is None
    assert not server.asked or all("messages" not in asked for asked in server.asked), "a plan asks for nothing"
    result = tuner.run()
    assert result.training["steps"] == 3
    rows = synthetic(tuner)
    assert len(rows) == 20
    assert {row["teacher"] for row in rows} == {f"{server.address} {MODEL}"}
    assert all("birds" in asked["messages"][0]["content"] for asked in server.asked)
    (event,) = recorded(tuner).of(RowsWritten)
    assert event.thrown
    assert f"The rows were written by {MODEL} on a server" in tuner.folder.card.read_text()
    asked = len(server.asked)
    again = tuner_of(shop, tmp_path, server, topic="birds")
    again.train()
    assert synthetic(again) == rows
    assert len(server.asked) == asked, "rows in the cache are not asked for again"


def test_a_busy_server_is_asked_again(shop: Workshop, server: CompletionsServer, tmp_path: Path) -> None:
    tuner = tuner_of(shop, tmp_path / "a", server)
    tuner.check()
    server.faults += [503, 429]
    tuner.write_rows()
    notices = [notice.text for notice in recorded(tuner).of(Notice)]
    assert any("answered 503; trying again in 0 s." in text for text in notices)
    calm = tuner_of(shop, tmp_path / "b", server)
    calm.write_rows()
    assert tuner.prepare_data().fingerprint == calm.prepare_data().fingerprint


def test_a_budget_that_is_used_up_keeps_the_rows_and_resume_goes_on(shop: Workshop, server: CompletionsServer, tmp_path: Path) -> None:
    whole = tuner_of(shop, tmp_path / "a", server, samples=40)
    whole.run()
    # A batch may take 16 x (2 x 128 + 512) tokens and a few for the messages; it really takes about 30 x 40.
    tuner = tuner_of(shop, tmp_path / "b", server, {"budget_tokens": 14_500}, samples=40)
    with pytest.raises(BudgetUsedUp) as refused:
        tuner.run()
    assert "The budget of 14,500 tokens is used up" in refused.value.message
    assert "of 40 rows are written and kept." in refused.value.message
    assert refused.value.hint == f"`finetune-cli resume {tuner.folder.output_dir}` may take as many again."
    for _ in range(5):
        left = LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=tuner.context.runtime)
        assert left.resume_state is not None
        assert "of 40 rows written" in left.resume_state.progress()
        with suppress(BudgetUsedUp):
            left.run()
            break
    assert synthetic(left) == synthetic(whole)
    with pytest.raises(RecipeError, match="A budget of 900 tokens is too small: one batch of requests may take"):
        tuner_of(shop, tmp_path / "c", server, {"budget_tokens": 900}).write_rows()


def test_the_key_is_in_no_file_and_no_event(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SERVERS", KEY)
    with CompletionsServer(key=KEY) as server:
        tuner = tuner_of(shop, tmp_path, server, {"key": "OUR_SERVERS"})
        tuner.run()
        for folder in (tuner.folder.output_dir, tmp_path):
            assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        assert KEY not in str(recorded(tuner).events)
        with pytest.raises(ModelError, match=r"refuses requests without a key \(401\)"):
            tuner_of(shop, tmp_path / "b", server).check()
        monkeypatch.setenv("OUR_SERVERS", "another")
        with pytest.raises(ModelError, match=r"refuses the key in OUR_SERVERS \(401\)"):
            tuner_of(shop, tmp_path / "b", server, {"key": "OUR_SERVERS"}).check()
        monkeypatch.delenv("OUR_SERVERS")
        with pytest.raises(RecipeError, match="The environment variable OUR_SERVERS, which should have the server's key, is not set"):
            tuner_of(shop, tmp_path / "b", server, {"key": "OUR_SERVERS"}).check()


def test_what_cannot_work_is_refused_in_a_sentence_and_leaves_nothing(shop: Workshop, tmp_path: Path) -> None:
    with CompletionsServer(empty=True) as server:
        cases: list[tuple[dict[str, Any], type[FinetuneError], str]] = [
            ({"model": "other"}, ModelNotFound, f"The server {server.address} has no model 'other': "),
            ({"server": "http://127.0.0.1:9/v1"}, ModelError, "The server http://127.0.0.1:9/v1 cannot be reached"),
            ({}, EmptyDataset, "x a prompt that says nothing"),
        ]
        for number, (teacher, kind, words) in enumerate(cases):
            tuner = tuner_of(shop, tmp_path / str(number), server, teacher)
            with pytest.raises(kind) as refused:
                tuner.run()
            assert words in refused.value.message
            assert refused.value.hint
            assert refused.value.exit_code == 2
            tuner.folder.check_free()


def test_an_answer_that_is_none_or_never_ends_is_a_sentence(server: CompletionsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Server(TeacherSpec(server=server.address, model=MODEL), Recorder())
    given: dict[str, Any] = {"choices": [{"message": {"content": "half a letter: \ud83d"}}], "usage": {"total_tokens": -5}}
    monkeypatch.setattr(server, "answer", lambda _: given)
    (written,) = asked.completions([[{"role": "user", "content": "Hi"}]], most=8, seeds=[1])
    assert (written.text, written.tokens > 0) == ("half a letter: ?", True)
    for odd in ({"total_tokens": float("inf")}, {"total_tokens": "many"}):
        given["usage"] = odd
        with pytest.raises(ModelError, match="not as an OpenAI-compatible server does"):
            asked.completions([[{"role": "user", "content": "Hi"}]], most=8, seeds=[1])
    given["choices"] = [{"prompt_logprobs": [None, {"-1": {"logprob": 0.0}}]}]
    with pytest.raises(ModelError, match="not as an OpenAI-compatible server does"):
        asked.grades([[5, 6]], 1)
    with pytest.raises(ModelError, match="not as an OpenAI-compatible server does"):
        asked._content(200, b"[" * 100_000)
    for limit, words in (("LONGEST_ANSWER", "answers with more than"), ("LONGEST_SECONDS", "its answer does not end within")):
        with monkeypatch.context() as patched:
            patched.setattr(server_module, limit, -1)
            with pytest.raises(ModelError, match=words):
                asked.check()
    server.headers["Content-Encoding"] = "gzip"
    with pytest.raises(ModelError, match="cannot be reached: Error -3 while decompressing"):
        asked.check()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"approach": "distillation"}, "a teacher on a server, which gives no weights to make a student from"),
        ({"dataset": {"source": "rows.csv"}}, "a teacher on a server, which writes rows"),
        ({"teacher": {"model": None}}, "needs a `model`"),
        ({"teacher": {"server": "localhost:8000"}}, "not an address such as http://localhost:8000/v1"),
        ({"teacher": {"server": "http://me:secret@host/v1"}}, "without a password in it"),
        ({"teacher": {"key": KEY}}, "not the name of an environment variable"),
        ({"teacher": {"load_in": "4bit"}}, "loads its model itself"),
    ],
)
def test_recipes_that_name_a_server_wrongly(layer: dict[str, Any], words: str) -> None:
    usual = {"teacher": {"server": "http://localhost:8000/v1", "model": "m"}, "dataset": {"source": "generated", "samples": 20}}
    with pytest.raises(RecipeError) as refused:
        Recipe.from_layers(usual, layer)
    assert words in refused.value.message
    assert KEY not in f"{refused.value.message}{refused.value.hint}"
    assert "secret" not in f"{refused.value.message}{refused.value.hint}"
