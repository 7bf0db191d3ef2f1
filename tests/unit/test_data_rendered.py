"""Chats that somebody wrote into one text with the markers of a chat format become turns; any other text stays text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wizard_answers import Listening, here

from finetune.data.formats import detect
from finetune.data.formats.styles import STYLES, chat
from finetune.data.preview import preview_source
from finetune.data.reading import Rows, read_rows
from finetune.data.rows import TooManyBadRows
from finetune.events import Recorder
from finetune.recipe import ColumnsSpec, DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.wizard import ask_recipe
from finetune.wizard.asking.undo import Rewind

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
VICUNA = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful answers."
QUESTIONS, ANSWERS = ("Hi\n there", "Bye"), ("- Hello!\n\n  - you", "Ok")
LLAMA3 = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
GPT = (
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: 2025-08-20\n\n"
    "Reasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
DATED = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

# Two questions and their answers after a system text, if there is one.
CHATS: dict[str, tuple[str, str | None, str]] = {
    "Guanaco": ("Guanaco", None, "### Human: Hi\n there### Assistant: - Hello!\n\n  - you### Human: Bye### Assistant: Ok"),
    "Guanaco in lines": ("Guanaco", None, "### Human: Hi\n there\n### Assistant: - Hello!\n\n  - you\n### Human: Bye\n### Assistant: Ok\n"),
    "headings of users": (
        "### User: ... ### Assistant: ...",
        "Be brief.",
        "### System:\nBe brief.\n\n### User:\nHi\n there\n\n### Assistant:\n- Hello!\n\n  - you\n\n"
        "### User:\nBye\n\n### Assistant:\nOk\n\n",
    ),
    "Alpaca": (
        "Alpaca",
        None,
        f"{ALPACA}\n\n### Instruction:\nHi\n there\n\n### Response:\n- Hello!\n\n  - you\n\n### Instruction:\nBye\n\n### Response:\nOk</s>",
    ),
    "Alpaca, an introduction of ones own": (
        "Alpaca",
        "Be brief.",
        "Be brief.\n\n### Instruction:\nHi\n there\n\n### Response:\n- Hello!\n\n  - you\n\n### Instruction:\nBye\n\n### Response:\nOk</s>",
    ),
    "Llama 2": (
        "Llama 2 or Mistral",
        "Be brief.",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi\n there [/INST] - Hello!\n\n  - you </s><s>[INST] Bye [/INST] Ok </s>",
    ),
    "Mistral": ("Llama 2 or Mistral", None, "<s>[INST] Hi\n there[/INST] - Hello!\n\n  - you</s>[INST] Bye[/INST] Ok</s>"),
    "ChatML": (
        "ChatML",
        "Be brief.",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\n there<|im_end|>\n"
        "<|im_start|>assistant\n- Hello!\n\n  - you<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nOk<|im_end|>\n<|endoftext|>",
    ),
    "Llama 3": (
        "Llama 3",
        "Be brief.",
        "<|begin_of_text|>"
        + "".join(
            LLAMA3.format(*turn)
            for turn in [
                ("system", f"{DATED}Be brief."),
                *zip(("user", "assistant") * 2, (QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1]), strict=True),
            ]
        ),
    ),
    "Gemma": (
        "Gemma",
        None,
        "<bos><start_of_turn>user\nHi\n there<end_of_turn>\n<start_of_turn>model\n- Hello!\n\n  - you<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\nOk<end_of_turn>\n",
    ),
    "Zephyr": (
        "Zephyr, Phi or GLM",
        "Be brief.",
        "<|system|>\nBe brief.</s>\n<|user|>\nHi\n there</s>\n<|assistant|>\n- Hello!\n\n  - you</s>\n"
        "<|user|>\nBye</s>\n<|assistant|>\nOk</s>\n",
    ),
    "Phi": (
        "Zephyr, Phi or GLM",
        None,
        "<|user|>\nHi\n there<|end|>\n<|assistant|>\n- Hello!\n\n  - you<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\nOk<|end|>\n<|endoftext|>",
    ),
    "DeepSeek": (
        "DeepSeek",
        "Be brief.",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi\n there<｜Assistant｜>- Hello!\n\n  - you<｜end▁of▁sentence｜>"
        "<｜User｜>Bye<｜Assistant｜>Ok<｜end▁of▁sentence｜>",
    ),
    "Vicuna": (
        "Vicuna",
        VICUNA,
        f"{VICUNA} USER: Hi\n there ASSISTANT: - Hello!\n\n  - you</s>USER: Bye ASSISTANT: Ok</s>",
    ),
    "people and bots": (
        "<HUMAN>: ... <ASSISTANT>: ...",
        None,
        "<HUMAN>: Hi\n there\n<ASSISTANT>: - Hello!\n\n  - you\n<HUMAN>: Bye\n<ASSISTANT>: Ok",
    ),
    "OpenChatKit": ("<human>: ... <bot>: ...", None, "<human>: Hi\n there\n<bot>: - Hello!\n\n  - you\n<human>: Bye\n<bot>: Ok"),
    "HH": ("Human: ... Assistant: ...", None, "\n\nHuman: Hi\n there\n\nAssistant: - Hello!\n\n  - you\n\nHuman: Bye\n\nAssistant: Ok"),
    "lines": ("User: ... Assistant: ...", None, "User: Hi\n there\nAssistant: - Hello!\n\n  - you\nUser: Bye\nAssistant: Ok"),
    "bots": ("User: ... Bot: ...", None, "User: Hi\n there\nBot: - Hello!\n\n  - you\nUser: Bye\nBot: Ok"),
    "LangChain": ("Human: ... AI: ...", "Be brief.", "Be brief.\n\nHuman: Hi\n there\nAI: - Hello!\n\n  - you\nHuman: Bye\nAI: Ok"),
    "Q and A": ("Q: ... A: ...", None, "Q: Hi\n there\nA: - Hello!\n\n  - you\n\nQ: Bye\nA: Ok"),
    "questions": ("Question: ... Answer: ...", None, "Question: Hi\n there\nAnswer: - Hello!\n\n  - you\n\nQuestion: Bye\nAnswer: Ok"),
    "headings of questions": (
        "### Question: ... ### Answer: ...",
        None,
        "### Question: Hi\n there\n ### Answer: - Hello!\n\n  - you\n### Question: Bye\n ### Answer: Ok",
    ),
    "Alpaca on one line": (
        "Alpaca",
        None,
        f"{ALPACA} ### Instruction: Hi\n there ### Response: - Hello!\n\n  - you ### Instruction: Bye ### Response: Ok",
    ),
    "Phi 4": (
        "ChatML",
        "Be brief.",
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi\n there<|im_end|>"
        "<|im_start|>assistant<|im_sep|>- Hello!\n\n  - you<|im_end|>"
        "<|im_start|>user<|im_sep|>Bye<|im_end|><|im_start|>assistant<|im_sep|>Ok<|im_end|>",
    ),
    "Llama 4": (
        "Llama 4",
        "Be brief.",
        "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|><|header_start|>user<|header_end|>\n\nHi\n there<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n- Hello!\n\n  - you<|eot|>"
        "<|header_start|>user<|header_end|>\n\nBye<|eot|><|header_start|>assistant<|header_end|>\n\nOk<|eot|>",
    ),
    "Gemma 4": (
        "Gemma 4",
        "Be brief.",
        "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nHi\n there<turn|>\n<|turn>model\n- Hello!\n\n  - you<turn|>\n"
        "<|turn>user\nBye<turn|>\n<|turn>model\nOk<turn|>\n",
    ),
    "Granite": (
        "Granite",
        "Be brief.",
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Hi\n there<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>- Hello!\n\n  - you<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Bye<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>Ok<|end_of_text|>\n",
    ),
    "Command R": (
        "Command R",
        "Be brief.",
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi\n there<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>- Hello!\n\n  - you<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Ok<|END_OF_TURN_TOKEN|>",
    ),
    "Command R7B": (
        "Command R",
        None,
        "<BOS_TOKEN><BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi\n there<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>- Hello!\n\n  - you<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>Ok<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    ),
    "gpt-oss": (
        "gpt-oss",
        "Be brief.",
        f"<|start|>system<|message|>{GPT}<|end|><|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>"
        "<|start|>user<|message|>Hi\n there<|end|><|start|>assistant<|channel|>final<|message|>- Hello!\n\n  - you<|end|>"
        "<|start|>user<|message|>Bye<|end|><|start|>assistant<|channel|>final<|message|>Ok<|return|>",
    ),
    "Kimi": (
        "Kimi",
        "Be brief.",
        "<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>user<|im_middle|>Hi\n there<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>- Hello!\n\n  - you<|im_end|>"
        "<|im_user|>user<|im_middle|>Bye<|im_end|><|im_assistant|>assistant<|im_middle|>Ok<|im_end|>",
    ),
    "GLM": (
        "Zephyr, Phi or GLM",
        "Be brief.",
        "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi\n there<|assistant|>\n- Hello!\n\n  - you<|user|>\nBye<|assistant|>\nOk<|user|>",
    ),
    "OpenChat": (
        "OpenChat",
        "Be brief",
        "<s>Be brief<|end_of_turn|>GPT4 Correct User: Hi\n there<|end_of_turn|>GPT4 Correct Assistant: - Hello!\n\n  - you<|end_of_turn|>"
        "GPT4 Correct User: Bye<|end_of_turn|>GPT4 Correct Assistant: Ok<|end_of_turn|>",
    ),
}


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    return said if system is None else [{"role": "system", "content": system}, *said]


def read(tmp_path: Path, texts: list[str], **beside: Any) -> Rows:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text, **beside}) + "\n" for text in texts), encoding="utf-8")
    return read_rows(DatasetSpec(source=str(tmp_path / "a.jsonl")), RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())


@pytest.mark.parametrize("kind", CHATS)
def test_a_chat_with_markers_becomes_its_turns_without_them(kind: str) -> None:
    style, system, text = CHATS[kind]
    found = detect(["text"], [{"text": text}] * 3, None, "a.jsonl")
    learned = turns(QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1], system=system)
    assert found.to_messages({"text": text}) == learned
    note = str(getattr(found, "note", ""))
    assert f"({style})" in note
    assert note.endswith("To learn the text as it is, markers included: --set dataset.columns.text=text")
    assert chat(text) == learned
    named = detect(["text"], [{"text": text}], ColumnsSpec(text="text"), "a.jsonl")
    assert named.to_messages({"text": text}) == [{"role": "text", "content": text}]


def test_an_input_of_alpaca_follows_its_instruction_as_it_does_in_columns() -> None:
    text = f"{ALPACA}\n\n### Instruction:\nAdd.\n\n### Input:\n{{}}\n\n### Response:\n    3\n\n### End"
    longer = text.replace("task.", "task, paired with an input that provides further context.")
    assert chat(longer.format("1 2")) == turns("Add.\n\n1 2", "    3")
    assert chat(text.format("")) == turns("Add.", "    3")


def test_what_follows_the_introduction_of_alpaca_is_the_system_text() -> None:
    own = ALPACA.replace(". W", ". \nW")
    text = f"{own} \nThink first.\n\n### Instruction:\nHi\n\n### Response:\nHello!"
    assert chat(text) == turns("Hi", "Hello!", system="Think first.")


def test_what_gpt_oss_thinks_is_the_reasoning_of_its_answer() -> None:
    asked = "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>{}<|message|>"
    text = asked.format("analysis") + "A greeting.<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
    assert chat(text) == [*turns("Hi"), {"role": "assistant", "content": "Hello", "reasoning_content": "A greeting."}]
    assert chat(asked.format("commentary to=functions.f") + "{}<|call|>") == []


def test_blanks_inside_end_tokens_are_of_the_turn() -> None:
    text = "<|im_start|>user\n Hi \n<|im_end|>\n<|im_start|>assistant\n\n  x\n<|im_end|>"
    assert chat(text) == turns(" Hi \n", "\n  x\n")


PROMPTS = "### Human: {q}### Assistant:"
PAGE = "# Prompts\n\nWrite them so:\n\n### Instruction:\nAdd.\n\n### Response:\n3\n"
TEXTS = {
    "prose": "The tower is 324 metres tall. Human: beings built it. Assistant: engineers helped.",
    "no answer": PROMPTS.format(q="Hi"),
    "an answer first": "### Assistant: Hello### Human: Hi",
    "two questions": "### Human: Hi### Human: Hello### Assistant: Yes",
    "a page with such headings": PAGE,
    "an answer under a heading": "### Response\n\nThe ministry answered.\n\n### Instruction\n\nNone.",
    "a program": 'PROMPT = """Answer.\n\n### Instruction:\n{}\n\n### Response:\n{}"""\nprint(PROMPT)',
    "a program with control tokens": 'ASKED = "<|im_start|>user\\nHi<|im_end|>"\nprint("<|im_start|>assistant\\n")',
    "a call of a template": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>tool\nx<|im_end|>\n<|im_start|>assistant\nOk<|im_end|>",
    "calls of Mistral": '[INST] Hi[/INST] [TOOL_CALLS] [{"name": "f"}]</s>[TOOL_RESULTS] {"content": 1}[/TOOL_RESULTS] It is 1.</s>',
    "an answer that quotes markers": "<|user|>\nHow?</s>\n<|assistant|>\nSo:\n<|user|>\nHi\n<|assistant|>\n</s>",
    "words after an end": "<|im_start|>user\nHi<|im_end|> there\n<|im_start|>assistant\nOk<|im_end|>",
    "a screenplay": "INT. OFFICE\n\nThe USER: a man of forty. He looks at the ASSISTANT: a robot.",
    "a log": "12:01 User: ann logged in\n12:02 Assistant: started\n12:03 User: bob logged in",
    "an interview": "Reporter: Why?\n\nHuman: Because.\n\nReporter: And?\n\nHuman: So.",
    "a long beginning": "It rained. " * 300 + "\n\n### Human: Hi### Assistant: Hello",
    "strikethrough": "<s>old</s> new",
    "choices": "Q: The capital of Norway?\nA: Rome\nB: Oslo\nAnswer: B",
    "a page of answers": "# Questions\n\nQ: Why?\nA: Because.",
    "a passage and a question": "The tower is 324 metres tall.\nQuestion: How tall is it?\nAnswer: 324 metres",
    "calls of Command R": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_ACTION|>[]<|END_ACTION|><|END_OF_TURN_TOKEN|>",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_any_other_text_stays_text(kind: str) -> None:
    text = TEXTS[kind]
    found = detect(["text"], [{"text": text}] * 3, None, "a.jsonl")
    assert (found.name, found.to_messages({"text": text})) == ("text", [{"role": "text", "content": text}])


