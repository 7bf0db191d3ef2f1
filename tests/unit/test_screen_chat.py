"""Two answers on a screen: in columns where there is room and a terminal, else one below the other; nothing of theirs is markup."""

from __future__ import annotations

import io

import pyte
import pytest
from rich.console import Console

from finetune.screen.chat import OneBelowTheOther, SideBySide
from finetune.screen.console import THEME


def two_answers(screen: OneBelowTheOther) -> None:
    for name, pieces in (("base", ["[red]so ", "so "]), ("tuned", ["yes\n", "\x1b[2Jyes"])):
        screen.turn(name)
        for piece in pieces:
            screen.show(piece)
    screen.turn("")


def console(width: int, *, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=width, height=20, force_terminal=terminal, theme=THEME, highlight=False, color_system=None)


def seen(console: Console) -> list[str]:
    """What a terminal shows of it."""
    screen = pyte.Screen(console.width, 20)
    pyte.Stream(screen).feed(console.file.getvalue().replace("\n", "\r\n"))  # type: ignore[attr-defined]
    return [line.rstrip() for line in screen.display if line.strip()]


def test_columns_hold_both_answers_side_by_side() -> None:
    where = console(60, terminal=True)
    two_answers(SideBySide(where))
    head, *lines = seen(where)
    assert head.split() == ["base", "tuned"]
    left = head.index("tuned")
    assert [line[:left].strip() for line in lines] == ["[red]so so", ""]
    assert [line[left:].strip() for line in lines] == ["yes", "?[2Jyes"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_models_name_cannot_steer_the_terminal(terminal: bool) -> None:
    where = console(60, terminal=terminal)
    screen = SideBySide(where) if terminal else OneBelowTheOther(where)
    screen.turn("teacher \x9b2J\u202e")
    screen.show("yes")
    screen.turn("")
    assert not {"\x9b", "\u202e"} & set(where.file.getvalue())  # type: ignore[attr-defined]


def test_the_first_answer_can_be_read_before_the_second_begins() -> None:
    where = console(60, terminal=True)
    screen = SideBySide(where)
    screen.turn("base")
    screen.show("first")
    screen.live.refresh()  # type: ignore[union-attr]
    assert seen(where)[1].split() == ["first"]
    screen.turn("")


@pytest.mark.parametrize("width", [40, 80])
def test_without_a_terminal_answers_come_one_below_the_other(width: int) -> None:
    where = console(width, terminal=False)
    two_answers(OneBelowTheOther(where))
    assert where.file.getvalue() == "base\n[red]so so \ntuned\nyes\n?[2Jyes\n"  # type: ignore[attr-defined]


def test_a_talk_with_one_model_shows_pieces_as_they_are() -> None:
    for screen in (SideBySide(console(60, terminal=True)), OneBelowTheOther(console(60, terminal=False))):
        screen.show("so ")
        screen.show("[b]")
        assert screen.console.file.getvalue() == "so [b]"  # type: ignore[attr-defined]
