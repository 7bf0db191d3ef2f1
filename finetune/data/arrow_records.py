"""Records in an Arrow file and back: role and content are columns, whatever else a few turns have is one cell of JSON.

stored({"messages": [...], "tools": [...]})   ->  {"messages": [{"role": ..., "content": ...}], "more": '{"tools": [...]}'}
restored(row)                                 ->  the record again, without fields that it does not have
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from finetune.data.formats.cells import Record

if TYPE_CHECKING:
    from pyarrow import Schema


def schema_of(*, tokens: bool, routed: bool = False) -> Schema:
    """The columns of a file of rows; those of tokens only where the rows are tokens already, `route` where a column says whose they are."""
    import pyarrow as pa

    message = pa.struct({"role": pa.string(), "content": pa.string()})
    fields = {"messages": pa.list_(message), "more": pa.string(), "file": pa.int32(), "line": pa.int64()}
    fields |= {"row_hash": pa.int64(), "prompt_hash": pa.int64()}
    fields |= {"answer_hashes": pa.list_(pa.int64()), "asked_hashes": pa.list_(pa.int64())}
    fields |= {"route": pa.string()} if routed else {}
    return pa.schema(fields | ({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())} if tokens else {}))


def stored(record: Record) -> dict[str, Any]:
    """The cells of a record."""
    if len(record) == 1 and all(len(turn) == 2 for turn in record["messages"]):
        return {"messages": record["messages"], "more": None}
    row: dict[str, Any] = {**record}
    tools = row.pop("tools", None)
    turns: dict[str, Any] = {}
    for number, turn in enumerate(record["messages"]):
        if len(turn) > 2:
            turns[str(number)] = {key: value for key, value in turn.items() if key not in ("role", "content")}
    more = {key: value for key, value in (("turns", turns), ("tools", tools)) if value}
    return {**row, "more": json.dumps(more, ensure_ascii=False) if more else None}


def restored(row: dict[str, Any]) -> dict[str, Any]:
    """The record of a row, with `file` and `line`."""
    more = json.loads(row["more"]) if row["more"] else {}
    for number, fields in more.get("turns", {}).items():
        row["messages"][int(number)].update(fields)
    kept = ("messages", "file", "line", "route", "input_ids", "labels")
    record: dict[str, Any] = {key: row[key] for key in kept if key in row}
    return {**record, "tools": more["tools"]} if "tools" in more else record
