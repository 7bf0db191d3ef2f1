"""Rows with tools: what is measured of them, and which tools all of them have.

asked = first_call(encoder, record)          # the row up to the end of its first call; None where its last answer is measured
named([{"type": "function", "function": {"name": "add"}}])      # "add"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.formats.cells import Message, is_learned
from finetune.data.rows import RowProblem
from finetune.data.tokens.encoder import Encoder
from finetune.data.tokens.encoder import Sequence as TokenRow
from finetune.data.tokens.turns import last_learned

MEASURED = "Of held-out rows with tool calls the first call is measured, and not the last answer, which repeats what the tool said."


def first_call(encoder: Encoder, record: dict[str, Any]) -> TokenRow | None:
    """What a model must get right by itself: the answer at the end often only repeats the result of the call."""
    turns = record["messages"]
    call = number_of_call(turns)
    if call is None or call == last_learned(turns):
        return None
    try:
        return encoder.fitted(encoder.whole(turns[: call + 1], record.get("tools")))
    except RowProblem:  # some templates take no call without its result
        return None


def number_of_call(turns: Sequence[Message]) -> int | None:
    """The number of the first turn that calls a tool and is learned."""
    return next((number for number, turn in enumerate(turns) if turn.get("tool_calls") and is_learned(turn)), None)


def named(tools: Sequence[dict[str, Any]]) -> str:
    """The names of tools, as a person reads them."""
    return ", ".join(str(tool.get("function", {}).get("name")) for tool in tools)
