"""What is drawn: progress, results, review; and that nothing a stranger wrote can steer the terminal."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit.utils import get_cwidth
from rich.console import Console, RenderableType
from written_run import DATA, written_run

from finetune.cli import main
from finetune.errors import BadInput, OutputExists
from finetune.events import Notice, Planned, Progress, StageFinished, StageStarted, TrainingStep
from finetune.formatting import count, size, strip_control_chars
from finetune.recipe import Recipe
from finetune.run.resume import nothing_left, training_complete
from finetune.run_folder import RunFolder, free_name
from finetune.screen.console import THEME, SafeConsole
from finetune.screen.data import data_report
from finetune.screen.plan_table import review
from finetune.screen.quiet import quiet
from finetune.screen.reporter import PlainReporter, RichReporter
from finetune.screen.results import next_steps
from finetune.screen.tables import to_copy
from finetune.screen.wording import about, duration
from finetune.system.shell import quoted
from finetune.wizard.asking.layout import beginning, end, wrap
from finetune.wizard.asking.plain import PlainPrompter
from finetune.wizard.asking.prompter import Choice, plain

ROOT = Path(__file__).parents[2]
STEP = TrainingStep(
    step=31, total_steps=51, epoch=0.6, loss=1.9321, learning_rate=1e-3, tokens_per_second=212.4, memory_bytes=3 * 10**9, seconds_left=84
)


def drawn(picture: RenderableType, width: int = 80) -> str:
    console = SafeConsole(file=io.StringIO(), width=width, theme=THEME, force_terminal=False)
    console.print(picture)
    return console.file.getvalue()  # type: ignore[attr-defined]


def screen(width: int = 80) -> Console:
    return SafeConsole(file=io.StringIO(), width=width, theme=THEME, force_terminal=True, color_system=None, highlight=False)


def written(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (size(3 * 10**9), "3.0 GB"),
        (size(3 * 2**30), "3.2 GB"),
        (size(10**9 - 10**6), "999 MB"),
        (size(5 * 10**6), "5 MB"),
        (size(2_400), "2 kB"),
        (count(134515008), "134.5M"),
        (count(405), "405"),
        (count(61234), "61k"),
        (duration(84), "1:24"),
        (duration(8), "0:08"),
        (duration(7385), "2:03:05"),
        (duration(float("inf")), "-:--"),
        (about(290), "about 5 minutes"),
        (about(42), "about 40 seconds"),
        (about(9000), "about 2.5 hours"),
    ],
)
def test_numbers_are_said_as_people_say_them(value: str, shown: str) -> None:
    assert value == shown


@pytest.mark.parametrize(("width", "there", "gone"), [(120, "3.0 GB", "\n\n"), (80, "tokens/s", "━"), (40, "1:24 left", "tokens/s")])
def test_the_live_line_says_the_most_important_things_first(width: int, there: str, gone: str) -> None:
    reporter = RichReporter(screen(width))
    reporter.report(StageStarted("training", "Training"))
    reporter.report(STEP)
    line = drawn(reporter.live.get_renderable(), width)
    assert "61 %" in line
    assert there in line
    assert gone not in line
    assert all(len(part) <= width for part in line.splitlines())


def test_until_the_first_event_the_live_line_says_that_the_program_starts() -> None:
    reporter = RichReporter(screen())
    assert "Starting  0:00" in drawn(reporter.live.get_renderable(), 80)
    reporter.report(Notice("Found."))
    assert drawn(reporter.live.get_renderable(), 80).strip() == ""


def test_a_finished_stage_is_one_line_with_its_seconds() -> None:
    console = screen()
    reporter = RichReporter(console)
    reporter.report(StageStarted("data", "Preparing the data"))
    reporter.report(Progress("data", 9, 45, "rows"))
    reporter.report(StageFinished("data", 3.04, "405 rows"))
    lines = written(console).splitlines()
    assert len(lines) == 1
    assert "Preparing the data  405 rows" in lines[0]
    assert lines[0].rstrip().endswith("3.0 s")


def test_without_a_terminal_steps_are_said_every_few_seconds_only() -> None:
    console = Console(file=io.StringIO(), width=80, theme=THEME)
    reporter = PlainReporter(console)
    reporter.say("Training ...")  # by who waits for it
    reporter.report(StageStarted("training", "Training"))
    for _ in range(100):
        reporter.report(STEP)
    reporter.report(Notice("Careful.", level="warning"))
    reporter.report(StageFinished("training", 75.0, "loss 3 -> 1"))
    assert written(console).splitlines() == ["Training ...", "Warning: Careful.", "Training: loss 3 -> 1 (1:15)"]


def test_what_a_plan_warns_of_is_said_once_where_nobody_draws_the_plan() -> None:
    console = Console(file=io.StringIO(), width=80, theme=THEME)
    for plans in (True, False):
        PlainReporter(console, plans=plans).report(Planned({"warnings": ["The teacher is smaller."], "notes": ["A note."]}))
    assert written(console) == "Warning: The teacher is smaller.\n"


def test_a_long_stage_makes_a_log_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = Console(file=io.StringIO(), width=80, theme=THEME), [0.0]
    monkeypatch.setattr("finetune.screen.reporter.time", SimpleNamespace(monotonic=lambda: clock[0]))
    reporter, after = PlainReporter(console), {}
    reporter.report(StageStarted("training", "Training"))
    for second in range(3601):
        clock[0] = float(second)
        reporter.report(STEP)
        after[second] = len(written(console).splitlines()) - 1
    assert (after[4], after[5], after[100]) == (0, 1, 20)
    assert 80 < after[3600] < 110


def test_a_models_words_cannot_steer_the_terminal() -> None:
    assert strip_control_chars("a\x1b[2Jb\x9b\r\nc") == "a?[2Jb??\nc"
    console = screen()
    RichReporter(console).report(Notice("a file called \x1b]0;evil\x07"))
    assert "\x1b]" not in written(console)


ODD = ["question [fr]", "x [/en]", "[bold]", ":smile:"]


def report(columns: list[str]) -> dict[str, Any]:
    examples = [[{"text": "say cat", "supervised": False}, {"text": "cat \u2026", "supervised": True}]]
    return {**DATA, "columns": columns, "ignored_columns": columns, "ignored_text": {}, "examples": examples, "truncated_answers": 0} | {
        "truncated_prompts": 4
    }


def test_names_are_shown_letter_by_letter_even_if_they_look_like_markup(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(drawn(data_report(report(ODD)), 200).split())
    assert f"prompt and completion: {', '.join(ODD)}" in shown
    assert f"Ignored {', '.join(ODD)}" in shown
    assert "runs [/x]" in drawn(review(Recipe.from_layers({"output_dir": "runs [/x]"}), Figures()))  # type: ignore[arg-type]
    folder = RunFolder(written_run(tmp_path / "odd [/x] :smile:").output_dir)
    assert main(["resume", str(folder.output_dir)]) == 0
    assert f"The run in {folder.output_dir} is finished" in capfd.readouterr().out


@pytest.mark.parametrize("width", [40, 41, 80])
def test_letters_that_take_two_columns_stay_within_the_width_and_behind_their_bar(width: int) -> None:
    text = "订单84731已经从我们的仓库发出," * 9
    lines = plain(wrap([("", f"│ 答 {text}")], width)).split("\n")
    assert max(map(get_cwidth, lines)) < width
    assert all(line.startswith("│ ") for line in lines)
    assert "".join(line[2:] for line in lines).replace(" ", "") == f"答{text}"
    assert [beginning("订单a", cells) for cells in range(6)] == ["", "", "订", "订", "订单", "订单a"]
    assert end("客服.csv", 6) == "服.csv"


def test_notes_about_the_data_are_in_the_report_and_sentences_of_a_run() -> None:
    noted = report(["prompt"]) | {"notes": ["notes.zip is left out.", "Whole prompts are held out."]}
    shown = drawn(data_report(noted)).splitlines()
    at = next(number for number, line in enumerate(shown) if line.strip().startswith("Notes"))
    assert [line.split("Notes")[-1].strip() for line in shown[at : at + 2]] == noted["notes"]
    assert "Notes" not in drawn(data_report(noted, examples=False))
    assert "Notes" not in drawn(data_report(report(["prompt"]) | {"notes": []}))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_plain_questions_can_be_asked_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("builtins.input", lambda: "")
    prompter = PlainPrompter()
    prompter.step(2, "Dataset \u2026")
    prompter.note([("", "▌ learned · not 猫")])
    prompter.show(data_report(report(["prompt"]), in_words=prompter.in_words))
    assert prompter.select("key", "Read as 猫?", [Choice("a", "猫", "▌")], default="a", help="↑↓") == "a"
    assert prompter.text("key", "Name", "猫") == "猫"
    terminal.flush()
    said = terminal.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "Dataset ~" in said
    assert "learned: cat" in said
    assert "up to 32: 14" in said


@pytest.mark.parametrize("width", [40, 80])
def test_commands_are_never_cut_into_lines(width: int) -> None:
    text = next_steps(Path("finetuned_model"), width, upload=True).plain
    assert any(line.strip().endswith("run finetuned_model/run/recipe.yaml --output-dir finetuned_model-2") for line in text.splitlines())


@pytest.mark.parametrize("width", [40, 80])
def test_words_among_the_commands_are_broken_between_words(width: int) -> None:
    said = "copy the folder; HuggingFaceTB/SmolLM2-135M-Instruct is downloaded when it is loaded"
    lines = to_copy([("Model", "m"), ("Elsewhere", said)], width).plain.split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()).endswith(f"Elsewhere {said}")


@pytest.mark.parametrize(
    ("name", "typed"), [("out dir", "'out dir'"), ("modèle-2", "modèle-2"), ("$HOME", "'$HOME'"), ("it's", "'it'\"'\"'s'")]
)
def test_commands_can_be_copied_into_a_shell_whatever_the_folder_is_called(name: str, typed: str) -> None:
    assert quoted(name) == typed
    text = next_steps(Path(name), 80, upload=True).plain
    commands = [shlex.split(line.split("  ", 2)[-1]) for line in text.splitlines() if "finetune" in line]
    assert [words[2] for words in commands] == [name, f"{name}/run/recipe.yaml", name]
    assert commands[1][-1] == f"{name}-2"


def test_hints_can_be_copied_into_a_shell_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out dir")
    folder.run.mkdir(parents=True)
    folder.recipe.touch()
    with pytest.raises(OutputExists) as raised:
        folder.check_free()
    words = shlex.split(str(raised.value.hint))
    assert str(folder.output_dir) in words
    assert f"{folder.output_dir}-2," in words
    assert shlex.split(str(training_complete(folder).hint))[-1] == shlex.split(str(nothing_left(folder).hint))[-1] == str(folder.output_dir)


def test_a_run_into_the_working_folder_has_next_steps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    assert free_name(Path()) == free_name(Path("below/..")) == tmp_path.with_name(f"{tmp_path.name}-2")
    assert f"--output-dir {tmp_path}-2" in next_steps(Path(), 80, upload=True).plain


@dataclass
class Figures:
    """The fields of a plan that the review reads."""

    making: dict[str, Any] | None = None
    grading: dict[str, Any] | None = None
    rows: int = 405
    held_out_rows: int = 45
    tokens: int = 61_000
    steps: int = 51
    epochs: float | None = None
    step_rows: int | None = None
    parameters: int = 139_400_000
    trainable_parameters: int = 4_884_480
    memory: dict[str, int] = field(
        default_factory=lambda: {"weights": 10**9, "activations": 2 * 10**9, "loss": 1, "teacher": 0, "optimizer": 2}
    )
    memory_total: int = 3 * 10**9
    free_memory: int = 12 * 10**9
    seconds: float = 290
    stages: dict[str, float] = field(default_factory=dict)
    disk_bytes: int = 130 * 10**6
    cache_bytes: int = 61 * 10**6
    free_disk: int = 10**11
    speed_up: float | None = None
    rounds: tuple[dict[str, Any], ...] = ()
    processes: int = 1
    gpus: int = 1
    device: str = "cpu"
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    linear_share: float = 1.0
    warnings: list[str] = field(default_factory=list)
    alignment: list[str] = field(default_factory=list)
    measured: dict[str, float] | None = None
    methods: dict[str, int] = field(default_factory=lambda: {"lora": 3 * 10**9, "qlora": 10**9, "full": 9 * 10**9})


def test_the_review_sets_memory_against_what_is_free() -> None:
    text = drawn(review(Recipe.from_layers({}), Figures()))  # type: ignore[arg-type]
    for fact in ("3.0 GB of 12.0 GB free", "51 steps", "about 5 minutes", "45 held-out rows", "nothing leaves this machine", "3.5 %"):
        assert fact in text
    assert "fits: LoRA 3.0 GB of 12.0 GB; QLoRA would need 1.0 GB" in text
    assert "does not fit" not in text


def test_the_review_of_a_distillation_shows_teacher_student_and_cache() -> None:
    text = drawn(review(Recipe.from_layers({"approach": "distillation"}), Figures()), 100)  # type: ignore[arg-type]
    for fact in ("Teacher", "67 % of its layers", "50 % from the data, 50 % from the teacher", "temperature 2"):
        assert fact in text
    for cost in ("runs once", "61 MB at most", "teacher 0 kB"):
        assert cost in text


def test_the_review_says_what_does_not_fit() -> None:
    text = drawn(review(Recipe.from_layers({}), Figures(memory_total=30 * 10**9, problems=["Too much."])))  # type: ignore[arg-type]
    assert "does not fit" in text
    assert "Too much." in text


@pytest.mark.parametrize("width", [40, 80])
def test_the_review_says_what_to_expect(width: int) -> None:
    text = drawn(review(Recipe.from_layers({}), Figures(held_out_rows=4, warnings=["4 held-out rows are too few."])), width)  # type: ignore[arg-type]
    words = " ".join(text.split())
    assert "4 held-out rows, before and after; too few to judge; 50 were asked for, but there are only 4" in words
    assert "! 4 held-out rows are too few." in words


def test_the_review_says_what_does_not_learn() -> None:
    text = drawn(review(Recipe.from_layers({}), Figures(linear_share=0.9996, notes=["Routers are not adapted."])))  # type: ignore[arg-type]
    assert "99.9 % of the weights in linear layers learn" in text
    assert "Routers are not adapted." in text
    assert "linear layers" not in drawn(review(Recipe.from_layers({}), Figures()))  # type: ignore[arg-type]


def test_the_review_says_what_was_measured() -> None:
    assert "measured" not in drawn(review(Recipe.from_layers({}), Figures()))  # type: ignore[arg-type]
    text = drawn(review(Recipe.from_layers({}), Figures(measured={"steps": 12, "tokens_per_second": 431.7})))  # type: ignore[arg-type]
    assert "about 5 minutes  measured: 12 steps, 432 tokens/s" in text


def test_the_review_says_how_long_each_stage_takes() -> None:
    stages = {"running the teacher": 45.0, "training": 7000.0, "measuring": 200.0, "loading and saving": 15.0}
    text = drawn(review(Recipe.from_layers({}), Figures(stages=stages, seconds=7260.0)))  # type: ignore[arg-type]
    assert "training 1.9 h, measuring 3 min" in text
    assert "running the teacher" not in text, "it takes hardly any of the time"
    assert "training" not in drawn(review(Recipe.from_layers({}), Figures(stages={"training": 9.0}, seconds=9.0))), "there is one"  # type: ignore[arg-type]


QUIET = """
import os, sys, warnings
from pathlib import Path
sys.path.insert(0, {root!r})
from finetune.screen.console import people
from finetune.screen.quiet import quiet
folder = Path({folder!r}) / "run"
console = people()
try:
    with quiet(folder / "debug.log"):
        print("python noise")
        os.system("echo noise of C code")
        warnings.warn("a warning")
        console.print("for people")
        if {began}:
            (folder / "recipe.yaml").write_text("")
        raise ValueError("the cause")