def test_texts_without_markers_among_chats_are_learned_as_text_and_counted(tmp_path: Path) -> None:
    chats = [f"### Human: {n}### Assistant: {n + 1}" for n in range(15)]
    rows = read(tmp_path, [*["A text."] * 9, CHATS["ChatML"][2], *chats])
    assert (rows.facts.format, rows.facts.usable, rows.facts.skipped) == ("rendered", 25, 0)
    assert rows.dataset[0]["messages"] == [{"role": "text", "content": "A text."}]
    assert rows.dataset[9]["messages"] == turns(QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1], system="Be brief."), "another style"
    assert rows.dataset[10]["messages"] == turns("0", "1")
    assert "Texts in column `text` without such markers are no chats: they are read as plain text (9 rows)." in rows.facts.notes
    assert read(tmp_path, [*["A text."] * 15, *chats]).facts.format == "text"


def test_a_text_with_markers_that_is_no_chat_cannot_be_used(tmp_path: Path) -> None:
    chats = [f"### Human: {n}### Assistant: {n + 1}" for n in range(199)]
    rows = read(tmp_path, [*chats, "### System: Be brief.### System: Be kind."])
    assert (rows.facts.format, rows.facts.usable, rows.facts.skipped) == ("rendered", 199, 1)
    assert rows.facts.skipped_rows[0].reason == "column text is not a chat in the format of the other rows"
    with pytest.raises(TooManyBadRows) as refused:
        read(tmp_path, [*chats, *["### System: Be brief.### System: Be kind."] * 5])
    assert str(refused.value.hint).startswith("To learn all rows as text: --set dataset.columns.text=text. Correct or remove them.")
    assert read(tmp_path, [*["### System: Be brief.### System: Be kind."] * 20, *chats]).facts.format == "text"


