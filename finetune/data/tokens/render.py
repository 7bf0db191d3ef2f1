"""Turns to text with the model's chat template, cut where supervision begins and ends.

render.pieces([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    ->  [Piece("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False), Piece("Hello!<|im_end|>", True)]

Models without a chat template: plain_template.py. What follows the last answer is left out: it is not trained on.
Every row is rendered by the template itself; where answers begin and end in it is found once for each sequence of roles (shape.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune.data.formats.cells import Message
from finetune.data.rows import RowProblem
from finetune.data.tokens.control_tokens import ControlTokens, unused, whole
from finetune.data.tokens.pieces import CONTROL, REWRITTEN, UNOPENED, Piece, Rendered, piece_of
from finetune.data.tokens.plain_template import PlainTemplate
from finetune.data.tokens.shape import Place, Shape, probe
from finetune.data.tokens.turns import JOINED, SYSTEM, Edges, Turn, arranged, tidied
from finetune.models.templates.chat_template import TemplateFailure, render_chat
from finetune.models.templates.template_facts import (
    THOUGHTS,
    TemplateFacts,
    control_tokens,
    looked_for,
    program,
    prompt_options,
    with_object,
    with_text,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AROUND = re.compile("|".join(THOUGHTS))
HIDDEN = "the model's chat template drops or rewrites the answer"


class ChatTemplate:
    """The tokenizer's own chat template; an answer is supervised up to and including the token that ends its turn.

    With `thinking` the model is asked to think before it answers, if the template can ask for that; else to answer at once.
    """

    name = "chat"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, thinking: bool = False) -> None:
        self.tokenizer = tokenizer
        self.options = prompt_options(tokenizer, thinking=thinking)
        self.plain = PlainTemplate.of(tokenizer)
        self.facts = TemplateFacts(tokenizer, self.options)
        # It writes the beginning itself, or does without. Some models have one token for the beginning of a text and of every turn.
        begin = self.plain.edges.begin if self.plain.edges.begin not in self.facts.asks_with else ""
        self.edges = Edges(begin, self.plain.edges.ends, adds_beginning=True)
        self.opened = self.facts.opened_thought if thinking else ""  # thoughts that the template would leave out
        self.control = ControlTokens(control_tokens(tokenizer))
        self.joins: dict[tuple[str, ...], bool | None] = {}  # by the roles of the turns: whether a system turn stays, None for no joining
        self.longer: set[str] = set()  # what prompts have after the place where an answer can begin
        self.shapes: dict[tuple[str, ...], Shape | None] = {}  # by the roles of the turns
        self.marks = re.compile("|".join(map(re.escape, looked_for(program(tokenizer)) - {""})) or "(?!)")

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        return self.rendered(messages).pieces

    def rendered(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> Rendered:
        if messages[0]["role"] == "text":
            return self.plain.rendered(messages)
        turns, notices = tidied(messages, self.edges, knows_reasoning=self.facts.knows_reasoning or bool(self.opened))
        turns = self._with_tools(turns, tools) if tools or any(turn.uses_tools for turn in turns) else self._arranged(turns, notices)
        given, shown = [turn.given for turn in turns], list(tools or [])
        mark, cut = unused(given, shown)
        token = self.control.first_in((given, shown))
        if token:
            notices.add(CONTROL)
            given, shown = self.control.broken(given, cut), self.control.broken(shown, cut)
        row = _Row(self, given, shown, mark)
        if self.opened:
            row.think(self.opened)
        places = self._known_places(turns, row) if not (shown or token or self.opened) else None
        pieces: list[Piece] = []
        done = 0
        for number, turn in enumerate(turns):
            if turn.learned or turn.muted:
                try:
                    start, end, closed = places[number] if places else row.answer(number, done)
                except RowProblem:
                    if turn.learned:
                        raise
                    continue
                text = row.whole[start:end] + ("" if closed or number < len(turns) - 1 else self.plain.end)
                joined = [(self.control.broken(part, cut), learned) for part, learned in turn.parts]
                parts = _parts_of(text, joined) or [(text, turn.learned)]
                pieces.append(piece_of(row.whole[done:start], cut))
                pieces += [piece_of(part, cut, supervised=learned, muted=not learned) for part, learned in parts]
                done = end
        while not pieces[-1].supervised:  # a joined answer may end in words that are not learned
            pieces.pop()
        notices |= row.notices
        if _leaves_out(turns[:-1] if self.opened else turns, whole(row.whole, cut)[0]):
            notices.add(REWRITTEN)
        said = turns[-1].content
        only_that = bool(said.strip()) and not turns[-1].calls_or_thinks and pieces[-1].text.lstrip().startswith(said.strip())
        answer = said if only_that else ""
        return Rendered([piece for piece in pieces if piece.text], answer, frozenset(notices), token)

    def _known_places(self, turns: list[Turn], row: _Row) -> dict[int, Place] | None:
        """Where the answers are by the shape of such rows; None where it does not hold, and for turns that could change a prompt."""
        if not all(map(self._is_ordinary, turns)):
            return None
        roles = tuple(turn.role for turn in turns)
        if roles not in self.shapes:
            self.shapes[roles] = self._shape([Turn(role, probe(number)) for number, role in enumerate(roles)])
        shape = self.shapes[roles]
        if shape is None or any(turn.role == "assistant" and self._may_be_a_prompt(turn.content) for turn in turns):
            return None
        places = shape.places([turn.content for turn in turns], row.whole)
        row.notices |= shape.notices if places else frozenset()
        return places

    def _is_ordinary(self, turn: Turn) -> bool:
        """Whether it is a text alone, and has none of the words that the template looks for."""
        return bool(turn.content.strip()) and not turn.more and self.marks.search(turn.content) is None

    def _may_be_a_prompt(self, answer: str) -> bool:
        """Whether an answer, as it is or without the blanks before it, could be taken for the end of a longer prompt."""
        written = (answer, answer.lstrip())
        return any(text.startswith(end) or end.startswith(text.rstrip()) for text in written for end in self.longer)

    def _shape(self, probes: list[Turn]) -> Shape | None:
        if not all(map(self._is_ordinary, probes)):
            return None
        places: dict[int, Place] = {}
        done = 0
        try:
            row = _Row(self, [turn.given for turn in probes], [], unused()[0])
            for number, turn in enumerate(probes):
                if turn.role == "assistant":
                    places[number] = Place(*row.answer(number, done))
                    done = places[number].end
        except RowProblem:
            return None
        shape = Shape(row.whole, places, frozenset(row.notices))
        return shape if shape.holds(len(probes)) else None

    def _with_tools(self, turns: list[Turn], tools: Sequence[dict[str, Any]] | None) -> list[Turn]:
        """The turns with their calls as this template takes them."""
        calls = any(turn.uses_tools for turn in turns)
        missing = ["definitions"] if tools and not self.facts.knows_tools else []
        missing += ["calls and results"] if calls and not self.facts.knows_calls else []
        if missing:
            raise RowProblem(f"it uses tools, but the model's chat template does not write their {', '.join(missing)}")
        change = with_text if calls and self.facts.arguments_as_text else with_object
        changed = [{"tool_calls": list(map(change, turn.more["tool_calls"]))} if "tool_calls" in turn.more else {} for turn in turns]
        return [replace(turn, more={**turn.more, **calls}) for turn, calls in zip(turns, changed, strict=True)]

    def _arranged(self, turns: list[Turn], notices: set[str]) -> list[Turn]:
        """The turns as they are where the template writes all turns of such roles; else joined until they alternate, if that helps."""
        roles = tuple(turn.role for turn in turns)
        if roles not in self.joins:
            probes = [Turn(role, f"81{number:06d}") for number, role in enumerate(roles)]
            others = {keeps: arranged(probes, keeps_system=keeps) for keeps in (True, False)}
            ways = [(None, probes), *others.items()]
            self.joins[roles] = next((way for way, turns in ways if self.facts.takes([turn.given for turn in turns])), None)
        keeps = self.joins[roles]
        if keeps is None:
            return turns
        later = roles[1:] if roles[0] == "system" else roles
        notices |= {JOINED} if "system" in later or any(one == other for one, other in pairwise(later)) else set()
        notices |= {SYSTEM} if roles[0] == "system" and not keeps else set()
        return arranged(turns, keeps_system=keeps)


class _Row:
    """One row, rendered whole; `answer` finds the place of a turn in it."""

    def __init__(self, template: ChatTemplate, given: list[dict[str, Any]], tools: list[dict[str, Any]], mark: str) -> None:
        self.template, self.given, self.tools, self.mark = template, given, tools, mark
        self.notices: set[str] = set()
        try:
            self.whole = self._render(given)
        except RowProblem:
            if not any(turn["role"] == "tool" or "tool_calls" in turn for turn in given):
                raise
            self.given = _renamed(given)  # some templates take no names of calls but their own
            self.whole = self._render(self.given)

    def answer(self, number: int, done: int) -> tuple[int, int, bool]:
        """Where an answer begins and ends in the rendered text, its end-of-turn token included, and whether it has one.

        It begins where the prompt ends that the model will be given. Its place is found by rendering a mark in its place, because
        its own text may also occur elsewhere, and because templates may trim or rewrite it.
        """
        before, after = self._around(number)
        start = self._start(number, before, done)
        end = self._end(number, after)
        if start is None or end is None or not self.whole[start:end].strip():
            raise RowProblem(HIDDEN)
        ends = self.template.edges.ends
        closings = [(self.whole.find(token, end), token) for token in ends]
        reached = [at + len(token) for at, token in closings if at >= 0 and not self.whole[end:at].strip()]
        if reached:
            return start, min(reached), True
        written = self.whole[start:end].rstrip()
        return (start, start + len(written), True) if written.endswith(ends) else (start, end, False)

    def think(self, opened: str) -> None:
        """Write the last answer with its thought behind the prompt, which opens one: the template would leave the thought out."""
        last = len(self.given) - 1
        turn, (_, after) = self.given[last], self._around(last)
        prompt = self._render(self.given[:last], opened=True) if last else ""
        if not prompt.endswith(opened) or after is None:
            return
        inside, found, said = turn["content"].partition(THOUGHTS[1])
        thought = turn.get("reasoning_content") or (inside.lstrip().removeprefix(THOUGHTS[0]) if found else "")
        said = said.lstrip("\n") if found else turn["content"]
        self.whole = f"{prompt}{thought.strip()}\n{THOUGHTS[1]}\n\n{said}{after}"

    def _around(self, number: int) -> tuple[str, str | None]:
        """The text before an answer, and after it, if a mark can stand in its place."""
        marked = {"role": "assistant", "content": self.mark}
        try:
            text, complete = self._render([*self.given[:number], marked, *self.given[number + 1 :]]), True
        except RowProblem:  # a result must follow its call
            if "tool_calls" not in self.given[number]:
                raise
            text, complete = self._render([*self.given[:number], marked]), False
        before, found, after = text.partition(self.mark)
        if not found:
            raise RowProblem(HIDDEN)
        return before, after if complete else None

    def _start(self, number: int, before: str, done: int) -> int | None:
        if number == 0:  # nobody asked
            before = before.removesuffix(self.template.facts.lead)
        options = self.template.options
        ways = [options, {}] if options else [{}]
        asked = [self._render(self.given[:number], opened=True, options=way) for way in ways] if number else []
        self.template.longer |= {prompt[len(before) :] for prompt in asked if prompt.startswith(before)} - {""}
        fitting = [prompt for prompt in asked if self.whole.startswith(prompt) and len(prompt) >= done]
        if asked and not fitting and number == len(self.given) - 1:
            self.notices.add(UNOPENED)
        return next((len(opening) for opening in [*fitting, before] if self.whole.startswith(opening) and len(opening) >= done), None)

    def _end(self, number: int, after: str | None) -> int | None:
        if after is not None and self.whole.endswith(after):
            return len(self.whole) - len(after)
        so_far = self._render(self.given[: number + 1])  # calls may end in another way than other answers
        return len(so_far) if self.whole.startswith(so_far) else None

    def _render(self, turns: Sequence[Mapping[str, Any]], *, opened: bool = False, options: Mapping[str, Any] | None = None) -> str:
        told = {**(self.template.options if options is None else options), **({"tools": self.tools} if self.tools else {})}
        try:
            return render_chat(self.template.tokenizer, turns, add_generation_prompt=opened, **told)
        except TemplateFailure as error:
            raise RowProblem(f"refused by the model's chat template: {error.detail}") from None


def _parts_of(text: str, parts: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """A rendered answer that was joined from `parts`, cut into what is learned of it and what is not."""
    found: list[tuple[str, bool]] = []
    done = 0
    for number, (part, learned) in enumerate(parts):
        at = text.find(part.strip(), done)
        if at < 0:
            raise RowProblem(HIDDEN)
        start = done if number == 0 else at
        end = len(text) if number == len(parts) - 1 else at + len(part.strip())
        found += [(text[done:start], False), (text[start:end], learned)]
        done = end
    return [part for part in found if part[0]]


def _leaves_out(turns: Sequence[Turn], text: str) -> bool:
    """Whether a turn is not in the rendered text as it was written, but for blanks at its ends and around its reasoning."""
    said = [part for turn in turns for each in (turn.content, turn.more.get("reasoning_content", "")) for part in AROUND.split(each)]
    return any(part.strip() not in text for part in said)


def _renamed(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls named as strict templates want them, by nine letters and digits; a result without a name is the next call's."""
    names: dict[Any, str] = {}
    waiting: list[str] = []
    found = []
    for turn in turns:
        if "tool_calls" in turn:
            calls = []
            for call in turn["tool_calls"]:
                name = f"call{len(names) + 1:05d}"
                names[call.get("id", name)] = name
                waiting.append(name)
                calls.append({**call, "id": name})
            turn = {**turn, "tool_calls": calls}
        elif turn["role"] == "tool" and waiting:
            name = names.get(turn.get("tool_call_id"), waiting[0])
            waiting.remove(name if name in waiting else waiting[0])
            turn = {**turn, "tool_call_id": name}
        found.append(turn)
    return found