except ValueError:
    print("after")
"""


@pytest.mark.parametrize("began", [True, False])
def test_noise_goes_to_the_log_and_words_for_people_do_not(began: bool, tmp_path: Path) -> None:
    code = QUIET.format(root=str(ROOT), folder=str(tmp_path / "out"), began=began)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n") == ["for people", "after", ""]
    assert done.stderr == ""
    if began:
        log = (tmp_path / "out" / "run" / "debug.log").read_text()
        for noise in ("python noise", "noise of C code", "a warning", "the cause"):
            assert noise in log
    else:
        assert not (tmp_path / "out").exists(), "a run that never began leaves nothing"


def test_a_folder_that_cannot_be_made_is_one_sentence_and_the_streams_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    folder = RunFolder(tmp_path / "rows.jsonl" / "x")
    with pytest.raises(BadInput, match="x cannot be made: Not a directory"), quiet(folder.debug_log):
        pass
    print("still here")
    assert capfd.readouterr().out == "still here\n"


def test_a_folder_that_may_not_be_written_to_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda place, mode: place != tmp_path)
    with pytest.raises(BadInput, match="deep cannot be made: Permission denied"):
        RunFolder(tmp_path / "quite" / "deep").check_free()
    with pytest.raises(BadInput, match="cannot be written to: Permission denied"):
        RunFolder(tmp_path).check_free()
    assert list(tmp_path.iterdir()) == []
