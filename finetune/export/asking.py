"""How other programs have to ask, so that the model sees what it was trained on: its chat template, and what a text begins with.

asked = Asking.of(run, tokenizer)
asked.tokenizer.chat_template       # with what the run told it: "{% set enable_thinking = false %}..."
asked.ids("Hello")                  # as a program cuts it that reads what the file says

Programs put the beginning that a file states before chats too. A model that was trained in chats without one gets a file that states none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune.data.tokenise import lead_ids
from finetune.errors import ModelError
from finetune.foreign import reading
from finetune.models.chat_template import render_chat
from finetune.models.template_facts import ASK, SWITCHES, program
from finetune.run_folder import REMADE, RunFolder

PLAIN = (  # finetune/data/plain_template.py as a chat template, for models that have none
    "{% for turn in messages %}{{ turn.content + (END if turn.role == 'assistant' else '\\n') }}{% endfor %}"
)


@dataclass(frozen=True)
class Asking:
    """`lead` are the tokens that every text and every chat begins with."""

    tokenizer: Any
    lead: list[int]

    @classmethod
    def of(cls, run: RunFolder, tokenizer: Any) -> Asking:
        """As the run asked, by its data report; `tokenizer` gets the chat template that says all of it."""
        with reading(run.data_report, hint=REMADE):
            report = run.read_json(run.data_report) if run.data_report.is_file() else {}
            told, trained = report.get("prompt_options") or {}, report.get("template")
            answers = report.get("format") != "text"
        if tokenizer.chat_template:
            switches = [f"{{% set {name} = {json.dumps(told[name])} %}}" for name in SWITCHES if isinstance(told.get(name), bool)]
            tokenizer.chat_template = "".join(switches) + program(tokenizer)
        elif trained == "plain" and answers:
            tokenizer.chat_template = PLAIN.replace("END", json.dumps(str(tokenizer.eos_token)))
        lead = lead_ids(tokenizer)
        return cls(tokenizer, [] if trained == "chat" and lead and not _begins_chats(tokenizer) else lead)

    @property
    def begin(self) -> str:
        """The beginning as text; "" where there is none."""
        return str(self.tokenizer.bos_token or "") if self.lead else ""

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, as training had them."""
        return [*self.lead, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def chat_ids(self, rendered: str) -> list[int]:
        """Those of a chat: a chat template writes the beginning itself."""
        written = bool(self.begin) and rendered.startswith(self.begin)
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"]) if written else self.ids(rendered)


def _begins_chats(tokenizer: Any) -> bool:
    """Whether the chat template writes the beginning."""
    try:
        return render_chat(tokenizer, [ASK], add_generation_prompt=True).startswith(str(tokenizer.bos_token))
    except ModelError:
        return False
