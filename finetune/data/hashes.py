"""Hashes by which training and held-out rows are kept apart: of whole rows, of prompts, and of every answer with what precedes it.

hashes({"messages": [user, answer, user, last answer]})
    ->  {"row_hash": ..., "prompt_hash": ..., "answer_hashes": [of the first answer], "asked_hashes": [of what precedes it]}

Case and spacing do not count, nor do roles; reasoning and tool calls do.
"""

from __future__ import annotations

import hashlib
import json
from typing import TypedDict

from finetune.data.formats.cells import Message, Record, is_learned


class Hashes(TypedDict):
    row_hash: int  # all up to the last answer
    prompt_hash: int  # all before it; plain text has no prompt, so its own hash stands for it
    answer_hashes: list[int]  # the same two for the answers before the last
    asked_hashes: list[int]


def hashes(record: Record) -> Hashes:
    """Of the answers of a row, each with everything that precedes it."""
    so_far = hashlib.blake2b(digest_size=8)
    asked: list[int] = []
    answered: list[int] = []
    said = False
    for turn in record["messages"]:
        words = _words(turn)
        if is_learned(turn):
            answer = so_far.copy()
            answer.update(b"\0" + words)
            answered.append(_number(answer))
            asked.append(_number(so_far) if said else answered[-1])
        if words:
            so_far.update(words + b" ")
            said = True
    return {"row_hash": answered[-1], "prompt_hash": asked[-1], "answer_hashes": answered[:-1], "asked_hashes": asked[:-1]}


def _words(turn: Message) -> bytes:
    if len(turn) == 2:
        return " ".join(turn["content"].casefold().split()).encode("utf-8")
    parts = [turn["content"], turn.get("reasoning_content", "")]
    if calls := turn.get("tool_calls"):
        parts.append(json.dumps([call.get("function") for call in calls], sort_keys=True, ensure_ascii=False))
    return " ".join(" ".join(parts).casefold().split()).encode("utf-8")


def _number(text: hashlib.blake2b) -> int:
    return int.from_bytes(text.digest(), "little", signed=True)
