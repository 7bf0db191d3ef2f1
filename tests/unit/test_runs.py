"""`runs` lists what is below a folder as it is, on any width; `runs compare` says what differs and only as much as the rows allow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from written_run import DATA, ENVIRONMENT, ROWS, STEPS, written_run

from finetune.errors import BadInput
from finetune.run.comparison import compare
from finetune.run.history import Run, find_runs, read_run
from finetune.run_folder import FINISHED, TRAINING, RunFolder
from finetune.screen.comparison import comparison_picture
from finetune.screen.console import THEME
from finetune.screen.run_list import runs_picture
from finetune.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
HERE = {"processor": "a CPU", "device": "cpu", "dtype": "float32"}


def cli(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "finetune_cli.py"), *arguments]
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


def shown(picture: object, width: int = 80) -> str:
    console = Console(width=width, theme=THEME, record=True, file=open(os.devnull, "w"), color_system=None)  # noqa: SIM115
    console.print(picture)
    return console.export_text()


def interrupted(folder: Path, step: int = 0) -> RunFolder:
    run = written_run(folder)
    run.benchmark.unlink()
    run.write_stage(TRAINING)
    if step:
        facts = {"total_steps": 60, "saved_at": time.time(), "seconds": 10.0}
        Checkpoints(run.checkpoints).write(step, facts, {"state.bin": lambda file: file.write(b"state")})
    return run


def a_and_b(tmp_path: Path, **of_b: object) -> tuple[Run, Run]:
    return read_run(written_run(tmp_path / "a").output_dir), read_run(written_run(tmp_path / "b", **of_b).output_dir)  # type: ignore[arg-type]


# The list.


def test_runs_are_found_at_any_depth_latest_first_and_nothing_else_is_looked_at(tmp_path: Path) -> None:
    for number, name in enumerate(("first", "deep/er/second", ".hidden/third", "node_modules/fourth", "last")):
        run = written_run(tmp_path / name)
        for path in run.run.iterdir():
            past = time.time() - 1000 + number
            os.utime(path, (past, past))
    assert [run.name for run in find_runs(tmp_path)] == ["last", "deep/er/second", "first"]
    assert [run.name for run in find_runs(tmp_path / "last")] == ["last"]
    assert find_runs(tmp_path / "last" / "run") == []
    with pytest.raises(BadInput, match="nowhere"):
        find_runs(tmp_path / "nowhere")


def test_a_run_says_what_it_was_and_what_came_of_it(tmp_path: Path) -> None:
    written_run(tmp_path / "tuned", change={"method": "qlora"})
    written_run(tmp_path / "taught", teacher=True)
    taught, tuned = sorted(find_runs(tmp_path), key=lambda run: run.name)
    assert (tuned.approach, tuned.method, tuned.data, tuned.state) == ("fine-tuning", "QLoRA", "shop/questions.jsonl", "finished")
    assert taught.model == "67 % of the layers of HuggingFaceTB/SmolLM2-135M-Instruct"
    assert tuned.to_dict()["verdicts"] == {"rougeL": "better", "perplexity": "no evidence"}
    assert tuned.to_dict()["scores"]["after"]["perplexity"] == pytest.approx(12.3)
    assert (taught.to_dict()["student"], tuned.to_dict()["student"]) == ("usable", None)
    assert taught.to_dict()["retention"]["rougeL"]["value"] == 0.93


@pytest.mark.parametrize(("step", "progress"), [(0, "nothing saved yet"), (30, "step 30 of 60, saved less than a minute ago")])
def test_an_unfinished_run_says_how_far_it_came_and_how_to_go_on(tmp_path: Path, step: int, progress: str) -> None:
    interrupted(tmp_path / "cut", step)
    (run,) = find_runs(tmp_path)
    assert (run.state, run.progress) == ("unfinished", progress)
    words = " ".join(shown(runs_picture([run], "."), 40).split())
    assert f"unfinished: {progress} Continue an unfinished run: finetune-cli resume FOLDER" in words


def test_a_run_that_somebody_works_on_is_running(tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "busy")
    folder.events.write_text(
        '{"event": "step", "step": 12, "total_steps": 60, "seconds_left": 120.0}\n{"event": "notice", "text": "a"}\n{"eve', encoding="utf-8"
    )
    with folder.claimed():
        run = read_run(folder.output_dir)
        assert (run.state, run.progress) == ("running", "step 12 of 60, 2 minutes left")
    assert read_run(folder.output_dir).state == "unfinished"


@pytest.mark.parametrize("broken", ["recipe", "benchmark", "progress"])
def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path, broken: str) -> None:
    written_run(tmp_path / "sound")
    getattr(written_run(tmp_path / "broken"), broken).write_text("[1")
    found = {run.name: run.state for run in find_runs(tmp_path)}
    assert found == {"sound": "finished", "broken": "unreadable"}
    assert "cannot be read" in shown(runs_picture(find_runs(tmp_path), "."))


def test_a_recipe_written_by_hand_is_read_as_every_recipe_is(tmp_path: Path) -> None:
    folder = written_run(tmp_path / "short", teacher=True)
    folder.recipe.write_text("approach: distillation\nteacher: gpt2-medium\nmodel: gpt2\nmethod: qlora\n")
    (run,) = find_runs(tmp_path)
    assert (run.state, run.teacher, run.model, run.method) == ("finished", "gpt2-medium", "gpt2", "QLoRA")
    assert "of gpt2-medium into gpt2" in shown(runs_picture([run], "."))
    assert run.to_dict()["teacher"] == "gpt2-medium"


@pytest.mark.parametrize(
    ("broken", "content", "reason"),
    [("recipe", "taecher: gpt2", "taecher is not a recipe key"), ("recipe", "method: 7", "method"), ("benchmark", "[]", "no scores")],
)
def test_a_run_that_says_something_else_is_unreadable_and_says_why(tmp_path: Path, broken: str, content: str, reason: str) -> None:
    written_run(tmp_path / "sound")
    getattr(written_run(tmp_path / "odd"), broken).write_text(content)
    found = {run.name: run for run in find_runs(tmp_path)}
    assert (found["sound"].state, found["odd"].state) == ("finished", "unreadable")
    assert reason in found["odd"].progress
    assert reason in " ".join(shown(runs_picture(list(found.values()), ".")).split())
    assert found["odd"].to_dict()["state"] == "unreadable"
    with pytest.raises(BadInput, match="unreadable"):
        compare(found["sound"], found["odd"])


@pytest.mark.parametrize("width", [40, 80])
def test_the_list_is_whole_on_narrow_and_usual_terminals(tmp_path: Path, width: int) -> None:
    written_run(tmp_path / "model", teacher=True)
    text = shown(runs_picture(find_runs(tmp_path), "."), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert words.startswith("model Distillation of HuggingFaceTB/SmolLM2-135M-Instruct into a student with 67 % of its layers on")
    assert "Keeps 93 % [85 %, 102 %] of its teacher: usable. The same size, the same speed, the same memory." in words
    written_run(tmp_path / "tuned")
    words = " ".join(shown(runs_picture(find_runs(tmp_path), "."), width).split())
    assert "ROUGE-L 0.360 to 0.510: better; Perplexity 66.1 to 12.3: no evidence" in words
    assert "finished less than a minute ago" in words


@pytest.mark.slow
def test_the_program_lists_as_text_and_as_json(tmp_path: Path) -> None:
    assert "There are no runs in this folder." in cli("runs", folder=tmp_path).stdout
    written_run(tmp_path / "model")
    assert cli("runs", folder=tmp_path).stdout.split()[:1] == ["model"]
    (run,) = json.loads(cli("runs", "--json", folder=tmp_path).stdout)["runs"]
    assert (run["output_dir"], run["state"], run["method"]) == ("model", "finished", "LoRA")


def test_neither_list_nor_comparison_waits_for_torch(tmp_path: Path) -> None:
    written_run(tmp_path / "a")
    written_run(tmp_path / "b")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from finetune.cli import main; "
        "main(['runs']); main(['runs', 'compare', 'a', 'b']); "
        "sys.exit(str([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == "[]"


# The comparison.


def test_what_differs_in_the_recipe_is_named_key_by_key(tmp_path: Path) -> None:
    found = compare(*a_and_b(tmp_path, change={"training": {"epochs": 1}, "method": {"kind": "lora", "r": 64}}))
    assert found.recipe == {"method.r": (16, 64), "training.epochs": (3.0, 1.0)}
    assert compare(*a_and_b(tmp_path / "same")).recipe == {}


def test_another_machine_and_other_versions_are_named_too(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path)
    elsewhere = {**ENVIRONMENT, "machine": {**ENVIRONMENT["machine"], "dtype": "bfloat16", "memory_bytes": 1}, "dataset_fingerprint": "ba5"}  # type: ignore[dict-item]
    b.folder.write_json(b.folder.environment, elsewhere)
    b.folder.write_stage(FINISHED, training={"steps": STEPS, "steps_with_fewer_threads": 11})
    assert compare(a, b).surroundings == {
        "machine.dtype": ("float32", "bfloat16"),
        "dataset_fingerprint": ("f00", "ba5"),
        "steps_with_fewer_threads": (0, 11),
    }


@pytest.mark.parametrize(
    ("device", "threads", "differ"), [("cpu", (2, 8), {"machine.threads": (2, 8)}), ("cpu", (None, 8), {}), ("cuda", (2, 8), {})]
)
def test_threads_are_named_where_they_change_digits(
    tmp_path: Path, device: str, threads: tuple[int | None, int], differ: dict[str, object]
) -> None:
    runs = a_and_b(tmp_path)
    for run, number in zip(runs, threads, strict=True):
        noted = {} if number is None else {"threads": number}  # an older version noted none
        run.folder.write_json(run.folder.environment, {**ENVIRONMENT, "machine": {"device": device, **noted}})
    assert compare(*runs).surroundings == differ


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "better"), (-0.1, "worse"), (0.0, "no evidence")])
def test_the_verdict_is_on_b_and_row_by_row(tmp_path: Path, shift: float, verdict: str) -> None:
    found = compare(*a_and_b(tmp_path, shift=shift))
    assert {metric: score["verdict"] for metric, score in found.scores.items()} == {"rougeL": verdict, "perplexity": verdict}
    rouge = found.scores["rougeL"]
    assert rouge["difference"] == pytest.approx(shift)
    # All rows moved alike: paired, that is certain, though the intervals of the two runs overlap widely. That none moved is not.
    assert (rouge["high"] - rouge["low"] == pytest.approx(0, abs=1e-9)) == bool(shift)
    assert found.scores["perplexity"]["difference"] == pytest.approx(found.scores["perplexity"]["b"] - found.scores["perplexity"]["a"])


def test_a_change_of_some_rows_only_is_no_evidence(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path)
    scores = dict(b.scores)
    moved = [value + (0.3 if row == 3 else -0.2 if row == 4 else 0) for row, value in enumerate(scores["per_row"]["rougeL"])]
    b.folder.write_json(b.folder.benchmark, {**scores, "per_row": {**scores["per_row"], "rougeL": moved}})
    rouge = compare(a, read_run(b.folder.output_dir)).scores["rougeL"]
    assert rouge["verdict"] == "no evidence"
    assert rouge["low"] < 0 < rouge["high"]


def test_other_rows_are_no_ground_for_a_verdict(tmp_path: Path) -> None:
    found = compare(*a_and_b(tmp_path, rows=ROWS - 4, shift=0.1))
    assert found.why_not
    assert "24 rows" in found.why_not
    assert "20" in found.why_not
    assert not [score for score in found.scores.values() if "verdict" in score]
    text = " ".join(shown(comparison_picture(found, 80)).split())
    assert "Measured on different rows" in text
    assert "so there is no verdict" in text
    assert not [word for word in ("B is better", "B is worse") if word in text]


def test_runs_that_do_not_name_their_rows_are_not_compared(tmp_path: Path) -> None:
    """Such as two that were uploaded without the private rows they were measured on."""
    a, b = a_and_b(tmp_path, shift=0.1)
    for run in (a, b):
        run.folder.write_json(run.folder.benchmark, {key: value for key, value in run.scores.items() if key != "generations"})
    found = compare(read_run(a.folder.output_dir), read_run(b.folder.output_dir))
    assert str(found.why_not).startswith("A does not say on which rows it was measured, so there is no verdict")
    assert not [score for score in found.scores.values() if "verdict" in score]


def test_perplexities_of_different_tokens_are_not_compared_but_rouge_is(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path, shift=0.1)
    scores = dict(b.scores)
    b.folder.write_json(b.folder.benchmark, {**scores, "per_row": {**scores["per_row"], "tokens": [9] * ROWS}})
    found = compare(a, read_run(b.folder.output_dir))
    assert found.scores["perplexity"]["why_not"] == "other tokens"
    assert found.scores["rougeL"]["verdict"] == "better"
    assert "Not comparable: Perplexity (other tokens)." in shown(comparison_picture(found, 80))


def test_codes_that_another_version_counted_otherwise_are_not_compared(tmp_path: Path) -> None:
    runs = a_and_b(tmp_path, shift=0.1)
    for run, codes in zip(runs, ([1, 0] * (ROWS // 2), [1] * ROWS), strict=True):
        per_row = {**run.scores["per_row"], "codes": codes, "codes_copied": [0] * ROWS}
        run.folder.write_json(run.folder.benchmark, {**run.scores, "after": {**run.scores["after"], "copied": 0.0}, "per_row": per_row})
    found = compare(*(read_run(run.folder.output_dir) for run in runs))
    assert found.scores["copied"]["why_not"] == "counted by another version"
    assert found.scores["rougeL"]["verdict"] == "better"


def test_a_likeness_to_different_teachers_is_not_compared(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path, change={"approach": "distillation", "teacher": "somebody/else"})
    for run in (a, b):
        scores = dict(run.scores)
        per_row = {**scores["per_row"], "kl": [1.0] * ROWS, "agreed": [1] * ROWS}
        run.folder.write_json(run.folder.benchmark, {**scores, "after": {**scores["after"], "kl": 0.5}, "per_row": per_row})
    found = compare(read_run(a.folder.output_dir), read_run(b.folder.output_dir))
    assert found.scores["kl"]["why_not"] == "other teachers"


def test_answers_of_other_lengths_are_not_compared_but_perplexity_is(tmp_path: Path) -> None:
    """One that may say 14 tokens says more of the reference than one that may say 2, though the training was the same."""
    a, b = a_and_b(tmp_path, shift=0.1, change={"benchmark": {"max_new_tokens": 2}}, max_new_tokens=2)
    a.folder.write_json(a.folder.benchmark, {**a.scores, "max_new_tokens": 14})
    found = compare(read_run(a.folder.output_dir), b)
    assert found.scores["rougeL"]["why_not"] == "answers of up to 14 and 2 tokens"
    assert "verdict" not in found.scores["rougeL"]
    assert found.scores["perplexity"]["verdict"] == "better"
    assert "Not comparable: ROUGE-L (answers of up to 14 and 2 tokens)." in shown(comparison_picture(found, 80))
    older = compare(*a_and_b(tmp_path / "older", change={"benchmark": {"max_new_tokens": 2}}))
    assert older.scores["rougeL"]["why_not"] == "answers of up to auto and 2 tokens", "of runs that did not write it down"


def test_answers_that_fit_the_same_data_are_compared_though_another_tokenizer_counts_differently(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path, shift=0.1, max_new_tokens=31)
    a.folder.write_json(a.folder.benchmark, {**a.scores, "max_new_tokens": 40})
    assert compare(read_run(a.folder.output_dir), b).scores["rougeL"]["verdict"] == "better"


def test_scores_that_only_one_run_has_are_named(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path)
    b.folder.write_json(b.folder.benchmark, {**b.scores, "after": {"rougeL": 0.5}})
    found = compare(a, read_run(b.folder.output_dir))
    assert found.only == {"perplexity": "a"}
    assert "Measured of one alone: Perplexity (only A)." in shown(comparison_picture(found, 80))


@pytest.mark.parametrize(
    ("model", "here", "said"),
    [
        ("org/other", HERE, "the same"),
        ("org/one", HERE, "alike"),
        ("org/other", {**HERE, "dtype": "bfloat16"}, "not alike"),
        ("org/one", None, "not alike"),
    ],
)
@pytest.mark.parametrize("width", [40, 80])
def test_size_speed_and_retention_are_set_side_by_side_if_measured_alike_and_not_of_one_shape(
    tmp_path: Path, model: str, here: object, said: str, width: int
) -> None:
    a = read_run(written_run(tmp_path / "a", teacher=True, measured_on=HERE, change={"model": "org/one"}).output_dir)
    b = read_run(written_run(tmp_path / "b", teacher=True, measured_on=here, change={"model": model}).output_dir)
    found = compare(a, b)
    assert found.costs["parameters"] == {"a": 134_515_008, "b": 134_515_008}
    assert found.costs["tokens_per_second"]["a"] == 123.4
    assert ("why_not" in found.costs["tokens_per_second"]) == (said == "not alike")
    assert found.students["b"]["retention"]["rougeL"]["value"] == 0.93
    words = " ".join(shown(comparison_picture(found, width), width).split())
    assert f"Tokens/s 123 123 {said}" in words
    assert ("Speed and memory: both models have the same shape, so what differs is chance." in words) == (said == "alike")
    assert "B: Keeps 93 % [85 %, 102 %] of its teacher: usable." in words


def test_speeds_of_other_thread_counts_are_not_set_side_by_side(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path, measured_on=HERE)
    for run, threads in ((a, 2), (b, 8)):
        speed = {"after": {"tokens_per_second": 100.0 * threads, "threads": threads}}
        run.folder.write_json(run.folder.benchmark, {**run.scores, "measured_on": HERE, "speed": speed})
    found = compare(read_run(a.folder.output_dir), read_run(b.folder.output_dir))
    assert "why_not" in found.costs["tokens_per_second"]
    assert "why_not" not in found.costs["parameters"]


def test_runs_measured_before_row_scores_were_kept_say_how_to_make_them(tmp_path: Path) -> None:
    a, b = a_and_b(tmp_path)
    b.folder.write_json(b.folder.benchmark, {key: value for key, value in b.scores.items() if key != "per_row"})
    found = compare(a, read_run(b.folder.output_dir))
    assert found.why_not
    assert f"finetune-cli benchmark {b.folder.output_dir}" in found.why_not


@pytest.mark.parametrize("width", [40, 80])
def test_the_comparison_is_whole_on_narrow_and_usual_terminals(tmp_path: Path, width: int) -> None:
    found = compare(*a_and_b(tmp_path, shift=0.1, change={"training": {"epochs": 1}}))
    text = shown(comparison_picture(found, width), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "training.epochs" in words
    assert "On the same 24 held-out rows" in words
    assert ("ROUGE-L 0.510 0.610 +0.100 [+0.100, +0.100] better" if width == 80 else "ROUGE-L 0.510 0.610 better") in words
    assert "B is better on ROUGE-L, Perplexity." in words


@pytest.mark.slow
def test_the_program_compares_as_text_and_as_json_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    a_and_b(tmp_path, shift=0.1)
    interrupted(tmp_path / "cut")
    assert "B is better on ROUGE-L, Perplexity." in cli("runs", "compare", "a", "b", folder=tmp_path).stdout
    found = json.loads(cli("runs", "compare", "a", "b", "--json", folder=tmp_path).stdout)
    assert (found["rows"], found["scores"]["rougeL"]["verdict"], found["why_not"]) == (ROWS, "better", None)
    for arguments, words in (
        (["a"], ["not 1"]),
        (["a", "b", "cut"], ["cut has no scores"]),
        (["a", "nowhere"], ["no folder nowhere"]),
        (["a", "cut"], ["cut has no scores", "nothing saved yet", "resume cut"]),
    ):
        done = cli("runs", "compare", *arguments, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert not [word for word in words if word not in done.stderr], done.stderr


def test_a_folder_may_be_called_compare(tmp_path: Path) -> None:
    written_run(tmp_path / "compare" / "model")
    assert cli("runs", "compare", folder=tmp_path).stdout.split()[:1] == ["model"]


def test_the_data_of_the_tests_are_a_data_report() -> None:
    pytest.importorskip("numpy")
    from dataclasses import fields

    from finetune.data.report import DataReport

    assert set(DATA) <= {field.name for field in fields(DataReport)}
