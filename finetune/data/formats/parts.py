"""The content of a message that is a list of parts: text under any of its names, thoughts, tool calls and their results. No pictures.

read_parts([{"type": "input_text", "text": "Hi "}, "there"], "messages.content").text  ->  "Hi there"
"""

from __future__ import annotations

from typing import Any, NamedTuple

from finetune.data.formats.cells import Message, as_text, is_missing
from finetune.data.formats.media import media_field
from finetune.data.formats.tools import read_calls, result_text
from finetune.data.rows import RowProblem

TEXTS = ("text", "input_text", "output_text", "string", "refusal", "")  # types; "" is a part without one
KEYS = ("text", "value", "content", "input_text", "output_text", "string", "refusal", "parts")
THOUGHTS = ("thinking", "reasoning", "reasoning_content", "thought")
CALLS = ("tool_use", "tool_call", "function_call")
RESULTS = ("tool_result", "function_call_output", "tool_response")
UNSAID = ("token_budget", "flag")  # Claude's, about a message
MEDIA = ("image", "img", "audio", "video", "picture", "speech", "file", "document", "media")  # in the names of types


class Said(NamedTuple):
    """What the parts of one content are; `text` is None where there is none at all."""

    text: str | None = None
    reasoning: tuple[str, ...] = ()
    calls: tuple[dict[str, Any], ...] = ()
    results: tuple[Message, ...] = ()


def read_parts(value: Any, column: str) -> Said:
    """Text, or a list of parts; raises RowProblem that names a part which is neither text nor of a tool."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list | tuple):
        return Said(None if is_missing(value) else as_text(value, column))
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[Message] = []
    for part in value:
        if isinstance(part, str):
            texts.append(str(part))
            continue
        if not isinstance(part, dict):
            raise RowProblem(f"column {column} has a part that is neither text nor an object")
        kind = str(part.get("type", part.get("content_type")) or "").lower()
        media = kind if any(word in kind for word in MEDIA) else media_field(part)
        if media:
            raise RowProblem(f"column {column} has images, audio or video ({media}); only text can be trained on")
        if kind in UNSAID:
            continue
        if kind in THOUGHTS:
            reasoning.append(_text_of(part, (*THOUGHTS, *KEYS, "summary"), kind, column))
        elif kind in CALLS:
            calls += read_calls({**part, "id": part.get("id") or part.get("call_id")}, column)
        elif is_result(part):
            results.append(_result(part, column))
        elif kind in TEXTS:
            texts.append(_text_of(part, KEYS, kind, column))
        else:
            raise RowProblem(f"column {column} has a part of type {kind!r}; only parts with text can be trained on")
    return Said("".join(texts) if texts else None, tuple(reasoning), tuple(calls), tuple(results))


def is_result(part: Any) -> bool:
    """Whether a part is what a tool gave back."""
    return isinstance(part, dict) and str(part.get("type", part.get("content_type")) or "").lower() in RESULTS


def _text_of(part: dict[str, Any], keys: tuple[str, ...], kind: str, column: str) -> str:
    found = next((part[key] for key in keys if part.get(key) is not None), None)
    if isinstance(found, list | dict):
        return read_parts(found, column).text or ""
    if found is None:
        names = ", ".join(key for key in part if key != "type") or "nothing"
        raise RowProblem(f"column {column} has a part{f' of type {kind!r}' if kind else ''} without text; it has {names}")
    return as_text(found, column)


def _result(part: dict[str, Any], column: str) -> Message:
    value = part.get("content", part.get("output"))
    is_parts = isinstance(value, list) and all(isinstance(inner, dict) and "type" in inner for inner in value)
    text = None if is_parts else result_text(value)
    message: Message = {"role": "tool", "content": text if text is not None else read_parts(value, column).text or ""}
    called = part.get("tool_use_id") or part.get("call_id")
    return {**message, "tool_call_id": called} if isinstance(called, str) else message
