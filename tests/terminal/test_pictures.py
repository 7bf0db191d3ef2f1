"""The pictures of documents are what the program shows: quick ones are drawn again, the rows of the others compared with a small run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from screen import DOWN, ROOT, UP, Terminal
from test_whole_run import answer

sys.path.insert(0, str(ROOT / "docs"))
import screens


def committed(name: str) -> list[str]:
    return screens.text_of((screens.PICTURES / f"{name}.svg").read_text(encoding="utf-8"))


def rows(lines: list[str]) -> set[str]:
    """What the rows of tables begin with."""
    return {found[1] for line in lines if (found := re.match(r"  ([A-Z][\w-]*(?: [a-z]+)?)  +\S", line))}


@pytest.mark.parametrize("name", ["start", "data"])
def test_a_quick_picture_is_what_the_program_shows(name: str, tmp_path: Path) -> None:
    drawn = screens.svg(getattr(screens, name)(tmp_path), name)
    assert screens.text_of(drawn) == committed(name)
    assert "http://" not in drawn.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in drawn


def test_the_long_pictures_have_the_rows_of_a_small_run(workplace: Path) -> None:
    def first(terminal: Terminal) -> None:
        answer(terminal, "What would")

    def model(terminal: Terminal) -> None:
        answer(terminal, "Model", UP)
        answer(terminal, "Name or folder", "./pico")

    def data(terminal: Terminal) -> None:
        answer(terminal, "Dataset", DOWN)
        answer(terminal, "Is this right?")

    drawn = {name: [line.plain for line in lines] for name, lines in screens.whole_run(workplace, first, model, data)}
    review = rows(drawn["review"])
    assert {"Model", "Method", "Data", "Training", "Memory", "Time", "Upload"} <= review
    assert rows(committed("review")) == review
    assert {"Rows", "Read as", "Tokens", "Learned"} <= rows(drawn["rows"]) & rows(committed("rows"))
    scores = {"ROUGE-1", "ROUGE-L", "Perplexity"}  # the answers of the small run are too short for ROUGE-2
    assert scores <= rows(drawn["result"]) & rows(committed("result"))
    assert any("held-out rows" in line for line in committed("result"))
    assert re.search(r"\d+ % · .* · loss \d", " ".join(committed("training")))