def test_where_most_speak_by_turns_somebody_may_speak_twice(tmp_path: Path) -> None:
    rows = read(tmp_path, ["\n\nHuman: Hi\n\nAssistant: Hello"] * 3 + ["\n\nHuman: Hi\n\nHuman: Are you there?\n\nAssistant: Yes"])
    assert [(turn["role"], turn["content"]) for turn in rows.dataset[3]["messages"]] == [
        ("user", "Hi"),
        ("user", "Are you there?"),
        ("assistant", "Yes"),
    ]


def test_a_chat_without_an_answer_among_others_is_left_out_and_counted(tmp_path: Path) -> None:
    facts = read(tmp_path, [*(f"### Human: {n}### Assistant: {n + 1}" for n in range(30)), *["### Human: Hi"] * 9]).facts
    assert (facts.usable, facts.skipped, facts.left_out) == (30, 0, {"no question is answered": 9})


def test_a_question_without_an_answer_at_the_end_is_named_as_ignored(tmp_path: Path) -> None:
    rows = read(tmp_path, [f"### Human: Hi {n}### Assistant: Hello### Human: Thanks." for n in range(3)])
    assert rows.dataset[0]["messages"][-1]["content"] == "Thanks."
    assert any(note.startswith("Column `text after the last answer` (") for note in rows.facts.notes)


