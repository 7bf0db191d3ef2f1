"""Rows that a teacher writes: the same for the same seed, after an interruption too; counted, kept, and refused where it cannot write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from babble import babbling_folder, writing
from letters import llama, tokenizer
from workshop import Workshop, recorded, synthetic

from finetune import LLMFineTuner
from finetune.cli import main
from finetune.errors import EmptyDataset, FinetuneError, ModelError, RecipeError
from finetune.events import Notice, Planned, Progress, Recorder, RowsWritten
from finetune.runtime import RuntimeOptions
from finetune.sources import author
from finetune.sources.written import Written


@pytest.fixture(scope="module")
def talker(shop: Workshop) -> Path:
    return babbling_folder(shop.folder / "talker")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(author, "BATCH", 8)


@pytest.fixture(scope="module")
def whole(shop: Workshop, talker: Path) -> LLMFineTuner:
    """The run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(author, "BATCH", 8)
        tuner = shop.tuner(shop.distilling(**writing(talker)))
        tuner.run()
    return tuner


def elsewhere(shop: Workshop, place: Path, layer: dict[str, Any]) -> LLMFineTuner:
    """A tuner that finds nothing in its cache."""
    return LLMFineTuner(layer, reporter=Recorder(), runtime=RuntimeOptions(device="cpu", dtype="float32", cache_dir=place))


def test_the_rows_become_an_ordinary_dataset_and_everything_is_counted(whole: LLMFineTuner, talker: Path) -> None:
    rows = synthetic(whole)
    assert len(rows) == 24
    assert {row["seed"] for row in rows} == {42}
    assert {row["teacher"] for row in rows} == {str(talker)}
    assert all(row["identity"] and row["prompt"] and row["completion"] for row in rows)
    recorder = recorded(whole)
    (event,) = recorder.of(RowsWritten)
    assert event.kept >= 24
    assert event.tried % 8 == 0
    assert sum(event.thrown.values()) == event.tried - event.kept
    report = json.loads(whole.folder.data_report.read_text())
    assert report["train"] + report["held_out"] + report["held_out_dropped"] == 24
    assert report["generated"] == {"by": "talker", "licence": None, "tried": event.tried, "kept": 24, "thrown": event.thrown}
    said = f"talker wrote {event.tried} prompts, and 24 became rows. Discarded: "
    assert any(note.startswith(said) for note in report["notes"])
    assert any(notice.text.startswith(said) for notice in recorder.of(Notice))
    assert said in (whole.folder.run / "report.html").read_text()
    assert "The rows were written by a local model: 24 of" in whole.folder.card.read_text()
    ticks = [tick for tick in recorder.of(Progress) if tick.stage == "rows"]
    assert [ticks[0].done, ticks[-1].done, ticks[-1].total] == [0, 24, 24]
    assert json.loads((whole.folder.run / "environment.json").read_text())["dataset_fingerprint"]


def test_a_seed_gives_the_same_rows_and_more_of_them_begin_alike(shop: Workshop, talker: Path, whole: LLMFineTuner, tmp_path: Path) -> None:
    def texts(cache: Path, samples: int, seed: int) -> list[tuple[str, str]]:
        tuner = elsewhere(shop, cache, shop.distilling(**writing(talker, samples=samples), seed=seed))
        tuner.write_rows()
        tuner.context.source.keep(tuner.context, tuner.folder)
        return [(row["prompt"], row["completion"]) for row in synthetic(tuner)]

    first = [(row["prompt"], row["completion"]) for row in synthetic(whole)]
    assert texts(tmp_path / "a", 40, 42)[:24] == first
    assert texts(tmp_path / "b", 24, 7) != first


