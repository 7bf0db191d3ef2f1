"""Whatever JSON stands in a row: it becomes a record that a template can take, or one sentence says why not; no other error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.arrow_records import restored, stored
from finetune.data.formats.cells import is_learned
from finetune.data.hashes import hashes
from finetune.data.json_values import DECODER
from finetune.data.row_reader import RowReader
from finetune.data.rows import RowProblem
from finetune.errors import UnknownFormat

WORDS = st.sampled_from(
    ["", " ", "q", "user", "assistant", "tool", "system", "human", "gpt", "text", "true", "0", "-1", "1e400", "[1]", '{"name": "f"}']
)
SCALARS = st.none() | st.booleans() | st.integers(-2, 2**40) | st.floats() | WORDS
KEYS = [
    "role",
    "from",
    "content",
    "value",
    "text",
    "parts",
    "type",
    "name",
    "arguments",
    "function",
    "tool_calls",
    "function_call",
    "tools",
]
KEYS += ["train", "weight", "mask", "images", "input", "output", "user", "thinking", "reasoning_content", "messages", "id", "tool_use_id"]
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=12
)
TURNS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4) | VALUES, max_size=4)
COLUMNS = ["messages", "conversations", "prompt", "completion", "chosen", "rejected", "system", "history", "tools", "label", "data", "text"]
COLUMNS += ["input_ids", "labels", "attention_mask", "instruction", "output", "question", "answer", "images", "input", "weight"]
ROWS = st.lists(
    st.dictionaries(st.sampled_from(COLUMNS), VALUES | TURNS | TURNS.map(json.dumps), min_size=1, max_size=5), min_size=1, max_size=3
)


@pytest.mark.parametrize("numbers", ["as they are", "as they are spelled"])
@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(rows=ROWS)
def test_any_row_is_a_record_or_a_sentence(rows: list[dict[str, Any]], numbers: str) -> None:
    if numbers == "as they are spelled":
        rows = [DECODER.decode(json.dumps(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with suppress(UnknownFormat):
        reader = RowReader(columns, rows, None, "a.jsonl")
        for row in rows:
            with suppress(RowProblem):
                record = reader.record(reader.values(row))
                assert any(map(is_learned, record["messages"]))
                assert all(isinstance(turn["role"], str) and isinstance(turn["content"], str) for turn in record["messages"])
                hashes(record)
                kept = restored(stored(record) | {"file": 0, "line": 1})
                assert {name: kept[name] for name in record} == json.loads(json.dumps(record))
                list(getattr(reader.format, "left_out", lambda row: ())(row))
        reader.notes()
