"""The whole data stage with a small tokenizer: what is trained on, what is held out, what the report says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bytes_tokenizer import CHATML, INST, byte_level
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_files import lines, parquet, table

from finetune.data.prepare import PreparedData, prepare_data
from finetune.data.reading import read_rows
from finetune.data.row_overlap import RowHashes
from finetune.data.tokens.labels import NO_LOSS
from finetune.errors import BadRow, DatasetNotFound, EmptyDataset
from finetune.events import Progress, Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {number} and one?", "answer": f"It is {number + 1}."} for number in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def prepare(tmp_path: Path, source: Path | str, tokenizer: Any = None, *, seed: int = 1, reporter: Any = None, **spec: Any) -> PreparedData:
    settings = {"supervise": spec.pop("supervise")} if "supervise" in spec else {}
    runtime = RuntimeOptions(cache_dir=tmp_path / "cache")
    made = tokenizer or byte_level(CHATML)
    return prepare_data(DatasetSpec(source=str(source), **spec), made, seed=seed, runtime=runtime, reporter=reporter, **settings)


def questions(prepared: PreparedData, part: str) -> list[str]:
    tokenizer = byte_level(CHATML)
    texts = [tokenizer.decode(ids) for ids in getattr(prepared, part)["input_ids"]]
    return [text.partition("user\n")[2].partition("<|im_end|>")[0] for text in texts]


def test_train_and_held_out_have_the_promised_columns(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(20)))
    assert prepared.train.column_names == ["input_ids", "labels", "length", "row", "answer_start"]
    assert prepared.held_out.column_names == ["input_ids", "labels", "length", "prompt_ids", "prompt", "reference", "is_text", "group"]
    assert (prepared.train["row"][:], set(prepared.held_out["is_text"])) == (list(range(18)), {False})
    assert prepared.train["length"][:] == [len(ids) for ids in prepared.train["input_ids"]]
    row = prepared.held_out[0]
    tokenizer = byte_level(CHATML)
    assert row["input_ids"][: len(row["prompt_ids"])] == row["prompt_ids"]
    assert tokenizer.decode(row["prompt_ids"]).endswith(f"{row['prompt']}<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode([label for label in row["labels"] if label != NO_LOSS]) == f"{row['reference']}<|im_end|>"
    for row in prepared.train:
        assert tokenizer.decode(row["input_ids"][: row["answer_start"]]).endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert row["labels"][row["answer_start"]] == row["input_ids"][row["answer_start"]]


def test_every_row_is_either_trained_on_or_held_out_and_order_is_kept(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(50)), held_out=0.2)
    everything = [row["question"] for row in pairs(50)]
    train, held_out = questions(prepared, "train"), questions(prepared, "held_out")
    assert sorted(train + held_out) == sorted(everything)
    assert len(held_out) == 10
    assert train == [question for question in everything if question in train]


def test_the_seed_decides_which_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(50))
    first = questions(prepare(tmp_path, file, seed=1), "held_out")
    assert first == questions(prepare(tmp_path / "again", file, seed=1), "held_out")
    assert first != questions(prepare(tmp_path, file, seed=2), "held_out")


def test_samples_limits_both_parts_together(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(100)), samples=30)
    assert (len(prepared.train), len(prepared.held_out)) == (27, 3)
    assert prepared.report.used == 30
    assert prepared.report.read == 100
    assert max(int(question.split()[2]) for question in questions(prepared, "train")) > 40, "not just the first rows"


def test_rows_that_are_trained_on_are_not_measured_on(tmp_path: Path) -> None:
    rows = pairs(40)
    same_but_for_spacing = [{"question": row["question"].replace(" ", "  ").upper(), "answer": row["answer"]} for row in rows[:20]]
    same_prompt = [{"question": row["question"], "answer": "Something else."} for row in rows[20:]]
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", rows + same_but_for_spacing + same_prompt), held_out=0.5)
    train = {" ".join(question.lower().split()) for question in questions(prepared, "train")}
    assert not train & {" ".join(question.lower().split()) for question in questions(prepared, "held_out")}
    assert prepared.report.held_out + prepared.report.held_out_dropped == 40
    assert prepared.report.held_out_dropped > 0


def test_duplicates_are_counted_and_stay(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(10) * 3 + pairs(70)[10:]), held_out=0.05)
    assert len(prepared.train) == prepared.report.train == 90 - round(90 * 0.05)
    assert prepared.report.duplicates == prepared.report.train - len(set(questions(prepared, "train")))


def test_splitting_keeps_no_text_in_memory(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"question": f"{number}", "answer": "x" * 1000} for number in range(5000)])
    rows = read_rows(DatasetSpec(source=str(file)), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    before = pa.total_allocated_bytes()
    known = RowHashes.of(rows)
    assert [len(column) for column in (known.rows, known.prompts, known.answers.values, known.asked.values)] == [5000] * 4
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_data_that_is_one_row_over_and_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset, match="also occurs in the training rows"):
        prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(1) * 20))


def answers_to(prompts: list[str], times: int) -> list[dict[str, Any]]:
    return [{"question": prompt, "answer": f"Answer {number} to {prompt}"} for number in range(times) for prompt in prompts]


def test_rows_that_all_have_one_prompt_are_kept_apart_as_a_whole_and_it_is_said(tmp_path: Path) -> None:
    rows = answers_to(["Write a tweet like me."], 100)
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", rows + rows[:1]))
    assert (prepared.report.train, prepared.report.held_out + prepared.report.held_out_dropped) == (91, 10)
    train, held_out = set(map(tuple, prepared.train["input_ids"])), set(map(tuple, prepared.held_out["input_ids"]))
    assert len(held_out) >= 9
    assert not train & held_out
    assert [note for note in prepared.report.notes if "have prompts that are also trained on" in note]
    assert prepare(tmp_path, tmp_path / "a.jsonl").fingerprint == prepared.fingerprint


@pytest.mark.parametrize("times", [1, 2], ids=["different answers", "and each row twice"])
def test_where_few_prompts_are_asked_often_whole_prompts_are_held_out(tmp_path: Path, times: int) -> None:
    prompts = [f"What is {number}?" for number in range(40)]
    file = write(tmp_path / "a.jsonl", answers_to(prompts, 20 // times) * times)
    prepared = prepare(tmp_path, file, samples=None)
    train, held_out = questions(prepared, "train"), questions(prepared, "held_out")
    assert (len(train), len(held_out), len(set(held_out))) == (720, 80, 4)
    assert not set(train) & set(held_out)
    assert [note for note in prepared.report.notes if "whole prompts are held out" in note]
    assert questions(prepare(tmp_path / "again", file, samples=None), "held_out") == held_out
    assert set(questions(prepare(tmp_path, file, samples=None, seed=2), "held_out")) != set(held_out)


def test_two_prompts_are_both_trained_on_and_measured(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", answers_to(["Write a tweet.", "Write a title."], 50)))
    assert set(questions(prepared, "train")) == set(questions(prepared, "held_out")) == {"Write a tweet.", "Write a title."}
    assert (prepared.report.train, prepared.report.held_out) == (90, 10)


def test_a_split_to_measure_on_that_has_the_one_prompt_too_is_measured_by_its_answers(tmp_path: Path) -> None:
    rows = answers_to(["Write a tweet like me."], 100)
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "train.jsonl", rows[:80])
    write(folder / "test.jsonl", rows[75:])
    prepared = prepare(tmp_path, folder, eval_split="test", held_out=0.9)
    assert (prepared.report.train, prepared.report.held_out, prepared.report.held_out_dropped) == (80, 20, 5)
    write(folder / "test.jsonl", rows[:20])
    with pytest.raises(EmptyDataset, match="Every row of the split 'test' also occurs"):
        prepare(tmp_path, folder, eval_split="test")


def test_held_out_rows_stay_those_they_were_where_some_prompts_occur_twice(tmp_path: Path) -> None:
    rows = pairs(60) + [{**row, "answer": "Something else."} for row in pairs(20)]
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", rows))
    drawn = np.sort(np.random.default_rng(1).permutation(80)[:8])
    trained = [row["question"] for number, row in enumerate(rows) if number not in drawn]
    assert questions(prepared, "train") == trained
    assert questions(prepared, "held_out") == [question for at in drawn if (question := rows[at]["question"]) not in trained]
    assert prepared.report.held_out_dropped > 0
    assert not prepared.report.held_out_by


def test_one_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset, match=r"a\.jsonl has only one usable row"):
        prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(1)))


def test_two_rows_are_enough(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(2)))
    assert (len(prepared.train), len(prepared.held_out)) == (1, 1)


def test_another_split_can_be_measured_on(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "train.jsonl", pairs(30))
    write(folder / "test.jsonl", [*pairs(35)[30:], *pairs(3)])
    prepared = prepare(tmp_path, folder, eval_split="test", held_out=0.9)
    assert len(prepared.train) == 30
    assert questions(prepared, "held_out") == [row["question"] for row in pairs(35)[30:]]
    assert prepared.report.held_out_dropped == 3
    with pytest.raises(DatasetNotFound, match="no file of the split 'validation'"):
        prepare(tmp_path, folder, eval_split="validation")


def test_distilling_learns_and_measures_every_token(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", pairs(20)), supervise="all")
    for rows in (prepared.train, prepared.held_out):
        assert all(row["labels"] == [NO_LOSS, *row["input_ids"][1:]] for row in rows)
    assert all(row["prompt_ids"] == row["input_ids"][: len(row["prompt_ids"])] for row in prepared.held_out)
    assert [[piece["supervised"] for piece in example] for example in prepared.report.examples] == [[True, True]] * 3


def test_text_is_measured_on_its_second_half(tmp_path: Path) -> None:
    rows = [{"text": f"Story {number}. " + "the answer is that " * 40} for number in range(20)]
    tokenizer = byte_level()
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", rows), tokenizer, max_length=100)
    assert prepared.report.train_sequences > prepared.report.train == 18
    row = prepared.held_out[0]
    assert (row["is_text"], len(row["prompt_ids"])) == (True, (len(row["input_ids"]) + 1) // 2)
    assert tokenizer.decode(row["prompt_ids"]) == row["prompt"]
    assert tokenizer.decode(row["input_ids"]).startswith(row["prompt"] + row["reference"])


def test_the_report_counts_what_happened(tmp_path: Path) -> None:
    rows = [*pairs(300), {"question": "long", "answer": "so " * 200}, {"question": "long " * 200, "answer": "yes"}]
    rows[5] = {"question": "no answer", "answer": None}
    prepared = prepare(tmp_path, write(tmp_path / "a.jsonl", rows), samples=None, max_length=80, held_out=0.01)
    report = prepared.report
    assert (report.read, report.skipped, report.used, report.blank) == (302, 1, 301, 0)
    assert report.skipped_rows == [{"file": "a.jsonl", "line": 6, "reason": "column answer is missing"}]
    assert (report.truncated_prompts, report.truncated_answers) == (1, 1)
    assert report.truncated_share == pytest.approx(2 / report.train, abs=1e-4)
    assert report.train_tokens == sum(prepared.train["length"])
    assert report.supervised_tokens == sum(sum(label != NO_LOSS for label in labels) for labels in prepared.train["labels"])
    assert report.supervised_share == pytest.approx(report.supervised_tokens / report.train_tokens, abs=1e-4)
    assert report.length["max"] == 80
    assert sum(part["rows"] for part in report.histogram) == report.train
    assert [[piece["supervised"] for piece in example] for example in report.examples] == [[False, True]] * 3
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_rows_that_the_template_refuses_are_listed_with_their_line(tmp_path: Path) -> None:
    chats = [{"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]} for n in range(200)]
    chats[42]["messages"][0]["role"] = "system"
    report = prepare(tmp_path, write(tmp_path / "a.jsonl", chats), byte_level(INST)).report
    assert [(row["file"], row["line"]) for row in report.skipped_rows] == [("a.jsonl", 43)]


def test_a_template_that_refuses_most_rows_is_an_error(tmp_path: Path) -> None:
    chats = [{"messages": [{"role": role, "content": f"{role} {n}"} for role in ("system", "assistant")]} for n in range(20)]
    with pytest.raises(BadRow, match=r"a\.jsonl lines 1, 3, 4: refused by the model's chat template"):
        prepare(tmp_path, write(tmp_path / "a.jsonl", chats), byte_level(INST))


def test_the_second_time_nothing_is_tokenised(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(20))
    first, recorder = prepare(tmp_path, file), Recorder()
    second = prepare(tmp_path, file, reporter=recorder)
    assert not recorder.of(Progress)
    assert second.fingerprint == first.fingerprint
    assert second.report == first.report
    assert second.train[:] == first.train[:]


@pytest.mark.parametrize("name", ["rows-*/rows.arrow", "rows-*/facts.json", "tokens-*/train.arrow", "tokens-*/report.json"])
def test_what_is_damaged_in_the_cache_is_named_and_made_again_once_it_is_gone(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", pairs(20))
    expected = prepare(tmp_path, source).train[:]
    (damaged,) = tmp_path.glob(f"**/{name}")
    content = damaged.read_bytes()[: damaged.stat().st_size // 2]
    damaged.unlink()  # whoever still reads the file has it whole
    damaged.write_bytes(content)
    if name.startswith("rows"):  # else nobody reads them again
        shutil.rmtree(next(tmp_path.glob("**/tokens-*")))
    with pytest.raises(BadRow) as refused:
        prepare(tmp_path, source)
    assert refused.value.hint == f"Delete that folder, and it is made again: {damaged.parent}"
    shutil.rmtree(damaged.parent)
    assert prepare(tmp_path, source).train[:] == expected


def test_a_copy_under_another_name_has_the_same_tokens_and_a_report_of_its_own(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*pairs(200), {"question": "no answer", "answer": None}])
    first = prepare(tmp_path, file)
    second = prepare(tmp_path, file.rename(tmp_path / "renamed.jsonl"))
    assert second.fingerprint == first.fingerprint
    assert second.train[:] == first.train[:]
    assert (second.report.source, second.report.files, second.report.skipped_rows[0]["file"]) == (
        "renamed.jsonl",
        ["renamed.jsonl"],
        "renamed.jsonl",
    )


def test_whatever_changes_the_tokens_changes_the_fingerprint(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(20))
    changes: list[dict[str, Any]] = [{}, {"seed": 2}, {"samples": 10}, {"max_length": 64}, {"held_out": 0.2}, {"supervise": "all"}]
    changes += [{"tokenizer": byte_level()}, {"tokenizer": byte_level(INST)}, {"tokenizer": byte_level(CHATML, bos=True)}]
    assert len({prepare(tmp_path, file, **change).fingerprint for change in changes}) == len(changes)
    elsewhere = tmp_path / "copy.jsonl"
    elsewhere.write_bytes(file.read_bytes())
    assert prepare(tmp_path, elsewhere).fingerprint == prepare(tmp_path / "other_cache", file).fingerprint


def test_a_prepared_set_is_not_left_half_written_when_preparing_fails(tmp_path: Path) -> None:
    class Broken:
        def report(self, event: object) -> None:
            if isinstance(event, Progress) and event.total is not None:
                raise KeyboardInterrupt

    file = write(tmp_path / "a.jsonl", pairs(20))
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, file, reporter=Broken())
    assert not list((tmp_path / "cache" / "datasets").glob("*tokens*"))
    assert len(prepare(tmp_path, file).train) == 18


def test_the_built_in_data_teach_answers_to_short_prompts(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, "builtin:python-docs", samples=60)
    assert prepared.report.template == "chat"
    assert prepared.report.used + prepared.report.held_out_dropped == 60
    assert all("Write the one-line docstring" in prompt for prompt in prepared.held_out["prompt"])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": lines,
    "a.json": lambda rows: json.dumps(rows).encode(),
    "a.csv": lambda rows: table([(row["question"], row["answer"]) for row in rows]).encode(),
    "a.parquet": parquet,
}


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=15)
@given(texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
@pytest.mark.parametrize("name", WRITERS)
def test_every_row_is_in_the_tokens_or_in_the_skipped_list(tmp_path: Path, name: str, texts: list[tuple[str, str]]) -> None:
    rows = [{"question": f"{number}|{question}", "answer": answer} for number, (question, answer) in enumerate(texts)]
    rows += pairs(300)
    (tmp_path / name).write_bytes(WRITERS[name](rows))
    tokenizer = byte_level()
    prepared = prepare(tmp_path, tmp_path / name, tokenizer, samples=None, max_length=4096, held_out=0.01)
    tokens = [*prepared.train["input_ids"], *prepared.held_out["input_ids"]]
    usable = [row for row in rows if row["answer"].strip()]
    assert sorted(map(tokenizer.decode, tokens)) == sorted(f"{row['question']}\n{row['answer']}</s>" for row in usable)
    assert len(prepared.report.skipped_rows) == prepared.report.skipped == len(rows) - len(usable)


ANSWER = TEXT.filter(lambda text: bool(text.strip()))
CHAT = st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=3)
BROKEN = [
    "{",
    '"text"',
    '{"messages": []}',
    '{"messages": [{"role": "user", "content": "q"}]}',
    '{"messages": [{"role": "tool", "content": "t"}]}',
]


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(lines=st.lists(st.one_of(CHAT, st.sampled_from(BROKEN)), min_size=1, max_size=5))
def test_every_turn_is_in_the_tokens_or_its_row_is_listed(tmp_path: Path, lines: list[Any]) -> None:
    chats = [[(f"{number}|{asked}", told) for asked, told in line] if isinstance(line, list) else line for number, line in enumerate(lines)]
    chats += [[(f"fill {number}", "answer")] for number in range(20)]
    turns = [
        [{"role": role, "content": text} for pair in chat for role, text in zip(("user", "assistant"), pair, strict=True)]
        for chat in chats
        if isinstance(chat, list)
    ]
    written = iter([json.dumps({"messages": chat}) for chat in turns])
    (tmp_path / "a.jsonl").write_text("\n".join(next(written) if isinstance(chat, list) else chat for chat in chats), encoding="utf-8")
    prepared = prepare(tmp_path, tmp_path / "a.jsonl", samples=None, max_length=4096, held_out=0.1, bad_rows=1.0)
    tokens = [*prepared.train["input_ids"], *prepared.held_out["input_ids"]]
    rendered = ["\n".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>" for turn in chat) for chat in turns]
    assert sorted(map(byte_level().decode, tokens)) == sorted(rendered)
    broken = [number for number, chat in enumerate(chats, 1) if not isinstance(chat, list)]
    assert [row["line"] for row in prepared.report.skipped_rows] == broken


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(texts=st.lists(TEXT, min_size=1, max_size=6))
def test_every_character_of_a_text_is_in_one_of_its_blocks(tmp_path: Path, texts: list[str]) -> None:
    texts = [f"{number}|{text}" for number, text in enumerate(texts * 2)]
    write(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    prepared = prepare(tmp_path, tmp_path / "a.jsonl", samples=None, max_length=8, held_out=0.3)
    assert max(prepared.train["length"]) <= 8
    tokens = [token for part in (prepared.train, prepared.held_out) for ids in part["input_ids"] for token in ids]
    assert sorted(byte_level().decode(tokens).split("</s>")) == sorted(["", *texts])
