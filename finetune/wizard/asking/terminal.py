"""The wizard's questions on a real terminal: questionary asks them.

    prompter = TerminalPrompter(colour=True)
    prompter.select("approach", "Approach", [Choice("fine-tuning", "Fine-tuning", "teach a model your task")], "fine-tuning")

One question is on screen at a time; once answered it collapses to one line. Enter takes the default, Shift+Tab goes back, ? or F1
tells more, Ctrl-C leaves. Cursor position reports are off: they make slow terminals print their answer into the next program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import questionary
from prompt_toolkit.filters import Always, Condition
from prompt_toolkit.formatted_text import ANSI, FormattedText, to_formatted_text
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from finetune.wizard.asking.layout import ascii_only, beginning, end, indent, rows_of, spelled, wrap
from finetune.wizard.asking.prompter import Fragments, GoBack, Prompter, Question, answer_text, drawn, explanation, plain
from finetune.wizard.asking.questions import Line, add_notes

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLE = Style.from_dict(
    {
        "qmark": "ansicyan bold",
        "done": "ansigreen bold",
        "step": "bold",
        "question": "bold",
        "pointer": "ansicyan bold",
        "chosen": "ansicyan bold",
        "quiet": "dim",
        "problem": "ansired",
        "warning": "ansiyellow",
        "learned": "ansigreen bold",
        "answer": "noinherit",  # questionary's is orange
        "instruction": "dim",
        "command": "",
        "completion-menu": "noinherit dim",
        "completion-menu.completion.current": "noinherit ansicyan bold",
        "scrollbar.background": "noinherit",
        "scrollbar.button": "noinherit",
    }
)


class TerminalPrompter(Prompter):
    """Asks on the terminal of stdin and stdout; `on_question` is called whenever one is on screen."""

    def __init__(self, *, colour: bool = True, on_question: Callable[[], None] = lambda: None) -> None:
        self.in_words = ascii_only()
        self._output = create_output(sys.stdout)
        if hasattr(self._output, "enable_cpr"):
            self._output.enable_cpr = False
        self._depth = None if colour else ColorDepth.DEPTH_1_BIT
        self._on_question = on_question
        self._rows = 0

    @property
    def width(self) -> int:
        return max(20, self._output.get_size().columns)

    def step(self, number: int | None, title: str) -> None:
        numbered: Fragments = [] if number is None else [("class:step", f"STEP {number}"), ("class:quiet", " · ")]
        self._print([("", "\n"), *numbered, ("class:step", title)])

    def show(self, picture: RenderableType) -> None:
        text = drawn(picture, self.width, colour=self._depth is None)
        self._print([(fragment[0], fragment[1]) for fragment in to_formatted_text(ANSI(text))])

    def note(self, text: str | Fragments) -> None:
        fragments: Fragments = [("class:quiet", text)] if isinstance(text, str) else list(text)
        self._print(wrap(indent(fragments), self.width, to_copy=True))

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        before = self.mark()
        self._print([("class:quiet", f"  {text} …"[: self.width - 1])])
        try:
            yield
        finally:
            self.erase_to(before)

    def ask(self, question: Question) -> str | bool:
        default, keys, line = question.default, KeyBindings(), None
        if question.choices:
            values = [choice.value for choice in question.choices]
            shown = [questionary.Choice(choice.title, choice.value, shortcut_key=False) for choice in question.choices]
            start = default if default in values else None
            asked = self._made(questionary.select, question, choices=shown, default=start, instruction=" ")
            keys = add_notes(asked, question.choices, lambda: self.width, height=lambda: max(3, self._output.get_size().rows - 6))
        elif isinstance(default, bool):
            asked = self._made(questionary.confirm, question, default=default, auto_enter=False)
        else:
            made = questionary.password if question.secret else questionary.text
            asked = self._made(made, question, placeholder=spelled([("class:quiet", default)]), complete_while_typing=False)
            line = Line(asked, question)
        answer: str | bool = self._answer(asked, question, keys, line)
        self.recall(question, answer)
        return answer

    def recall(self, question: Question, answer: str | bool) -> None:
        self._collapse(question.text, answer_text(question, answer))

    def mark(self) -> int:
        return self._rows

    def erase_to(self, mark: int) -> None:
        """Wipe what was drawn since `mark` (as far as it is still on screen)."""
        if self._rows > mark:
            self._output.write_raw("\r")
            self._output.cursor_up(self._rows - mark)
            self._output.erase_down()
            self._output.flush()
            self._rows = mark

    def _made(self, ask: Callable[..., questionary.Question], question: Question, **more: Any) -> questionary.Question:
        return ask(
            plain(spelled(wrap([("", question.text)], self.width - 2))).replace("\n", "\n  "),
            style=STYLE,
            output=self._output,
            color_depth=self._depth,
            erase_when_done=True,
            include_default_pygments_style=False,
            **more,
        )

    def _answer(self, asked: questionary.Question, question: Question, keys: KeyBindings, line: Line | None) -> Any:
        """Help goes below the question; to its own keys come those that all questions have."""
        show_more = False
        keys = line.keys if line else keys
        how = "↑↓ choose" if question.choices else "y or n" if line is None else "Tab completes" if line.suggestions else ""
        empty = Condition(lambda: line is None or not line.buffer.text)

        def foot() -> FormattedText:
            lines: Fragments = [*line.state()] if line else []
            if question.help:
                lines.append(("class:quiet", f"  {question.help}\n"))
            if show_more:
                lines.append(("", "".join(f"  {each}\n" for each in explanation(question).splitlines())))
            lines.append(("class:quiet", f"  {self._keys(how, help_key='?' if empty() else 'F1')}"))
            return FormattedText(spelled(wrap(lines, self.width)))

        def toggle(event: KeyPressEvent) -> None:
            nonlocal show_more
            show_more = not show_more

        def leave(event: KeyPressEvent) -> None:
            event.app.exit(exception=KeyboardInterrupt)

        keys.add("<sigint>")(leave)
        keys.add("c-d", filter=empty)(leave)
        keys.add("s-tab", eager=True, filter=Condition(lambda: self.can_go_back))(lambda event: event.app.exit(exception=GoBack()))
        for key in ("c-q", "c-r", "c-s"):  # questionary leaves at Ctrl-Q; the others search a history, and there is none
            keys.add(key, eager=True)(lambda event: None)
        keys.add("c-z", eager=True)(lambda event: event.app.suspend_to_background())  # where the system can: else it does nothing
        keys.add("f1")(toggle)
        keys.add("?", filter=empty)(toggle)
        application = asked.application
        application.key_bindings = merge_key_bindings([application.key_bindings or KeyBindings(), keys])
        below = Window(FormattedTextControl(foot, focusable=True, show_cursor=False))
        focused = application.layout.current_window if line else below  # where nothing can be typed, nothing can be pasted
        application.layout = Layout(HSplit([application.layout.container, below]), focused)
        for window in application.layout.find_all_windows():
            window.wrap_lines = window.dont_extend_height = Always()
        application.ttimeoutlen = 0.05
        application.after_render += lambda _: self._on_question()
        return asked.unsafe_ask()

    def _keys(self, how: str, *, help_key: str) -> str:
        """The keys that do something now: in few words where room is short, and the least known last to go."""
        for accept in ("Enter accepts", "Enter ok"):
            known = [accept, *(["Shift+Tab back"] if self.can_go_back else []), f"{help_key} help", *([how] if how else [])]
            if len(" · ".join(known)) <= self.width - 3:
                return " · ".join(known)
        while len(" · ".join(known)) > self.width - 3:
            known.pop()
        return " · ".join(known)

    def _collapse(self, question: str, answer: str) -> None:
        """One line; where room is short the end of the answer matters most: it is where names differ."""
        room, wide = self.width - 5, get_cwidth(question)
        asked = question if wide + get_cwidth(answer) <= room or wide <= room // 3 else beginning(question, room // 3 - 1) + "…"
        most = room - get_cwidth(asked)
        told = answer if get_cwidth(answer) <= most else "…" + end(answer, most - 1)
        self._print([("class:done", "✓ "), ("class:quiet", f"{asked}  "), ("class:answer", told)])

    def _print(self, fragments: Fragments) -> None:
        self._rows += rows_of(fragments, self.width)
        print_formatted_text(FormattedText(spelled(fragments)), style=STYLE, output=self._output, color_depth=self._depth)
