"""A real pseudo-terminal: what a person would see after pressing what keys.

with Terminal(["--plain"], columns=80) as terminal:
    terminal.wait_for("STEP 0")
    terminal.press(ENTER)
    terminal.lines()
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

import psutil
import pyte

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import warm  # noqa: E402

ENTER, UP, DOWN, SHIFT_TAB, CTRL_C, F1, TAB = "\r", "\x1b[A", "\x1b[B", "\x1b[Z", "\x03", "\x1bOP", "\t"
OURS = {"TERM": "xterm-256color", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "CI", "COLUMNS", "LINES")} | OURS


class Screen(pyte.HistoryScreen):
    """pyte leaves out faint letters: here they are grey."""

    def select_graphic_rendition(self, *attributes: int, **private: bool) -> None:
        of_colours = {38, 48} & set(attributes)  # what follows these is no attribute
        super().select_graphic_rendition(*(attributes if of_colours else (90 if each == 2 else each for each in attributes)), **private)


class Terminal:
    """`python finetune_cli.py ARGUMENTS` on a terminal of a given size, in an empty working folder.

    Forked from a process that has imported everything (warm.py), unless it is to start `fresh`.
    """

    def __init__(
        self,
        arguments: list[str] | None = None,
        *,
        folder: Path,
        columns: int = 80,
        rows: int = 40,
        env: dict[str, str] | None = None,
        fresh: bool = False,
    ) -> None:
        self.columns = columns
        self.emulated = Screen(columns, rows, history=500, ratio=0.5)
        self._stream = pyte.ByteStream(self.emulated)
        self.raw = b""
        given = environment() | (env or {})
        self._process, self._there = warm.on_terminal(arguments or [], folder, given, rows=rows, columns=columns, fresh=fresh)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print("\n".join(self.lines()))
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait()
        if self._there >= 0:
            os.close(self._there)

    def processor_seconds(self) -> float:
        """Processor time the program has taken so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as it did before the program."""
        return bool(termios.tcgetattr(self._there)[3] & termios.ECHO)

    def hang_up(self, seconds: float = 120) -> int:
        """Close the terminal, of which the system tells the program by SIGHUP; its exit code."""
        os.close(self._there)
        self._there = -1
        return int(self._process.wait(seconds))

    def press(self, *keys: str) -> None:
        for key in keys:
            os.write(self._there, key.encode())

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what was printed; False once the program is gone."""
        if not select.select([self._there], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._there, 65536)
        except OSError:  # the last program that had it open is gone
            return False
        if not data:
            return False
        self.raw += data
        self._stream.feed(data)
        return True

    def lines(self) -> list[str]:
        """The screen and what scrolled off it, without empty lines at the end."""
        above = ["".join(row[column].data for column in range(self.columns)).rstrip() for row in self.emulated.history.top]
        below = [line.rstrip() for line in self.emulated.display]
        while below and not below[-1]:
            below.pop()
        return above + below

    def text(self) -> str:
        return "\n".join(self.lines())

    def wait_for(self, words: str, seconds: float = 60) -> None:
        """Until `words` are on screen and what was being drawn with them is too; fails with the screen otherwise."""
        until = time.monotonic() + seconds
        while words not in self.text():
            alive = self.read()
            if words in self.text():
                self.settle()
                return
            assert alive, f"the program ended without {words!r}:\n{self.text()}"
            assert time.monotonic() < until, f"no {words!r} after {seconds} s:\n{self.text()}"

    def settle(self) -> None:
        """Take in the rest of a drawing: until nothing comes for a moment, or something keeps moving."""
        for _ in range(10):
            before = len(self.raw)
            if not self.read() or len(self.raw) == before:
                return

    def wait_until_gone(self, words: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while words in self.text():
            assert self.read(), f"the program ended:\n{self.text()}"
            assert time.monotonic() < until, f"{words!r} is still there after {seconds} s:\n{self.text()}"

    def wait_for_end(self, seconds: float = 60) -> int:
        """The exit code, once the program has ended."""
        until = time.monotonic() + seconds
        while self.read():
            assert time.monotonic() < until, f"still running after {seconds} s:\n{self.text()}"
        try:
            return int(self._process.wait(max(1, until - time.monotonic())))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it closed its terminal and still runs:\n{self.text()}") from None
