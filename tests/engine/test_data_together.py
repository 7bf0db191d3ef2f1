"""Which held-out rows belong together: answers to one prompt, a conversation that goes on, blocks of one text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bytes_tokenizer import CHATML, byte_level
from workshop import Workshop

from finetune.benchmark.groups import groups_of
from finetune.benchmark.names import FEWEST_ROWS
from finetune.data.prepare import PreparedData, prepare_data
from finetune.data.reading import read_rows
from finetune.data.to_measure import to_measure
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions


def chat(*said: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def prepare(tmp_path: Path, rows: list[dict[str, Any]], held: list[dict[str, Any]] | None = None, **spec: Any) -> PreparedData:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", rows)
    if held:
        write(folder / "test.jsonl", held)
        spec |= {"eval_split": "test", "held_out": 0.99}
    runtime = RuntimeOptions(cache_dir=tmp_path / "cache")
    return prepare_data(DatasetSpec(source=str(folder), **spec), byte_level(CHATML), seed=1, runtime=runtime)


PAIRS = [{"question": f"What is {number} and one?", "answer": f"It is {number + 1}."} for number in range(40)]


def test_answers_to_one_prompt_belong_together(tmp_path: Path) -> None:
    held = [{"question": f"Name {'abc'[row % 3]}!", "answer": f"Name {row}"} for row in range(12)]
    prepared = prepare(tmp_path, PAIRS, held)
    assert groups_of(prepared.held_out) == [0, 1, 2] * 4
    assert prepared.report.held_out_groups == 3


def test_answers_to_a_single_new_prompt_are_no_more_evidence_than_those_to_a_few(tmp_path: Path) -> None:
    rows = [{"question": f"Name {row % 10}!", "answer": f"Name {row}"} for row in range(200)]
    prepared = prepare(tmp_path, rows)
    assert (prepared.report.held_out, prepared.report.held_out_groups, prepared.report.held_out_by) == (20, 1, "prompts")
    assert groups_of(prepared.held_out) == [0] * 20


def test_rows_with_prompts_of_their_own_stand_alone(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, PAIRS, held_out=0.5)
    assert groups_of(prepared.held_out) == []
    assert prepared.report.held_out_groups == prepared.report.held_out == 20


def test_a_conversation_that_goes_on_belongs_together_and_one_that_only_begins_alike_does_not(tmp_path: Path) -> None:
    greeting = ("Hi", "Hello! What can I do?")
    held = [
        chat("Sum 1?", "2", "And 3?", "5"),
        chat("Sum 1?", "2"),
        chat("Sum 1?", "2", "And 3?", "5", "Again?", "7"),
        chat(*greeting, "A joke.", "No."),
        chat(*greeting, "A poem.", "Yes."),
    ]
    groups = list(prepare(tmp_path, [chat(f"Double {row}?", f"{2 * row}") for row in range(40)], held).held_out["group"])
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 3


def test_blocks_of_one_text_belong_together(tmp_path: Path) -> None:
    texts = [{"text": f"{number} {'abcdefgh ' * 12}"} for number in range(20)]
    prepared = prepare(tmp_path, texts, max_length=64, held_out=0.2)
    assert groups_of(prepared.held_out) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert prepared.report.held_out_groups == 4


def test_where_prompts_are_not_kept_apart_rows_are_what_differs(tmp_path: Path) -> None:
    rows = [{"question": "Write a tweet like me.", "answer": f"Tweet {number}"} for number in range(100)]
    assert groups_of(prepare(tmp_path, rows).held_out) == []


def test_rows_that_models_are_only_measured_on_belong_together_too(tmp_path: Path) -> None:
    rows = [{"question": f"Name {row % 5}!", "answer": f"Name {row}"} for row in range(20)]
    spec = DatasetSpec(source=str(write(tmp_path / "a.jsonl", rows)))
    read = read_rows(spec, RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    found = to_measure(read, np.arange(20), spec, byte_level(CHATML))
    assert groups_of([row for each in found.rows for row in each]) == [row % 5 for row in range(20)]
    tweets = [{"question": "Write a tweet like me.", "answer": f"Tweet {row}"} for row in range(20)]
    spec = DatasetSpec(source=str(write(tmp_path / "b.jsonl", tweets)))
    read = read_rows(spec, RuntimeOptions(cache_dir=tmp_path / "cache"), Recorder())
    found = to_measure(read, np.arange(20), spec, byte_level(CHATML))
    assert groups_of([row for each in found.rows for row in each]) == [], "nothing else is asked: the rows are what differs"


def test_the_plan_says_how_long_rows_may_be_so_that_answers_have_their_ends(tmp_path: Path, shop: Workshop) -> None:
    """Where many are cut off; the model can read 256 tokens."""
    for letters, said in ((40, None), (100, "=114 keeps them whole"), (300, "=256 keeps them longer")):
        rows = [{"prompt": f"say {row:03}", "completion": f"{row:03}" + "a" * letters} for row in range(120)]
        layer = shop.layer(benchmark={"rows": 20})
        layer["dataset"] |= {"source": str(write(tmp_path / f"{letters}.jsonl", rows)), "held_out": 0.2}
        warnings = shop.tuner(layer).plan().warnings
        cut = [
            f"96 of 96 answers are cut off, so they do not teach the model to end. --set dataset.max_length{said}, and takes more memory."
        ]
        assert warnings == (cut if said else [])
    layer["dataset"] |= {"max_length": 256}
    (warning,) = shop.tuner(layer).plan().warnings
    assert warning.endswith("reads 256 tokens at most: only a model with a longer context takes them whole.")
    layer["dataset"] |= {"max_length": 64}
    rows = [{"prompt": f"say {row:03}" + "a" * 60, "completion": f"{row:03}"} for row in range(120)]
    layer["dataset"] |= {"source": str(write(tmp_path / "prompts.jsonl", rows))}
    assert shop.tuner(layer).plan().warnings == [
        "96 of 96 prompts lose their beginning. --set dataset.max_length=74 keeps them whole, and takes more memory."
    ]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"batch_size": 6}, None),
        ({"batch_size": 8, "gradient_accumulation": 32}, "48: --set training.batch_size=4 --set training.gradient_accumulation=1."),
        ({"batch_size": 200}, "48: --set training.batch_size=4."),
        ({"batch_size": 200, "epochs": 0.01}, "more: --set training.epochs=auto."),
    ],
)
def test_the_plan_says_that_so_few_steps_change_little(training: dict[str, Any], said: str | None, tmp_path: Path, shop: Workshop) -> None:
    rows = [{"prompt": f"say {row}", "completion": f"{row}"} for row in range(120)]
    layer = shop.layer(benchmark={"rows": 20}, training={"epochs": 2, **training})
    layer["dataset"] |= {"source": str(write(tmp_path / "rows.jsonl", rows)), "held_out": 0.2}
    steps = "1 step" if "epochs" in training else "2 steps"
    assert shop.tuner(layer).plan().warnings == ([f"In {steps} a model changes little; for {said}"] if said else [])


@pytest.mark.parametrize("times", [1, 6])
def test_the_plan_says_that_many_rows_of_few_prompts_are_too_few(tmp_path: Path, shop: Workshop, times: int) -> None:
    prompts = 120 // times
    rows = [{"prompt": f"say {row % prompts}", "completion": f"{'abcdefgh'[row % 8]} {row}"} for row in range(120)]
    layer = shop.layer(benchmark={"rows": 50})
    layer["dataset"] |= {"source": str(write(tmp_path / "many.jsonl", rows)), "held_out": 0.2}
    warnings = shop.tuner(layer).plan().warnings
    if times == 1:
        assert warnings == []
    else:
        (warning,) = warnings
        assert "held-out rows with only 4 different prompts or texts are too few to judge the result" in warning
        assert f"{FEWEST_ROWS} would do" in warning
