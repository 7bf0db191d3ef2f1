"""A prompt column and a completion column; each contains text, a list of chat messages, or an object that becomes JSON.

{"prompt": "2 + 2 =", "completion": "4"}
{"prompt": "Two lamps to Lyon, please.", "completion": {"item": "lamp", "number": 2, "city": "Lyon"}}
{"prompt": "### Human: 2 + 2 =### Assistant:", "completion": "4"}                                           # in any style of styles.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from finetune.data.formats import turns
from finetune.data.formats.beside import NOTHING, Beside
from finetune.data.formats.cells import Message, after_the_first, as_answer, find_column, joined, only_text, optional_text, several
from finetune.data.formats.dialogue import DIALOGUES, SUMMARIES, in_lines
from finetune.data.formats.flags import truth
from finetune.data.formats.languages import in_english
from finetune.data.formats.styles import TRANSCRIPTS, asked_in, prompts_note, style_of_prompts
from finetune.data.rows import A_LIST, RowProblem

OF_MODELS = ("model_response", "assistant_response", "bot_response", "model_output", "assistant_message")
PAIRS = [
    (("prompt",), ("completion", "response", "answer", "output", "reply", "code", *OF_MODELS)),
    (("messages", "conversations"), ("completion", "response", "answer", "output")),
    (("source", "src"), ("target", "tgt")),
    (("request",), ("response",)),
    (("input", "inputs", "input_text", "text_input"), ("output", "outputs", "output_text", "target", "targets", "response", "completion")),
    (("user", "human", "user_prompt", "user_message", "user_input", "user_query"), ("assistant", "ai", "bot", "gpt", *OF_MODELS)),
    (("document", "article", *DIALOGUES, "content", "text", "report"), SUMMARIES),
    (("article",), ("abstract",)),
]
UNMARKED = "Prompts in column `{column}` that do not end as such a chat are learned as they are"
IN_PARTS = (*SUMMARIES, "abstract", "code")  # completions of which a list has the sentences or lines; of others equally good ones
WHO = ("human", "ai", "bot", "gpt")
CHATS = ("messages", "conversations")  # in which texts are turns
# Columns that belong to the prompt, by the name of its own.
PARTS = {"prompt": ("input", "inputs", "query", "question", "context", "passage"), "input": ("context", "passage")}


class PromptCompletion:
    name = "prompt_completion"
    title = "prompt and completion"
    summary = "prompt, completion; or a similar pair such as source and target"
    order = 30

    def __init__(
        self,
        prompt: str,
        completion: str,
        beside: Beside = NOTHING,
        given: str | None = None,
        note: str = "",
        sample: Sequence[dict[str, Any]] = (),
    ) -> None:
        """The rows of the `sample` say whether prompts are written with the markers of a chat."""
        self.prompt, self.completion, self.beside, self.given = prompt, completion, beside, given
        self.style = style_of_prompts([(row.get(prompt), row.get(completion)) for row in sample])
        self.note = note or prompts_note(prompt, self.style)
        self.columns = beside.around(prompt, given, completion)

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> PromptCompletion | None:
        if instruction_of(columns) is not None:
            return None  # there, `input` is only a part of the prompt
        for prompts, completions in PAIRS:
            prompt, completion = find_column(columns, *prompts), find_column(columns, *completions)
            if prompt is not None and completion is not None and not _says_whether(completion, sample):
                free = [column for column in columns if column != completion]
                given = turns.rest_of(prompt, find_column(free, *PARTS.get(in_english(prompt), ())), sample)
                return cls(prompt, completion, Beside.find(columns, sample, [prompt, completion, given], reasoning=True), given, "", sample)
        return None

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        if (asked := only_text(row.get(self.prompt))) is not None:  # wrapped, and so is its answer: {"question": "..."}, {"answer": "..."}
            answer = row.get(self.completion)
            is_wrapped = isinstance(answer, dict) and not answer.keys() - set(turns.ANSWERED)  # {"city": "..."} becomes JSON, as with more
            row = {**row, self.prompt: asked, self.completion: (only_text(answer) if is_wrapped else None) or answer}
        if several(row.get(self.prompt)) and several(row.get(self.completion)):
            raise RowProblem(f"column {self.completion} {A_LIST}")  # maybe one to each of several prompts
        row = turns.with_json(self._in_lines(row), self.prompt, self.given, self.completion)
        before, answered = self._asked(row) or (turns.read_prompt(row.get(self.prompt), self.prompt), row.get(self.completion))
        if more := optional_text(row, self.given):
            before[-1]["content"] = joined(before[-1]["content"], more)
        if self._is_in_parts:
            answered = "\n".join(several(answered)) or answered
        if not turns.is_chat(answered) or turns.are_texts(answered):
            return self.beside.before(row, [*before, self.beside.answer(row, as_answer(answered, self.completion))])
        after = turns.read_messages(answered, self.completion)
        if after[0]["role"] not in ("assistant", "tool") or after[-1]["role"] != "assistant":
            raise RowProblem(f"column {self.completion} must contain the assistant's messages only")
        return self.beside.before(row, [*before, *after])

    @property
    def _is_in_parts(self) -> bool:
        return self.completion.strip().lower() in IN_PARTS

    def _asked(self, row: dict[str, Any]) -> tuple[list[Message], str] | None:
        """The turns of a prompt with markers, and its answer without them; None if it has none."""
        return asked_in(self.style, row.get(self.prompt), row.get(self.completion), strictly=False)

    def _in_lines(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row whose prompt is one text, if it is a list of texts, or a dialogue between people."""
        cell, name = row.get(self.prompt), self.prompt.strip().lower()
        is_talk = name in DIALOGUES or (isinstance(cell, list) and turns.are_texts(cell) and name not in CHATS)
        lines = in_lines(cell) if is_talk else None
        return row if lines is None else {**row, self.prompt: lines}

    def tools(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        return self.beside.tools_of(row)

    def remarks(self, row: dict[str, Any]) -> Iterator[str]:
        if (self._asked(row) is None) == (self.style is not None):
            yield (UNMARKED if self.style else TRANSCRIPTS).format(column=self.prompt)
        row = turns.with_json(row, self.prompt, self.completion)
        for column in (self.prompt, self.completion):
            if isinstance(row.get(column), list | dict):
                yield from turns.remarks(row[column], column)

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Fields of messages that are not trained on."""
        row = turns.with_json(row, self.prompt, self.completion)
        for column in (self.prompt, self.completion):
            if turns.are_texts(row.get(column)):
                yield from after_the_first(row, column) if column == self.completion and not self._is_in_parts else ()
            elif isinstance(row.get(column), list):
                yield from ((name, text) for name, text in turns.left_out(row[column], column) if not name.endswith("last answer"))


def _says_whether(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether a column beside `user` says yes and no, as to whether that was a bot."""
    try:
        said = {truth(row.get(column)) for row in sample} - {None} if column.strip().lower() in WHO else set()
    except (ValueError, TypeError):
        return False
    return bool(said) and said <= {0.0, 1.0}


def instruction_of(columns: Sequence[str]) -> str | None:
    """The column with instructions, to which an input is a part of the prompt; in Natural Instructions that is what defines the task."""
    return find_column(columns, "instruction", "instructions", *(["definition"] if find_column(columns, "input", "inputs") else []))
