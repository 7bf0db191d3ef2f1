"""What a person is told about the data before training: on the screen, in the run's folder, and in the wizard's review."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bytes_tokenizer import CHATML, THINKING, byte_level
from chat_templates import FAMILIES
from letters import llama

from finetune.cli import main
from finetune.data.prepare import prepare_data
from finetune.data.report import DataReport
from finetune.data.rows import TAKES_TOOLS
from finetune.errors import BadRow
from finetune.hardware.machine import Glance
from finetune.hub.catalogue import find
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.screen.command_output import _without_rows
from finetune.screen.data import data_report
from finetune.wizard import conversation
from finetune.wizard.asking.prompter import ScriptedPrompter, drawn
from finetune.wizard.host import HostInfo


def report_of(tmp_path: Path, rows: list[dict[str, Any]], template: str = CHATML, **spec: Any) -> DataReport:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = DatasetSpec(**{"source": str(file), "samples": None, **spec})
    return prepare_data(given, byte_level(template), seed=1, runtime=RuntimeOptions(cache_dir=tmp_path / "cache")).report


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"What is {number}?", "answer": f"It is {number}.", **more} for number in range(count)]


def chats(count: int) -> list[list[dict[str, Any]]]:
    return [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}] for n in range(count)]


def test_a_column_that_is_not_learned_from_is_named_with_its_share(tmp_path: Path) -> None:
    data = rows(300, id="7")
    data[250]["notes"] = "because " * 5000  # far behind the rows that decide the format
    report = report_of(tmp_path, data)
    assert report.ignored_columns == ["id", "notes"]
    letters = sum(len(row["question"]) + len(row["answer"]) for row in data)
    everything = 40_000 + letters + len(data)
    assert report.ignored_text == {
        "notes": pytest.approx(40_000 / everything, abs=1e-4),
        "id": pytest.approx(len(data) / everything, abs=1e-4),
    }
    shares = f"`notes` ({100 * 40_000 / everything:.0f} % of the text) and `id` (under 1 % of the text)"
    assert report.notes == [f"Columns {shares} are ignored."]
    assert "Ignored  notes" in drawn(data_report(report.to_dict()), 80)


def test_text_inside_messages_that_is_not_learned_from_is_named_too(tmp_path: Path) -> None:
    told = {"role": "assistant", "content": "an answer", "model": "a name"}
    data = [{"messages": [{"role": "user", "content": f"q{n}"}, told, {"role": "user", "content": "thank you"}]} for n in range(30)]
    report = report_of(tmp_path, data)
    assert set(report.ignored_text) == {"messages.model", "messages after the last answer"}
    assert "`messages.model`" in report.notes[0]


def test_the_system_prompt_of_all_rows_is_kept_and_is_not_in_what_programs_print(tmp_path: Path) -> None:
    def told(*systems: str) -> list[dict[str, Any]]:
        return [{"messages": [{"role": "system", "content": systems[n % len(systems)]}, *turns]} for n, turns in enumerate(chats(30))]

    assert report_of(tmp_path, told("be short")).system_prompt == "be short"
    assert report_of(tmp_path, [{"messages": turns} for turns in chats(30)]).system_prompt == ""
    assert report_of(tmp_path, told("be short", "be long")).system_prompt is None
    assert report_of(tmp_path, [*told("be short"), {"messages": chats(40)[39]}]).system_prompt is None
    assert "be short" not in json.dumps(_without_rows({"data": report_of(tmp_path, told("be short")).to_dict()}))


def test_the_words_that_all_questions_begin_with_are_kept(tmp_path: Path) -> None:
    def asking(*openings: str) -> list[dict[str, Any]]:
        return [{"prompt": f"{openings[n % len(openings)]}{n} cats", "completion": f"a{n}"} for n in range(30)]

    assert report_of(tmp_path, asking("Translate into French: ")).opening == "Translate into French:"
    assert report_of(tmp_path, asking("Translate into French:\n\n1")).opening == "Translate into French:"
    assert report_of(tmp_path, asking("Translate into French: ", "Translate into Dutch: ")).opening == ""
    assert report_of(tmp_path, asking("次の文を英語に訳してください：私は")).opening == "次の文を英語に訳してください："
    assert report_of(tmp_path, asking("注文番号")).opening == ""
    assert report_of(tmp_path, [{"text": f"Once upon a time there were {n}"} for n in range(30)]).opening == ""


def test_one_answer_for_all_rows_is_said(tmp_path: Path) -> None:
    def labelled(*labels: str) -> DataReport:
        return report_of(tmp_path, [{"text": f"text {n}", "label": labels[n % len(labels)]} for n in range(30)])

    said = "All rows to train on have the same answer, so that is all the model learns to say, whatever it is asked."
    assert said in labelled("news").notes
    for report in (labelled("news", "sport"), report_of(tmp_path, [{"text": f"text {n}"} for n in range(30)])):
        assert not any("same answer" in note for note in report.notes)


def test_a_row_that_is_cut_is_shown_as_it_is_learned(tmp_path: Path) -> None:
    data = [{"prompt": f"q{n}", "completion": "one two three four five six seven eight nine ten"} for n in range(30)]
    report = report_of(tmp_path, data, max_length=24)
    assert report.truncated_answers == report.train
    answer = report.examples[0][1]
    assert answer["supervised"]
    assert data[0]["completion"].startswith(answer["text"])
    assert len(answer["text"]) < len(data[0]["completion"])
    whole = report_of(tmp_path, data, max_length=report.longest)
    assert whole.truncated == 0
    assert whole.length["max"] == report.longest
    assert whole.examples[0][1]["text"] == f"{data[0]['completion']}<|im_end|>"


def test_other_answers_and_rejected_ones_are_named(tmp_path: Path) -> None:
    squad = [{"question": f"q{n}", "answers": {"text": ["one", "one", "another"], "answer_start": [1, 1, 2]}} for n in range(30)]
    assert set(report_of(tmp_path, squad).ignored_text) == {"answers after the first"}
    pairs = [{"prompt": f"q{n}", "chosen": "good", "rejected": "bad"} for n in range(30)]
    report = report_of(tmp_path, pairs)
    assert report.notes[0] == "Only the chosen answer of each pair (column chosen) is used for training."
    assert set(report.ignored_text) == {"rejected"}


def test_what_the_chat_template_leaves_out_is_counted(tmp_path: Path) -> None:
    thought = {"role": "assistant", "content": "<think>hm</think>first"}
    last = {"role": "assistant", "content": "second"}
    data = [{"messages": [{"role": "user", "content": f"{n}"}, thought, {"role": "user", "content": "b"}, last]} for n in range(30)]
    report = report_of(tmp_path, data, THINKING)
    assert report.rewritten == 30
    assert report.notes == ["The model's chat template leaves out or changes some text in 30 rows, such as earlier reasoning."]
    assert report_of(tmp_path, rows(30), THINKING).rewritten == 0
    kept = [{"prompt": f"q{n}", "completion": f"<think>hm {n}</think>{n}"} for n in range(30)]  # only blanks are added around the thought
    assert report_of(tmp_path, kept, FAMILIES["qwen3"].tokenizer.chat_template).rewritten == 0


def test_rows_that_no_template_takes_are_not_offered_to_be_skipped(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {}}}]}
    data = [{"messages": [{"role": "user", "content": f"{n}"}, call]} for n in range(30)]
    with pytest.raises(BadRow, match="30 of 30 rows cannot be used") as refused:
        report_of(tmp_path, data)
    assert refused.value.hint == f"Use a model whose chat template takes such rows, for example --set model={TAKES_TOOLS}"
    assert find(TAKES_TOOLS), "the wizard offers it"


def test_every_number_of_the_report_is_on_the_screen(tmp_path: Path) -> None:
    data = [*rows(200), *rows(10), {"question": "long", "answer": "so " * 300}, {"question": "q", "answer": None}]
    report = report_of(tmp_path, data, max_length=100, held_out=0.3)
    shown = drawn(data_report(report.to_dict()), 80)
    for words in (
        f"{report.read} read: {report.train} to train on, {report.held_out} held out",
        "rows.jsonl line 212: column answer is missing",
        f"{report.duplicates} duplicates are kept, {report.held_out_dropped} held-out rows also occur",
        f"longest {report.length['max']:.0f}",
        f"{100 * report.supervised_share:.0f} % of",
        "question and answer: question, answer",
    ):
        assert words in " ".join(shown.split()), (words, shown)
    assert report.duplicates > 0
    assert report.held_out_dropped > 0
    marked = [line.strip() for line in shown.splitlines() if "▌" in line]
    assert len(marked) == len(report.examples) == 3
    assert all(line.startswith("▌ It is ") and line.endswith(".<|im_end|>") for line in marked)
    assert data_report(report.to_dict(), in_words=True) is not None
    assert drawn(data_report(report.to_dict(), in_words=True), 80).isascii()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = byte_level(CHATML)
    llama(layers=2, vocabulary=len(made)).save_pretrained("model")
    made.save_pretrained("model")
    good = "".join(json.dumps(row) + "\n" for row in rows(40))
    Path("rows.jsonl").write_text(good + '{"question": "no answer"}\n' * 4, encoding="utf-8")
    return tmp_path


def recipe(**dataset: Any) -> list[str]:
    layer = {"model": "./model", "dataset": {"source": "rows.jsonl", "samples": None, **dataset}, "output_dir": "made"}
    training = {"training": {"epochs": 1, "batch_size": 8}, "benchmark": {"rows": 2, "max_new_tokens": 4}}
    Path("recipe.yaml").write_text(json.dumps({**layer, **training}))
    return ["recipe.yaml", "--device", "cpu"]


def test_a_run_tells_it_before_training_and_keeps_it(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *recipe(bad_rows=0.1), "--json"]) == 0
    err = capfd.readouterr().err
    assert err.index("44 read: 36 to train on, 4 held out") < err.index("Training ...")
    assert "rows.jsonl line 41: column answer is missing" in err
    kept = json.loads((place / "made" / "run" / "data_report.json").read_text())
    assert (kept["read"], kept["skipped"], kept["train"]) == (44, 4, 36)
    assert [row["line"] for row in kept["skipped_rows"]] == [41, 42, 43, 44]
    assert [[piece["supervised"] for piece in example] for example in kept["examples"]] == [[False, True]] * 3
    assert main(["plan", *recipe(bad_rows=0.1), "--json"]) == 1
    problems = json.loads(capfd.readouterr().out)["problems"]
    taken = "The output folder made is not empty; nothing is overwritten. Choose another one, for example --output-dir made-2"
    assert problems == [taken], "as a run says it"


PLANNED: dict[str, tuple[list[dict[str, Any]], str]] = {  # rows, and what the plan says about them
    "undesired answers": (rows(30, label=1) + rows(10, label=0), "10 rows are left out: column label marks the answer as undesired."),
    "columns that are ignored": (rows(40, label=7, note="x"), "of the text)"),
    "more rows than asked for": (rows(40), "10 not used: 30 were asked for"),
    "turns that are not learned": (
        [
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no", "train": False}, *turns]}
            for turns in chats(40)
        ],
        "40 rows had an answer that is marked as not to be learned",
    ),
    "preferences": ([{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": "no"} for n in range(40)], "Only the chosen answer of each pair"),
    "tokens": ([{"input_ids": [70, 71 + n], "labels": [-100, 71 + n]} for n in range(40)], "Rows are tokenised already"),
}
STOPPED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "pictures": (rows(40, image="a.jpg"), "column image has images, audio or video; only text can be trained on"),
    "undesired answers only": (
        rows(40, label=False),
        "no row is to be learned (40 rows because column label marks the answer as undesired)",
    ),
    "tokens of another model": ([{"input_ids": [5, 90_000 + n]} for n in range(40)], "is not in the model's vocabulary of"),
    "single turns": ([{"role": "user", "content": "q"}] * 40, "has one turn of a conversation in each row"),
}


@pytest.mark.parametrize("name", PLANNED)
def test_a_plan_says_it_on_the_screen_and_as_json(place: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    data, said = PLANNED[name]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    made = recipe(samples=30) if "asked" in name else recipe()
    assert main(["plan", *made]) == 0
    assert said in " ".join(capfd.readouterr().out.split())
    assert main(["plan", *made, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["data"]
    assert (told["not_asked"], told["samples"]) == (10, 30) if "asked" in name else said in " ".join(told["notes"])
    counted = told["train"] + told["held_out"] + told["held_out_dropped"] + told["blank"] + told["skipped"] + told["not_asked"]
    assert counted + sum(told["left_out"].values()) == told["read"] == 40


@pytest.mark.parametrize("name", STOPPED)
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_plan_stops_where_a_run_would(place: Path, capfd: pytest.CaptureFixture[str], name: str, how: list[str]) -> None:
    data, said = STOPPED[name]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    assert main(["plan", *recipe(), *how]) == 2
    assert said in " ".join(capfd.readouterr().err.split())


def test_too_many_bad_rows_stop_a_run_and_are_asked_about_in_the_wizard(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *recipe()]) == 2
    assert "4 of 44 rows cannot be used" in capfd.readouterr().err
    answers = {"model": "another", "model.name": "./model", "dataset.source": "rows.jsonl", "review": ["skip rows", "start"]}
    prompter = ScriptedPrompter(answers, otherwise_default=True)
    here = HostInfo(Glance("a processor", 2, 2**34, 2**33, 2**36, None, 0), False, RuntimeOptions(device="cpu", cache_dir=place / "cache"))
    agreed = conversation.agree(prompter, lambda: here)  # type: ignore[arg-type]
    prompter.finish()
    assert agreed is not None
    assert agreed.dataset.bad_rows == pytest.approx(0.1)
    assert any("4 of 44 rows cannot be used" in line for line in prompter.shown)
    assert any("44 read: 32 to train on" in line and "▌ It is" in line for line in prompter.shown)
