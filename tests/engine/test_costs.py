"""Speed and memory of two models are measured alike, in turn and in processes of their own, or not at all, and then it is said why."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from workshop import Workshop, model_folder, notices

from finetune.benchmark.names import FEWEST_ROWS
from finetune.run import costs
from finetune.run.costs import measure_costs


@pytest.mark.slow
def test_both_models_of_a_run_are_measured_each_in_a_process_of_its_own(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "FEWEST_PARAMETERS", 0)
    monkeypatch.setattr(costs, "ROUNDS", 3)
    tuner = shop.tuner(shop.distilling())
    scores = tuner.run().scores
    assert set(scores["speed"]) == {"teacher", "after"}, "the cut student is nobody's choice"
    for cost in scores["speed"].values():
        assert cost["tokens_per_second"] > 0
        assert cost["threads"] >= 1
        assert 0 <= cost["peak_memory_bytes"] < 100e6, "of the model, not of the libraries"
    assert set(scores["measured_on"]) == {"processor", "device", "dtype"}
    assert "were not measured" not in " ".join(notices(tuner))
    assert "process" not in json.dumps(scores["speed"])


def test_of_a_model_so_small_that_only_python_would_be_measured_nothing_is(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer())
    assert measure_costs(tuner.context, ("before", "after"), {"before": 20_000, "after": 21_000}) == {}
    assert notices(tuner) == []


def test_where_there_is_no_room_for_both_models_once_more_it_is_said(shop: Workshop) -> None:
    tuner = shop.tuner(shop.layer())
    assert measure_costs(tuner.context, ("before", "after"), {"before": 10**13, "after": 10**13}) == {}
    (said,) = notices(tuner)
    assert said.startswith("Speed and memory were not measured: that takes both models in memory once more, about 104001.4 GB")
    assert said.endswith("is free.")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ('print(\'{"problem": "It does not fit."}\')', "It does not fit."),
        ("", "the process of the new model ended early."),
        ("print('{\"ready\": true}'); sys.exit()", "the process of the new model ended early."),
    ],
)
def test_a_process_that_cannot_measure_ends_the_measurement_and_not_the_run(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    def child(command, empty, **options):
        code = f"import sys; sys.stdin.readline(); {program}"
        return subprocess.Popen([sys.executable, "-c", code], cwd=empty, text=True, **options)

    monkeypatch.setattr(costs, "FEWEST_PARAMETERS", 0)
    monkeypatch.setattr(costs, "python_child", child)
    tuner = shop.tuner(shop.layer())
    assert measure_costs(tuner.context, ("after",), {"after": 20_000}) == {}
    assert f"Speed and memory were not measured: {said}" in notices(tuner)


def test_nothing_waits_for_a_measurement_that_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        kill = staticmethod(lambda: None)

        class stdout:
            @staticmethod
            def readline() -> str:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        costs._Answering(Stopped, "after").heard()
    assert all(timer.finished.is_set() for timer in threading.enumerate() if isinstance(timer, threading.Timer))


# What is said before the run.

LONG = {"epochs": 10, "batch_size": 4}


@pytest.mark.parametrize(
    ("rows", "benchmark", "said"),
    [
        (None, {"rows": 3}, "3 held-out rows are too few to judge the result"),
        (8, {"rows": 50}, "(--set dataset.samples=32)."),
    ],
)
def test_the_plan_says_that_rows_are_too_few_and_what_would_do(shop: Workshop, rows: int | None, benchmark: dict, said: str) -> None:
    layer = shop.layer(benchmark=benchmark, training=LONG)
    if rows:
        layer["dataset"] |= {"samples": rows}
    else:
        layer["dataset"] |= {"held_out": 0.5}
    (warning,) = shop.tuner(layer).plan().warnings
    assert said in warning
    assert f"{FEWEST_ROWS} would do" in warning
    assert ("--set benchmark.rows=" in warning) == (rows is None)


def test_the_plan_proposes_a_larger_share_where_that_gives_enough_rows(tmp_path: Path, shop: Workshop) -> None:
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps({"prompt": f"say {n}", "completion": "abcdefgh"[n % 8]}) + "\n" for n in range(100)))
    layer = shop.layer(benchmark={"rows": 50})
    layer["dataset"] |= {"source": str(many), "held_out": 0.04}
    (warning,) = shop.tuner(layer).plan().warnings
    assert warning.endswith("(--set dataset.held_out=0.2).")
    layer["dataset"]["held_out"] = 0.2
    assert shop.tuner(layer).plan().warnings == []
    layer["dataset"] |= {"held_out": 0.1, "samples": 20}  # 2 of these: no share is enough
    warnings = shop.tuner(layer).plan().warnings
    assert any(warning.endswith("(--set dataset.samples=100).") for warning in warnings), "the file has more"
    many.write_text("".join(many.read_text().splitlines(keepends=True)[:40]))
    layer["dataset"] |= {"samples": 100}
    warnings = shop.tuner(layer).plan().warnings
    assert any(warning.endswith("(--set dataset.held_out=0.3).") for warning in warnings), "12 are enough, and 20 too large a share"


def test_the_plan_says_what_plain_text_does_not_teach(tmp_path: Path, shop: Workshop) -> None:
    (tmp_path / "handbook.txt").write_text("\n\n".join(f"Rule {n}: {'abcdefgh'[n % 8]} is {n}." for n in range(60)))
    layer = shop.layer()
    assert not [note for note in shop.tuner(layer).plan().notes if "plain text" in note]
    layer["dataset"] |= {"source": str(tmp_path / "handbook.txt"), "text_as": "line"}
    assert [note for note in shop.tuner(layer).plan().notes if "not to answer questions about them" in note]


def test_of_a_small_other_split_more_rows_to_train_on_are_not_proposed(tmp_path: Path, shop: Workshop) -> None:
    for split, words in (("train", [f"say {n}" for n in range(60)]), ("test", [f"tell {n}" for n in range(5)])):
        rows = [{"prompt": word, "completion": f"{word} abc"} for word in words]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    layer = shop.layer(benchmark={"rows": 50}, training=LONG)
    layer["dataset"] |= {"source": str(tmp_path), "eval_split": "test", "samples": 40}
    (warning,) = shop.tuner(layer).plan().warnings
    assert warning == "5 held-out rows are too few to judge the result: 8 would do, 20 are better. Add rows to the data."


def test_a_step_over_the_blocks_of_a_long_text_has_as_many_as_the_recipe_says(tmp_path: Path, shop: Workshop) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"{letter}bc def " * 200}) + "\n" for letter in "ghij"))
    layer = shop.layer()
    layer["dataset"] |= {"source": str(texts)}
    plan = shop.tuner(layer).plan()
    assert plan.rows == 3
    assert plan.step_rows == 6, "blocks, of which there are more than texts"
    assert shop.tuner(shop.layer(training={"epochs": 2, "batch_size": 64})).plan().step_rows == 24, "all rows there are"


@pytest.mark.parametrize(("layers", "warned"), [(2, True), (0.4, True), (3, False)])
def test_the_plan_says_that_a_student_is_cut_too_small(shop: Workshop, layers: float, warned: bool) -> None:
    deep = shop.folder / "deep"
    if not deep.exists():
        model_folder(deep, layers=5)
    layer = shop.distilling(teacher=str(deep), model={"from_teacher": {"layers": layers}}, benchmark={"rows": 50}, training=LONG)
    layer["dataset"] |= {"held_out": 0.5}
    warnings = shop.tuner(layer).plan().warnings
    said = "The student keeps 2 of its teacher's 5 layers (40 %). Below half in one go, expect it to be not usable: "
    assert [warning.startswith(said) for warning in warnings] == ([True] if warned else [])
