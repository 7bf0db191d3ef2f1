"""Conversations as ChatGPT and Claude export them: the turns that a person sees, and what is read and not learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from read_files import learned, read

from finetune.data.arrow_records import restored
from finetune.data.formats.cells import is_learned


def chatgpt(*said: tuple[str, ...], hidden: str = "") -> dict[str, Any]:
    """One conversation of conversations.json; each of `said` is a role, a text, and a kind of content and a recipient if there are any."""

    def message(role: str, text: str, kind: str = "text", recipient: str = "all", **about: Any) -> dict[str, Any]:
        content = {"content_type": kind, "parts": [text]} if kind == "text" else {"content_type": kind, "text": text}
        return {"author": {"role": role, "metadata": {}}, "content": content, "weight": 1.0, "recipient": recipient, "metadata": about}

    nodes: dict[str, Any] = {"root": {"id": "root", "message": None, "parent": None, "children": ["0"]}}
    nodes["0"] = {"message": message("system", hidden, is_visually_hidden_from_conversation=True), "parent": "root", "children": []}
    last = "0"
    for number, (role, *rest) in enumerate(said, start=1):
        parent = nodes[last]["parent"] if role == "again" else last
        nodes[str(number)] = {"message": message("assistant" if role == "again" else role, *rest), "parent": parent, "children": []}
        nodes[parent]["children"].append(str(number))
        last = str(number)
    return {"title": "A chat", "mapping": nodes, "current_node": last}


def test_chatgpts_conversations_are_the_turns_that_a_person_sees(tmp_path: Path) -> None:
    talks = [
        chatgpt(
            ("user", "Hi"),
            ("assistant", "Hello!"),
            ("again", "Good day."),
            ("user", "Bye"),
            ("assistant", "Hm.", "thoughts"),
            ("assistant", "See you."),
        ),
        chatgpt(("user", "And you?"), ("assistant", "Well."), hidden="You are ChatGPT."),
    ]
    (tmp_path / "conversations.json").write_text(json.dumps(talks))
    rows = read(tmp_path / "conversations.json")
    assert learned(rows) == [("Hi", "Good day.", "Bye", "See you."), ("And you?", "Well.")]
    assert {"title", "current_node", "mapping in older branches, thoughts and tools"} <= set(rows.facts.ignored_text)


SUM = ("user", "What is 2 + 2?"), ("assistant", "Let me see."), ("assistant", "print(2 + 2)", "code", "python"), ("tool", "4")


def test_what_chatgpt_answers_with_tools_pictures_and_files_is_read_and_not_learned(tmp_path: Path) -> None:
    picture = chatgpt(("user", "?"), ("assistant", "A cat."), ("user", "Sure?"), ("assistant", "Yes."))
    picture["mapping"]["1"]["message"]["content"] = {
        "content_type": "multimodal_text",
        "parts": [{"content_type": "image_asset_pointer", "asset_pointer": "file://1"}, "What is it?"],
    }
    heard = chatgpt(("user", "?"), ("assistant", "Good."))
    parts = [{"content_type": "audio_transcription", "text": "How are you?"}, {"content_type": "audio_asset_pointer"}]
    heard["mapping"]["1"]["message"]["content"] = {"content_type": "multimodal_text", "parts": parts}
    file = chatgpt(("user", "What is in it?"), ("assistant", "A poem."))
    file["mapping"]["1"]["message"]["metadata"] = {"attachments": [{"name": "a.pdf"}]}
    talks = [
        chatgpt(("user", "Hi"), ("assistant", "Hello!"), *SUM, ("assistant", "4."), ("user", "And 3 + 3?"), ("assistant", "6.")),
        chatgpt(*SUM, ("assistant", "4.")),
        picture,
        heard,
        file,
        chatgpt(("user", "Hello?"), ("assistant", "Something went wrong.", "system_error")),
        chatgpt(),
    ]
    (tmp_path / "conversations.json").write_text(json.dumps(talks))
    rows = read(tmp_path / "conversations.json")
    first, second = [restored(row)["messages"] for row in rows.dataset]
    assert [(turn["content"], turn.get("learn", True)) for turn in first if turn["role"] == "assistant"] == [
        ("Hello!", True),
        ("Let me see.", False),
        ("4.", False),
        ("6.", True),
    ]
    assert [turn["content"] for turn in second] == ["How are you?", "Good."]
    assert rows.facts.skipped == 0
    rest = "rest on tools, pictures or files, which the text does not have"
    assert f"Answers that {rest}, are read but not learned (1 row)." in rows.facts.notes
    for said in (f"3 rows are left out: the answers {rest}.", "no question is answered.", "the conversation is empty."):
        assert any(note.endswith(said) for note in rows.facts.notes), said


def claude(*said: tuple[str, Any], **more: Any) -> dict[str, Any]:
    turns = [{"uuid": "1", "sender": who, "text": "x", "content": content, **more} for who, content in said]
    return {"uuid": "2", "name": "A chat", "chat_messages": turns}


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_claudes_conversations_are_read(tmp_path: Path) -> None:
    plain = claude(("human", [part("Hi")]), ("assistant", [part("Hello!"), {"type": "token_budget"}]))
    calls = [
        part("I look."),
        {"type": "tool_use", "name": "look", "input": {"for": "tea"}},
        {"type": "tool_result", "name": "look", "content": [part("Green.")]},
        part("It is green."),
    ]
    pasted = claude(("human", [part("What is it?")]), attachments=[{"file_name": "a.txt", "extracted_content": "A poem."}])
    pasted["chat_messages"] += claude(("assistant", [part("A poem.")]))["chat_messages"]
    (tmp_path / "conversations.json").write_text(
        json.dumps([plain, claude(("human", [part("Tea?")]), ("assistant", calls)), pasted, claude()])
    )
    rows = read(tmp_path / "conversations.json")
    assert learned(rows) == [("Hi", "Hello!"), ("Tea?", "I look.", "Green.", "It is green."), ("What is it?\n\nA poem.", "A poem.")]
    assert [turn["role"] for turn in rows.dataset[1]["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert restored(rows.dataset[1])["messages"][1]["tool_calls"][0]["function"] == {"name": "look", "arguments": {"for": "tea"}}
    assert "1 row is left out: the conversation is empty." in rows.facts.notes


def test_answers_of_claude_that_rest_on_files_are_read_and_not_learned(tmp_path: Path) -> None:
    photo, pasted = [{"file_name": "cat.png"}], [{"file_name": "a.txt"}]
    asked, described = ("human", [part("What is it?")]), ("assistant", [part("A cat.")])
    turns = claude(("human", [part("Hi")]), ("assistant", [part("Hello!")]))["chat_messages"]
    turns += claude(asked, files=photo)["chat_messages"] + claude(described)["chat_messages"]
    alone = claude(asked, files=photo)["chat_messages"] + claude(described)["chat_messages"]
    text = claude(asked, files=pasted, attachments=[{**pasted[0], "extracted_content": "Of a cat."}])["chat_messages"]
    text += claude(described)["chat_messages"]
    chats = [{**claude(), "chat_messages": each} for each in (turns, alone, text)]
    (tmp_path / "conversations.json").write_text(json.dumps(chats))
    rows = read(tmp_path / "conversations.json")
    assert learned(rows) == [("Hi", "Hello!", "What is it?", "A cat."), ("What is it?\n\nOf a cat.", "A cat.")]
    first, second = ([is_learned(turn) for turn in row["messages"] if turn["role"] == "assistant"] for row in map(restored, rows.dataset))
    assert (first, second) == ([True, False], [True])
    rest = "rest on tools, pictures or files, which the text does not have"
    assert f"Answers that {rest}, are read but not learned (1 row)." in rows.facts.notes
    assert f"1 row is left out: the answers {rest}." in rows.facts.notes
    assert rows.facts.skipped == 0


def test_an_answer_of_claude_that_was_stopped_before_its_first_word_costs_no_other(tmp_path: Path) -> None:
    stopped = claude(("human", [part("Hi")]), ("assistant", []), ("human", [part("Still there?")]), ("assistant", [part("Yes.")]))
    stopped["chat_messages"][1]["text"] = ""
    alone = {**stopped, "chat_messages": stopped["chat_messages"][:2]}
    (tmp_path / "conversations.json").write_text(json.dumps([stopped, alone]))
    rows = read(tmp_path / "conversations.json")
    assert learned(rows) == [("Hi", "", "Still there?", "Yes.")]
    assert rows.facts.skipped == 0
    assert "1 row is left out: no question is answered." in rows.facts.notes
