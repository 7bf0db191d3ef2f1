"""Prompts with the markers of a chat beside their answers become turns; forms with the same words do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shapes import a, u

from finetune.data.formats import detect
from finetune.data.reading import Rows, read_rows
from finetune.errors import UnknownFormat
from finetune.events import Recorder
from finetune.recipe import ColumnsSpec, DatasetSpec
from finetune.runtime import RuntimeOptions

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


def read(tmp_path: Path, rows: list[dict[str, Any]]) -> Rows:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_rows(DatasetSpec(source=str(tmp_path / "a.jsonl")), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())


PROMPTS_OF = {
    "Alpaca": (f"{ALPACA}\n\n### Instruction:\nHi\n\n### Response:\n", "Hello"),
    "ChatML without the last line end": ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant", "Hello<|im_end|>\n"),
    "Mistral": ("<s>[INST] Hi [/INST]", " Hello</s>"),
    "Zephyr": ("<|user|>\nHi</s>\n<|assistant|>\n", "Hello</s>"),
    "HH": ("\n\nHuman: Hi\n\nAssistant:", " Hello"),
    "the marker is before the answer": ("### Human: Hi", "### Assistant: Hello"),
    "Q and A": ("Q: Hi\nA:", " Hello"),
}


@pytest.mark.parametrize("kind", PROMPTS_OF)
def test_a_prompt_with_markers_becomes_its_turns_and_its_completion_the_answer(kind: str) -> None:
    prompt, completion = PROMPTS_OF[kind]
    row = {"prompt": prompt, "completion": completion}
    found = detect(["prompt", "completion"], [row], None, "a.jsonl")
    assert found.to_messages(row) == [u("Hi"), a("Hello")]
    assert "are read as turns" in str(getattr(found, "note", ""))
    named = detect(["p", "c"], [{"p": prompt, "c": completion}], ColumnsSpec(prompt="p", completion="c"), "a.jsonl")
    assert named.to_messages({"p": prompt, "c": completion}) == [u("Hi"), a("Hello")]
    pair = {"prompt": prompt, "chosen": completion, "rejected": "Go."}
    assert detect([*pair], [pair], None, "a.jsonl").to_messages(pair) == [u("Hi"), a("Hello")]


def test_earlier_answers_in_a_prompt_are_read_and_not_learned() -> None:
    row = {"prompt": "Q: 1 + 1?\nA: 2\n\nQ: 2 + 2?\nA:", "completion": "4"}
    first, example, *rest = detect([*row], [row], None, "a.jsonl").to_messages(row)
    assert (first, example, rest) == (u("1 + 1?"), a("2", learn=False), [u("2 + 2?"), a("4")])


def test_any_other_prompt_is_asked_as_it_is(tmp_path: Path) -> None:
    for prompt in ("Question: How tall is it?", "Finish it: Human: Hi\nAssistant:", "### Human: Hi", "Write\n### Response:\nand stop."):
        row = {"prompt": prompt, "completion": "Hello"}
        assert detect([*row], [row], None, "a.jsonl").to_messages(row) == [u(prompt), a("Hello")]
    asked = [{"prompt": f"### Human: {n}### Assistant:", "completion": "Hello"} for n in range(5)] + [
        {"prompt": "Hi", "completion": "Hello"}
    ]
    rows = read(tmp_path, asked)
    assert [row["messages"][0]["content"] for row in rows.dataset] == ["0", "1", "2", "3", "4", "Hi"]
    assert "Prompts in column `prompt` that do not end as such a chat are learned as they are (1 row)." in rows.facts.notes


FORMS = {
    "a ticket": "Customer: Ann Lee\nAgent: Bob\n\nThe parcel did not come.",
    "a ticket with its state": "User: Ann Lee\nOrder: 7\nAI: no\nStatus: closed",
    "a profile": "User: ann\nBot: no\nPosts: 12",
    "a thought before an answer": "Question: How many?\nThought: Two and one.\nAnswer: 3",
    "a page": "### Question: How many?\n### Reasoning: Two and one.\n### Answer: 3",
    "choices": "Q: Which?\nA: Rome\nC: Oslo",
}


@pytest.mark.parametrize("kind", FORMS)
def test_a_form_with_other_fields_is_no_chat(kind: str) -> None:
    assert detect(["text"], [{"text": FORMS[kind]}], None, "a.jsonl").name == "text"


def test_lists_in_answers_are_no_forms() -> None:
    text = "User: Pancakes?\nBot: Sure!\n\nIngredients:\n- flour\n\nSteps:\n1. Stir: well."
    assert detect(["text"], [{"text": text}], None, "a.jsonl").name == "rendered"


@pytest.mark.parametrize("answer", ["completion", "chosen"])
def test_a_transcript_among_other_prompts_becomes_its_turns(tmp_path: Path, answer: str) -> None:
    more = {"rejected": "No."} if answer == "chosen" else {}
    asked = ["Hi", "Hi", "\n\nHuman: Hi\n\nHuman: Why?\n\nAssistant:"]
    rows = read(tmp_path, [{"prompt": prompt, answer: " Yes.", **more} for prompt in asked])
    assert [(turn["role"], turn["content"]) for turn in rows.dataset[2]["messages"]] == [
        ("user", "Hi"),
        ("user", "Why?"),
        ("assistant", "Yes."),
    ]
    assert "Prompts in column `prompt` with Human: and Assistant: are read as turns (1 row)." in rows.facts.notes


def test_a_whole_transcript_among_chosen_answers_is_a_conversation() -> None:
    rows = [{"prompt": "Hi", "chosen": "Yes.", "rejected": "No."} for _ in range(3)]
    found = detect([*rows[0]], rows, None, "a.jsonl")
    asked = {"role": "user", "content": "Hi"}
    assert found.to_messages({**rows[0], "chosen": "\n\nHuman: Hi\n\nAssistant: Yes."}) == [asked, {"role": "assistant", "content": "Yes."}]
    goes_on = "Yes.\n\nHuman: Why?\n\nAssistant: So."
    assert found.to_messages({**rows[0], "chosen": goes_on}) == [asked, {"role": "assistant", "content": goes_on}]


def test_a_chat_without_an_answer_in_the_style_of_others_may_have_one_in_another(tmp_path: Path) -> None:
    in_lines, in_one = "### Instruction:\n{}\n\n### Response:\nYes", "### Instruction: {} ### Response: Yes"
    rows = read(tmp_path, [{"text": (in_one if n > 5 else in_lines).format(n)} for n in range(10)])
    assert (rows.facts.usable, rows.facts.left_out) == (10, {})
    assert [turn["content"] for turn in rows.dataset[9]["messages"]] == ["9", "Yes"]


def test_an_answer_may_be_yes_or_no() -> None:
    row = {"prompt": "Is it?", "completion": True}
    assert detect([*row], [row], None, "a.jsonl").to_messages(row)[1]["content"] == "true"


@pytest.mark.parametrize("flag", [False, 0, "False", "1"])
def test_whether_a_user_is_a_bot_is_no_answer(flag: Any) -> None:
    row = {"user": "U1", "bot": flag, "text": "Hi"}
    assert detect([*row], [row], None, "a.jsonl").to_messages(row) == [{"role": "text", "content": "Hi"}]


@pytest.mark.parametrize("name", ["word " * 20_000, "a. " * 20_000])
def test_a_first_line_of_any_length_is_looked_at_in_one_pass(name: str) -> None:
    with pytest.raises(UnknownFormat, match="none of them is a known name"):
        detect([name, "other"], [{name: "a", "other": "b"}], None, "a.csv")
