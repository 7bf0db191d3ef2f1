"""Whether other programs can ask a model that was trained with the plain template, by a chat template in Jinja, with the same tokens.

template = template_for_others(report, tokenizer)       # None: they cannot, or it has a chat template of its own
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from finetune.data.formats.cells import Message
from finetune.data.tokens.encoder import Encoder
from finetune.data.tokens.plain_template import end_token
from finetune.data.tokens.tokenise import lead_ids
from finetune.errors import FinetuneError, ModelError
from finetune.foreign import reading
from finetune.models.templates.chat_template import render_chat
from finetune.models.templates.plain_chat import plain_chat

ASKED: tuple[Message, ...] = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 12 + 3?"})
ANSWERED: tuple[Message, ...] = (*ASKED, {"role": "assistant", "content": "It is 15."})
CHATS: tuple[tuple[Message, ...], ...] = (ASKED[1:], ASKED, (*ANSWERED, {"role": "user", "content": " And <b>naïve</b> — 日本?"}))


def asked_plainly(report: Mapping[str, Any]) -> bool:
    """Whether the turns of a run, by its data report, were written with the plain template."""
    return report.get("template") == "plain" and report.get("format") != "text"


def template_for_others(report: Mapping[str, Any], tokenizer: Any) -> str | None:
    """The chat template with which programs that cut the rendered text themselves get the tokens of prompts and rows.

    `report` is the data report of the run.
    """
    if not asked_plainly(report) or tokenizer.chat_template:
        return None
    encoder = Encoder(tokenizer, max_length=1 << 20, supervise="answers")
    template = plain_chat(begin=str(tokenizer.decode(lead_ids(tokenizer))), end=end_token(tokenizer))

    def cut(turns: tuple[Message, ...], *, asks: bool) -> list[int]:
        text = render_chat(tokenizer, turns, add_generation_prompt=asks, chat_template=template)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    with suppress(FinetuneError), reading("the tokenizer", ModelError):  # one without a token for unknown letters fails on some of these
        same = all(cut(turns, asks=True) == encoder.prompt(turns) for turns in CHATS)
        return template if same and cut(ANSWERED, asks=False) == encoder.whole(ANSWERED).ids else None
    return None
