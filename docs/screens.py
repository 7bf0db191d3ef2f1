"""Draw docs/pictures/: the program on a real pseudo-terminal, as rich writes a captured screen to SVG, and the report page in Chromium.

    python docs/screens.py start data            # seconds
    python docs/screens.py chat report --of .    # of ./finetuned_model, the default run
    python docs/screens.py                       # all of them: a whole run of the starter model, minutes

Nothing is drawn by hand. A test draws the quick pictures again and compares their text; it compares the rows of the others with
a small run.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "terminal")]

from documents import blocks  # noqa: E402
from screen import DOWN, ENTER, Terminal  # noqa: E402

COLUMNS, ROWS = 80, 70
OFFER = "Use it in Ollama"  # asked where a file can be made
CELL = 12.2  # the width of a letter in such a picture
RUN_SECONDS = 1800.0
QUESTIONS = ("What would", "Model", "Dataset", "Rows to use", "Method", "Output folder", "Epochs", "Batch size", "Learning rate")
COLUMN_QUESTIONS = (("Does each row", []), ("Prompt column", []))
QUESTIONS += ("Change advanced", "Rows to test")
NAMES = {"brown": "yellow", "brightblack": "bright_black", "brightbrown": "bright_yellow"}  # what pyte calls colours
WHITE = (245, 247, 250)
THEME = TerminalTheme(
    (24, 26, 31),
    (222, 225, 230),
    [(24, 26, 31), (240, 113, 120), (126, 205, 130), (235, 200, 110), (120, 170, 250), (205, 150, 240), (95, 205, 220), (222, 225, 230)],
    [
        (160, 167, 178),
        (250, 140, 145),
        (150, 225, 155),
        (245, 220, 140),
        (150, 190, 255),
        (220, 175, 250),
        (130, 225, 235),
        (245, 247, 250),
    ],
)
# As rich's own, without the fonts of another server and without its name in the file.
SVG = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def styled(terminal: Terminal) -> list[Text]:
    """What is on the terminal and what scrolled off it, line by line."""
    screen = terminal.emulated
    rows = [*screen.history.top, *(screen.buffer[line] for line in range(screen.lines))]
    lines = [line_of([row[column] for column in range(screen.columns)]) for row in rows]
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def line_of(cells: list[Any]) -> Text:
    """The cells of a line, those of the same looks together."""
    parts = [
        ("".join(cell.data for cell in cells), looks) for looks, cells in ((looks, list(same)) for looks, same in groupby(cells, style))
    ]
    line = Text.assemble(*parts)
    line.rstrip()
    return line


def style(character: Any) -> Style:
    """A cell's looks; a colour without a name is written as its six digits."""
    named = [NAMES.get(colour, colour) for colour in (character.fg, character.bg)]
    colours = [f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else re.sub("^bright(?=[a-z])", "bright_", name) for name in named]
    looks = {"bold": character.bold, "italic": character.italics, "underline": character.underscore, "reverse": character.reverse}
    return Style(color=colours[0], bgcolor=colours[1], **looks)


def between(lines: list[Text], first: str, *last: str) -> list[Text]:
    """From the last line that has `first` on; up to the one before any of `last`."""
    start = max(number for number, line in enumerate(lines) if first in line.plain)
    ends = [number for number, line in enumerate(lines) if number > start and any(words in line.plain for words in last)]
    end = min(ends, default=len(lines))
    while not lines[end - 1].plain:
        end -= 1
    return lines[start:end]