@pytest.mark.parametrize("asked_in", ["text", "messages", "prompt"])
def test_where_a_teacher_answers_it_answers_the_last_question_and_nothing_is_ignored(tmp_path: Path, asked_in: str) -> None:
    asked = {"text": "### Human: Hi### Assistant: Hello### Human: Why?", "messages": turns("Hi", "Hello", "Why?")}
    asked["prompt"] = f"{asked['text']}### Assistant:"
    (tmp_path / "a.jsonl").write_text(json.dumps({asked_in: asked[asked_in]}) + "\n", encoding="utf-8")
    spec, runtime = DatasetSpec(source=str(tmp_path / "a.jsonl")), RuntimeOptions(cache_dir=tmp_path / "cache")
    rows = read_rows(spec, runtime, Recorder(), prompts=True)
    assert [turn["content"] for turn in rows.dataset[0]["messages"]] == ["Hi", "Hello", "Why?", "?"]
    assert not any("is ignored" in note for note in rows.facts.notes)


def test_blank_texts_among_chats_are_left_out_as_they_are_among_texts(tmp_path: Path) -> None:
    facts = read(tmp_path, ["### Human: Hi### Assistant: Hello", " \n"] * 3, id=1).facts
    assert (facts.format, facts.usable, facts.blank, facts.skipped) == ("rendered", 3, 3, 0)


