"""Rows with tools: their first call is measured, and the chat gives the model the tools that all rows had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import FAMILIES
from letters import llama

from finetune.data.prepare import PreparedData, prepare_data
from finetune.data.reading import read_rows
from finetune.data.to_measure import to_measure
from finetune.data.tool_calls import MEASURED
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.run.chat import Talk, tools_of
from finetune.run_folder import RunFolder
from finetune.runtime import RuntimeOptions

ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}}
QWEN = FAMILIES["qwen3"].tokenizer


def row(number: int) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": number}}}
    turns = [{"role": "user", "content": f"add {number}"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    result = [{"role": "tool", "content": str(number)}, {"role": "assistant", "content": f"It is {number}."}]
    return {"messages": [*turns, *result], "tools": [ADD]}


def spec_of(tmp_path: Path, rows: list[dict[str, Any]]) -> DatasetSpec:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return DatasetSpec(source=str(path), held_out=0.3)


def prepare(tmp_path: Path, rows: list[dict[str, Any]]) -> PreparedData:
    return prepare_data(spec_of(tmp_path, rows), QWEN, seed=1, runtime=RuntimeOptions(cache_dir=tmp_path / "cache"))


def test_of_a_held_out_row_its_first_call_is_asked_and_all_its_answers_are_read(tmp_path: Path) -> None:
    data = prepare(tmp_path, [row(number) for number in range(10)])
    held = data.held_out[0]
    number = int(held["prompt"].removeprefix("add "))
    assert json.loads(held["reference"].split("<tool_call>")[1].split("</tool_call>")[0]) == {"name": "add", "arguments": {"a": number}}
    assert QWEN.decode(held["prompt_ids"]).partition("<|im_start|>user\n")[2].startswith(f"add {number}<|im_end|>\n<|im_start|>assistant\n")
    learned = QWEN.decode([token for token in held["labels"] if token >= 0])
    assert "<tool_call>" in learned
    assert f"It is {number}." in learned
    assert (data.report.tools, MEASURED in data.report.notes) == ([ADD], True)


def test_so_are_rows_that_models_are_only_measured_on(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, [row(number) for number in range(3)])
    rows = read_rows(spec, RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    assert all('"add"' in each[0]["reference"] for each in to_measure(rows, np.arange(3), spec, QWEN).rows)


def test_an_answer_is_measured_where_calls_are_also_trained_on(tmp_path: Path) -> None:
    rows = [row(number % 2) for number in range(20)]
    for number, each in enumerate(rows):
        each["messages"][2:] = [{"role": "tool", "content": str(number)}, {"role": "assistant", "content": f"It is {number}."}]
    data = prepare(tmp_path, rows)
    assert data.report.held_out_by == "answers"
    assert {text[:6] for text in data.held_out["reference"]} == {"It is "}


@pytest.mark.parametrize("tools", [[ADD], []])
def test_a_chat_has_the_tools_that_every_row_had(tmp_path: Path, tools: list[dict[str, Any]]) -> None:
    rows = [row(0), *({**row(number), "tools": tools or [ADD, {"name": "sub"}]} for number in range(1, 10))]
    report = prepare(tmp_path, rows).report
    run = RunFolder(tmp_path / "run")
    run.run.mkdir(parents=True)
    run.write_json(run.data_report, report.to_dict())
    talk = Talk(llama(vocabulary=len(QWEN)), QWEN, tools=tools_of(run.output_dir))
    talk.turns.append({"role": "user", "content": "add 1"})
    assert ('"name": "add"' in QWEN.decode(talk._prompt()[0])) is bool(tools)