def svg(lines: list[Text], name: str) -> str:
    """A picture of these lines; the same lines make the same file."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, color_system="truecolor", force_terminal=True)
        for line in lines:
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
        return console.export_svg(title="finetune-cli", theme=THEME, code_format=SVG, unique_id=name)


def text_of(picture: str) -> list[str]:
    """The lines of a picture, as a person reads them."""
    found: dict[float, str] = {}
    for x, y, words in re.findall(r'<text class="[\w-]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', picture):
        before = found.get(float(y), "").ljust(round(float(x) / CELL))
        found[float(y)] = before + html.unescape(words).replace("\u00a0", " ")
    return [line.rstrip() for _, line in sorted(found.items())]


def save(name: str, lines: list[Text]) -> None:
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.svg").write_text(svg(lines, name), encoding="utf-8")


def start(folder: Path) -> list[Text]:
    """The first question."""
    with Terminal(folder=folder, columns=COLUMNS) as terminal:
        terminal.wait_for("↑↓ choose")
        return styled(terminal)


def data(folder: Path) -> list[Text]:
    """A table of one's own: what was found in the folder, and the row that the wizard shows."""
    (table,) = [block.text for block in blocks(ROOT / "docs" / "own-data.md", "python")]
    here = os.getcwd()
    os.chdir(folder)
    try:
        exec(compile(table, "make_support.py", "exec"), {})
    finally:
        os.chdir(here)
    with Terminal(folder=folder, columns=COLUMNS) as terminal:
        for question, keys in (("What would", []), ("Model", []), ("Dataset", [DOWN]), *COLUMN_QUESTIONS):
            terminal.wait_for(f"? {question}")
            terminal.press(*keys, ENTER)
        terminal.wait_for("? Is this right?")
        return between(styled(terminal), "STEP 2")


def whole_run(folder: Path, *first: Callable[[Terminal], None], step: str = r"step 1\d/") -> Iterator[tuple[str, list[Text]]]:
    """The wizard from the first question to the end; `first` answers what is not to be answered by Enter.

    The training is drawn once `step` is on the screen, or not at all if it is over before.
    """
    with Terminal(folder=folder, columns=COLUMNS, rows=ROWS) as terminal:
        answered = len(first)
        for answer in first:
            answer(terminal)
        for question in QUESTIONS[answered:]:
            terminal.wait_for(f"? {question}", RUN_SECONDS)
            terminal.press(ENTER)
        terminal.wait_for("? Ready?", RUN_SECONDS)
        yield "rows", between(styled(terminal), "REVIEW", "  Model ")
        yield "review", between(styled(terminal), "  Model  ")
        terminal.press(ENTER)
        while terminal.read() and "held-out rows\n" not in terminal.text():
            if re.search(step, terminal.text()):
                yield "training", between(styled(terminal), "Ready?")
                break
        while terminal.read() and "STEP 6" not in terminal.text():
            if f"? {OFFER}" in terminal.text():
                terminal.press(ENTER)
        terminal.wait_for_end(RUN_SECONDS)
        yield "result", between(styled(terminal), "Sample answers", "  Model  ")  # below it, paths of this machine


def chat(folder: Path) -> list[Text]:
    """Two functions for the model of a finished run."""
    with Terminal(["chat", "finetuned_model"], folder=folder, columns=COLUMNS) as terminal:
        for function in ("def area(r): return 3.14 * r * r", "def is_even(n): return n % 2 == 0"):
            asked_again(terminal)
            terminal.press(f"Write the one-line docstring of this Python function. {function}", ENTER)
            terminal.wait_for(function[:10])
        asked_again(terminal)
        return styled(terminal)[:-1]


def asked_again(terminal: Terminal) -> None:
    """Wait until the chat waits."""
    while not terminal.text().endswith("\n>"):
        assert terminal.read(1.0), terminal.text()


def report(folder: Path) -> None:
    """The report page as Chromium shows it."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(viewport={"width": 1000, "height": 1100})
        page.goto((folder / "finetuned_model" / "run" / "report.html").as_uri())
        page.screenshot(path=PICTURES / "report.png")


def main(names: list[str], finished: Path | None) -> None:
    """Draw these pictures, or all; chat and report of the finetuned_model in the folder `finished`."""
    for name, drawn in (("start", start), ("data", data)):
        if name in names or not names:
            with tempfile.TemporaryDirectory() as folder:
                save(name, drawn(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        place = finished or Path(folder)
        if not names:
            for name, lines in whole_run(place):
                save(name, lines)
        if "chat" in names or not names:
            save("chat", chat(place))
        if "report" in names or not names:
            report(place)


if __name__ == "__main__":
    wanted = argparse.ArgumentParser(description="Draw docs/pictures/.")
    wanted.add_argument("names", nargs="*", help="start, data, chat, report; all if none is named")
    wanted.add_argument("--of", type=Path, help="a folder with a finished run, finetuned_model, for chat and report")
    given = wanted.parse_args()
    if {"chat", "report"} & set(given.names) and given.of is None:
        wanted.error("chat and report need --of FOLDER")
    main(given.names, given.of)
