"""Text from outside cannot steer a terminal wherever it is printed, and what is ordinary in some language stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

from finetune.cli import say
from finetune.formatting import strip_control_chars
from finetune.screen.console import people
from finetune.screen.results import next_steps
from finetune.screen.tables import fact_list
from finetune.wizard.asking.plain import PlainPrompter
from finetune.wizard.asking.prompter import Choice

ORDINARY = "1\u202f234,50\u00a0€ 猫\u3000犬 می\u200cخواهم 👩\u200d👩\u200d👧 🏴\U000e0067\U000e007f \u200fשלום\u200e \ufeff\u2028"
STEERING = "\x1b]0;evil\x07 \x9b2J \u202egpj.exe \u2066x\u2069 \x7f \udcff"


def steers(text: str) -> list[str]:
    return [letter for letter in text if letter in STEERING and ord(letter) not in range(32, 127)]


def test_only_what_steers_is_taken_out_of_text() -> None:
    assert strip_control_chars(ORDINARY) == ORDINARY
    assert steers(strip_control_chars(STEERING)) == []
    assert len(strip_control_chars(STEERING)) == len(STEERING)


def test_messages_and_hints_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"No file {STEERING}{ORDINARY}.", f"finetune-cli run '{STEERING}{ORDINARY}'")
    said = capsys.readouterr().err
    assert steers(said) == []
    assert said.count(ORDINARY) == 2


def test_whatever_is_printed_on_our_console_cannot_steer_it(capfd: pytest.CaptureFixture[str]) -> None:
    console = people()
    folder = Path(STEERING.replace("/", "").replace("\udcff", ""))  # no folder with half a letter gets as far as that
    console.print(f"Loading the teacher, {STEERING}", Text(STEERING), next_steps(folder, 80, upload=True))
    console.print(fact_list([("disk", f"1 GB free for {STEERING}{ORDINARY}", True)]), width=200)
    console.file.flush()
    said = capfd.readouterr().out
    assert steers(said) == []
    assert "👩\u200d👩\u200d👧" in said


def test_notes_questions_and_choices_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda: "")
    prompter = PlainPrompter()
    prompter.step(1, STEERING)
    prompter.note(STEERING)
    prompter.note([("class:quiet", f"{STEERING} {ORDINARY[:12]}")])
    prompter.show(Text(STEERING))
    prompter.select("key", STEERING, [Choice("a", STEERING, STEERING)], default="a", help=STEERING)
    prompter.text("key", STEERING, STEERING, help=STEERING)
    said = capsys.readouterr().out
    assert steers(said) == []
    assert ORDINARY[:9] in said
