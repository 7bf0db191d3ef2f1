"""The markers with which people write a chat into one text, a style each, and the turns that stand between them.

chat("### Human: Hi### Assistant: Hello!")
    ->  [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
style_of(texts)             # Style("Guanaco", ...), if most of the texts are such chats
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from finetune.data.formats.cells import Message, is_blank, joined

BEGINS = ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>", "<｜begin▁of▁sentence｜>", "<BOS_TOKEN>", "[gMASK]<sop>", "[gMASK]sop")
BEGIN = re.compile(rf"\A\s*(?:(?:{'|'.join(map(re.escape, BEGINS))})\s*){{0,2}}")  # twice by some templates
ENDS = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<｜end▁of▁sentence｜>", "[/SYSTEM_PROMPT]"]  # of a turn
ENDS += ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "### End", "<|EOT|>"]  # or of a text
PREAMBLE = re.compile(r"[^#`{}=]{1,2000}")  # before the first marker; not a page or a program in which markers are quoted
SENTENCE_ENDS = (".", "!", "?", ":", "。")
FIRST = 2100  # characters in which the first marker begins
FIELD = re.compile(r"\n(?:#{1,6} ?)?[A-Z][A-Za-z]{0,20}(?: [A-Za-z]{1,20})?: \S")  # of a form, or a thought before an answer
FEW = 0.05  # of the sampled texts may have markers and be no chats, or their column is plain text
FOLLOWS: dict[str, tuple[str, ...]] = {  # who may speak before
    "system": ("", "system"),
    "user": ("", "system", "assistant"),
    "input": ("user",),
    "thought": ("user",),
    "assistant": ("user", "input", "thought"),
    "tool": (),  # calls and results are not read
}
TWO = ("user", "assistant")
CHATS = "Column `{column}` has chats with markers ({style}). They are read as turns, and written anew as the model expects chats."
TRANSCRIPTS = "Prompts in column `{column}` with Human: and Assistant: are read as turns"
IN_ONE = "To learn them as they are, put prompt and answer into one column, `text`."
Cell = TypeVar("Cell")


@dataclass(frozen=True)
class Style:
    """The markers before turns: patterns, whose repetitions have a limit, each with its role.

    The role `input` goes on with the user's turn, and a `thought` is before an answer; texts with a `tool` are not read.

    Where no turn can contain the tokens that end one, `ends`, all up to them is the turn; elsewhere blanks around it are of the markers.
    A `preamble` before the first marker is a system text. `own` is what the format itself writes at its beginning, for every chat alike.
    Markers that are `words` begin fields of forms too: strictly, a text with other fields is no chat.
    """

    name: str
    markers: tuple[tuple[str, str], ...]
    ends: tuple[str, ...] = ()
    preamble: bool = False
    own: str = ""
    words: bool = False

    @cached_property
    def marker(self) -> re.Pattern[str]:
        # With its group at the end each pattern begins with letters, and `re` looks for these first: up to 50 times as fast.
        return re.compile("|".join(f"{pattern}()" for _, pattern in self.markers), re.MULTILINE)

    def turns(self, text: str, *, strictly: bool = True) -> list[Message]:
        """The turns of a text; none if it is not a chat in this style. Blank turns at its end are left out.

        `strictly`, as texts are recognised, the two speak by turns; somewhere in many chats one of them speaks twice.
        """
        text = BEGIN.sub("", text, count=1)
        found = self.marker.search(text, 0, FIRST)  # most texts have none
        if found is None or not self._is_preamble(text[: found.start()]):
            return []
        preamble = self._without_own(self._said(text[: found.start()], to_end=False) or "").rstrip()
        messages: list[Message] = [{"role": "system", "content": preamble}] if preamble else []
        before, marks, closed = "", [*self.marker.finditer(text)], any(end in text for end in self.ends)
        for mark, after in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
            role = self._role(mark)
            to_end = closed and role == "assistant" and after < len(text)  # or it quotes the next marker
            said = self._said(text[mark.end() : after], to_end=to_end)
            follows = before in FOLLOWS[role] or (role in TWO and not strictly)
            if said is None or not follows or (role == "system" and messages):
                return []
            if role == "input":
                messages[-1]["content"] = joined(messages[-1]["content"], [said])
            elif role == "thought":
                messages.append({"role": "assistant", "content": "", "reasoning_content": said})
            elif role == "assistant" and before == "thought":
                messages[-1]["content"] = said
            elif role == "system":
                said = self._without_own(said).strip()
                messages += [{"role": role, "content": said}] if said.strip() else []
            else:
                messages.append({"role": role, "content": said})
            before = role
        while messages and is_blank(messages[-1]):
            messages.pop()
        return [] if strictly and self.words and any(FIELD.search(turn["content"]) for turn in messages) else messages

    def asked(self, prompt: str, answer: str, *, strictly: bool = True) -> tuple[list[Message], str] | None:
        """The turns of a prompt that ends with the marker of an answer, or whose answer begins with it, and the answer without markers.

        None if the prompt is no such chat.
        """
        if self.marker.search(prompt, 0, FIRST) is None:  # as most have none
            return None
        if (own := self.marker.match(answer.lstrip())) is not None and self._role(own) == "assistant":
            prompt, answer = f"{prompt}\n{own[0]}", answer.lstrip()[own.end() :]
        prompt = f"{prompt.rstrip()}\n"  # which markers end with
        last = next(iter([*self.marker.finditer(prompt)][-1:]), None)
        if last is None or self._role(last) != "assistant" or prompt[last.end() :].strip():
            return None
        messages, said = self.turns(prompt, strictly=strictly), self._said(re.sub(rf"\A{BLANKS}", "", answer), to_end=False)
        if not messages or messages[-1]["role"] != "user" or said is None:
            return None
        for turn in messages:
            if turn["role"] == "assistant":
                turn["learn"] = False  # maybe an example, and maybe the answer of another row
        return messages, said

    def _role(self, mark: re.Match[str]) -> str:
        return self.markers[(mark.lastindex or 1) - 1][0]

    def _is_preamble(self, text: str) -> bool:
        """Whether this may stand before the first marker: nothing, or sentences that end there."""
        ends = (*SENTENCE_ENDS, *self.ends)
        return not text or (self.preamble and PREAMBLE.fullmatch(text) is not None and (text[-1] == "\n" or text.rstrip().endswith(ends)))

    def _without_own(self, system: str) -> str:
        return re.sub(rf"\A(?:{self.own})", "", system)

    def _said(self, text: str, *, to_end: bool) -> str | None:
        """A turn without the tokens that end it; None if there is one inside, or it is `to_end` with one and does not."""
        whole, ended = text.rstrip(), False
        for ends in (ENDS, self.ends):  # one may end the text behind the turn
            if end := next((end for end in ends if whole.endswith(end)), None):
                text, ended = whole[: -len(end)], end in self.ends
                whole = text.rstrip()
        said = text if ended else whole
        return None if (to_end and not ended) or any(end in said for end in self.ends) else said


IsChat = Callable[[Style, Cell, bool], bool]  # the last says whether strictly


def by(marker: str, *, user: str = "user", assistant: str = "assistant", system: str = "system") -> tuple[tuple[str, str], ...]:
    """The markers that differ by who speaks."""
    return tuple((role, marker.replace("{}", name)) for role, name in (("system", system), ("user", user), ("assistant", assistant)))


LINE = r"\r?\n"
BELOW = r"Below is an instruction that describes a task[^\n.]{0,80}\.\s{0,2}Write a response that appropriately [a-z ]{1,30}\.\s{0,9}"
ALPACA = (("user", "Instruction"), ("input", "Input"), ("assistant", "Response"))
BLANKS = r" ?(?:\r?\n){0,3}"  # behind a marker; more are of the text, as the indent of a line is
STYLES = (
    Style("ChatML", by(rf"<\|im_start\|>{{}}(?:{LINE}|<\|im_sep\|>(?:{LINE})?)"), ends=("<|im_end|>",)),  # the latter of Phi-4
    Style(
        "Llama 3",
        by(r"<\|start_header_id\|>{}<\|end_header_id\|>(?:\r?\n){0,2}"),
        ends=("<|eot_id|>", "<|eom_id|>"),
        own=r"(?:Cutting Knowledge Date: [^\n]{1,40}\n)?Today Date: [^\n]{1,40}\n\n",
    ),
    Style("Llama 4", by(r"<\|header_start\|>{}<\|header_end\|>(?:\r?\n){0,2}"), ends=("<|eot|>",)),
    Style("Gemma", by(rf"<start_of_turn>{{}}{LINE}", assistant="model"), ends=("<end_of_turn>",)),
    Style("Gemma 4", by(rf"<\|turn>{{}}{LINE}", assistant="model"), ends=("<turn|>",)),
    Style("Granite", by(rf"<\|start_of_role\|>{{}}<\|end_of_role\|>(?:{LINE})?"), ends=("<|end_of_text|>",)),
    Style(
        "Command R",
        (
            *by(r"<\|START_OF_TURN_TOKEN\|><\|{}_TOKEN\|>(?:<\|START_RESPONSE\|>)?", user="USER", assistant="CHATBOT", system="SYSTEM"),
            ("tool", r"<\|START_(?:ACTION|TOOL_RESULT)\|>"),
        ),
        ends=("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    Style(
        "gpt-oss",
        (
            ("system", r"<\|start\|>(?:system|developer)<\|message\|>(?:# Instructions\n\n)?"),
            ("user", r"<\|start\|>user<\|message\|>"),
            ("assistant", r"<\|start\|>assistant(?:<\|channel\|>final)?<\|message\|>"),
            ("thought", r"<\|start\|>assistant<\|channel\|>analysis<\|message\|>"),
            ("tool", r"<\|channel\|>commentary"),
        ),
        ends=("<|end|>", "<|return|>"),
        own=r"You are ChatGPT, a large language model trained by OpenAI\.\n(?:[^\n]{0,80}\n){1,8}# Valid channels: [^\n]{1,90}message\.",
    ),
    Style("Kimi", tuple((role, rf"<\|im_{role}\|>{role}<\|im_middle\|>") for role in ("system", *TWO)), ends=("<|im_end|>",)),
    Style("Zephyr, Phi or GLM", (*by(rf"<\|{{}}\|>(?:{LINE}| )?"), ("tool", r"<\|observation\|>")), ends=("</s>", "<|end|>")),
    Style("OpenChat", by(rf"GPT4 Correct {{}}:{BLANKS}", user="User", assistant="Assistant"), ends=("<|end_of_turn|>",), preamble=True),
    Style(
        "Llama 2 or Mistral",
        (
            *(("system", rf"{begin}\[INST\] ?(?:{LINE})?<<SYS>>{BLANKS}") for begin in ("", r"<s>[ \n]?")),
            *(("user", rf"{begin}\[INST\]{BLANKS}") for begin in ("", r"<s>[ \n]?")),
            ("system", rf"\[SYSTEM_PROMPT\]{BLANKS}"),
            ("user", rf"<</SYS>>{BLANKS}"),
            ("assistant", rf"\[/INST\]{BLANKS}"),
            ("tool", r"\[(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"),
        ),
    ),
    Style("DeepSeek", by("<｜{}｜>", user="User", assistant="Assistant"), ends=("<｜end▁of▁sentence｜>",), preamble=True),
    *(
        Style(
            "Alpaca",
            tuple((role, rf"{at}### {name}:{BLANKS}") for role, name in ALPACA),
            preamble=True,
            own=BELOW,
        )
        for at in ("^", "")  # in lines of their own, if they are in all texts
    ),
    Style("Guanaco", by(rf"### {{}}:{BLANKS}", user="Human", assistant="Assistant", system="System"), preamble=True),
    Style(
        "### User: ... ### Assistant: ...", by(rf"### {{}}:{BLANKS}", user="User", assistant="Assistant", system="System"), preamble=True
    ),
    Style("### Question: ... ### Answer: ...", by(rf"### {{}}:{BLANKS}", user="Question", assistant="Answer"), words=True),
    Style("Vicuna", by(rf"{{}}:(?<![^\s>]{{}}:){BLANKS}", user="USER", assistant="ASSISTANT", system="SYSTEM"), preamble=True),
    Style("<HUMAN>: ... <ASSISTANT>: ...", by(rf"<{{}}>:{BLANKS}", user="HUMAN", assistant="ASSISTANT"), preamble=True),
    Style("<human>: ... <bot>: ...", by(rf"<{{}}>:{BLANKS}", user="human", assistant="bot"), preamble=True),
    *(
        Style(
            f"{user}: ... {assistant}: ...",
            by(f"{marker}{BLANKS}", user=user, assistant=assistant),
            preamble=True,
            words=assistant != "Assistant",
        )
        for user, assistant in (
            ("Human", "Assistant"),
            ("User", "Assistant"),
            ("User", "Bot"),
            ("User", "AI"),
            ("Human", "AI"),
        )
        for marker in (r"{}:(?:(?<=\n\n{}:)|(?<=\A{}:))", "^{}:")  # after blank lines if all turns are: lines inside may begin so
    ),
    Style("Q: ... A: ...", (*by(f"^{{}}:{BLANKS}", user="Q", assistant="A"), ("tool", "^B:")), words=True),  # A and B are choices
    Style("Question: ... Answer: ...", by(f"^{{}}:{BLANKS}", user="Question", assistant="Answer"), words=True),
)
HH = next(style for style in STYLES if style.name == "Human: ... Assistant: ...")  # after blank lines, as nothing else is written


def style_of(texts: Sequence[Any], *, answered: bool = True) -> Style | None:
    """The style in which most of these texts are chats, with an answer where they are to be `answered` already."""

    def is_chat(style: Style, text: Any, strictly: bool) -> bool:
        messages = style.turns(text, strictly=strictly) if isinstance(text, str) else []
        return is_answered(messages) if answered and strictly else bool(messages)

    return _style(texts, str, is_chat)


def style_of_prompts(asked: Sequence[tuple[Any, Any]]) -> Style | None:
    """The style in which most of these prompts, each with its answer, are chats that end where the answer begins."""
    return _style(asked, lambda pair: str(pair[0]), lambda style, pair, strictly: asked_in(style, *pair, strictly=strictly) is not None)


def asked_in(style: Style | None, prompt: Any, answer: Any, *, strictly: bool = True) -> tuple[list[Message], str] | None:
    """What `Style.asked` says of two cells, where there is no style as a transcript of HH-RLHF; None where one of them is no text."""
    are_texts = isinstance(prompt, str) and isinstance(answer, str)
    return (style or HH).asked(prompt, answer, strictly=strictly) if are_texts else None


def prompts_note(column: str, style: Style | None) -> str:
    """What a person should know about prompts in a style."""
    return f"{CHATS.format(column=column, style=style.name)} Only the answers beside them are learned. {IN_ONE}" if style else ""


def transcript(text: str) -> list[Message]:
    """The turns of a text that begins with Human:, as those of HH-RLHF do; none if it is something else."""
    messages = HH.turns(text, strictly=False)
    return messages if messages and messages[0]["role"] == "user" else []


def chat(text: str) -> list[Message]:
    """The turns of one text in whatever style; none if it is no chat."""
    return next(filter(is_answered, (style.turns(text) for style in STYLES)), [])


def _style(cells: Sequence[Cell], text: Callable[[Cell], str], is_chat: IsChat[Cell]) -> Style | None:
    """The first style that most cells have, and few others seem to have."""
    return next((style for style in STYLES if cells and _most_are(cells, text, is_chat, style)), None)


def _most_are(cells: Sequence[Cell], text: Callable[[Cell], str], is_chat: IsChat[Cell], style: Style) -> bool:
    others = seeming = 0
    for cell in cells:
        if not is_chat(style, cell, True):
            others += 1
            seeming += style.marker.search(text(cell), 0, FIRST) is not None and not is_chat(style, cell, False)
        if 2 * others >= len(cells) or seeming > FEW * len(cells):
            return False
    return True


def is_answered(messages: Sequence[Message]) -> bool:
    return any(turn["role"] == "assistant" and not is_blank(turn) for turn in messages)