class Interrupts:
    """Ctrl-C after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def report(self, event: Any) -> None:
        if isinstance(event, Progress) and event.stage == "rows":
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1


@pytest.mark.parametrize("torn", [False, True], ids=["", "killed while it wrote"])
def test_an_interrupted_writing_goes_on_bit_for_bit(
    torn: bool, shop: Workshop, talker: Path, whole: LLMFineTuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner = elsewhere(shop, tmp_path / "cache", shop.distilling(**writing(talker)))
    tuner.reporter.reporters.append(Interrupts(2))
    with pytest.raises(KeyboardInterrupt):
        tuner.run()
    (file,) = (tmp_path / "cache" / "generated").glob("*.jsonl")
    begun = file.read_bytes()
    assert begun.count(b"\n") == 2
    if torn:
        file.write_bytes(begun + b'{"tried": 8, "asked": ["cut o')
    left = LLMFineTuner.unfinished(tuner.folder.output_dir, runtime=tuner.context.runtime)
    assert left.resume_state is not None
    assert left.resume_state.progress() == f"{len(Written.read(file).rows)} of 24 rows written"
    result = left.run()
    assert file.read_bytes().startswith(begun)
    assert synthetic(left) == synthetic(whole)
    weights = "model.safetensors"
    assert (result.output_dir / weights).read_bytes() == (whole.folder.output_dir / weights).read_bytes()


def test_rows_that_are_in_the_cache_are_not_written_again(shop: Workshop, talker: Path, whole: LLMFineTuner) -> None:
    again = shop.tuner(shop.distilling(**writing(talker)))
    found = again.plan()
    assert found.making is None
    again.prepare_data()
    assert again.data.fingerprint == whole.data.fingerprint
    assert not again.folder.run.exists()
    again.train()
    assert synthetic(again) == synthetic(whole)
    recorder = recorded(again)
    assert not recorder.of(RowsWritten)


def test_rows_with_line_separators_of_unicode_are_read_again(whole: LLMFineTuner, tmp_path: Path) -> None:
    """JSON leaves them as they are, and they end no line of a file."""
    text = "one\u2028two\u2029three\x85four\x1cfive"
    moved = Path(shutil.copytree(whole.folder.output_dir, tmp_path / "moved"))
    first, *others = (moved / "run" / "synthetic.jsonl").read_text(encoding="utf-8").split("\n")
    changed = json.dumps(json.loads(first) | {"completion": text}, ensure_ascii=False)
    (moved / "run" / "synthetic.jsonl").write_text("\n".join([changed, *others]), encoding="utf-8")
    tuner = LLMFineTuner.of_run(moved, runtime=RuntimeOptions(device="cpu", dtype="float32", cache_dir=tmp_path / "cache"))
    assert not tuner.context.source.missing(tuner.context)
    assert tuner.context.source._kept(tuner.context)[0]["completion"] == text


def test_without_the_cache_a_finished_run_still_has_its_rows(whole: LLMFineTuner, tmp_path: Path) -> None:
    tuner = LLMFineTuner.of_run(whole.folder.output_dir, runtime=RuntimeOptions(device="cpu", dtype="float32", cache_dir=tmp_path))
    assert not tuner.context.source.missing(tuner.context)
    assert tuner.prepare_data().fingerprint == whole.data.fingerprint
    assert tuner.data.report.generated == whole.data.report.generated


def test_a_plan_writes_nothing_and_says_what_will_be_written(shop: Workshop, talker: Path, tmp_path: Path) -> None:
    tuner = elsewhere(shop, tmp_path / "cache", shop.distilling(**writing(talker, samples=40)))
    found = tuner.plan()
    assert found.making is not None
    assert (found.making["rows"], found.making["by"]) == (40, "talker")
    assert found.seconds > found.making["seconds"] > 0
    assert found.stages["writing rows"] == found.making["seconds"]
    assert (found.rows, found.held_out_rows) == (30, 10)
    assert not list(tmp_path.rglob("generated"))
    assert not tuner.folder.output_dir.exists()
    with pytest.raises(RecipeError, match="Nothing can be measured before the rows are written"):
        tuner.plan(measure=True)
    tuner.run()
    recorder = recorded(tuner)
    (planned,) = recorder.of(Planned)
    assert planned.plan["making"] is None
    assert planned.plan["tokens"] == tuner.data.report.train_tokens, "of the rows that were written"


def test_fine_tuning_on_what_another_model_writes(shop: Workshop, talker: Path) -> None:
    tuner = shop.tuner(shop.layer(**writing(talker), training={"epochs": 1, "batch_size": 6}))
    result = tuner.run()
    assert result.training["steps"] == 3
    assert tuner.teacher is None
    assert len(synthetic(tuner)) == 24


def test_topic_and_examples_are_shown_to_the_teacher(shop: Workshop, talker: Path, tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    rows = [{"prompt": f"say {word}", "completion": f"{word} it is"} for word in ("cat", "dog", "hen")]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuner = shop.tuner(shop.distilling(**writing(talker, topic="birds", examples=str(examples), samples=12)))
    tuner.write_rows()
    told = author.ModelAuthor(tuner.load_teacher_model(), tuner.tokenizer, tuner.recipe.dataset, _turns(rows), 42).asking
    opening = told.opening(0)
    assert "about this: birds" in opening
    assert opening.startswith("<|system|>")
    assert opening.endswith("<|end|><|user|>")
    assert all(f"<|user|>{row['prompt']}<|end|><|assistant|>{row['completion']}<|end|>" in opening for row in rows)
    assert told.opening(0) == opening
    assert len({told.opening(batch) for batch in range(9)}) > 1, "in another order"
    assert told.question(0, "say owl") == f"{opening}say owl<|end|><|assistant|>"


def _turns(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}] for row in rows]


def no_template(folder: Path) -> dict[str, Any]:
    llama(layers=3).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return writing(folder)


def hides_the_prompt(folder: Path) -> dict[str, Any]:
    llama(layers=3).save_pretrained(folder)
    made = tokenizer(chat=True)
    made.chat_template = "{% for turn in messages %}{% if turn.role == 'assistant' %}{{ turn.content }}{% endif %}<|end|>{% endfor %}"
    made.save_pretrained(folder)
    return writing(folder)


def never_ends(folder: Path) -> dict[str, Any]:
    return writing(babbling_folder(folder, end=0.0))


def no_examples(folder: Path) -> dict[str, Any]:
    return writing(babbling_folder(folder), examples="no_such_file.jsonl")


def examples_without_answers(folder: Path) -> dict[str, Any]:
    rows = folder.parent / "texts.txt"
    rows.write_text("one line\n\nanother line\n")
    return writing(babbling_folder(folder), examples=str(rows))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (no_template, ModelError, "teller has no chat template, so it cannot write what a person might ask."),
        (hides_the_prompt, ModelError, "does not show where a person's words begin and end"),
        (never_ends, EmptyDataset, "Of 64 prompts that teller wrote only 0 became rows (64 x a prompt that does not end)."),
        (no_examples, FinetuneError, "There is no file no_such_file.jsonl"),
        (examples_without_answers, FinetuneError, "the teacher needs at least 3"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_teacher_that_cannot_write_is_refused_in_a_sentence_and_leaves_nothing(
    make: Any, kind: type[FinetuneError], words: str, shop: Workshop, tmp_path: Path
) -> None:
    tuner = shop.tuner(shop.distilling(**make(tmp_path / "teller")))
    with pytest.raises(kind) as refused:
        tuner.run()
    assert words in refused.value.message
    assert refused.value.exit_code == 2
    assert refused.value.hint
    assert "\n" not in refused.value.message
    tuner.folder.check_free()


def test_a_model_is_not_asked_to_learn_from_its_own_words(shop: Workshop, talker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for teacher in ({}, {"teacher": str(talker)}):
        layer = {**shop.layer(model=str(talker)), "dataset": writing(talker)["dataset"], **teacher}
        with pytest.raises(RecipeError, match="learns nothing new from rows that it wrote itself"):
            shop.tuner(layer).check()
    assert main(["plan", "/dev/null", "--set", f"model={talker}", "--set", "dataset.source=generated"]) == 2
    assert "learns nothing new from rows that it wrote itself" in capfd.readouterr().err.replace("\n", " ")
