"""Whether a model is asked to think before it answers: yes where rows have reasoning, and then in every prompt of the run.

decided = decide(tokenizer, rows, division.train)
decided.thinking, decided.options         # False, {"enable_thinking": False}: what the chat template is given in every prompt
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.data.reading import Rows
from finetune.data.split import chosen_records
from finetune.data.tokens.turns import last_learned
from finetune.formatting import counted
from finetune.models.templates.template_facts import TemplateFacts, may_think, prompt_options

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from transformers import PreTrainedTokenizerBase

THOUGHT = re.compile(r"\s*<think>\s*\S.*</think>", re.DOTALL)  # reasoning inside an answer, which is not empty


class Thinking(NamedTuple):
    """`thinking` is None where there is nothing to decide."""

    thinking: bool | None
    options: dict[str, bool]
    note: str = ""


def decide(tokenizer: PreTrainedTokenizerBase, rows: Rows, chosen: np.ndarray) -> Thinking:
    """By the chosen rows; nothing is to be decided where the template has one kind of prompt."""
    if not may_think(tokenizer):
        return Thinking(None, {})
    asked = prompt_options(tokenizer, thinking=True)
    count = 0
    if any(map(_may_have_reasoning, rows.batches())):
        takes_reasoning = _takes_reasoning(tokenizer, asked)
        count = sum(has_reasoning(record, takes_reasoning) for records in chosen_records(rows, chosen) for record in records)
    if count:
        others = f"; the other {len(chosen) - count:,} teach it to think nothing" if count < len(chosen) else ""
        return Thinking(
            True, asked, f"{counted(count, 'row', 'have')} reasoning, so the model is asked to think before it answers{others}."
        )
    return Thinking(False, prompt_options(tokenizer, thinking=False))


def asks_to_think(tokenizer: PreTrainedTokenizerBase, records: Sequence[Mapping[str, Any]]) -> bool:
    """The same decision for rows in memory."""
    if not may_think(tokenizer):
        return False
    takes_reasoning = _takes_reasoning(tokenizer, prompt_options(tokenizer, thinking=True))
    return any(has_reasoning(record, takes_reasoning) for record in records)


def _takes_reasoning(tokenizer: PreTrainedTokenizerBase, asked: Mapping[str, bool]) -> bool:
    facts = TemplateFacts(tokenizer, asked)
    return facts.knows_reasoning or bool(facts.opened_thought)


def has_reasoning(record: Mapping[str, Any], takes_reasoning: bool = True) -> bool:
    """Whether the last answer of a row, or a call on the way to it, has reasoning: inside, or beside it if the template takes that."""
    messages = record["messages"][: last_learned(record["messages"]) + 1]
    asked = max((number for number, turn in enumerate(messages) if turn["role"] == "user"), default=-1)
    answers = [turn for turn in messages[asked + 1 :] if turn["role"] == "assistant" and turn.get("learn") is not False]
    beside = takes_reasoning and any((turn.get("reasoning_content") or "").strip() for turn in answers)
    return beside or any(THOUGHT.match(turn.get("content") or "") for turn in answers)


def _may_have_reasoning(part: RecordBatch) -> bool:
    """Quickly, for a thousand rows at once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    turns = part.column("messages").flatten()
    texts = [turns.field("content")] if isinstance(turns, pa.StructArray) else []
    found = any(pc.any(pc.match_substring(text, "</think>")).as_py() for text in texts)
    more = part.column("more") if "more" in part.schema.names else None
    return found or (more is not None and bool(pc.any(pc.match_substring(more, "reasoning_content")).as_py()))
