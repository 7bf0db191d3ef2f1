"""Questions with a keyboard that is a pipe: what questionary does not do by itself, or does that a person would not expect."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from finetune.wizard.asking.prompter import Choice, GoBack
from finetune.wizard.asking.terminal import TerminalPrompter

UP, DOWN, HOME, END, SHIFT_TAB, CTRL_C, CTRL_D = "\x1b[A", "\x1b[B", "\x1b[H", "\x1b[F", "\x1b[Z", "\x03", "\x04"
PASTED = "\x1b[200~a\r\n  b\r\n\x1b[201~"  # the ends of its lines too
MANY = [Choice(str(number), f"choice {number}") for number in range(50)]


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


@pytest.fixture
def prompter(monkeypatch: pytest.MonkeyPatch) -> TerminalPrompter:
    monkeypatch.setattr("finetune.wizard.asking.terminal.create_output", lambda _: DummyOutput())
    return TerminalPrompter()


@pytest.mark.parametrize(
    ("pressed", "chosen"),
    [
        ("", "3"),
        (DOWN, "4"),
        ("j" + "k" + UP, "2"),
        ("9", "8"),
        ("0", "3"),
        (HOME, "0"),
        (END, "49"),
        (END + DOWN, "0"),
        (HOME + UP, "49"),
        ("\x11\x12\x13\x17x/?\x1b[200~pasted\r\x1b[201~", "3"),  # Ctrl-Q, Ctrl-R, Ctrl-S, Ctrl-W, other keys, something pasted
    ],
)
def test_keys_in_a_long_list(keys: PipeInput, prompter: TerminalPrompter, pressed: str, chosen: str) -> None:
    keys.send_text(pressed + "\r")
    assert prompter.select("key", "Which?", MANY, default="3", more="More.") == chosen


def test_a_default_that_is_not_offered_any_more_means_the_first_choice(keys: PipeInput, prompter: TerminalPrompter) -> None:
    keys.send_text("\r")
    assert prompter.select("key", "Which?", MANY, default="gone") == "0"


@pytest.mark.parametrize(("pressed", "answer"), [("", True), ("n", False), ("ny", True), ("n\x11\x12?x\x1b[200~y\x1b[201~", False)])
def test_keys_at_yes_or_no(keys: PipeInput, prompter: TerminalPrompter, pressed: str, answer: bool) -> None:
    keys.send_text(pressed + "\r")
    assert prompter.confirm("key", "Really?", default=True) is answer


ASK: dict[str, Callable[[TerminalPrompter], Any]] = {
    "select": lambda prompter: prompter.select("key", "Which?", MANY, default="3"),
    "confirm": lambda prompter: prompter.confirm("key", "Really?", default=True),
    "text": lambda prompter: prompter.text("key", "What?", default="this"),
    "secret": lambda prompter: prompter.secret("key", "Token"),
}


@pytest.mark.parametrize("kind", ASK)
@pytest.mark.parametrize(("pressed", "raised"), [(CTRL_C, KeyboardInterrupt), (CTRL_D, KeyboardInterrupt), (SHIFT_TAB, GoBack)])
def test_every_question_can_be_left(
    keys: PipeInput, prompter: TerminalPrompter, kind: str, pressed: str, raised: type[BaseException]
) -> None:
    prompter.can_go_back = True
    keys.send_text(pressed)
    with pytest.raises(raised):
        ASK[kind](prompter)


@pytest.mark.parametrize("kind", ASK)
def test_ctrl_z_gives_the_terminal_back_to_the_shell_and_is_no_answer(
    keys: PipeInput, prompter: TerminalPrompter, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended: list[Application[Any]] = []
    monkeypatch.setattr(Application, "suspend_to_background", lambda app: suspended.append(app))
    keys.send_text("\x1a\r")
    assert ASK[kind](prompter) in ("3", True, "this", "")
    assert len(suspended) == 1


@pytest.mark.parametrize("kind", ASK)
def test_shift_tab_does_nothing_at_the_first_question(keys: PipeInput, prompter: TerminalPrompter, kind: str) -> None:
    keys.send_text(SHIFT_TAB + "\r")
    assert ASK[kind](prompter) in ("3", True, "this", "")


@pytest.mark.parametrize(
    ("pressed", "answer"),
    [("", "this"), ("  that ", "that"), ("\t!", "this!"), ("a\x12b\x13c", "abc"), ("a?", "a?"), ("\x1bOPa", "a"), (PASTED, "a b")],
)
def test_keys_in_a_line(keys: PipeInput, prompter: TerminalPrompter, pressed: str, answer: str) -> None:
    keys.send_text(pressed + "\r")
    assert prompter.text("key", "What?", default="this", more="More.") == answer


class Hub:
    """Suggests two names as soon as it is let; `asked` is set once it looks, `answered` once it has found them."""

    def __init__(self) -> None:
        self.asked, self.answers, self.answered = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, text: str) -> list[str]:
        self.asked.set()
        self.answers.wait(30)
        self.answered.set()
        return [f"{text}/first", f"{text}/second"]


def press_when(event: threading.Event, keys: PipeInput, text: str, after: float = 0.0) -> None:
    def press() -> None:
        event.wait(5)
        time.sleep(after)
        keys.send_text(text)

    threading.Thread(target=press, daemon=True).start()


@pytest.mark.parametrize(
    ("pressed", "answer"),
    [
        ("", "ada"),
        ("\t", "ada/first"),
        (DOWN, "ada/first"),
        (DOWN + DOWN, "ada/second"),
        (DOWN + DOWN + UP, "ada/first"),
        (DOWN + DOWN + "\t", "ada/second"),
        (DOWN + "x", "ada/firstx"),
    ],
)
def test_suggestions_are_taken_with_tab_or_the_arrows(keys: PipeInput, prompter: TerminalPrompter, pressed: str, answer: str) -> None:
    hub = Hub()
    hub.answers.set()
    keys.send_text("ada")
    press_when(hub.asked, keys, pressed + "\r", after=0.3)
    assert prompter.text("key", "What?", default="this", complete=hub) == answer


def test_an_answer_does_not_wait_for_suggestions_that_are_still_looked_up(keys: PipeInput, prompter: TerminalPrompter) -> None:
    hub = Hub()
    keys.send_text("ada")
    press_when(hub.asked, keys, "\r")
    assert prompter.text("key", "What?", default="this", complete=hub) == "ada"
    assert not hub.answered.is_set()
    hub.answers.set()  # it is nobody's question any more


def test_an_answer_that_is_changed_while_it_is_checked_is_not_taken(keys: PipeInput, prompter: TerminalPrompter) -> None:
    checked, result, seen = threading.Event(), threading.Event(), []

    def slow(text: str) -> str | None:
        seen.append(text)
        checked.set()
        result.wait(5)
        return None

    keys.send_text("old\r")
    press_when(checked, keys, "er", after=0.3)
    press_when(checked, keys, "\r", after=0.9)
    threading.Timer(0.6, result.set).start()
    assert prompter.text("key", "What?", default="this", check=slow) == "older"
    assert seen == ["old", "older"]


def test_a_key_does_not_wait_for_what_is_said_about_a_path(keys: PipeInput, prompter: TerminalPrompter) -> None:
    looked: list[str] = []

    def check(text: str) -> str | None:
        looked.append(text)
        return None if text.endswith("rows") else "There is no such file."

    keys.send_text("row\rs\r")
    assert prompter.text("key", "What?", default="this", check=check, complete=lambda _: []) == "rows"
    assert looked == ["row", "rows"]
    keys.send_text("row\rs\r")
    assert prompter.text("key", "What?", default="this", check=check) == "rows"
    assert looked[2:] == ["row", "rows", "rows"], "what costs nothing is said at each key"


def test_one_can_go_back_while_an_answer_is_checked(keys: PipeInput, prompter: TerminalPrompter) -> None:
    checked, result = threading.Event(), threading.Event()

    def slow(text: str) -> str | None:
        checked.set()
        result.wait(5)
        return None

    prompter.can_go_back = True
    keys.send_text("ada\r")
    press_when(checked, keys, SHIFT_TAB, after=0.3)
    with pytest.raises(GoBack):
        prompter.text("key", "What?", default="this", check=slow)
    assert not result.is_set()
    result.set()
