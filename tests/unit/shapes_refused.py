"""Rows in shapes that cannot be learned, and the sentence that each is refused with; and settings of programs, which are no rows.

REFUSED["LLaVA"].row, REFUSED["LLaVA"].sentence
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shapes import ASKED, a, u


class Refused(NamedTuple):
    file: str
    row: dict[str, Any]
    sentence: str


def media(before: str, after: str = "") -> str:
    return f"{FIRST}{before} images, audio or video{after}; {PICTURE}"


PICTURE = "only text can be trained on"
FIRST = "a.jsonl: no row can be used; for example line 1: "
REFUSED: dict[str, Refused] = {
    "LLaVA": Refused("a.jsonl", {"image": "a.jpg", "conversations": ASKED(1)}, media("column image has")),
    "pictures beside messages": Refused("a.jsonl", {"images": ["a.jpg"], "messages": ASKED(1)}, media("column images has", "")),
    "sound beside a prompt": Refused("a.jsonl", {"audios": ["a.wav"], "prompt": "q", "completion": "a"}, media("column audios has", "")),
    "video bytes beside text": Refused("a.jsonl", {"video": {"bytes": "AAAA"}, "text": "x"}, media("column video has", "")),
    "a folder of pictures": Refused(
        "a.csv",
        {"file_name": "a.png", "text": "x"},
        f"a.csv: no row can be used; for example line 2: column file_name has images, audio or video; {PICTURE}",
    ),
    "a place for a picture": Refused(
        "a.jsonl", {"messages": [u("<image>What is it?"), a("b")]}, media("its text has <image>, a place for", "")
    ),
    "a token for a picture": Refused("a.jsonl", {"text": "see <|image_pad|> here"}, media("its text has <|image_pad|>, a place for", "")),
    "a part that is a picture": Refused(
        "a.jsonl",
        {"messages": [u([{"type": "image_url", "image_url": {"url": "x"}}]), a("b")]},
        media("column messages.content has", " (image_url)"),
    ),
    "a part with sound and words": Refused(
        "a.jsonl", {"messages": [u([{"audio": "x.wav", "text": "b"}]), a("b")]}, media("column messages.content has", " (audio)")
    ),
    "pictures of a turn": Refused(
        "a.jsonl", {"messages": [{**u("q"), "images": ["QUJD"]}, a("b")]}, media("column messages has a message with", " (images)")
    ),
    "a part nobody knows": Refused(
        "a.jsonl",
        {"messages": [u([{"type": "chart", "data": 1}]), a("b")]},
        f"{FIRST}column messages.content has a part of type 'chart'; only parts with text can be trained on",
    ),
    "a part without text": Refused(
        "a.jsonl",
        {"messages": [u([{"type": "text", "words": "q"}]), a("b")]},
        f"{FIRST}column messages.content has a part of type 'text' without text; it has words",
    ),
    "a call that is none": Refused(
        "a.jsonl",
        {"messages": [u("q"), {"role": "tool_call", "content": "add 1"}]},
        f"{FIRST}column messages has a tool call that is not a JSON object",
    ),
    "arguments that are none": Refused(
        "a.jsonl",
        {"messages": [u("q"), a("", function_call={"name": "add", "arguments": "1 + 1"})]},
        f"{FIRST}column messages has a tool call whose arguments are not a JSON object",
    ),
    "a stranger": Refused(
        "a.jsonl",
        {"messages": [{"role": "critic", "content": "q"}, a("b")]},
        f"{FIRST}column messages has a message of 'critic'; known are system, user, assistant and tool",
    ),
    "a flag nobody understands": Refused(
        "a.jsonl",
        {"messages": [u("q"), a("b", train="maybe")]},
        f"{FIRST}column messages has a turn with train 'maybe', which is neither yes nor no",
    ),
    "half a turn": Refused(
        "a.jsonl",
        {"messages": [u("q"), a("b", train_detail=[{"begin_offset": 0}])]},
        f"{FIRST}column messages has a turn of which only a part is to be learned (train_detail); only whole turns can be left out",
    ),
    "undesired answers only": Refused(
        "a.jsonl",
        {"prompt": "q", "completion": "a", "label": False},
        "a.jsonl: no row is to be learned (2 rows because column label marks the answer as undesired).",
    ),
    "OASST": Refused(
        "a.jsonl",
        {"message_id": "i", "parent_id": "p", "text": "q", "role": "prompter"},
        "a.jsonl has one turn of a conversation in each row (columns role and text).",
    ),
    "prompts only": Refused("a.jsonl", {"prompt": [u("q")]}, "a.jsonl has prompts only (column prompt), and no answers to learn."),
    "prompts only, as text": Refused("a.jsonl", {"prompt": "q"}, "a.jsonl has prompts only (column prompt), and no answers to learn."),
    "choices": Refused(
        "a.jsonl",
        {"question": "q", "choices": ["a"], "answerKey": "A"},
        "a.jsonl has the columns question, choices, answerKey: prompts in question, but no column with a known name for answers.",
    ),
    "choices counted from nobody knows where": Refused(
        "a.jsonl",
        {"question": "q", "choices": ["x", "y", "z"], "answer": 1},
        "The column answer says by numbers which choice is right, and they may count from 0 or from 1.",
    ),
    "Gemini in Google's Takeout": Refused(
        "MyActivity.json",
        {"header": "Gemini Apps", "title": "Prompted How?", "time": "2025", "safeHtmlItem": [{"html": "<p>So.</p>"}]},
        "MyActivity.json has what somebody asked Gemini (column title), and its answers as web pages (column safeHtmlItem).",
    ),
    "an answer with parts": Refused(
        "a.jsonl",
        {"question": "q", "answer": {"value": "a", "aliases": ["b"]}},
        f"{FIRST}column answer has an object (value, aliases), not text",
    ),
    "answers of a batch of OpenAI": Refused(
        "a.jsonl",
        {"id": "b", "custom_id": "r1", "response": {"status_code": 200, "body": {"choices": []}}, "error": None},
        "a.jsonl has the answers of a batch, without what was asked.",
    ),
    "a session of Claude Code": Refused(
        "a.jsonl",
        {"type": "user", "message": u("q"), "uuid": "1", "parentUuid": None, "sessionId": "s", "timestamp": "2026"},
        "a.jsonl has one turn of a session with an agent in each row.",
    ),
    "annotations of Label Studio": Refused(
        "a.json",
        {"id": 1, "annotations": [{"result": []}], "predictions": [], "data": {"text": "q"}},
        "a.json has tasks and annotations of Label Studio.",
    ),
    "trees of OASST": Refused(
        "a.jsonl",
        {"message_tree_id": "t", "prompt": {"text": "q", "role": "prompter", "replies": []}},
        "a.jsonl has trees of messages, with several answers to each.",
    ),
    "RACE": Refused(
        "a.jsonl",
        {"article": "c", "questions": ["q", "r"], "options": [["x", "y"], ["x", "y"]], "answers": ["A", "B"]},
        f"{FIRST}column questions has a list, not text",
    ),
    "several prompts and completions": Refused(
        "a.jsonl", {"prompt": ["q", "r"], "completion": ["a", "b"]}, f"{FIRST}column completion has a list, not text"
    ),
    "translations": Refused(
        "a.jsonl",
        {"translation": {"en": "q", "de": "a"}},
        "a.jsonl has pairs in the column translation (en and de), but does not say which is the prompt.",
    ),
    "pairs of sentences": Refused(
        "a.jsonl",
        {"sentence1": "q", "sentence2": "a", "label": 1},
        "a.jsonl has the columns sentence1, sentence2, label, and none of them is a known name for prompt, answer, text or messages.",
    ),
    "labels too short": Refused(
        "a.jsonl", {"input_ids": [1, 2], "labels": [1]}, f"{FIRST}column input_ids has 2 tokens, but column labels has 1"
    ),
    "labels of other tokens": Refused(
        "a.jsonl",
        {"input_ids": [1, 2], "labels": [-100, 3]},
        f"{FIRST}column labels has 3 at place 1, which is neither -100 nor the token there, 2",
    ),
    "labels that are shifted": Refused(
        "a.jsonl",
        {"input_ids": [1, 2, 3], "labels": [2, 3, -100]},
        f"{FIRST}column labels is shifted by one token already; each label must be at the position of its own token",
    ),
    "tokens that are no whole numbers": Refused(
        "a.jsonl", {"input_ids": [1.5, 2]}, f"{FIRST}column input_ids has no list of whole numbers"
    ),
    "a mask that is no list of numbers": Refused(
        "a.jsonl", {"input_ids": [1, 2], "attention_mask": ["x", "y"]}, f"{FIRST}column attention_mask has no list of whole numbers"
    ),
}


CONFIGURATIONS: list[dict[str, Any]] = [
    {"name": "x", "version": "1.0", "scripts": {"test": "jest"}, "dependencies": {"a": "^1"}},
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8},
    {"approach": "fine-tuning", "model": "./m", "dataset": {"source": "a.jsonl"}, "training": {"epochs": 1}},
    {"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>"}], "model": {"type": "BPE"}, "decoder": {"type": "BPE"}},
    {"bos_token": {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}},
    {"en": {"title": "Hello", "body": "World"}, "de": {"title": "Hallo", "body": "Welt"}},
    {"stopwords": ["a", "b", "c", "d", "e"]},
    {"version": "2.0.0", "tasks": [{"command": "make"}, {"command": "test"}]},
    {},
]
