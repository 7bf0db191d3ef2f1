"""Measures of text on a terminal: wrapping styled text, counting rows, deciding whether two columns fit,
replacing characters for terminals that only have ASCII.

wrap([("class:quiet", "a long line ...")], width=40)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import accumulate, takewhile

from prompt_toolkit.utils import get_cwidth

from finetune.formatting import strip_control_chars
from finetune.letters import last_letters, whole_letters
from finetune.wizard.asking.prompter import Fragments, plain

_START = re.compile(r" *(?:[│▌|] )?")  # what a broken line begins with again: its indentation and the bar at its edge
_WORD = re.compile(r"[^ ]+ *| +")  # with the spaces that follow it
_IN_ASCII = str.maketrans({"❯": ">", "✓": "*", "✗": "x", "▌": "#", "│": "|", "·": "-", "…": "~", "↑": "^", "↓": "v"})


def ascii_only() -> bool:
    """Whether the terminal may lack other characters."""
    return not (sys.stdout.encoding or "").lower().startswith("utf")


def spelled(fragments: Fragments) -> Fragments:
    """In characters that no terminal obeys and that its encoding has, as wide as before; all that the wizard shows goes through here."""
    safe = [(style, strip_control_chars(text)) for style, text in fragments]
    return [(style, text.translate(_IN_ASCII)) for style, text in safe] if ascii_only() else safe


def columns_fit(rows: Sequence[tuple[str, str]], width: int) -> bool:
    """Whether all (title, note) pairs fit on one line each."""
    widest = max(get_cwidth(title) for title, _ in rows)
    return all(widest + 2 + get_cwidth(note) <= width for _, note in rows)


def beginning(text: str, cells: int) -> str:
    """As much of the beginning of a text as fits into so many columns; a Chinese or Japanese letter takes two."""
    return text[: whole_letters(text, _fitting(text, cells))]


def end(text: str, cells: int) -> str:
    """As much of the end of a text as fits."""
    return last_letters(text, _fitting(text[::-1], cells))


def _fitting(text: str, cells: int) -> int:
    ends = accumulate(map(get_cwidth, text))
    return sum(1 for _ in takewhile(lambda end: end <= cells, ends))


def rows_of(fragments: Fragments, width: int) -> int:
    """Screen rows that printing these fragments and a line end takes."""
    return sum(max(1, -(-get_cwidth(line) // width)) for line in plain(fragments).split("\n"))


def indent(fragments: Fragments) -> Fragments:
    """Every line moved to the right."""
    return [("", "  "), *((style, text.replace("\n", "\n  ")) for style, text in fragments)]


def wrap(fragments: Fragments, width: int, *, to_copy: bool = False) -> Fragments:
    """Lines broken at spaces; the rest of a broken line starts like its beginning, indented and with its bar.

    What is printed can be copied: commands stay whole, and so do long words, which may be paths, unless they are data beside a bar.
    """
    wrapped: Fragments = []
    for number, line in enumerate(_lines(fragments)):
        if number:
            wrapped.append(("", "\n"))
        wrapped += _wrap_line(line, width - 1, to_copy=to_copy)
    return wrapped


def _lines(fragments: Fragments) -> list[Fragments]:
    lines: list[Fragments] = [[]]
    for style, text in fragments:
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            if part:
                lines[-1].append((style, part))
    return lines


def _wrap_line(line: Fragments, width: int, *, to_copy: bool) -> Fragments:
    start = _START.match(plain(line))
    margin = start.group() if start and len(start.group()) <= width // 2 else ""
    style_of_margin = next((style for style, text in line if text.strip()), "")
    wrapped: Fragments = []
    used = 0

    def new_line() -> None:
        nonlocal used
        wrapped.extend([("", "\n"), (style_of_margin, margin)])
        used = len(margin)

    for style, part in line:
        is_command = style == "class:command"
        for word in [part] if is_command else _WORD.findall(part):
            if used + get_cwidth(word.rstrip(" ")) > width and used > len(margin):
                new_line()
                word = word.lstrip(" ")
            whole = to_copy and not margin.strip() and (is_command or "/" in word or get_cwidth(word) == len(word))
            while not whole and get_cwidth(word.rstrip(" ")) > width - used:
                fitting = beginning(word, width - used) or word[0]
                wrapped.append((style, fitting))
                word = word[len(fitting) :]
                new_line()
            wrapped.append((style, word))
            used += get_cwidth(word)
    return wrapped
