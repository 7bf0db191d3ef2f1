"""The plain template (finetune/data/tokens/plain_template.py) in Jinja: what a model that was trained with it is saved with.

plain_chat(begin="<s>", end="</s>")         # for chat_template.jinja
is_plain_chat(tokenizer.chat_template)      # such a tokenizer is read as one without a template: it asks as it was trained

So programs that chat by the tokenizer's template (transformers, vLLM, MLX) ask as the training did.
"""

from __future__ import annotations

import json

MARK = "{# The plain template of finetune-cli: questions end with a line break, answers with the end of text. #}"
TURNS = "{% for turn in messages %}{{ turn.content + (END if turn.role == 'assistant' else '\\n') }}{% endfor %}"


def plain_chat(*, begin: str, end: str) -> str:
    """The template for a model whose texts begin and end so."""
    opened = f"{{{{ {_quoted(begin)} }}}}" if begin else ""
    return MARK + opened + TURNS.replace("END", _quoted(end))


def is_plain_chat(template: object) -> bool:
    return isinstance(template, str) and template.startswith(MARK)


def _quoted(token: str) -> str:
    return json.dumps(token, ensure_ascii=False)  # not every reader of such templates knows \uff5c
