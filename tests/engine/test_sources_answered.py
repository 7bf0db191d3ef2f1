"""A teacher that answers the prompts of a dataset: a server's and a model's, the same again, in the middle again, counted, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from babble import babbling_folder
from completions_server import MODEL, CompletionsServer
from workshop import Workshop, recorded, synthetic

from finetune import LLMFineTuner
from finetune.errors import EmptyDataset, FinetuneError, ModelError, RecipeError, UnknownFormat
from finetune.events import Progress, Recorder, RowsWritten
from finetune.recipe import Recipe
from finetune.runtime import RuntimeOptions
from finetune.screen.plan_table import review
from finetune.sources import answered
from finetune.sources import server as server_module
from finetune.sources.account import BudgetUsedUp
from finetune.wizard.asking.prompter import drawn

WORDS = ("cat", "dog", "bird", "fish", "cow", "hen", "fox", "owl")


@pytest.fixture(scope="module")
def talker(shop: Workshop) -> Path:
    return babbling_folder(shop.folder / "talker")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(answered, "BATCH", 8)


def file_of(place: Path, rows: list[Any]) -> str:
    place.mkdir(parents=True, exist_ok=True)
    path = place / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def layer_of(shop: Workshop, teacher: Any, source: str | None = None, **changes: Any) -> dict[str, Any]:
    data = {"source": source or str(shop.rows), "answers": "teacher", "samples": None, "max_length": 64, "held_out": 0.25}
    training = {"epochs": 1, "batch_size": 6, "learning_rate": 0.01, **changes.pop("training", {})}
    changed = {**data, **changes.pop("dataset", {})}
    return shop.layer(teacher=teacher, dataset=changed, training=training, **changes)


def tuner_of(layer: dict[str, Any], cache: Path) -> LLMFineTuner:
    return LLMFineTuner(layer, reporter=Recorder(), runtime=RuntimeOptions(device="cpu", dtype="float32", cache_dir=cache))


def served(server: CompletionsServer, **more: Any) -> dict[str, Any]:
    return {"server": server.address, "model": MODEL, **more}


def test_the_plan_shows_the_passes_that_its_steps_were_counted_for(shop: Workshop, server: CompletionsServer, tmp_path: Path) -> None:
    tuner = tuner_of(layer_of(shop, served(server), training={"epochs": "auto"}), tmp_path)
    planned = tuner.plan()
    assert tuner.recipe.training.epochs == "auto", "the rows are not there yet"
    assert planned.epochs == 20
    text = drawn(review(tuner.recipe, planned), 80)
    assert f"{planned.steps} steps: 20 x {planned.rows} rows, 6 per step" in " ".join(text.split())


def test_a_server_answers_the_prompts_of_a_file_and_a_model_learns_it(shop: Workshop, server: CompletionsServer, tmp_path: Path) -> None:
    tuner = tuner_of(layer_of(shop, served(server, system="be brief")), tmp_path)
    planned = tuner.plan()
    assert planned.making is not None
    assert (planned.making["rows"], planned.making["by"].partition(" ")[0]) == (32, MODEL)
    assert planned.making["tokens"] > 0
    assert all("messages" not in asked for asked in server.asked), "a plan asks for nothing"
    result = tuner.run()
    rows, own = synthetic(tuner), [json.loads(line) for line in shop.rows.read_text().splitlines()]
    answers = {row["prompt"]: row["completion"] for row in own}
    asked = [chat["messages"] for chat in server.asked if "messages" in chat]
    assert sorted(chat[-1]["content"] for chat in asked) == sorted(answers), "each prompt once"
    assert {json.dumps(chat[0]) for chat in asked} == {json.dumps({"role": "system", "content": "be brief"})}
    (event,) = recorded(tuner).of(RowsWritten)
    assert (event.tried, event.kept) == (32, len(rows))
    assert sum(event.thrown.values()) == 32 - len(rows) > 0
    for row in rows:
        prompt, answer = row["messages"]
        assert prompt["content"] in answers
        assert answer["content"] != answers[prompt["content"]]
        assert row["teacher"] == f"{server.address} {MODEL}"
    report = tuner.data.report
    assert report.train + report.held_out == len(rows)
    assert report.generated == {"by": planned.making["by"], "licence": None, "tried": 32, "kept": len(rows), "thrown": event.thrown} | {
        "answers": True
    }
    assert f"was given 32 prompts, and {len(rows)} became rows. Discarded: " in report.notes[-1]
    assert f"The answers to the data's prompts were written by {MODEL} on a server" in tuner.folder.card.read_text()
    assert result.scores["after"]["perplexity"] < result.scores["before"]["perplexity"]
    asked_before = len(server.asked)
    again = tuner_of(layer_of(shop, served(server, system="be brief")), tmp_path)
    assert again.plan().making is None
    again.train()
    assert synthetic(again) == rows
    assert len(server.asked) == asked_before, "answers in the cache are not asked for again"


def test_a_model_on_this_machine_answers_and_then_teaches(shop: Workshop, talker: Path, tmp_path: Path) -> None:
    student = {"approach": "distillation", "model": {"from_teacher": {"layers": 2}}}
    whole = tuner_of(layer_of(shop, str(talker), **student), tmp_path / "a")
    result = whole.run()
    rows = synthetic(whole)
    assert 8 < len(rows) <= 32
    assert result.scores["teacher"]
    assert result.training["steps"] > 1
    fewer = tuner_of(layer_of(shop, str(talker), dataset={"samples": 8}, **student), tmp_path / "b")
    fewer.write_rows()
    fewer.context.source.keep(fewer.context, fewer.folder)
    assert synthetic(fewer) == rows[:8], "fewer rows begin alike"
    # Without the cache, a finished run still has its rows.
    kept = LLMFineTuner.of_run(whole.folder.output_dir, runtime=RuntimeOptions(device="cpu", dtype="float32", cache_dir=tmp_path / "c"))
    assert not kept.context.source.missing(kept.context)
    assert kept.prepare_data().fingerprint == whole.data.fingerprint


def test_an_interrupted_answering_goes_on_bit_for_bit(shop: Workshop, talker: Path, tmp_path: Path) -> None:
    whole = tuner_of(layer_of(shop, str(talker)), tmp_path / "a")
    whole.run()
    assert whole.teacher is None, "it has answered what it was asked"

    class Interrupts:
        def report(self, event: Any) -> None:
            if isinstance(event, Progress) and event.stage == "rows" and event.done:
                raise KeyboardInterrupt

    tuner = tuner_of(layer_of(shop, str(talker)), tmp_path / "b")
    tuner.reporter.reporters.append(Interrupts())
    with pytest.raises(KeyboardInterrupt):
        tuner.run()
    left = LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=tuner.context.runtime)
    assert left.resume_state is not None
    assert left.resume_state.progress().endswith("of 32 rows written")
    assert not left.resume_state.progress().startswith("0")
    result = left.run()
    assert synthetic(left) == synthetic(whole)
    weights = "adapter_model.safetensors"
    assert (result.output_dir / weights).read_bytes() == (whole.folder.output_dir / weights).read_bytes()


def test_a_budget_that_is_used_up_keeps_the_answers(shop: Workshop, server: CompletionsServer, tmp_path: Path) -> None:
    # A batch may take 8 x 32 tokens and a few for the prompts; it really takes 8 x 40.
    tuner = tuner_of(layer_of(shop, served(server, budget_tokens=700)), tmp_path)
    with pytest.raises(BudgetUsedUp, match=r"The budget of 700 tokens is used up: .* of 32 rows are written and kept\."):
        tuner.run()
    LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=tuner.context.runtime).run()
    assert len(server.asked) >= 32
    assert len({json.dumps(asked["messages"]) for asked in server.asked if "messages" in asked}) == 32
    with pytest.raises(RecipeError, match="A budget of 90 tokens is too small"):
        tuner_of(layer_of(shop, served(server, budget_tokens=90)), tmp_path / "b").write_rows()


CHAT = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SHAPES: dict[str, tuple[Any, list[dict[str, str]]]] = {
    "prompts alone": (lambda word: {"prompt": f"say {word}"}, [{"role": "user", "content": "say cat"}]),
    "prompts among others": (lambda word: {"id": 1, "question": f"say {word}"}, [{"role": "user", "content": "say cat"}]),
    "texts": (lambda word: {"text": f"say {word}"}, [{"role": "user", "content": "say cat"}]),
    "chats of one turn": (
        lambda word: {"messages": [{"role": "user", "content": f"say {word}"}]},
        [{"role": "user", "content": "say cat"}],
    ),
    "what people said": (
        lambda word: {"conversations": [{"from": "human", "value": f"say {word}"}]},
        [{"role": "user", "content": "say cat"}],
    ),
    "chats that end with a person": (
        lambda word: {"messages": [*CHAT, {"role": "user", "content": f"say {word}"}]},
        [*CHAT, {"role": "user", "content": "say cat"}],
    ),
    "chats that end with an answer": (
        lambda word: {"messages": [*CHAT, {"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": "no"}]},
        [*CHAT, {"role": "user", "content": "say cat"}],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_of_every_shape_are_asked_once(shape: str, shop: Workshop, server: CompletionsServer, tmp_path: Path) -> None:
    make, asked = SHAPES[shape]
    rows = [make(word) for word in WORDS]
    tuner = tuner_of(layer_of(shop, served(server), file_of(tmp_path, [*rows, rows[0], make("word " * 40)])), tmp_path / "cache")
    tuner.write_rows()
    chats = [chat["messages"] for chat in server.asked if "messages" in chat]
    assert len(chats) == 8
    assert asked in chats
    report = tuner.prepare_data().report
    assert report.generated["thrown"]["the same prompt again"] == 1
    assert report.generated["thrown"]["a prompt that takes more than half of dataset.max_length"] == 1
    if "chats that" in shape:
        learned = [piece["text"] for piece in report.examples[0] if piece["supervised"]]
        assert not any("ho" in text.split() for text in learned), "what was said before is not learned"
    if shape == "prompts among others":
        assert any("The prompts are in: question; not read: id." in note for note in report.notes)


def empty(shop: Workshop, server: CompletionsServer, place: Path) -> dict[str, Any]:
    server.empty = True
    return layer_of(shop, served(server))


def no_template(shop: Workshop, server: CompletionsServer, place: Path) -> dict[str, Any]:
    folder = babbling_folder(place / "teller")
    (folder / "chat_template.jinja").unlink()
    return layer_of(shop, str(folder))


def itself(shop: Workshop, server: CompletionsServer, place: Path) -> dict[str, Any]:
    return layer_of(shop, str(shop.model))


def nobody(shop: Workshop, server: CompletionsServer, place: Path) -> dict[str, Any]:
    return layer_of(shop, None)


def tokens(shop: Workshop, server: CompletionsServer, place: Path) -> dict[str, Any]:
    rows = [{"input_ids": [7, 8, 9, number], "labels": [-100, 8, 9, number]} for number in range(7, 20)]
    return layer_of(shop, served(server), file_of(place, rows))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (empty, EmptyDataset, "only 0 became rows ("),
        (no_template, ModelError, "teller has no chat template, so it cannot answer prompts."),
        (itself, RecipeError, "learns nothing new from rows that it wrote itself"),
        (nobody, RecipeError, "learns nothing new from rows that it wrote itself"),
        (tokens, UnknownFormat, "tokenised rows, which cannot prompt a teacher"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_answered_is_refused_in_a_sentence_and_leaves_nothing(
    make: Any, kind: type[FinetuneError], words: str, shop: Workshop, server: CompletionsServer, tmp_path: Path
) -> None:
    tuner = tuner_of(make(shop, server, tmp_path), tmp_path / "cache")
    with pytest.raises(kind) as refused:
        tuner.run()
    assert words in refused.value.message
    assert refused.value.exit_code == 2
    assert refused.value.hint
    tuner.folder.check_free()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"dataset": {"source": "generated"}}, "has `answers`, which is for rows that are read"),
        ({"approach": "distillation", "teacher": "self"}, "a model learns nothing new from rows that it wrote itself"),
        ({"approach": "distillation", "teachers": ["a", "b"]}, "which one teacher writes: give `teacher` alone"),
        (
            {"approach": "distillation", "teacher": {"server": "http://localhost:8000/v1", "model": "m"}},
            "gives no weights to make a student from",
        ),
    ],
)
def test_recipes_that_do_not_go_together(layer: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.from_layers({"dataset": {"source": "rows.csv", "answers": "teacher", "samples": 20}}, layer)
