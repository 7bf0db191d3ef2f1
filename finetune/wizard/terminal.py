"""The wizard's questions on a real terminal, drawn with prompt_toolkit.

    prompter = TerminalPrompter(colour=True)
    prompter.select("approach", "Approach", [Choice("fine-tuning", "Fine-tuning", "teach a model your task")], "fine-tuning")

One question is on screen at a time; once answered it collapses to one line. Enter takes the default, Shift+Tab goes back, ? or F1
tells more, Ctrl-C leaves. Cursor position reports are off: they make slow terminals print their answer into the next program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prompt_toolkit.application import Application
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI, FormattedText, to_formatted_text
from prompt_toolkit.key_binding import KeyPressEvent
from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.styles import Style

from finetune.wizard.layout import indent, rows_of, spelled, wrap
from finetune.wizard.prompter import Choice, Complete, Fragments, GoBack, Validate, anything, drawn, plain
from finetune.wizard.questions import Part, pick_one, type_a_line, yes_or_no

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLE = Style.from_dict(
    {
        "mark": "ansicyan bold",
        "done": "ansigreen bold",
        "step": "bold",
        "question": "bold",
        "pointer": "ansicyan bold",
        "chosen": "ansicyan bold",
        "quiet": "dim",
        "problem": "ansired",
        "warning": "ansiyellow",
        "learned": "ansigreen bold",
        "answer": "",
        "command": "",
    }
)


class TerminalPrompter:
    """Asks on the terminal of stdin and stdout; `on_first_question` is called once the first question is on screen."""

    def __init__(self, *, colour: bool = True, on_first_question: Callable[[], None] | None = None) -> None:
        self._output = create_output(sys.stdout)
        if hasattr(self._output, "enable_cpr"):
            self._output.enable_cpr = False
        self._depth = None if colour else ColorDepth.DEPTH_1_BIT
        self._on_first_question = on_first_question
        self._rows = 0
        self.can_go_back = False

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
        self._print(wrap(indent(fragments), self.width))

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        before = self.mark()
        self._print([("class:quiet", f"  {text} …"[: self.width - 1])])
        try:
            yield
        finally:
            self.erase_to(before)

    def select(self, key: str, question: str, choices: Sequence[Choice], default: str, help: str = "", more: str = "") -> str:
        part = pick_one(choices, default, lambda: self.width, height=lambda: max(3, self._output.get_size().rows - 6))
        answer = str(self._ask(question, part, help, more))
        self._collapse(question, next(choice.title for choice in choices if choice.value == answer))
        return answer

    def text(
        self,
        key: str,
        question: str,
        default: str,
        validate: Validate = anything,
        help: str = "",
        more: str = "",
        complete: Complete | None = None,
    ) -> str:
        answer = str(self._ask(question, type_a_line(default, validate, complete, lambda: self.width), help, more))
        self._collapse(question, answer)
        return answer

    def secret(self, key: str, question: str, help: str = "") -> str:
        answer = str(self._ask(question, type_a_line("", anything, None, lambda: self.width, hidden=True), help, ""))
        self._collapse(question, "(not shown)" if answer else "(none)")
        return answer

    def confirm(self, key: str, question: str, default: bool, help: str = "", more: str = "") -> bool:
        answer = bool(self._ask(question, yes_or_no(default), help, more))
        self._collapse(question, "Yes" if answer else "No")
        return answer

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

    def _ask(self, question: str, part: Part, help: str, more: str) -> Any:
        """Run one question as a small inline application that erases itself when answered."""
        show_more = False
        empty = Condition(lambda: part.typed is None or not part.typed.text)

        def heading() -> Fragments:
            beside = part.beside()
            fits = len(question) + 4 + len(plain(beside)) < self.width
            return [("class:mark", "? "), ("class:question", question), ("", "  " if fits else "\n  "), *beside]

        def foot() -> Fragments:
            lines: Fragments = [*part.state()]
            if help:
                lines.append(("class:quiet", f"  {help}\n"))
            if show_more:
                lines.append(("", "".join(f"  {line}\n" for line in more.splitlines())))
            lines.append(("class:quiet", f"  {self._keys(part.how, more=bool(more) and not show_more)}"))
            return wrap(lines, self.width)

        def toggle(event: KeyPressEvent) -> None:
            nonlocal show_more
            show_more = not show_more

        keys = part.keys
        keys.add("c-c", eager=True)(lambda event: event.app.exit(exception=KeyboardInterrupt))
        keys.add("c-d", filter=empty)(lambda event: event.app.exit(exception=KeyboardInterrupt))
        keys.add("s-tab", eager=True, filter=Condition(lambda: self.can_go_back))(lambda event: event.app.exit(exception=GoBack()))
        if more:
            keys.add("f1")(toggle)
            keys.add("?", filter=empty)(toggle)
        application: Application[Any] = Application(
            layout=Layout(HSplit([self._window(heading, focusable=not part.body), *part.body, self._window(foot)])),
            key_bindings=keys,
            style=STYLE,
            output=self._output,
            color_depth=self._depth,
            erase_when_done=True,
            include_default_pygments_style=False,
            after_render=lambda _: self._first_question_is_up(),
        )
        application.ttimeoutlen = 0.05
        return application.run()

    def _window(self, content: Callable[[], Fragments], *, focusable: bool = False) -> Window:
        control = FormattedTextControl(lambda: FormattedText(spelled(content())), focusable=focusable, show_cursor=False)
        return Window(control, dont_extend_height=True, wrap_lines=True)

    def _first_question_is_up(self) -> None:
        if self._on_first_question:
            call, self._on_first_question = self._on_first_question, None
            call()

    def _keys(self, how: str, *, more: bool) -> str:
        """The keys that do something now, as many as fit, the least known last to go."""
        parts = ["Enter accepts", "Shift+Tab back" if self.can_go_back else "", "? help" if more else "", how]
        known = [part for part in parts if part]
        while len(" · ".join(known)) > self.width - 3:
            known.pop()
        return " · ".join(known)

    def _collapse(self, question: str, answer: str) -> None:
        """One line; where room is short the end of the answer matters most: it is where names differ."""
        room = self.width - 5
        asked = question if len(question) + len(answer) <= room or len(question) <= room // 3 else question[: room // 3 - 1] + "…"
        most = room - len(asked)
        told = answer if len(answer) <= most else "…" + answer[-(most - 1) :]
        self._print([("class:done", "✓ "), ("class:quiet", f"{asked}  "), ("class:answer", told)])

    def _print(self, fragments: Fragments) -> None:
        self._rows += rows_of(fragments, self.width)
        print_formatted_text(FormattedText(spelled(fragments)), style=STYLE, output=self._output, color_depth=self._depth)
