"""From the first question to the finished model on a real terminal, with a pico model so that it takes seconds."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import warm
from lengths import few
from screen import CTRL_C, DOWN, ENTER, ROOT, UP, Terminal, environment

RUN_SECONDS = 120


def answer(terminal: Terminal, question: str, *keys: str) -> None:
    terminal.wait_for(f"? {question}")
    terminal.press(*keys, ENTER)


def chosen(terminal: Terminal) -> str:
    """The line of a list that is marked."""
    return next((line.strip() for line in reversed(terminal.text().splitlines()) if line.strip().startswith("❯")), "")


def up_to_the_review(terminal: Terminal, method: str = "LoRA") -> None:
    """Pico model, rows.jsonl, and Enter for the rest."""
    answer(terminal, "What would")
    answer(terminal, "Model", UP)
    answer(terminal, "Name or folder", "./pico")
    answer(terminal, "Dataset", DOWN)
    answer(terminal, "Is this right?")
    answer(terminal, "Rows to use")
    terminal.wait_for("? Method")
    while not (before := chosen(terminal)).startswith(f"❯ {method}"):
        terminal.press(DOWN)
        ends = time.monotonic() + RUN_SECONDS
        while chosen(terminal) == before:  # a second key before the first has moved the mark would go one too far
            assert time.monotonic() < ends, f"nothing is below {before}"
            terminal.read(0.1)
    terminal.press(ENTER)
    for question in ("Output folder", "Epochs", "Batch size", "Learning rate", "Change advanced", "Rows to test"):
        answer(terminal, question)
    terminal.wait_for("? Ready?", RUN_SECONDS)


@pytest.mark.parametrize("columns", few([40, 80], 40))
def test_from_the_first_question_to_the_finished_model(columns: int, workplace: Path) -> None:
    with Terminal(folder=workplace, columns=columns, rows=50, fresh=columns == 80) as terminal:
        up_to_the_review(terminal)
        review = terminal.text()[terminal.text().index("REVIEW") :]
        for fact in (
            "train on",
            "Learned",
            "./pico",
            "rows.jsonl",
            "Memory",
            "free",
            "steps",
            "Time",
            "Disk",
            "./finetuned_model",
            "nothing leaves this machine",
        ):
            assert fact in review
        assert "traceback" not in terminal.text().lower()
        assert not (workplace / "finetuned_model").exists(), "nothing is written before Start"
        terminal.press(ENTER)
        terminal.wait_for(" held-out rows\n", RUN_SECONDS)
        terminal.wait_for("STEP 6")
        assert terminal.wait_for_end() == 0
        text = terminal.text()
        for words in ("ROUGE-L", "Perplexity", "Before", "After", "reference", "finetune_cli.py chat finetuned_model", "run/recipe.yaml"):
            assert "".join(words.split()) in "".join(text.split()), words  # wherever the line was broken
        for noise in ("Warning", "it/s]", "100%|"):
            assert noise not in text, "what libraries print belongs in run/debug.log"
    made = {path.name for path in (workplace / "finetuned_model").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md", "run"} <= made
    assert {"before", "after", "intervals"} <= set(json.loads((workplace / "finetuned_model" / "run" / "benchmark.json").read_text()))
    assert (workplace / "finetuned_model" / "run" / "debug.log").exists()


def test_distillation_from_the_first_question_to_the_student_beside_its_teacher(workplace: Path) -> None:
    with Terminal(folder=workplace, rows=60) as terminal:
        answer(terminal, "What would", DOWN)
        answer(terminal, "How should it be distilled?")
        answer(terminal, "Teacher", UP)
        answer(terminal, "Name or folder", "./pico")
        answer(terminal, "Student")
        answer(terminal, "Smaller by", DOWN)  # from the best mix, which is last, to the first: layers
        terminal.wait_for("The teacher has 4")
        answer(terminal, "Layers to keep", "2")
        answer(terminal, "Dataset", DOWN)
        for question in ("Is this right?", "Rows to use"):
            answer(terminal, question)
        terminal.wait_for("Method: Full, every weight trains")
        terminal.wait_for("1 to 5")
        for question in (
            "Temperature",
            "Alpha",
            "Output folder",
            "Epochs",
            "Batch size",
            "Learning rate",
            "Change advanced",
            "Rows to test",
        ):
            answer(terminal, question)
        terminal.wait_for("? Ready?", RUN_SECONDS)
        for fact in (
            "Teacher",
            "made from the teacher with 2 of its layers",
            "all but the embeddings and the head",
            "Cache",
            "./distilled_model",
        ):
            terminal.wait_for(fact)
        terminal.press(ENTER)
        terminal.wait_for("STEP 6", RUN_SECONDS)
        assert terminal.wait_for_end() == 0
        for words in ("KL to teacher", "Same top token", "Student and teacher compared", "Parameters", "against"):
            terminal.wait_for(words)
    assert (workplace / "distilled_model" / "model.safetensors").exists()


def test_plain_runs_to_the_end_in_lines(workplace: Path) -> None:
    with Terminal(["--plain"], folder=workplace, rows=60) as terminal:
        for words, typed in (("Number [1]", ""), ("Another model", "2"), ("Name or folder", "./pico"), ("rows.jsonl", "2")):
            terminal.wait_for(words)
            terminal.press(f"{typed}\n")
        for question in (
            "Is this right?",
            "Rows to use",
            "LoRA",
            "Output",
            "Epochs",
            "Batch",
            "Learning",
            "Change advanced",
            "Rows to test",
        ):
            terminal.wait_for(question)
            terminal.press("\n")
        terminal.wait_for("Ready?", RUN_SECONDS)
        terminal.press("\n")
        terminal.wait_for("Training: ", RUN_SECONDS)
        terminal.wait_for(" held-out rows\n", RUN_SECONDS)
        assert terminal.wait_for_end() == 0
        assert b"\x1b" not in terminal.raw


def test_the_saved_plan_repeats_the_run_and_gives_the_same_recipe(workplace: Path) -> None:
    with Terminal(folder=workplace) as terminal:
        up_to_the_review(terminal)
        terminal.press(DOWN, DOWN, DOWN, ENTER)
        answer(terminal, "Save as")
        assert terminal.wait_for_end() == 0
        terminal.wait_for("run recipe.yaml")
    assert not (workplace / "finetuned_model").exists()
    done = warm.run(["plan", "recipe.yaml", "--json"], workplace, environment())
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["steps"] > 0
    assert plan["problems"] == []


def test_changing_something_at_the_review_asks_only_that(workplace: Path) -> None:
    with Terminal(folder=workplace) as terminal:
        up_to_the_review(terminal)
        terminal.press(DOWN, DOWN, ENTER)
        answer(terminal, "Change what?")  # Training
        terminal.wait_for("? Epochs")
        terminal.press("2", ENTER)
        for question in ("Batch size", "Learning rate", "Change advanced"):
            answer(terminal, question)
        terminal.wait_for("2 x 13 rows", RUN_SECONDS)
        terminal.wait_for("? Ready?", RUN_SECONDS)
        terminal.press(UP, ENTER)
        assert terminal.wait_for_end() == 0
        terminal.wait_for("Nothing was written.")
        assert terminal.text().count("? Epochs") == 0


def test_measuring_first_can_be_left_and_makes_the_review_go_by_real_steps(workplace: Path) -> None:
    with Terminal(folder=workplace, rows=60) as terminal:
        up_to_the_review(terminal)
        terminal.press(DOWN)
        terminal.wait_for("❯ Measure first")
        terminal.press(ENTER)
        terminal.wait_for("Measuring a few real steps", RUN_SECONDS)
        terminal.press(CTRL_C)
        terminal.wait_for("❯ Start ", RUN_SECONDS)
        terminal.press(DOWN, ENTER)
        terminal.wait_for("measured: ", RUN_SECONDS)
        terminal.wait_for("❯ Start ")
        terminal.press(UP, ENTER)
        assert terminal.wait_for_end() == 0
        terminal.wait_for("Nothing was written.")
    assert not (workplace / "finetuned_model").exists()


SMALL_MACHINE = """
import psutil

