"""What a person sees: the wizard on a real pseudo-terminal, asserted on the screen."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from screen import CTRL_C, DOWN, ENTER, F1, SHIFT_TAB, TAB, UP, Terminal

CTRL_Q, CTRL_R, CTRL_S, END = "\x11", "\x12", "\x13", "\x1b[F"
SLOW_TORCH = """
import sys, time
sys.addaudithook(lambda event, arguments: time.sleep(600) if event == "import" and arguments[0] == "torch" else None)
"""
QUESTIONS = ("What would", "Model", "Dataset", "Rows to use", "Method")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_enter_reaches_the_last_question_at_every_width(columns: int, tmp_path: Path) -> None:
    with Terminal(folder=tmp_path, columns=columns) as terminal:
        for question in ("What would you like", "Model", "Dataset", "Rows to use", "Method", "Output folder", "Epochs", "Batch size"):
            terminal.wait_for(f"? {question}")
            terminal.press(ENTER)
        terminal.wait_for("? Learning rate")
        terminal.wait_for("▌ ")
        assert all(len(line) <= columns for line in terminal.lines())
        for number, title in enumerate(("Approach", "Models", "Dataset", "Configuration", "Training")):
            terminal.wait_for(f"STEP {number} · {title}")
        terminal.wait_for("✓ Epochs  1")
        assert "How often the model sees" not in terminal.text(), "its help is gone"


def test_arrows_choose_and_the_answer_collapses(tmp_path: Path) -> None:
    with Terminal(folder=tmp_path) as terminal:
        terminal.wait_for("❯ Fine-tuning")
        terminal.press(DOWN)
        terminal.wait_for("❯ Distillation")
        terminal.press(UP)
        terminal.wait_for("❯ Fine-tuning")
        terminal.press(DOWN, ENTER)
        terminal.wait_for("? How should it be distilled?")
        terminal.wait_for("✓ What would you like to do?  Distillation")


def test_shift_tab_takes_the_screen_back_too(tmp_path: Path) -> None:
    with Terminal(folder=tmp_path) as terminal:
        terminal.wait_for("↑↓ choose")
        before = terminal.text()
        terminal.press(ENTER)
        terminal.wait_for("? Model")
        terminal.press(SHIFT_TAB)
        terminal.wait_until_gone("STEP 1")
        terminal.wait_for(before)
        assert terminal.text() == before
        terminal.press(SHIFT_TAB)
        terminal.press(DOWN)
        terminal.wait_for("❯ Distillation")


def test_a_wrong_answer_is_explained_where_it_was_typed(tmp_path: Path) -> None:
    with Terminal(folder=tmp_path) as terminal:
        terminal.wait_for("? What would")
        terminal.press(ENTER)
        terminal.wait_for("? Model")
        terminal.press(ENTER)
        terminal.wait_for("? Dataset")
        terminal.press(ENTER)
        terminal.wait_for("? Rows to use")
        terminal.press("1", ENTER)
        terminal.wait_for("✗ Must be at least 2.")
        terminal.press("0")
        terminal.wait_until_gone("✗")
        terminal.press(ENTER)
        terminal.wait_for("✓ Rows to use  10")


def test_f1_tells_more(tmp_path: Path) -> None:
    with Terminal(folder=tmp_path) as terminal:
        terminal.wait_for("? help")
        terminal.press(F1)
        terminal.wait_for("a model learns from them")
        terminal.press("?")
        terminal.wait_until_gone("a model learns from them")


def test_help_is_offered_for_every_question_by_a_key_that_gives_it(tmp_path: Path) -> None:
    with Terminal(folder=tmp_path, columns=40) as terminal:
        for question in ("What would", "Model", "Dataset"):
            terminal.wait_for(f"? {question}")
            terminal.wait_for("? help")
            terminal.press(ENTER)
        terminal.wait_for("? Rows to use")
        terminal.press("?")
        terminal.wait_for("More rows teach more")
        terminal.press("1")
        terminal.wait_for("F1 help")
        terminal.press(F1)
        terminal.wait_until_gone("More rows teach more")
        assert all(len(line) <= 40 for line in terminal.lines())


@pytest.mark.parametrize("questions", [0, 1, 4])
def test_ctrl_c_at_a_prompt_leaves_at_once_and_keeps_the_answers(questions: int, tmp_path: Path) -> None:
    """Background imports do not hold the person up, however long they take."""
    work, cache, slow = (tmp_path / name for name in ("work", "cache", "slow"))
    work.mkdir()
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(SLOW_TORCH)
    env = {"FINETUNE_CLI_CACHE": str(cache), "PYTHONPATH": f"{slow}{os.pathsep}{Path(__file__).parents[2]}"}
    with Terminal(folder=work, env=env, fresh=True) as terminal:
        for question in QUESTIONS[:questions]:
            terminal.wait_for(f"? {question}")
            terminal.press(ENTER)
        terminal.wait_for(f"? {QUESTIONS[questions]}")
        terminal.press(CTRL_C)
        assert terminal.wait_for_end() == 130
        terminal.wait_for("Cancelled." if questions > 1 else "Cancelled; nothing written.")
        assert "Traceback" not in terminal.text()
        kept = list((cache / "answers").glob("*.json"))
        assert len(kept) == (questions > 1), "a single Enter is no loss"
        if kept:
            assert str(kept[0]) in terminal.text().replace("\n", "").replace(" ", "")
            assert "To continue with them, in this folder:" in terminal.text()
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(("columns", "ends"), [(80, signal.SIGHUP), (40, signal.SIGKILL), (80, None)])
def test_the_next_start_goes_on_where_a_lost_terminal_or_a_killed_program_ended(columns: int, ends: int | None, tmp_path: Path) -> None:
    work, env = tmp_path / "work", {"FINETUNE_CLI_CACHE": str(tmp_path / "cache")}
    work.mkdir()
    with Terminal(["--plain"] if ends is None else [], folder=work, env=env) as terminal:
        for question in ("What would", "Model", "Dataset"):
            terminal.wait_for(question)
            terminal.press("\n" if ends is None else ENTER)
        terminal.wait_for("Rows to use")
        terminal.press("77", "\n" if ends is None else ENTER)
        terminal.wait_for("Method")
        terminal.signal(ends or signal.SIGKILL)
        terminal.wait_for_end()
    with Terminal(folder=work, env=env, columns=columns) as terminal:
        terminal.wait_for("Continue with your answers from")
        terminal.wait_for("❯ Continue")
        terminal.press(ENTER)
        terminal.wait_for("? Method")
        for told in ("STEP 0 · Approach", "What would you like to do?  Fine-tuning", "STEP 2 · Dataset", "✓ Rows to use  77", "STEP 3"):
            assert told in terminal.text() or columns == 40
        assert "✓ Rows to use  77" in terminal.text()
        assert all(len(line) <= columns for line in terminal.lines())
        terminal.press(SHIFT_TAB)
        terminal.wait_for("? Rows to use 77")


def test_starting_anew_asks_the_first_question(tmp_path: Path) -> None:
    work, env = tmp_path / "work", {"FINETUNE_CLI_CACHE": str(tmp_path / "cache")}
    work.mkdir()
    with Terminal(folder=work, env=env) as terminal:
        terminal.wait_for("? What would")
        terminal.press(DOWN, ENTER)
        terminal.wait_for("? How should it be distilled?")
        terminal.press(CTRL_C)
        assert terminal.wait_for_end() == 130
    with Terminal(folder=work, env=env) as terminal:
        terminal.wait_for("Continue with your answers from")
        terminal.press(DOWN, ENTER)
        terminal.wait_for("? What would")


def test_what_no_question_asks_for_changes_nothing(tmp_path: Path) -> None:
    with Terminal(folder=tmp_path) as terminal:
        terminal.wait_for("↑↓ choose")
        before = terminal.text()
        terminal.press(CTRL_Q, CTRL_R, CTRL_S, "x", "\x1b[200~pasted\x1b[201~", DOWN)
        terminal.wait_for("❯ Distillation")
        terminal.press(UP)
        terminal.wait_for("❯ Fine-tuning")
        assert terminal.text() == before
        terminal.signal(signal.SIGINT)
        assert terminal.wait_for_end() == 130


def test_tab_completes_a_file_and_its_encoding_is_no_question(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "rows.jsonl").write_text('{"prompt": "2 + 2", "completion": "4"}\n' * 40)
    with Terminal(folder=tmp_path) as terminal:
        terminal.wait_for("? What would")
        terminal.press(ENTER)
        terminal.wait_for("? Model")
        terminal.press(ENTER)
        terminal.wait_for("? Dataset")
        terminal.press(DOWN, ENTER)
        terminal.wait_for("? File or folder")
        terminal.press("no")
        terminal.wait_for("notes/")
        terminal.press(TAB)
        terminal.wait_for("notes/rows.jsonl")
        terminal.press(TAB, ENTER)
        terminal.wait_for("prompt and completion")


def test_no_color_leaves_no_colour(tmp_path: Path) -> None:
    for arguments, env in (([], {"NO_COLOR": "1"}), (["--no-color"], {})):
        with Terminal(arguments, folder=tmp_path, env=env) as terminal:
            terminal.wait_for("? What would")
            terminal.press(ENTER)
            terminal.wait_for("? Model")
            styles = {code for found in re.findall(rb"\x1b\[([0-9;]*)m", terminal.raw) for code in found.split(b";")}
            assert styles <= {b"", b"0", b"1", b"2"}, "bold and dim are not colours; nothing else is used"


def test_a_dumb_terminal_gets_numbered_questions(tmp_path: Path) -> None:
    with Terminal(folder=tmp_path, env={"TERM": "dumb"}) as terminal:
        terminal.wait_for("Number [1]:")
        terminal.wait_for("  2. Distillation")
        terminal.press("?\n")
        terminal.wait_for("a model learns from them")
        assert not any(line.startswith(" ") and line[1:2].islower() for line in terminal.lines()), "no word is cut"
        terminal.press("5\n")
        terminal.wait_for("Type a number from 1 to 2.")
        terminal.press("\n")
        terminal.wait_for("STEP 1: Models")
        terminal.wait_for("Another model")
        terminal.press("back\n", "2\n")
        terminal.wait_for("How should it be distilled?")
        assert b"\x1b" not in terminal.raw


def test_plain_asks_the_same_questions_without_escape_codes(tmp_path: Path) -> None:
    with Terminal(["--plain"], folder=tmp_path) as terminal:
        terminal.wait_for("Number [1]:")
        terminal.press("\n")
        terminal.wait_for("Another model")
        terminal.press("\n")
        terminal.wait_for("A Hugging Face dataset")
        terminal.press("\n")
        terminal.wait_for("Rows to use [")
        assert b"\x1b" not in terminal.raw
        terminal.press("\x04")
        assert terminal.wait_for_end() == 130
        terminal.wait_for("Your 3 answers are kept in")
        assert "Cancelled." in terminal.lines(), "it begins a line"


def test_who_writes_the_rows_is_asked_at_40_columns_and_in_lines(tmp_path: Path) -> None:
    answers = {"Which model writes?": "http://localhost:8000/v1", "Model on the server": "qwen", "Key": "", "Budget tokens": ""}
    answers["Topic"] = "birds"
    for name in ("drawn", "plain"):
        (tmp_path / name).mkdir()
    with Terminal(folder=tmp_path / "drawn", columns=40) as terminal:
        for question in QUESTIONS[:2]:
            terminal.wait_for(f"? {question}")
            terminal.press(ENTER)
        terminal.wait_for("? Dataset")
        terminal.press(END)
        terminal.wait_for("❯ No data? Another model writes it")
        terminal.press(ENTER)
        for question, answer in answers.items():
            terminal.wait_for(f"? {question}")
            terminal.press(answer, ENTER)
        terminal.wait_for("? Rows to use")
        assert all(len(line) <= 40 for line in terminal.lines())
    with Terminal(["--plain"], folder=tmp_path / "plain") as terminal:
        terminal.wait_for("Number [1]:")
        for seen in ("Another model", "No data? Another model writes it"):
            terminal.press("\n")
            terminal.wait_for(seen)
        terminal.press("4\n")
        for question, answer in answers.items():
            terminal.wait_for(question)
            terminal.press(f"{answer}\n")
        terminal.wait_for("Rows to use [300]")
        assert b"\x1b" not in terminal.raw


def test_an_ascii_terminal_gets_ascii(tmp_path: Path) -> None:
    old = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    with Terminal(folder=tmp_path, env=old, fresh=True) as terminal:
        terminal.wait_for("? What would")
        terminal.press(ENTER)
        terminal.wait_for("> HuggingFaceTB")
        terminal.raw.decode("ascii")
