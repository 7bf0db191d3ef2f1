"""The wizard's questions on a real terminal, drawn with prompt_toolkit.

    prompter = TerminalPrompter(colour=True)
    prompter.select("approach", "Approach", [Choice("fine-tuning", "Fine-tuning", "teach a model your task")], "fine-tuning")

One question is on screen at a time; once answered it collapses to one line. Enter takes the default, Shift+Tab goes back, F1 (or ?)
tells more, Ctrl-C leaves. Cursor position reports are off: they make slow terminals print their answer into the next program.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI, FormattedText, fragment_list_to_text, to_formatted_text
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.processors import AfterInput, BeforeInput, ConditionalProcessor, PasswordProcessor
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.styles import Style

from finetune.wizard.completion import Suggestions
from finetune.wizard.layout import columns_fit, indent, rows_of, wrap
from finetune.wizard.prompter import Choice, Complete, Fragments, GoBack, Validate, anything, drawn, plain

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
MOST_CHOICES_SHOWN = 12
AT_ONCE_SECONDS = 0.1
_CHECKS = ThreadPoolExecutor(1, thread_name_prefix="check-answer")


def symbols(encoding: str | None) -> dict[str, str]:
    """Marks the terminal's encoding can show."""
    pretty = {"pointer": "❯", "done": "✓", "problem": "✗", "bar": "▌", "dot": "·", "updown": "↑↓"}
    try:
        "".join(pretty.values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return {"pointer": ">", "done": "*", "problem": "x", "bar": "|", "dot": "-", "updown": "arrows"}
    return pretty


class TerminalPrompter:
    """Asks on the terminal of stdin and stdout; `on_first_question` is called once the first question is on screen."""

    def __init__(self, *, colour: bool = True, on_first_question: Callable[[], None] | None = None) -> None:
        self._output = create_output(sys.stdout)
        if hasattr(self._output, "enable_cpr"):
            self._output.enable_cpr = False
        self._depth = None if colour else ColorDepth.DEPTH_1_BIT
        self._symbols = symbols(sys.stdout.encoding)
        self._on_first_question = on_first_question
        self._rows = 0
        self.can_go_back = False

    @property
    def width(self) -> int:
        return max(20, self._output.get_size().columns)

    def step(self, number: int | None, title: str) -> None:
        numbered: Fragments = [] if number is None else [("class:step", f"STEP {number}"), ("class:quiet", f" {self._symbols['dot']} ")]
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
        self._print([("class:quiet", f"  … {text}"[: self.width - 1])])
        try:
            yield
        finally:
            self.erase_to(before)

    def select(self, key: str, question: str, choices: Sequence[Choice], default: str, help: str = "", more: str = "") -> str:
        position = next((at for at, choice in enumerate(choices) if choice.value == default), 0)
        keys = KeyBindings()

        def move(by: int) -> Callable[[KeyPressEvent], None]:
            def handler(event: KeyPressEvent) -> None:
                nonlocal position
                position = (position + by) % len(choices)

            return handler

        def jump(to: int) -> Callable[[KeyPressEvent], None]:
            def handler(event: KeyPressEvent) -> None:
                nonlocal position
                position = to

            return handler

        for names, by in ((("down", "j", "c-n"), 1), (("up", "k", "c-p"), -1)):
            for name in names:
                keys.add(name)(move(by))
        keys.add("home")(jump(0))
        keys.add("end")(jump(len(choices) - 1))
        for number in range(min(9, len(choices))):
            keys.add(str(number + 1))(jump(number))
        keys.add("enter")(lambda event: event.app.exit(result=choices[position]))

        def body() -> FormattedText:
            side_by_side = columns_fit([(choice.title, choice.note) for choice in choices], self.width - 3)
            widest = max(len(choice.title) for choice in choices)
            lines: Fragments = []
            for at, choice in enumerate(choices):
                here = at == position
                lines += [("class:pointer", f"{self._symbols['pointer']} ") if here else ("", "  ")]
                lines += [("[SetCursorPosition]", "")] if here else []
                lines += [("class:chosen" if here else "", choice.title[: self.width - 3])]
                if side_by_side and choice.note:
                    lines += [("class:quiet", " " * (widest - len(choice.title) + 2) + choice.note)]
                lines += [("", "\n")]
                if here and not side_by_side and choice.note:
                    lines += [*wrap([("class:quiet", "    " + choice.note)], self.width), ("", "\n")]
            return FormattedText(lines[:-1])

        window = Window(
            FormattedTextControl(body, focusable=True, show_cursor=False), dont_extend_height=True, height=lambda: self._list_height(body())
        )
        chosen: Choice = self._ask(question, list, [window], keys, help, more, choosing=f"{self._symbols['updown']} choose")
        self._collapse(question, chosen.title)
        return chosen.value

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
        answer = self._line(question, default, validate, help, more, complete)
        self._collapse(question, answer)
        return answer

    def secret(self, key: str, question: str, help: str = "") -> str:
        answer = self._line(question, "", anything, help, "", None, hidden=True)
        self._collapse(question, "(hidden)" if answer else "(none)")
        return answer

    def confirm(self, key: str, question: str, default: bool, help: str = "", more: str = "") -> bool:
        answer = default
        keys = KeyBindings()

        def choose(value: bool | None) -> Callable[[KeyPressEvent], None]:
            def handler(event: KeyPressEvent) -> None:
                nonlocal answer
                answer = (not answer) if value is None else value

            return handler

        for name, value in (
            ("y", True),
            ("Y", True),
            ("n", False),
            ("N", False),
            ("left", None),
            ("right", None),
            ("up", None),
            ("down", None),
        ):
            keys.add(name)(choose(value))
        keys.add("enter")(lambda event: event.app.exit(result=answer))

        def options() -> Fragments:
            return [
                ("class:chosen", "[No]") if not answer else ("class:quiet", " No "),
                ("", " "),
                ("class:chosen", "[Yes]") if answer else ("class:quiet", " Yes "),
            ]

        self._ask(question, options, [], keys, help, more, choosing="y or n")
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

    def _line(
        self, question: str, default: str, validate: Validate, help: str, more: str, complete: Complete | None, hidden: bool = False
    ) -> str:
        problem, checking = "", False
        buffer = Buffer(multiline=False, on_text_changed=lambda _: recheck(), complete_while_typing=False)
        suggestions = Suggestions(complete, buffer) if complete else None
        keys = KeyBindings()
        is_empty = Condition(lambda: not buffer.text)

        def recheck() -> None:
            nonlocal problem
            if problem:
                problem = validate(buffer.text.strip() or default) or ""
            if suggestions:
                suggestions.refresh()

        @keys.add("enter")
        def _accept(event: KeyPressEvent) -> None:
            nonlocal checking
            if checking:
                return
            picked = suggestions.picked if suggestions else None
            answer = (picked or buffer.text).strip() or default
            verdict = _CHECKS.submit(validate, answer)
            wait([verdict], timeout=AT_ONCE_SECONDS)
            if verdict.done():
                conclude(event.app, answer, verdict)
            else:  # a network or a disk is asked: the keys stay alive meanwhile
                checking = True
                event.app.create_background_task(later(event.app, answer, verdict))

        async def later(app: Application[Any], answer: str, verdict: Future[str | None]) -> None:
            nonlocal checking
            await asyncio.wait([asyncio.wrap_future(verdict)])
            checking = False
            conclude(app, answer, verdict)

        def conclude(app: Application[Any], answer: str, verdict: Future[str | None]) -> None:
            nonlocal problem
            problem = verdict.result() or ""
            app.invalidate()
            if not problem:
                app.exit(result=answer)

        @keys.add("tab")
        def _fill(event: KeyPressEvent) -> None:
            if suggestions and suggestions.found:
                suggestions.take()
            elif not buffer.text and not hidden:
                buffer.insert_text(default)

        if suggestions:
            keys.add("down")(lambda event: suggestions.move(1))
            keys.add("up")(lambda event: suggestions.move(-1))

        processors: list[Any] = [
            BeforeInput(lambda: [("class:pointer", f"{self._symbols['pointer']} ")]),
            ConditionalProcessor(AfterInput(lambda: [("class:quiet", default)]), is_empty),
        ]
        if hidden:
            processors.insert(0, PasswordProcessor())
        body: list[Any] = [Window(BufferControl(buffer, input_processors=processors), dont_extend_height=True, wrap_lines=True)]
        if suggestions:
            body.append(Window(FormattedTextControl(lambda: suggestions.lines(self.width)), dont_extend_height=True))

        def state() -> Fragments:
            if checking:
                return [("class:quiet", "  Looking ...\n")]
            return [("class:problem", f"  {self._symbols['problem']} {problem}\n")] if problem else []

        more_keys = ("f1",) if hidden else ("f1", "?")
        return str(self._ask(question, list, body, keys, help, more, more_keys=more_keys, typed=buffer, state=state))

    def _ask(
        self,
        question: str,
        beside: Callable[[], Fragments],
        body: list[Any],
        keys: KeyBindings,
        help: str,
        more: str,
        *,
        choosing: str = "",
        more_keys: tuple[str, ...] = ("f1", "?"),
        typed: Buffer | None = None,
        state: Callable[[], Fragments] = list,
    ) -> Any:
        """Run one question as a small inline application that erases itself when answered."""
        show_more = False

        def heading() -> FormattedText:
            options = beside()
            fits = len(question) + 4 + len(plain(options)) < self.width
            return FormattedText([("class:mark", "? "), ("class:question", question), ("", "  " if fits else "\n  "), *options])

        def foot() -> FormattedText:
            lines: Fragments = [*state()]
            if help:
                lines += [("class:quiet", f"  {help}\n")]
            if show_more and more:
                lines += [("", "".join(f"  {line}\n" for line in more.splitlines()))]
            lines += [("class:quiet", "  " + self._keys_line(bool(more) and not show_more, choosing))]
            return FormattedText(wrap(lines, self.width))

        def toggle(event: KeyPressEvent) -> None:
            nonlocal show_more
            show_more = not show_more

        def leave(event: KeyPressEvent) -> None:
            event.app.exit(exception=KeyboardInterrupt)

        keys.add("c-c", eager=True)(leave)
        keys.add("c-d", filter=Condition(lambda: typed is None or not typed.text))(leave)
        keys.add("s-tab", eager=True, filter=Condition(lambda: self.can_go_back))(lambda event: event.app.exit(exception=GoBack()))
        for name in more_keys:
            can_help = Condition(lambda: bool(more) and (typed is None or not typed.text))
            keys.add(name, filter=can_help if name == "?" else Condition(lambda: bool(more)))(toggle)

        parts = [
            Window(FormattedTextControl(heading, focusable=not body, show_cursor=False), dont_extend_height=True, wrap_lines=True),
            *body,
            Window(FormattedTextControl(foot), dont_extend_height=True, wrap_lines=True),
        ]
        application: Application[Any] = Application(
            layout=Layout(HSplit(parts)),
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

    def _first_question_is_up(self) -> None:
        if self._on_first_question:
            call, self._on_first_question = self._on_first_question, None
            call()

    def _keys_line(self, has_more: bool, choosing: str) -> str:
        parts = [
            choosing if self.width >= 60 else "",
            "Enter accepts",
            "Shift+Tab back" if self.can_go_back else "",
            "? help" if has_more else "",
        ]
        while len(line := f" {self._symbols['dot']} ".join(part for part in parts if part)) > self.width - 3:
            parts.pop()
        return line

    def _list_height(self, body: FormattedText) -> int:
        lines = fragment_list_to_text(body).count("\n") + 1
        return min(lines, MOST_CHOICES_SHOWN, max(3, self._output.get_size().rows - 6))

    def _collapse(self, question: str, answer: str) -> None:
        """One line; where room is short the end of the answer matters most: it is where names differ."""
        room = self.width - 5
        asked = question if len(question) + len(answer) <= room or len(question) <= room // 3 else question[: room // 3 - 1] + "…"
        most = room - len(asked)
        told = answer if len(answer) <= most else "…" + answer[-(most - 1) :]
        self._print([("class:done", f"{self._symbols['done']} "), ("class:quiet", f"{asked}  "), ("class:answer", told)])

    def _print(self, fragments: Fragments) -> None:
        self._rows += rows_of(fragments, self.width)
        print_formatted_text(FormattedText(fragments), style=STYLE, output=self._output, color_depth=self._depth)
