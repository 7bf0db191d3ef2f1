"""Tools: what a model may call, its calls, and their results, as chat templates take them.

read_tools('[{"name": "add", "parameters": {}}]', "tools")  ->  [{"type": "function", "function": {"name": "add", "parameters": {}}}]
read_calls({"name": "add", "arguments": '{"a": 1}'}, "x")   ->  [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
"""

from __future__ import annotations

import json
import re
from typing import Any

from finetune.data.formats.cells import is_empty
from finetune.data.json_values import parsed, plain
from finetune.data.rows import RowProblem

COLUMNS = ("tools", "functions", "available_tools", "tool_definitions", "function_definitions", "tools_list")
ARGUMENTS = ("arguments", "parameters", "input", "args")
RESPONSE = re.compile(r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL)


def read_tools(value: Any, column: str) -> list[dict[str, Any]]:
    """Tool definitions of a cell: a list, one object or their JSON text, wrapped as OpenAI wraps them or bare. Raises RowProblem."""
    value = parsed(value)
    if is_nothing(value):
        return []
    given = [parsed(tool) for tool in (value if isinstance(value, list) else [value])]
    return [_definition(tool, column) for tool in given]


def _definition(tool: Any, column: str) -> dict[str, Any]:
    if isinstance(tool, dict):
        inner = parsed(tool.get("function"))
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            return {"type": "function", **plain(tool), "function": plain(inner)}
        if isinstance(tool.get("name"), str):
            return {"type": "function", "function": plain({key: value for key, value in tool.items() if key != "type"})}
    raise RowProblem(f"column {column} has a tool without a name")


def read_calls(value: Any, column: str) -> list[dict[str, Any]]:
    """The calls of one turn: a list, one object or their JSON text; arguments are objects afterwards. Raises RowProblem."""
    value = parsed(value)
    if is_nothing(value):
        return []
    return [_call(parsed(call), column) for call in (value if isinstance(value, list) else [value])]


def calls_in(text: str) -> list[dict[str, Any]]:
    """The calls that a text consists of, if it is nothing but their JSON; else none."""
    value = parsed(text)
    given = value if isinstance(value, list) else [value]
    if not given or not all(isinstance(call, dict) and isinstance(call.get("name"), str) and _given(call) is not None for call in given):
        return []
    try:
        return [_call(call, "") for call in given]
    except RowProblem:
        return []


def result_text(value: Any) -> str | None:
    """A result that is an object or a list as JSON; the text inside <tool_response>, which templates write themselves; else None."""
    if isinstance(value, dict | list):
        return json.dumps(plain(value), ensure_ascii=False)
    wrapped = RESPONSE.fullmatch(value) if isinstance(value, str) else None
    return wrapped.group(1) if wrapped else None


def _call(call: Any, column: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise RowProblem(f"column {column} has a tool call that is not a JSON object")
    inner = parsed(call.get("function"))
    function = inner if isinstance(inner, dict) else {**call, "name": inner} if isinstance(inner, str) else call
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RowProblem(f"column {column} has a tool call without a name")
    given = _given(function)
    arguments = parsed(given) if given else {}
    if not isinstance(arguments, dict):
        raise RowProblem(f"column {column} has a tool call whose arguments are not a JSON object")
    made: dict[str, Any] = {"type": "function", "function": {"name": str(function["name"]), "arguments": plain(arguments)}}
    return {"id": str(call["id"]), **made} if isinstance(call.get("id"), str) and call["id"] else made


def is_nothing(value: Any) -> bool:
    """An empty cell, however it says so."""
    return is_empty(value) or (isinstance(value, list | dict) and not value)


def _given(function: dict[str, Any]) -> Any:
    return next((function[name] for name in ARGUMENTS if function.get(name) is not None), None)
