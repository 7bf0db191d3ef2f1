"""Preference pairs: the model learns the chosen answer; the rejected one is left out.

{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}                  # also one message, or lists of messages
{"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello!"}, "rejected": {...}}
{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello!", "rejected": "..."}       # a whole conversation as text
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from finetune.data.formats import turns
from finetune.data.formats.beside import NOTHING, Beside
from finetune.data.formats.cells import Message, as_answer, as_text, find_column, is_blank, is_missing, joined, optional_text
from finetune.data.formats.languages import in_english
from finetune.data.formats.styles import TRANSCRIPTS, asked_in, chat, prompts_note, style_of, style_of_prompts, transcript
from finetune.data.formats.tools import read_tools
from finetune.data.rows import RowProblem

PROMPTS = ("prompt", "question", "instruction", "query", "conversations", "conversation", "messages", "input", "context", "problem")
# What the better and the worse answer are called, in pairs; each may have an ending such as _response or _messages.
PAIRS = [("chosen", "rejected"), ("preferred_output", "non_preferred_output"), ("preferred", "dispreferred"), ("preferred", "rejected")]
PAIRS += [("winner", "loser"), ("better", "worse")]
KINDS = ("messages", "conversations", "conversation", "response", "answer", "completion", "output", "text")
ENDINGS = ["{}", *(f"{{}}_{kind}" for kind in KINDS), *(f"{kind}_{{}}" for kind in KINDS)]
SPELLED = [("response_j", "response_k")]  # of answers of Stack Exchange, the one with more votes
SPELLED += [(ending.format(better), ending.format(worse)) for better, worse in PAIRS for ending in ENDINGS]


class Preference:
    name = "preference"
    title = "preference pairs"
    summary = "chosen, rejected, and prompt if there is one; only the chosen answer is used"
    order = 10

    def __init__(
        self, prompt: str | None, chosen: str, given: str | None = None, beside: Beside = NOTHING, sample: Sequence[dict[str, Any]] = ()
    ) -> None:
        """The rows of the `sample` say whether chosen texts are whole chats with markers, or prompts are written with them."""
        self.prompt, self.chosen, self.given, self.beside = prompt, chosen, given, beside
        self.whole = style_of([row.get(chosen) for row in sample])
        self.alone = prompt is not None and given is None and self.whole is None
        self.style = style_of_prompts([(row.get(str(prompt)), row.get(chosen)) for row in sample]) if self.alone else None
        self.columns = beside.around(prompt, given, chosen)
        only = f"Only the chosen answer of each pair (column {chosen}) is used for training."
        self.note = f"{only} {prompts_note(prompt, self.style)}".strip() if prompt else only

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> Preference | None:
        pairs = ((find_column(columns, better), worse) for better, worse in SPELLED)
        found = ((better, rejected) for better, worse in pairs if better and (rejected := find_column(columns, worse)))
        chosen, rejected = next(found, (None, None))
        if chosen is None or not any(_is_answer(row.get(chosen)) for row in sample):
            return None
        prompt = find_column(columns, *PROMPTS)
        given = None
        if prompt is not None and in_english(prompt) in ("instruction", "question", "query", "problem", "prompt"):
            given = turns.rest_of(prompt, find_column(columns, "input", "inputs", "context", "passage"), sample)
        return cls(prompt, chosen, given, Beside.find(columns, sample, [prompt, chosen, rejected, given]), sample)

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        marked = self._marked(row)
        answer, whole = self._answer(row) if marked is None else ([*marked[0], turns.assistant(marked[1])], True)
        if answer[-1]["role"] != "assistant" or is_blank(answer[-1]):
            raise RowProblem(f"column {self.chosen} does not end with an answer")
        return self.beside.before(row, answer if whole else [*self._asked(row), *answer])

    def tools(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        asked = row.get(self.prompt) if self.prompt else None
        if isinstance(asked, dict) and asked.get("tools"):  # as OpenAI writes pairs: {"input": {"messages": ..., "tools": ...}}
            return read_tools(asked["tools"], f"{self.prompt}.tools")
        return self.beside.tools_of(row)

    def remarks(self, row: dict[str, Any]) -> Iterator[str]:
        yield from turns.remarks(row.get(self.chosen), self.chosen)
        if self.style is None and self._marked(row):
            yield TRANSCRIPTS.format(column=self.prompt)
        answer, whole = self._answer(row)
        asked = row.get(self.prompt) if self.prompt else None
        if whole and isinstance(asked, str) and not any(asked.strip() in turn["content"] for turn in answer):
            yield f"Column `{self.prompt}` is not used in rows whose chosen conversation is complete"

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Fields of messages that are not trained on."""
        return turns.left_out(row.get(self.chosen), self.chosen)

    def _marked(self, row: dict[str, Any]) -> tuple[list[Message], str] | None:
        """The turns of a prompt with markers, and its answer without them; None if it has none."""
        return asked_in(self.style, row.get(str(self.prompt)), row.get(self.chosen), strictly=False) if self.alone else None

    def _answer(self, row: dict[str, Any]) -> tuple[list[Message], bool]:
        """The chosen answer, or the whole conversation that ends in it, and whether it is whole."""
        chosen = row.get(self.chosen)
        if not turns.is_chat(chosen):
            text = as_answer(chosen, self.chosen)
            spoken = self.whole.turns(text, strictly=False) if self.whole else transcript(text)
            if self.prompt is None and not (spoken := spoken or chat(text)):
                raise RowProblem(
                    f"column {self.chosen} is not a conversation with markers such as Human: and Assistant:, and there is no prompt column"
                )
            return (spoken, True) if spoken else ([turns.assistant(text)], False)
        answer = turns.read_messages(chosen, self.chosen)
        return answer, self.prompt is None or any(turn["role"] in ("user", "system") for turn in answer)

    def _asked(self, row: dict[str, Any]) -> list[Message]:
        """The turns of the prompt, without an answer that ends them: where the whole conversation is stored, that is the chosen one."""
        prompt = str(self.prompt)
        if self.given is not None:
            asked = [as_text(row.get(prompt), prompt), *optional_text(row, self.given)]
            return [turns.user(joined("", asked if in_english(prompt) in ("instruction", "prompt") else asked[::-1]) or asked[0])]
        before = turns.read_prompt(row.get(prompt), prompt)
        return before[:-1] if before[-1]["role"] == "assistant" and len(before) > 1 else before


def _is_answer(value: Any) -> bool:
    """Whether a cell can be an answer rather than a mark such as true."""
    return not is_missing(value) and not isinstance(value, bool)
