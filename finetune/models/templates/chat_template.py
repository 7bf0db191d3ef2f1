"""A model's chat template: turns to text, always with the same date, and the tokens that end an answer.

render_chat(tokenizer, [{"role": "user", "content": "Hi"}], add_generation_prompt=True)
answer_end_ids(tokenizer)           # [2, 32007]: what generation stops at, and what a saved model should name as its end

A template is a program that came with a model: it runs with limits on its time, its memory and its output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import ModelError
from finetune.foreign import TEMPLATE_LENGTH, TEMPLATE_SECONDS, reason
from finetune.models.templates.template_limits import TODAY, WATCH, TooMuch, limit_sandbox

HINT = "Repair chat_template in the model's tokenizer files, or use another model."
# Numbers: a template that changes case or blanks leaves them as they are.
ASK = {"role": "user", "content": "20817564"}
REPLY = {"role": "assistant", "content": "70146253"}
CALL: dict[str, Any] = {"id": "call00001", "type": "function", "function": {"name": "probe_tool", "arguments": {"probe_argument": "value"}}}


class TemplateFailure(ModelError):
    """The template refuses these turns, or fails on them; `detail` is why."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"The chat template of {name} fails: {detail}.", hint=HINT)
        self.detail = detail


def render_chat(tokenizer: Any, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The turns as text; raises TemplateFailure, or ModelError for a template that does not end or floods the memory."""
    limit_sandbox()
    name = str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
    try:
        if len(str(tokenizer.chat_template)) > TEMPLATE_LENGTH:
            raise TooMuch("is too long")
        with WATCH.watched():
            text: str = tokenizer.apply_chat_template(turns, tokenize=False, **options)
        return text
    except TooMuch as error:
        slow = f"takes more than {TEMPLATE_SECONDS:g} seconds or too much memory"
        raise ModelError(f"The chat template of {name} {str(error) or slow}.", hint=HINT) from None
    except Exception as error:
        raise TemplateFailure(name, reason(error)) from error


def written(tokenizer: Any, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The same; nothing for turns that the template refuses."""
    try:
        return render_chat(tokenizer, turns, **options)
    except TemplateFailure:
        return ""


def fixed_date(tokenizer: Any) -> str | None:
    """The date that the template is told instead of today's, where it asks for it."""
    return f"{TODAY:%Y-%m-%d}" if "strftime_now" in str(tokenizer.chat_template or "") else None


def answer_end_ids(tokenizer: Any) -> list[int]:
    """Every token that ends an answer in training, and so at which generation stops."""
    known = tokenizer.get_vocab()
    return sorted({known[token] for token in answer_ends(tokenizer) if token in known})


def answer_ends(tokenizer: Any) -> list[str]:
    """The same tokens as text: the tokenizer's end token, and those that its chat template writes after an answer."""
    found = [str(tokenizer.eos_token)] if tokenizer.eos_token else []
    if tokenizer.chat_template:
        tokens = added_tokens(tokenizer)
        for closing in _closings(tokenizer):
            found += [token for token in tokens if closing.lstrip().startswith(token)][:1]
    return list(dict.fromkeys(found))


def added_tokens(tokenizer: Any) -> list[str]:
    """Tokens that are found in a text before it is cut into ordinary ones, the longest first; blanks are none of them."""
    added = [token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
    found = {str(token) for token in (*tokenizer.all_special_tokens, *added)}
    return sorted((token for token in found if token.strip()), key=lambda token: (-len(token), token))


def special_tokens(tokenizer: Any) -> list[str]:
    """Those of them that are marks for the model and no text, the longest first."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    ordinary = {token.content for token in added if not token.special} - set(map(str, tokenizer.all_special_tokens))
    return [token for token in added_tokens(tokenizer) if token not in ordinary]


def _closings(tokenizer: Any) -> Iterator[str]:
    """What the template writes after an answer: the last one, one in the middle, and a tool call."""
    asked, answered = ASK["content"], REPLY["content"]
    text = written(tokenizer, [ASK, REPLY])
    if answered in text:
        yield text.rpartition(answered)[2]
    parts = written(tokenizer, [ASK, REPLY, ASK, REPLY]).split(asked)
    if len(parts) == 3 and answered in parts[1]:
        opening, between = parts[0], parts[1].rpartition(answered)[2]
        if not opening.endswith(between.lstrip()):  # else it is the next turn that begins here
            yield between
    called = written(tokenizer, [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}]).rstrip()
    if CALL["function"]["name"] in called:
        yield next((token for token in special_tokens(tokenizer) if called.endswith(token)), "")
