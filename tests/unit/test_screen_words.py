"""Long words and numbers on a screen: paths and commands stay whole, ratios are said as people say them."""

from __future__ import annotations

import pytest
from prompt_toolkit.utils import get_cwidth
from rich.text import Text
from test_screen import Figures, drawn, screen, written

from finetune.errors import BadInput
from finetune.events import Notice
from finetune.formatting import ratio, times
from finetune.recipe import Recipe
from finetune.screen.plan_table import review
from finetune.screen.reporter import RichReporter
from finetune.screen.tables import block, pairs, to_copy
from finetune.screen.wording import at_breaks
from finetune.wizard.asking.layout import wrap
from finetune.wizard.asking.prompter import hint, plain

COMMAND = f"--set dataset.source=data/{'a-long-folder/' * 6}rows.jsonl"


@pytest.mark.parametrize("width", [40, 80])
def test_no_word_is_broken_so_that_paths_and_commands_can_be_copied(width: int) -> None:
    path = COMMAND.split()[1]
    plan = Figures(problems=[f"Another file would do: {COMMAND}"], notes=[f"It was read from {path}"])
    recipe = Recipe.from_layers({"output_dir": path})
    shown = drawn(review(recipe, plan), width)  # type: ignore[arg-type]
    assert shown.count(path) == 3
    assert all(line.strip() for line in shown.splitlines())
    console = screen(width)
    RichReporter(console).report(Notice(f"It is there: {COMMAND}"))
    assert path in console.file.getvalue()  # type: ignore[attr-defined]
    assert path in plain(wrap([("class:warning", f"It is there: {COMMAND}")], width, to_copy=True))


@pytest.mark.parametrize("width", [40, 80])
def test_a_command_is_in_one_piece_and_prose_before_it_breaks_between_words(width: int) -> None:
    said = "Choose another folder for this run, or continue the one that is there already:"
    command = "finetune-cli resume 'my folder/with a name' --device cpu"
    ways = (
        at_breaks(f"{said} {command}", width),
        drawn(f"{said} {command}", width).splitlines(),
        plain(wrap(hint(BadInput("x", hint=f"{said} {command}")), width, to_copy=True)).splitlines()[1:],
    )
    for lines in ways:
        assert lines[-1].strip() == command
        assert " ".join(" ".join(lines[:-1]).split()) == said
        assert max(map(len, lines[:-1])) <= width
    assert at_breaks("Sign in: hf auth login", 40) == ["Sign in: hf auth login"]
    assert at_breaks("are trained (3.5 %) in 22 s, 16 GB", 19) == ["are trained (3.5 %)", "in 22 s, 16 GB"]
    assert at_breaks("are trained (3.5 %) in 22 s, 16 GB", 17) == ["are trained", "(3.5 %) in 22 s,", "16 GB"]
    assert at_breaks("Go on: `finetune-cli resume 'a b'` continues it.", 30) == ["Go on:", "`finetune-cli resume 'a b'`", "continues it."]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_path_with_a_space_is_whole_in_what_is_printed_to_be_copied(width: int) -> None:
    path = "data/" + "a long folder/" * 6
    assert path in drawn(to_copy([("Model", path), ("Elsewhere", "copy the folder")], width), width)


def test_beside_names_that_leave_no_room_facts_stand_below_them() -> None:
    facts = pairs([("Parameters", "21k against 30k"), ("", "too few")])
    assert drawn(facts, 20).splitlines() == ["Parameters", "  21k against 30k", "  too few"]


def test_a_block_has_no_spaces_behind_its_lines_which_a_narrower_terminal_would_break() -> None:
    console = screen(80)
    console.print(block(pairs([("Rows", "32 read")]), Text("a word"), above=1))
    assert written(console) == "\n  Rows  32 read\n  a word\n"


def test_what_is_written_without_spaces_is_broken_where_a_line_ends() -> None:
    assert max(map(get_cwidth, drawn(f"Topic: {'订单84731已经从我们的仓库发出,' * 9}", 40).splitlines())) <= 40
    assert max(map(get_cwidth, at_breaks("数据 " * 30, 40))) <= 40
    for name in (f"/home/{'数据' * 30}/rows.jsonl", f"finetune-cli resume {'数据' * 30}"):
        assert name in drawn(f"It is there: {name}", 40)
        assert name in plain(wrap(hint(BadInput("x", hint=f"It is there: {name}")), 40, to_copy=True))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        *((3358.21, "about 3,400"), (123.4, "about 120"), (99.6, "about 100"), (33.58, "34"), (9.96, "10"), (4.44, "4.4")),
        *((1.996, "2.0"), (1.38, "1.38"), (0.737, "0.74"), (0.0312, "0.03"), (0.0003, "under 0.01")),
    ],
)
def test_ratios_have_the_digits_that_a_person_would_say(number: float, said: str) -> None:
    assert ratio(number) == said
    assert ratio(number, 1) == {"1.38": "1.4", "0.74": "0.7"}.get(said, said)
    assert times(number, "size") == f"{said} times the size"
    assert times(1.002, "size") == "the same size"
