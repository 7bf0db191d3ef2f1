"""What a chat template can write, found by rendering turns with it and never by its name.

facts = TemplateFacts(tokenizer, options)
facts.knows_reasoning, facts.knows_tools, facts.knows_calls     # False, True, True
prompt_options(tokenizer, thinking=False)                                          # {"enable_thinking": False}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import loopcontrols

from finetune.models.templates.chat_template import ASK, CALL, REPLY, added_tokens, special_tokens, written

THOUGHTS = ("<think>", "</think>")
SWITCHES = ("enable_thinking", "thinking")  # what templates of models that may think call it
ARGUMENT = {"type": "object", "properties": {"probe_argument": {"type": "string", "description": "probe"}}, "required": ["probe_argument"]}
TOOL = {"type": "function", "function": {"name": "probe_tool", "description": "probe", "parameters": ARGUMENT}}
SEARCHES = {"split", "replace", "startswith", "endswith", "find", "rfind", "index", "count", "partition", "rpartition"}
GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")  # transformers adds it to the language
THOUGHT = "53928107"  # as in REPLY, a number
RESULT = {"role": "tool", "name": "probe_tool", "tool_call_id": CALL["id"], "content": "probe result"}


def program(tokenizer: Any) -> str:
    """The source of the template that is used for turns without tools; "" where there is none."""
    template = tokenizer.chat_template
    return str(template.get("default", "")) if isinstance(template, Mapping) else str(template or "")


def prompt_options(tokenizer: Any, *, thinking: bool) -> dict[str, bool]:
    """What `apply_chat_template` must be told so that the model is asked to think, or not to; nothing where that changes no prompt."""
    if not tokenizer.chat_template:
        return {}
    usual = written(tokenizer, [ASK], add_generation_prompt=True)
    told = {switch: written(tokenizer, [ASK], add_generation_prompt=True, **{switch: thinking}) for switch in SWITCHES}
    return {switch: thinking for switch, text in told.items() if text != usual}


def may_think(tokenizer: Any) -> bool:
    """Whether the template asks for reasoning in one way and for none in another, or asks for it and leaves it out of answers."""
    if not tokenizer.chat_template:
        return False
    switched = any(prompt_options(tokenizer, thinking=thinking) for thinking in (True, False))
    return switched or bool(TemplateFacts(tokenizer, {}).opened_thought)


def control_tokens(tokenizer: Any) -> list[str]:
    """Tokens that mean something to the model and are no text: the special ones, and those that the template writes around turns.

    Tokens that the template itself looks for in an answer, such as those around reasoning, are part of what an answer may say.
    """
    special = set(special_tokens(tokenizer))
    chat = written(tokenizer, [ASK, REPLY, ASK, REPLY])
    meant = {*looked_for(program(tokenizer)), *THOUGHTS}
    return [token for token in added_tokens(tokenizer) if token in special or (token in chat and token not in meant)]


def looked_for(source: str) -> set[str]:
    """The fixed strings that a template searches for, in whatever it may be."""
    source = GENERATION.sub("", source)
    try:
        tree = Environment(extensions=[loopcontrols]).parse(source)
    except (TemplateError, RecursionError):
        return set()
    compared = [compare.expr for compare in tree.find_all(nodes.Compare) if compare.ops[0].op in ("in", "notin")]
    calls = [call for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Getattr) and call.node.attr in SEARCHES]
    given = [argument for call in calls for argument in call.args]
    return {str(node.value) for node in (*compared, *given) if isinstance(node, nodes.Const)}


class TemplateFacts:
    """Each fact is found once, when it is first asked for; `options` are those of every prompt."""

    def __init__(self, tokenizer: Any, options: Mapping[str, Any]) -> None:
        self.tokenizer, self.options = tokenizer, dict(options)

    @cached_property
    def knows_reasoning(self) -> bool:
        return THOUGHT in self._written([ASK, {**REPLY, "reasoning_content": THOUGHT}])

    @cached_property
    def asks_with(self) -> str:
        """What it writes between a question and its answer."""
        return self._written([ASK, REPLY]).partition(ASK["content"])[2].partition(REPLY["content"])[0]

    @cached_property
    def opened_thought(self) -> str:
        """What its prompts end with, if they open a thought that it leaves out of the answers: "<think>\\n" with DeepSeek-R1."""
        prompt, before = self._written([ASK], add_generation_prompt=True), self._written([ASK, REPLY]).partition(REPLY["content"])[0]
        after = prompt[len(before) :] if before and prompt.startswith(before) else ""
        return after if after.strip() == THOUGHTS[0] else ""

    @cached_property
    def knows_tools(self) -> bool:
        """Whether it writes the definitions of tools."""
        return "probe_tool" in self._written([ASK], tools=[TOOL])

    @cached_property
    def knows_calls(self) -> bool:
        """Whether it writes calls and their results."""
        return self._calls(CALL) or self.arguments_as_text

    @cached_property
    def arguments_as_text(self) -> bool:
        """Whether it writes calls only if their arguments are JSON already."""
        return not self._calls(CALL) and self._calls(with_text(CALL))

    @cached_property
    def lead(self) -> str:
        """What it writes between a prompt and the answer, such as a blank: the model writes that too."""
        prompt, before = self._written([ASK], add_generation_prompt=True), self._written([ASK, REPLY]).partition(REPLY["content"])[0]
        return before[len(prompt) :] if prompt and before.startswith(prompt) else ""

    def takes(self, turns: Sequence[Mapping[str, Any]]) -> bool:
        """Whether it writes every one of these turns, and does not refuse them."""
        text = self._written(turns)
        return bool(text) and all(turn["content"] in text for turn in turns)

    def _calls(self, call: Mapping[str, Any]) -> bool:
        text = self._written([ASK, {"role": "assistant", "content": "", "tool_calls": [call]}, RESULT, REPLY], tools=[TOOL])
        return all(part in text for part in ("probe_tool", "probe_argument", "probe result"))

    def _written(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
        return written(self.tokenizer, turns, **self.options, **options)


def with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as JSON."""
    function = dict(call["function"])
    if not isinstance(function.get("arguments"), str):
        function["arguments"] = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": function}


def with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object, where they are one in JSON."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        with suppress(ValueError, RecursionError):
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}
