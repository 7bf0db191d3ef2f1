"""Rows in the shapes that other programs' documentation describes, and what is learned of each; two or three rows of every shape.

SHAPES["Alpaca"].row(1), SHAPES["Alpaca"].learned(1)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """`row` and `learned` make the row of a number and its messages; `ignored` are the columns that are named as ignored."""

    row: Callable[[int], dict[str, Any]]
    learned: Callable[[int], list[dict[str, Any]]]
    ignored: tuple[str, ...] = ()
    tools: Callable[[int], list[dict[str, Any]]] | None = None
    said: str = ""  # in a note


def s(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def u(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def a(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def t(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": text, **more}


def x(text: str) -> dict[str, Any]:
    return {"role": "text", "content": text}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def human(text: str, **more: Any) -> dict[str, Any]:
    return {"from": "human", "value": text, **more}


def gpt(text: str, **more: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text, **more}


ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}}}}
ADDS = {"type": "function", "function": ADD}
ASKED = lambda n: [u(f"q{n}"), a(f"a{n}")]  # noqa: E731


SHAPES: dict[str, Shape] = {
    # Instructions
    "Alpaca": Shape(lambda n: {"instruction": f"q{n}", "input": "", "output": f"a{n}"}, ASKED),
    "Alpaca with input and the rendered text": Shape(
        lambda n: {"instruction": f"q{n}", "input": f"i{n}", "output": f"a{n}", "text": f"### q{n}"},
        lambda n: [u(f"q{n}\n\ni{n}"), a(f"a{n}")],
        ("text",),
    ),
    "Alpaca with system and history": Shape(
        lambda n: {"system": "s", "instruction": f"q{n}", "input": "", "output": f"a{n}", "history": [["h", "g"], ["i", f"j{n}"]]},
        lambda n: [s("s"), u("h"), a("g"), u("i"), a(f"j{n}"), *ASKED(n)],
    ),
    "Alpaca with null system and empty history": Shape(
        lambda n: {"system": None, "instruction": f"q{n}", "input": "", "output": f"a{n}", "history": []}, ASKED
    ),
    "Dolly": Shape(
        lambda n: {"instruction": f"q{n}", "context": f"c{n}", "response": f"a{n}", "category": "qa"},
        lambda n: [u(f"q{n}\n\nc{n}"), a(f"a{n}")],
        ("category",),
    ),
    "OpenOrca": Shape(
        lambda n: {"id": f"flan.{n}", "system_prompt": "s", "question": f"q{n}", "response": f"a{n}"},
        lambda n: [s("s"), *ASKED(n)],
        ("id",),
    ),
    "MathInstruct": Shape(lambda n: {"source": "gsm", "output": f"a{n}", "instruction": f"q{n}"}, ASKED, ("source",)),
    "MetaMath": Shape(
        lambda n: {"type": "GSM", "query": f"q{n}", "original_question": f"o{n}", "response": f"a{n}"}, ASKED, ("type", "original_question")
    ),
    "GSM8K": Shape(lambda n: {"question": f"q{n}", "answer": f"a{n} #### {n}"}, lambda n: [u(f"q{n}"), a(f"a{n} #### {n}")]),
    "Magicoder": Shape(
        lambda n: {"lang": "python", "index": n, "seed": "s", "problem": f"q{n}", "solution": f"a{n}"}, ASKED, ("lang", "index", "seed")
    ),
    "WizardLM evol": Shape(lambda n: {"idx": f"Wizard{n}", "conversations": [human(f"q{n}"), gpt(f"a{n}")]}, ASKED, ("idx",)),
    "SQuAD": Shape(
        lambda n: {
            "id": str(n),
            "title": "t",
            "context": f"c{n}",
            "question": f"q{n}",
            "answers": {"text": [f"a{n}"], "answer_start": [n]},
        },
        lambda n: [u(f"c{n}\n\nq{n}"), a(f"a{n}")],
        ("id", "title"),
    ),
    "ms-swift query and response": Shape(
        lambda n: {"system": "s", "query": f"q{n}", "response": f"a{n}", "history": [["h", f"g{n}"]]},
        lambda n: [s("s"), u("h"), a(f"g{n}"), *ASKED(n)],
    ),
    "numbers": Shape(lambda n: {"prompt": n, "completion": n + 0.5}, lambda n: [u(str(n)), a(str(n + 0.5))]),
    "prompt, completion and system": Shape(
        lambda n: {"system": f"s{n}", "prompt": f"q{n}", "completion": f"a{n}"}, lambda n: [s(f"s{n}"), *ASKED(n)]
    ),
    "prompt and completion as lists": Shape(
        lambda n: {"prompt": [s("s"), u(f"q{n}")], "completion": [a(f"a{n}")]}, lambda n: [s("s"), *ASKED(n)]
    ),
    "texts alone in lists and objects": Shape(
        lambda n: (
            {"prompt": [f"q{n}"], "completion": [f"a{n}"]} if n % 2 else {"prompt": {"text": f"q{n}"}, "completion": {"text": f"a{n}"}}
        ),
        ASKED,
    ),
    "a dataset of LangSmith": Shape(lambda n: {"inputs": {"question": f"q{n}"}, "outputs": {"answer": f"a{n}"}}, ASKED),
    "what an API was asked and answered": Shape(
        lambda n: {"input": {"messages": [u(f"q{n}")]}, "output": {"choices": [{"index": 0, "message": a(f"a{n}")}]}}, ASKED
    ),
    "messages and their answer": Shape(
        lambda n: {"messages": [s("s"), u(f"q{n}")], "response": {"choices": [{"message": a(f"a{n}")}]} if n % 2 else f"a{n}"},
        lambda n: [s("s"), *ASKED(n)],
    ),
    "several good answers": Shape(
        lambda n: {"input": f"q{n}", "output": [f"a{n}", f"b{n}"]},
        ASKED,
        said="Column `output after the first` (33 % of the text) is ignored.",
    ),
    "a translation with an instruction": Shape(
        lambda n: {"instruction": "d", "source": f"q{n}", "target": f"a{n}"}, lambda n: [u(f"d\n\nq{n}"), a(f"a{n}")]
    ),
    "the pairs of Gemini": Shape(lambda n: {"text_input": f"q{n}", "output": f"a{n}"}, ASKED),
    "the pairs of PaLM": Shape(lambda n: {"input_text": f"q{n}", "output_text": f"a{n}"}, ASKED),
    "a prompt and its reply": Shape(lambda n: {"prompt": f"q{n}", "reply": f"a{n}", "model": "m"}, ASKED, ("model",)),
    "a person and a bot": Shape(lambda n: {"user": f"q{n}", "bot": f"a{n}"}, ASKED),
    "a person, and whether it is a bot": Shape(
        lambda n: {"user": "U1", "bot": False, "text": f"t{n}"}, lambda n: [x(f"t{n}")], ("user", "bot")
    ),
    "a mail, which is no turn, and its reply": Shape(
        lambda n: {"prompt": {"from": "ann", "body": f"q{n}"}, "completion": {"body": f"a{n}"}},
        lambda n: [u(f'{{"from": "ann", "body": "q{n}"}}'), a(f'{{"body": "a{n}"}}')],
    ),
    "a log of requests": Shape(
        lambda n: {"request": {"model": "m", "messages": [u(f"q{n}")]}, "response": {"choices": [{"message": a(f"a{n}")}]}}, ASKED
    ),
    "Natural Instructions": Shape(
        lambda n: {"definition": "d", "inputs": f"q{n}", "targets": f"a{n}"}, lambda n: [u(f"d\n\nq{n}"), a(f"a{n}")]
    ),
    "CoQA": Shape(
        lambda n: {
            "story": f"s{n}",
            "questions": [f"q{n}", "p"],
            "answers": {"input_text": [f"a{n}", "b"], "answer_start": [0, 1], "answer_end": [1, 2]},
        },
        lambda n: [u(f"s{n}\n\nq{n}"), a(f"a{n}"), u("p"), a("b")],
    ),
    "HotpotQA": Shape(
        lambda n: {
            "question": f"q{n}",
            "answer": f"a{n}",
            "context": {"title": ["t", "u"], "sentences": [["s.", " r."], [f"p{n}."]]},
        },
        lambda n: [u(f"t\ns. r.\n\nu\np{n}.\n\nq{n}"), a(f"a{n}")],
    ),
    "HotpotQA as its authors wrote it": Shape(
        lambda n: {"question": f"q{n}", "answer": f"a{n}", "context": [["t", ["s.", " r."]]]},
        lambda n: [u(f"t\ns. r.\n\nq{n}"), a(f"a{n}")],
    ),
    "names with blanks": Shape(
        lambda n: {"System Prompt": f"s{n}", "User Prompt": f"q{n}", "Model Response": f"a{n}"}, lambda n: [s(f"s{n}"), *ASKED(n)]
    ),
    "a question is missing": Shape(
        lambda n: {"question": f"q{n}" if n else "", "answer": f"a{n}"},
        lambda n: [u(f"q{n}" if n else ""), a(f"a{n}")],
        said="The question is empty, so its answer is learned without one (1 row).",
    ),
    "highlights in a list": Shape(lambda n: {"article": f"q{n}", "highlights": [f"a{n}", "b"]}, lambda n: [u(f"q{n}"), a(f"a{n}\nb")]),
    "summaries": Shape(lambda n: {"id": n, "dialogue": f"q{n}", "summary": f"a{n}"}, ASKED, ("id",)),
    "a summary of what customer and agent said": Shape(
        lambda n: {
            "dialogue": [{"speaker": "customer", "text": f"q{n}"}, {"speaker": "agent", "text": "r"}],
            "summary": f"a{n}",
        },
        lambda n: [u(f"customer: q{n}\nagent: r"), a(f"a{n}")],
    ),
    "FLAN": Shape(lambda n: {"inputs": f"q{n}", "targets": f"a{n}", "task": "x"}, ASKED, ("task",)),
    # Text
    "text": Shape(lambda n: {"text": f"t{n}"}, lambda n: [x(f"t{n}")]),
    "classes": Shape(lambda n: {"text": f"t{n}", "label": n % 2}, lambda n: [x(f"t{n}")], ("label",), said="`label` ("),
    "completions only": Shape(lambda n: {"completion": f"t{n}"}, lambda n: [x(f"t{n}")]),
    # Conversations
    "ShareGPT": Shape(lambda n: {"id": f"x{n}", "conversations": [human(f"q{n}"), gpt(f"a{n}")]}, ASKED, ("id",)),
    "ShareGPT with a system column": Shape(
        lambda n: {"conversations": [human(f"q{n}"), gpt(f"a{n}")], "system": "s"}, lambda n: [s("s"), *ASKED(n)]
    ),
    "SlimOrca": Shape(
        lambda n: {
            "conversations": [{"from": "system", "value": "s", "weight": None}, human(f"q{n}", weight=0.0), gpt(f"a{n}", weight=1.0)]
        },
        lambda n: [s("s"), *ASKED(n)],
    ),
    "OpenAI": Shape(lambda n: {"messages": [s("s"), *ASKED(n)]}, lambda n: [s("s"), *ASKED(n)]),
    "OpenAI with weights": Shape(
        lambda n: {"messages": [u("q"), a("no", weight=0), u(f"q{n}"), a(f"a{n}", weight=1)]},
        lambda n: [u("q"), a("no", learn=False), *ASKED(n)],
    ),
    "axolotl's flags": Shape(
        lambda n: {
            "conversations": [human("q", train=False), gpt("no", train="false"), human(f"q{n}", train=False), gpt(f"a{n}", train=True)]
        },
        lambda n: [u("q"), a("no", learn=False), *ASKED(n)],
    ),
    "ms-swift's loss": Shape(
        lambda n: {"messages": [u("q"), a("no", loss=False), u(f"q{n}"), a(f"a{n}", loss=True)]},
        lambda n: [u("q"), a("no", learn=False), *ASKED(n)],
    ),
    "no_robots": Shape(
        lambda n: {"prompt": f"q{n}", "prompt_id": "i", "messages": ASKED(n), "category": "c"}, ASKED, ("prompt", "prompt_id", "category")
    ),
    "UltraChat": Shape(
        lambda n: {"id": str(n), "data": [f"q{n}", f"a{n}", "more", "end"]}, lambda n: [*ASKED(n), u("more"), a("end")], ("id",)
    ),
    "LIMA": Shape(lambda n: {"conversations": [f"q{n}", f"a{n}"], "source": "x"}, ASKED, ("source",)),
    "Capybara": Shape(
        lambda n: {"source": "x", "conversation": [{"input": f"q{n}", "output": f"a{n}"}, {"input": "b", "output": "c"}]},
        lambda n: [*ASKED(n), u("b"), a("c")],
        ("source",),
    ),
    "xtuner": Shape(
        lambda n: {
            "conversation": [
                {"system": "s", "input": "q", "output": "no", "output_with_loss": False},
                {"input": f"q{n}", "output": f"a{n}"},
            ]
        },
        lambda n: [s("s"), u("q"), a("no", learn=False), *ASKED(n)],
    ),
    "WildChat": Shape(
        lambda n: {"conversation": [{**u(f"q{n}"), "language": "English"}, {**a(f"a{n}"), "toxic": False}]},
        ASKED,
        said="`conversation.language`",
    ),
    "Gemini": Shape(
        lambda n: {
            "systemInstruction": {"role": "system", "parts": [{"text": "s"}]},
            "contents": [{"role": "user", "parts": [{"text": f"q{n}"}]}, {"role": "model", "parts": [{"text": f"a{n}"}]}],
        },
        lambda n: [s("s"), *ASKED(n)],
    ),
    "parts under several names": Shape(
        lambda n: {
            "messages": [
                u([{"type": "input_text", "text": "q"}, str(n)]),
                a([{"type": "output_text", "text": "a"}, {"type": "text", "value": f"{n}"}]),
            ]
        },
        ASKED,
    ),
    "messages in CSV": Shape(lambda n: {"messages": json.dumps(ASKED(n))}, ASKED),
    # Reasoning
    "reasoning_content": Shape(
        lambda n: {"messages": [u(f"q{n}"), a(f"a{n}", reasoning_content="hm")]}, lambda n: [u(f"q{n}"), a(f"a{n}", reasoning_content="hm")]
    ),
    "thinking": Shape(
        lambda n: {"messages": [u(f"q{n}"), a(f"a{n}", thinking="hm")]}, lambda n: [u(f"q{n}"), a(f"a{n}", reasoning_content="hm")]
    ),
    # Tools
    "tools of OpenAI": Shape(
        lambda n: {
            "messages": [
                u(f"q{n}"),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c", **call("add")} | {"function": {"name": "add", "arguments": '{"a": 1}'}}],
                },
                t("1", tool_call_id="c"),
                a(f"a{n}"),
            ],
            "tools": [ADDS],
        },
        lambda n: [u(f"q{n}"), a("", tool_calls=[{"id": "c", **call("add", a=1)}]), t("1", tool_call_id="c"), a(f"a{n}")],
        tools=lambda n: [ADDS],
    ),
    "function_call of OpenAI": Shape(
        lambda n: {
            "messages": [
                u(f"q{n}"),
                a("", function_call={"name": "add", "arguments": '{"a": 1}'}),
                {"role": "function", "name": "add", "content": "1"},
                a("e"),
            ],
            "functions": [ADD],
        },
        lambda n: [u(f"q{n}"), a("", tool_calls=[call("add", a=1)]), t("1", name="add"), a("e")],
        tools=lambda n: [ADDS],
    ),
    "tools of ShareGPT": Shape(
        lambda n: {
            "conversations": [
                human(f"q{n}"),
                {"from": "function_call", "value": f'{{"name": "add", "arguments": {{"a": {n}}}}}'},
                {"from": "observation", "value": f'{{"sum": {n}}}'},
                gpt(f"a{n}"),
            ],
            "tools": json.dumps([ADD]),
        },
        lambda n: [u(f"q{n}"), a("", tool_calls=[call("add", a=n)]), t(f'{{"sum": {n}}}'), a(f"a{n}")],
        tools=lambda n: [ADDS],
    ),
    "tools of Hermes": Shape(
        lambda n: {
            "conversations": [
                {"from": "system", "value": "You may call <tools>[...]</tools>"},
                human(f"q{n}"),
                gpt('<tool_call>\n{"name": "add"}\n</tool_call>'),
                {"from": "tool", "value": f"<tool_response>\n{n}\n</tool_response>"},
                gpt(f"a{n}"),
            ],
            "tools": json.dumps([ADDS]),
        },
        lambda n: [
            s("You may call <tools>[...]</tools>"),
            u(f"q{n}"),
            a('<tool_call>\n{"name": "add"}\n</tool_call>'),
            t(f"{n}"),
            a(f"a{n}"),
        ],
        said="a system text lists them already",
    ),
    "tools of GLM": Shape(
        lambda n: {"messages": [{**s("s"), "tools": [ADDS]}, u(f"q{n}"), {"role": "tool_call", "name": "add", "content": {"a": n}}]},
        lambda n: [s("s"), u(f"q{n}"), a("", tool_calls=[call("add", a=n)])],
        tools=lambda n: [ADDS],
    ),
    "xLAM": Shape(
        lambda n: {"id": n, "query": f"q{n}", "tools": json.dumps([ADD]), "answers": json.dumps([{"name": "add", "arguments": {"a": n}}])},
        lambda n: [u(f"q{n}"), a("", tool_calls=[call("add", a=n)])],
        ("id",),
        tools=lambda n: [ADDS],
    ),
    "tools of Anthropic": Shape(
        lambda n: {
            "messages": [
                u(f"q{n}"),
                a([{"type": "text", "text": "I add."}, {"type": "tool_use", "id": "c", "name": "add", "input": {"a": n}}]),
                u([{"type": "tool_result", "tool_use_id": "c", "content": f"{n}"}]),
                a(f"a{n}"),
            ]
        },
        lambda n: [u(f"q{n}"), a("I add.", tool_calls=[{"id": "c", **call("add", a=n)}]), t(f"{n}", tool_call_id="c"), a(f"a{n}")],
    ),
    # Preferences
    "DPO": Shape(lambda n: {"prompt": f"q{n}", "chosen": f"a{n}", "rejected": "no"}, ASKED, ("rejected",), said="Only the chosen answer"),
    "DPO of LLaMA-Factory": Shape(
        lambda n: {"conversations": [human(f"q{n}")], "chosen": gpt(f"a{n}"), "rejected": gpt("no")}, ASKED, ("rejected",)
    ),
    "DPO of Alpaca": Shape(
        lambda n: {"instruction": f"q{n}", "input": "i", "chosen": f"a{n}", "rejected": "no"},
        lambda n: [u(f"q{n}\n\ni"), a(f"a{n}")],
        ("rejected",),
    ),
    "DPO with whole lists": Shape(
        lambda n: {"chosen_messages": ASKED(n), "rejected_messages": [u(f"q{n}"), a("no")]}, ASKED, ("rejected_messages",)
    ),
    "DPO of OpenAI": Shape(
        lambda n: {
            "input": {"messages": [u(f"q{n}")], "tools": [ADDS]},
            "preferred_output": [a(f"a{n}")],
            "non_preferred_output": [a("no")],
        },
        ASKED,
        ("non_preferred_output",),
        tools=lambda n: [ADDS],
    ),
    "Orca pairs": Shape(
        lambda n: {"system": "s", "question": f"q{n}", "chosen": f"a{n}", "rejected": "no"}, lambda n: [s("s"), *ASKED(n)], ("rejected",)
    ),
    "UltraFeedback": Shape(
        lambda n: {"prompt": f"q{n}", "chosen": ASKED(n), "rejected": [u(f"q{n}"), a("no")], "score_chosen": 8.5},
        ASKED,
        ("rejected", "score_chosen"),
    ),
    "HH-RLHF": Shape(
        lambda n: {"chosen": f"\n\nHuman: q{n}\n\nAssistant: a{n}", "rejected": f"\n\nHuman: q{n}\n\nAssistant: no"}, ASKED, ("rejected",)
    ),
    "HH-RLHF with a prompt": Shape(
        lambda n: {"prompt": f"\n\nHuman: q{n}\n\nAssistant:", "chosen": f"a{n}", "rejected": "no"}, ASKED, ("rejected",)
    ),
}