real = psutil.virtual_memory
psutil.virtual_memory = lambda: real()._replace(available={free})
"""


def test_what_does_not_fit_comes_with_ways_out_and_their_numbers(workplace: Path) -> None:
    """On a machine whose free memory is what the run needs without half of its activations."""
    (workplace / "recipe.yaml").write_text("model: ./pico\ndataset: {source: rows.jsonl}\ntraining: {epochs: 1, batch_size: 8}\n")
    planned = warm.run(["plan", "recipe.yaml", "--json"], workplace, environment())
    memory = json.loads(planned.stdout)["memory"]
    (workplace / "small").mkdir()
    (workplace / "small" / "sitecustomize.py").write_text(SMALL_MACHINE.format(free=sum(memory.values()) - memory["activations"] // 2))
    with Terminal(folder=workplace, columns=100, env={"PYTHONPATH": f"{workplace / 'small'}:{ROOT}"}, fresh=True) as terminal:
        up_to_the_review(terminal)
        terminal.wait_for("does not fit")
        terminal.wait_for("❯ Use activation checkpointing")
        terminal.wait_for("of memory")
        terminal.press(ENTER)
        terminal.wait_for("❯ Start ", RUN_SECONDS)


def test_a_model_that_is_missing_is_said_at_the_review_and_can_be_changed(workplace: Path) -> None:
    (workplace / "empty_model").mkdir()
    shutil.copytree(workplace / "pico", workplace / "lost_model")
    with Terminal(folder=workplace) as terminal:
        answer(terminal, "What would")
        answer(terminal, "Model", UP)
        answer(terminal, "Name or folder", "./empty_model")
        terminal.wait_for("config.json")  # one word, wherever the line is broken
        answer(terminal, "Name or folder", "\x15./lost_model")
        answer(terminal, "Dataset", DOWN)
        shutil.rmtree(workplace / "lost_model")
        answer(terminal, "Is this right?")
        for question in (
            "Rows to use",
            "Method",
            "Output folder",
            "Epochs",
            "Batch size",
            "Learning rate",
            "Change advanced",
            "Rows to test",
        ):
            answer(terminal, question)
        terminal.wait_for("❯ Change something", RUN_SECONDS)
        terminal.wait_for("lost_model")
        assert "Start" not in terminal.text()


def test_ctrl_c_while_training_keeps_the_work_and_leaves_with_130(workplace: Path) -> None:
    recipe = workplace / "long.yaml"
    recipe.write_text(
        "model: ./pico\ndataset: {source: rows.jsonl, samples: null}\ntraining: {epochs: 3000, batch_size: 1}\nbenchmark: {rows: 2}\n"
    )
    with Terminal(["run", "long.yaml"], folder=workplace) as terminal:
        terminal.wait_for("step ", RUN_SECONDS)
        terminal.press(CTRL_C)
        code = terminal.wait_for_end(RUN_SECONDS)
        assert code == 130, terminal.text()
        terminal.wait_for("finetuned_model")
        assert "Traceback" not in terminal.text()
    assert (workplace / "finetuned_model" / "adapter_model.safetensors").exists()


def test_ctrl_c_before_the_training_leaves_nothing_behind(workplace: Path) -> None:
    data = "{source: 'builtin:python-docs', samples: 400, max_length: 128}"
    (workplace / "r.yaml").write_text(f"model: ./pico\ndataset: {data}\nbenchmark: {{rows: 200}}\n")
    with Terminal(["run", "r.yaml", "--set", "dataset.held_out=0.5"], folder=workplace) as terminal:
        terminal.wait_for("Measuring the base model", RUN_SECONDS)
        terminal.press(CTRL_C)
        assert terminal.wait_for_end() == 130
        terminal.wait_for("before anything was trained")
    assert not (workplace / "finetuned_model").exists()


def test_a_pipe_gets_plain_lines_on_stderr_and_one_json_object_on_stdout(workplace: Path) -> None:
    began = time.monotonic()
    command = ["--yes", "--json", "--set", "model=./pico", "--set", "dataset.source=rows.jsonl"]
    done = warm.run(command, workplace, environment())
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"output_dir", "scores", "training"}
    assert "Training" in done.stderr
    assert "\x1b" not in done.stderr
    steps = [line for line in done.stderr.splitlines() if "step " in line and "left" in line]
    assert len(steps) <= 1 + (time.monotonic() - began) / 5, "a line every few seconds, not one a step"
