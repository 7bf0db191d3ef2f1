"""Forms, and words before an answer, are no chats; transcripts are read in whatever row they are, and an answer may be yes or no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.data.formats import detect
from finetune.data.reading import Rows, read_rows
from finetune.errors import UnknownFormat
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions


def read(tmp_path: Path, rows: list[dict[str, Any]]) -> Rows:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_rows(DatasetSpec(source=str(tmp_path / "a.jsonl")), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())


FORMS = {
    "a ticket": "Customer: Ann Lee\nOrder: 7\nAgent: Bob\nStatus: closed",
    "a ticket and its summary": "Customer: Acme\nAgent: Jane Doe\n\nSummary: It did not come.",
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
