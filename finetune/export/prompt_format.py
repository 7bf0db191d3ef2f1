"""How other programs have to ask, so that the model sees what it was trained on: its chat template, and what a text begins with.

asked = PromptFormat.of(run, tokenizer)
asked.tokenizer.chat_template       # with the options of the run: "{% set enable_thinking = false %}..."
asked.ids("Hello")                  # as a program cuts it that reads what the file says

Programs put the beginning that a file states before chats too. A model that was trained in chats without one gets a file that states none.
SentencePiece opens every text between marks with a space, or only the first, or none; llama.cpp all or none. Chats decide. What is then
otherwise is said by `notes`, and not asked for by `probe` and `turns`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune.data.tokens.plain_in_jinja import asked_plainly
from finetune.data.tokens.plain_template import end_token
from finetune.data.tokens.tokenise import lead_ids
from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.models.templates.chat_template import ASK, added_tokens, render_chat
from finetune.models.templates.plain_chat import plain_chat
from finetune.models.templates.template_facts import SWITCHES, program
from finetune.run_folder import REMADE, RunFolder

Turns = list[dict[str, str]]
SCHEMES = {
    "always": "Where a text, or the part after a control token, begins with a space, llama.cpp reads one space more than the model.",
    "first": "After a control token inside a text llama.cpp adds a space, and the model does not.",
    "first, in chats": "Chats are read alike. Before a text outside chats the model adds a space, and llama.cpp does not.",
}
TOLD = "All rows had one system prompt, which is in run/data_report.json: give it to other programs too."

TOOLS = "All rows had tools, and the Modelfile for Ollama has no place for them. For tool calls use llama-server."


@dataclass(frozen=True)
class PromptFormat:
    """`lead` are the tokens that every text and every chat begins with.

    `scheme` is how the tokenizer opens with a space ("first", "always", "" for in no way or exactly as llama.cpp), `opens` whether the file
    should say that it does; `plain` is whether the run asked without a chat template, `system` the system prompt that all its rows had,
    `longest` the tokens of its longest row, `tools` whether all its rows had the same tools.
    """

    tokenizer: Any
    lead: list[int]
    scheme: str
    opens: bool
    plain: bool
    system: str = ""
    longest: int = 0
    tools: bool = False

    @classmethod
    def of(cls, run: RunFolder, tokenizer: Any) -> PromptFormat:
        """As the run asked, by its data report; `tokenizer` gets the chat template that says all of it."""
        with reading(run.data_report, hint=REMADE):
            report = run.known(run.data_report)
            told, trained = report.get("prompt_options") or {}, report.get("template")
            system, longest = str(report.get("system_prompt") or ""), int((report.get("length") or {}).get("max", 0))
            tools, plain = bool(report.get("tools")), asked_plainly(report) and not tokenizer.chat_template
        if tokenizer.chat_template:
            switches = [f"{{% set {name} = {json.dumps(told[name])} %}}" for name in SWITCHES if isinstance(told.get(name), bool)]
            tokenizer.chat_template = "".join(switches) + program(tokenizer)
        elif plain:
            tokenizer.chat_template = plain_chat(begin="", end=end_token(tokenizer))  # the file says what a text begins with
        lead, chat = lead_ids(tokenizer), _chat(tokenizer) if trained == "chat" else None
        if chat is not None and not chat.startswith(str(tokenizer.bos_token)):
            lead = []
        backend = getattr(tokenizer, "backend_tokenizer", None)
        steps = f"{backend.normalizer!r} {backend.pre_tokenizer!r}" if backend else ""
        scheme = next((name for name in SCHEMES if f"prepend_scheme={name}" in steps), "")
        marked = chat is not None and chat.startswith(tuple(added_tokens(tokenizer)))
        opens = "Prepend(" in steps or scheme == "always" or (scheme == "first" and not marked)
        return cls(tokenizer, lead, scheme, opens, plain, system, longest, tools)

    @property
    def begin(self) -> str:
        """The beginning as text; "" where there is none."""
        return str(self.tokenizer.bos_token or "") if self.lead else ""

    @property
    def notes(self) -> list[str]:
        """What llama.cpp reads differently, and which options it needs."""
        spaces = SCHEMES.get(self.scheme if self.opens else "first, in chats") if self.scheme else None
        begin = "" if self.lead else self.tokenizer.decode(lead_ids(self.tokenizer))
        mark = f"A text outside of chats begins with {begin} for the model, and not in llama.cpp." if begin else None
        return list(filter(None, (spaces, mark, TOLD if self.system else None, TOOLS if self.tools else None)))

    def probe(self, text: str) -> str:
        """The text, changed where llama.cpp is known to read it otherwise; "" where nothing is left of it."""
        if not self.scheme:
            return text
        return text.lstrip(" ") if self.opens else f"{self.tokenizer.eos_token}{text}"

    def turns(self, turns: Turns) -> Turns | None:
        """The same for a chat; None for one that has marks inside where they would be read otherwise, and training had none."""
        if self.scheme and self.opens:
            turns = [{**turn, "content": turn["content"].lstrip(" ")} for turn in turns]
        answered = any(turn["role"] == "assistant" for turn in turns)
        return None if self.scheme == "first" and self.plain and answered else turns

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, as training had them."""
        return [*self.lead, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def chat_ids(self, rendered: str) -> list[int]:
        """Those of a chat: a chat template writes the beginning itself."""
        written = bool(self.begin) and rendered.startswith(self.begin)
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"]) if written else self.ids(rendered)


def _chat(tokenizer: Any) -> str | None:
    """A chat as the template writes it."""
    try:
        return render_chat(tokenizer, [ASK], add_generation_prompt=True)
    except ModelError:
        return None