def test_the_label_of_a_chat_is_learned_as_that_of_any_text_unless_the_chats_are_named() -> None:
    rows = [{"text": f"User: Hi {n}\nAssistant: Hello", "label": ("safe", "rude")[n % 2]} for n in range(8)]
    found = detect(["text", "label"], rows, None, "a.jsonl")
    assert found.to_messages(rows[1]) == turns(rows[1]["text"], "rude")
    assert (
        detect(["text", "category"], [{"text": row["text"], "category": row["label"]} for row in rows], None, "a.jsonl").name == "rendered"
    )
    named = detect(["text", "label"], rows, ColumnsSpec(messages="text"), "a.jsonl")
    assert named.to_messages(rows[1]) == turns("Hi 1", "Hello")


def test_a_chosen_text_in_any_format_is_a_conversation() -> None:
    text = CHATS["Llama 2"][2]
    found = detect(["chosen", "rejected"], [{"chosen": text, "rejected": text}], None, "a.jsonl")
    assert found.to_messages({"chosen": text, "rejected": text}) == chat(text)


def test_the_only_column_is_read_whatever_its_name(tmp_path: Path) -> None:
    text = CHATS["ChatML"][2]
    assert detect(["prompt"], [{"prompt": text}], None, "a.jsonl").columns == ("prompt",)
    assert detect(["id", "chatml"], [{"id": 1, "chatml": text}], None, "a.jsonl").columns == ("chatml",)
    assert detect(["body", "chatml"], [{"body": "A text.", "chatml": text}], None, "a.jsonl").columns == ("body",)


def test_running_text_that_is_cut_between_paragraphs_stays_text(tmp_path: Path) -> None:
    for name, text_as, format in (("a.txt", "auto", "text"), ("a.txt", "line", "rendered"), ("a.md", "auto", "text")):
        (tmp_path / name).write_text("### Human: Hi### Assistant: Hello\n\n" * 3, encoding="utf-8")
        spec = DatasetSpec(source=str(tmp_path / name), text_as=text_as)
        assert preview_source(spec).format == format
        assert read_rows(spec, RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder()).facts.format == format


def test_in_the_wizard_the_text_as_it_is_is_one_answer_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"### Human: Hi {n}### Assistant: Hello", "weight": 1} for n in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompter = Listening({"dataset.source": "a.jsonl", "dataset.reading": "raw"})
    columns = Rewind(prompter).run(lambda given: ask_recipe(given, here)).dataset.columns
    assert columns == ColumnsSpec(text="text")
    assert [choice.value for choice in prompter.offered["dataset.reading"]] == ["yes", "written", "raw", "columns", "encoding"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text().filter(str.strip), min_size=2, max_size=5))
def test_what_is_between_control_tokens_is_kept_to_the_character(texts: list[str]) -> None:
    text = "".join(f"<|im_start|>{('user', 'assistant')[n % 2]}\n{said}<|im_end|>\n" for n, said in enumerate(texts))
    assert chat(text) == turns(*texts)


def test_markers_are_found_in_one_pass_over_the_text() -> None:
    """Where no repetition is without a limit, what the search takes at one place is limited too."""
    for style in STYLES:
        assert not re.search(r"(?<!\\)[*+]|\{\d*,\}", style.marker.pattern + style.own), style.name
