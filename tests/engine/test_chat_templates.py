"""Thirteen real chat templates: whatever the messages are, what is learned are the wanted answers and their ends, and nothing else."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

import pytest
from chat_templates import FAMILIES, Family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.rows import RowProblem
from finetune.data.tokens.encoder import Encoder, Sequence
from finetune.data.tokens.labels import NO_LOSS
from finetune.data.tokens.render import ChatTemplate
from finetune.models.templates.chat_template import answer_end_ids, answer_ends
from finetune.models.templates.template_facts import looked_for, program

ENCODERS: dict[str, Encoder] = {}


def encoder_of(name: str) -> Encoder:
    if name not in ENCODERS:
        ENCODERS[name] = Encoder(FAMILIES[name].tokenizer, max_length=10_000, supervise="answers")
    return ENCODERS[name]


def encoded(encoder: Encoder, messages: list[dict[str, Any]], **more: Any) -> Sequence:
    ((_, result),) = encoder.encode([[{"messages": messages, **more}]])
    if isinstance(result, RowProblem):
        raise result
    (sequence,) = result
    return sequence


def runs(family: Family, sequence: Sequence) -> list[str]:
    """The stretches of learned tokens as text."""
    stretches = groupby(zip(sequence.ids, sequence.labels, strict=True), key=lambda each: each[1] != NO_LOSS)
    return [family.tokenizer.decode([token for token, _ in stretch]) for learned, stretch in stretches if learned]


# What should be learned, said without any of the program.


def without_ends(text: str, ends: tuple[str, ...]) -> str:
    while text.rstrip().endswith(ends):
        text = text.rstrip()
        text = text[: -len(next(end for end in ends if text.endswith(end)))]
    return text


def without_begin(text: str, begin: str | None) -> str:
    while begin and text.lstrip().startswith(begin):
        text = text.lstrip()[len(begin) :]
    return text


def texts(family: Family, messages: list[dict[str, Any]]) -> list[str]:
    """The contents with one beginning and one end."""
    first, *others = (turn["content"] for turn in messages)
    roles = [turn["role"] for turn in messages]
    begin = family.bos if family is not FAMILIES["smollm2"] else None  # there it begins every turn, and is a control token
    both = [without_begin(first, begin), *others]
    return [without_ends(text, family.ends) if role == "assistant" else text for role, text in zip(roles, both, strict=True)]


def wanted(family: Family, messages: list[dict[str, Any]]) -> list[str] | None:
    """The stretches to be learned; None where the row must be refused."""
    turns = [
        {**turn, "content": text, "learn": turn["role"] == "assistant" and turn.get("learn", True) and bool(text.strip())}
        for turn, text in zip(messages, texts(family, messages), strict=True)
    ]
    last = max((number for number, turn in enumerate(turns) if turn["learn"]), default=None)
    if last is None:
        return None
    turns = turns[: last + 1]
    if family.strict:
        roles = [turn["role"] for turn in turns]
        if "assistant" in (roles[0], roles[1] if roles[0] == "system" else ""):
            return None
    groups = [list(group) for _, group in groupby(turns, key=lambda turn: turn["role"])] if family.strict else [[turn] for turn in turns]
    answers = [group for group in groups if group[0]["role"] == "assistant"]
    found: list[str] = []
    for number, group in enumerate(answers):
        parts = [turn for turn in group if turn["content"].strip()]
        found += learned_of(family, parts, final=number == len(answers) - 1, asked=any(turn["role"] == "user" for turn in turns))
    return found


def learned_of(family: Family, parts: list[dict[str, Any]], *, final: bool, asked: bool) -> list[str]:
    end = family.end or (family.ends[0] if final else "")
    if len({part["learn"] for part in parts}) == 1:
        text = family.written("\n\n".join(part["content"] for part in parts))
        text = text.lstrip("\n") if family is FAMILIES["qwen3"] and final and asked else text
        return [family.lead + text + end] if parts[0]["learn"] else []
    found = []
    for learned, stretch in groupby(enumerate(parts), key=lambda each: each[1]["learn"]):
        if learned:
            numbers, turns = zip(*stretch, strict=True)
            for number, turn in zip(numbers, turns, strict=True):
                text = turn["content"].strip()
                closing = end if number == len(parts) - 1 else ""
                found.append((family.lead if number == 0 else "") + text + closing)
    return found


def turns_of(family: Family) -> st.SearchStrategy[list[dict[str, Any]]]:
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    text = st.lists(words | st.sampled_from([*family.special, " ", "\n", "</s>"]), max_size=4).map("".join)
    user = st.fixed_dictionaries({"role": st.just("user"), "content": text})
    answer = st.fixed_dictionaries({"role": st.just("assistant"), "content": text}, optional={"learn": st.booleans()})
    chat = st.lists(user | answer | answer, min_size=1, max_size=6)
    ordinary = st.lists(st.tuples(user, answer), min_size=1, max_size=3).map(lambda pairs: [turn for pair in pairs for turn in pair])
    system = st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": text.filter(str.strip)}), max_size=1)
    return st.tuples(system, chat | ordinary).map(lambda both: both[0] + both[1])


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_learned_are_the_wanted_answers_and_their_ends(name: str, data: st.DataObject) -> None:
    family, encoder = FAMILIES[name], encoder_of(name)
    messages = data.draw(turns_of(family))
    expected = wanted(family, messages)
    if expected is None:
        with pytest.raises(RowProblem):
            encoded(encoder, messages)
        return
    sequence = encoded(encoder, messages)
    assert runs(family, sequence) == expected
    assert all(label in (NO_LOSS, token) for token, label in zip(sequence.ids, sequence.labels, strict=True))
    plain = [turn | {"content": without_control(text, family)} for turn, text in zip(messages, texts(family, messages), strict=True)]
    assert marks(family, sequence) == marks(family, encoded(encoder, plain)), "a control token that somebody wrote became one"
    assert sequence.ids[:2].count(family.tokenizer.bos_token_id) <= 1


def without_control(text: str, family: Family) -> str:
    for token in sorted((*family.special, "</s>"), key=len, reverse=True):
        text = text.replace(token, "X")
    return text


def marks(family: Family, sequence: Sequence) -> list[int]:
    special = set(family.tokenizer.convert_tokens_to_ids([*family.special, *family.ordinary]))
    return [token for token in sequence.ids if token in special]


# Tools and reasoning.

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}}]
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}]},
    {"role": "tool", "name": "add", "content": "the result: 5"},
    {"role": "assistant", "content": "It is 5."},
]
CALLED = {
    "qwen3": ['<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>', "It is 5.<|im_end|>"],
    "llama3": ['{"name": "add", "parameters": {"a": 2, "b": 3}}<|eot_id|>', "It is 5.<|eot_id|>"],
    "mistral": ['[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": 3}, "id": "call00001"}]</s>', " It is 5.</s>"],
}


@pytest.mark.parametrize("name", CALLED)
def test_calls_are_learned_and_their_results_are_not(name: str) -> None:
    family = FAMILIES[name]
    sequence = encoded(encoder_of(name), CALLS, tools=TOOLS)
    assert runs(family, sequence) == CALLED[name]
    text = family.tokenizer.decode(sequence.ids)
    assert all(text.count(part) == 1 for part in ("Adds.", "the result: 5", "What is 2 + 3?"))


def test_a_call_that_is_marked_as_not_to_be_learned_has_no_loss() -> None:
    muted = [CALLS[0], {**CALLS[1], "learn": False}, *CALLS[2:]]
    assert runs(FAMILIES["qwen3"], encoded(encoder_of("qwen3"), muted, tools=TOOLS)) == CALLED["qwen3"][1:]


def test_a_row_that_ends_with_a_call_ends_there_and_the_call_is_learned() -> None:
    for name, expected in CALLED.items():
        assert runs(FAMILIES[name], encoded(encoder_of(name), CALLS[:2])) == expected[:1]


def test_tools_that_a_template_does_not_know_refuse_the_row_with_the_reason() -> None:
    unknown = "it uses tools, but the model's chat template does not write their "
    for name in ("gemma", "chatml", "zephyr"):
        with pytest.raises(RowProblem) as refused:
            encoded(encoder_of(name), CALLS, tools=TOOLS)
        assert str(refused.value) == f"{unknown}definitions, calls and results"
        with pytest.raises(RowProblem) as refused:
            encoded(encoder_of(name), [CALLS[0], CALLS[3]], tools=TOOLS)
        assert str(refused.value) == f"{unknown}definitions"


def test_control_tokens_in_calls_results_and_definitions_are_text() -> None:
    family, encoder = FAMILIES["qwen3"], encoder_of("qwen3")
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": "a<|im_end|>b"}}}
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    chat += [{"role": "tool", "content": "x<|im_start|>system"}, {"role": "assistant", "content": "Done."}]
    tools = [{"type": "function", "function": {"name": "say", "description": "Ends <|im_end|>."}}]
    sequence = encoded(encoder, chat, tools=tools)
    words = [{**turn, "content": turn["content"].replace("<|im_start|>", "X")} for turn in chat]
    words[1] = {**words[1], "tool_calls": [{"type": "function", "function": {"name": "say", "arguments": {"text": "aXb"}}}]}
    tools[0]["function"]["description"] = "Ends X."
    assert marks(family, sequence) == marks(family, encoded(encoder, words, tools=tools))
    assert runs(family, sequence)[0] == '<tool_call>\n{"name": "say", "arguments": {"text": "a<|im_end|>b"}}\n</tool_call><|im_end|>'


THOUGHTFUL: list[dict[str, Any]] = [
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "It is 5.", "reasoning_content": "Two and three."},
]


def test_reasoning_is_learned_where_the_template_knows_it_and_left_out_elsewhere() -> None:
    thinks = Encoder(FAMILIES["qwen3"].tokenizer, max_length=1000, supervise="answers", thinking=True)
    assert runs(FAMILIES["qwen3"], encoded(thinks, THOUGHTFUL)) == ["<think>\nTwo and three.\n</think>\n\nIt is 5.<|im_end|>"]
    inside = [THOUGHTFUL[0], {"role": "assistant", "content": "<think>\nTwo and three.\n</think>\n\nIt is 5."}]
    assert encoded(thinks, inside).ids == encoded(thinks, THOUGHTFUL).ids
    silent = Encoder(FAMILIES["chatml"].tokenizer, max_length=1000, supervise="answers")
    assert runs(FAMILIES["chatml"], encoded(silent, THOUGHTFUL)) == ["It is 5.<|im_end|>"]
    assert list(silent.noticed.sentences([])) == ["The model's chat template accepts no reasoning: in 1 row it is left out."]


def test_the_prompt_of_a_talk_is_the_one_that_training_had() -> None:
    for thinking, asked in ((True, "assistant\n"), (False, "assistant\n<think>\n\n</think>\n\n")):
        encoder = Encoder(FAMILIES["qwen3"].tokenizer, max_length=1000, supervise="answers", thinking=thinking)
        for row in (THOUGHTFUL, [THOUGHTFUL[0], {"role": "assistant", "content": "It is 5."}])[not thinking :]:
            sequence = encoded(encoder, row)
            assert encoder.prompt(row[:1]) == sequence.ids[: sequence.answer_start]
        assert FAMILIES["qwen3"].tokenizer.decode(encoder.prompt(THOUGHTFUL[:1])).endswith(asked)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_the_same_in_every_turn_of_a_talk_and_of_training(name: str) -> None:
    encoder = encoder_of(name)
    chat = [{"role": role, "content": f"{role} {number} <s>"} for number in range(2) for role in ("user", "assistant")]
    sequence = encoded(encoder, chat)
    assert encoder.prompt(chat[:3]) == sequence.ids[: sequence.answer_start]


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_stops_at_what_ended_the_answers(name: str) -> None:
    family = FAMILIES[name]
    assert answer_end_ids(family.tokenizer) == sorted(family.tokenizer.convert_tokens_to_ids(list(family.ends)))
    sequence = encoded(encoder_of(name), [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    assert sequence.ids[-1] in answer_end_ids(family.tokenizer)


# Templates that look at what is said.


def test_words_that_a_template_looks_for_are_known() -> None:
    assert looked_for(program(FAMILIES["qwen3"].tokenizer)) == {"</think>", "<think>", "<tool_response>", "</tool_response>"}


def test_a_word_that_a_template_refuses_or_rewrites_is_seen_in_any_row() -> None:
    family = FAMILIES["chatml"]
    made = Family(
        family.template.replace(
            "{% for", "{% for m in messages %}{% if 'plum' in m.content %}{{ raise_exception('no plums') }}{% endif %}{% endfor %}{% for", 1
        ).replace("message['content'] +", "message['content'].replace('pear', 'apple') +"),
        *(getattr(family, field) for field in ("special", "bos", "eos", "lead", "end", "ends")),
    )
    encoder = Encoder(made.tokenizer, max_length=1000, supervise="answers")
    rows = [[{"role": "user", "content": f"Fruit {number}?"}, {"role": "assistant", "content": f"It is {number}."}] for number in range(30)]
    rows[26][0]["content"], rows[28][1]["content"] = "A plum?", "A pear."
    results = [result for _, result in encoder.encode([[{"messages": row} for row in rows]])]
    assert [number for number, result in enumerate(results) if isinstance(result, RowProblem)] == [26]
    assert runs(made, results[28][0]) == ["A apple.<|im_end|>"]  # type: ignore[index]
    assert encoder.noticed.rows == Counter({"rewritten": 1})


PLACES = {  # what a template writes first, before each answer, and at the end of a prompt
    "blanks after the prompt": ("", "[/I]", "[/I] "),
    "a thought after the prompt": ("", "<bot>", "<bot><think>\n"),
    "the first letter of a probe": ("", "<bot>", "<bot>P"),
    "a probe": ("Probe0q Probe99q", "<bot>", "<bot>"),
}


@pytest.mark.parametrize(("first", "bot", "prompt"), PLACES.values(), ids=PLACES)
def test_an_answer_is_found_by_the_shape_of_its_row_where_it_is_found_alone(first: str, bot: str, prompt: str) -> None:
    turn = "{% if m.role == 'user' %}[I]{{ m.content }}{% else %}" + bot + "{{ m.content }}</s>{% endif %}"
    template = first + "{% for m in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}" + prompt + "{% endif %}"
    made = Family(template, ("<s>", "</s>"), "<s>", "</s>", "", "</s>", ("</s>",))
    fast, slow = ChatTemplate(made.tokenizer), ChatTemplate(made.tokenizer)
    slow._known_places = lambda turns, row: None  # type: ignore[method-assign]
    for answer in ("Yes.", " Yes.", "\n Yes.", "<think>", "<think>\nHm", "Probe0q", "Probe1q"):
        for row in ([answer], [answer, "No."], ["No.", answer]):
            messages = [turn for text in row for turn in ({"role": "user", "content": "Is it?"}, {"role": "assistant", "content": text})]
            assert fast.rendered(messages) == slow.rendered(messages)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["upper", "lower", "title", "replace(' ', '_')"])
@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_a_template_that_changes_all_text_ends_answers_as_it_does_without_and_it_is_said(name: str, change: str) -> None:
    family = FAMILIES[name]
    content = "message['content']" if name == "chatml" else "message['content'] | trim"
    made = Family(
        family.template.replace(f"{content} +", f"({content}) | {change} +"),
        *(getattr(family, field) for field in ("special", "bos", "eos", "lead", "end", "ends")),
    )
    encoder = Encoder(made.tokenizer, max_length=1000, supervise="answers")
    row = [{"role": "user", "content": "Ask me now"}, {"role": "assistant", "content": "It is So"}]
    said = {"upper": "IT IS SO", "lower": "it is so", "title": "It Is So"}.get(change, "It_is_So")
    ((_, sequences),) = encoder.encode([[{"messages": row}]])
    assert runs(made, sequences[0]) == [f"{family.lead}{said}{family.end}"]  # type: ignore[index]
    (sentence,) = encoder.noticed.sentences(["rows.jsonl"])
    assert sentence == "The model's chat template leaves out or changes some text in 1 row, such as earlier reasoning."
    assert answer_ends(made.tokenizer) == answer_ends(family.tokenizer)


def test_a_template_that_looks_for_what_is_in_every_probe_runs_for_every_row() -> None:
    family = FAMILIES["chatml"]
    made = Family(
        family.template.replace("message['content'] +", "message['content'].replace('\t', ' ') +"),
        *(getattr(family, field) for field in ("special", "bos", "eos", "lead", "end", "ends")),
    )
    encoder = Encoder(made.tokenizer, max_length=1000, supervise="answers")
    rows = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f" a{number} "}] for number in range(25)]
    assert {runs(made, encoded(encoder, row))[0] for row in rows} == {f" a{number} <|im_end|>" for number in range(25)}


# Templates that open a thought in every prompt and leave thoughts out of answers.

R1 = Family(
    FAMILIES["deepseek"].template.replace("{{'<｜Assistant｜>'}}", "{{'<｜Assistant｜><think>\n'}}"),
    *(getattr(FAMILIES["deepseek"], field) for field in ("special", "bos", "eos", "lead", "end", "ends")),
    ordinary=FAMILIES["deepseek"].ordinary,
)


def test_a_thought_that_the_template_leaves_out_is_learned_behind_the_prompt_that_opens_it() -> None:
    inside = [THOUGHTFUL[0], {"role": "assistant", "content": "<think>\nTwo and three.\n</think>\n\nIt is 5."}]
    silent = [THOUGHTFUL[0], {"role": "assistant", "content": "It is 5."}]
    encoder = Encoder(R1.tokenizer, max_length=1000, supervise="answers", thinking=True)
    end = "<｜end▁of▁sentence｜>"
    for row, thought in ((THOUGHTFUL, "Two and three."), (inside, "Two and three."), (silent, "")):
        sequence = encoded(encoder, row)
        assert runs(R1, sequence) == [f"{thought}\n</think>\n\nIt is 5.{end}"]
        assert R1.tokenizer.decode(sequence.ids[: sequence.answer_start]).endswith("<｜Assistant｜><think>\n")
        assert encoder.prompt(row[:1]) == sequence.ids[: sequence.answer_start]
    again = [{"role": "user", "content": "And 1 more?"}, {"role": "assistant", "content": "<think>Up.</think>6."}]
    assert runs(R1, encoded(encoder, [*inside, *again])) == [f"\n\nIt is 5.{end}", f"Up.\n</think>\n\n6.{end}"]
    assert encoder.noticed.rows == Counter({"rewritten": 1})


def test_without_thoughts_such_a_model_is_asked_as_the_rows_answer_and_it_is_said() -> None:
    encoder = Encoder(R1.tokenizer, max_length=1000, supervise="answers")
    row = [THOUGHTFUL[0], {"role": "assistant", "content": "It is 5."}]
    assert runs(R1, encoded(encoder, row)) == ["It is 5.<｜end▁of▁sentence｜>"]
    assert R1.tokenizer.decode(encoder.prompt(row[:1])).endswith("<｜Assistant｜>")
    assert list(encoder.noticed.sentences([])) == [
        "In 1 row the answer does not follow the prompt that the model's chat template writes; other programs will ask differently."
    ]


def test_a_template_that_says_elsewhere_whether_to_think_is_told_the_same_everywhere() -> None:
    family = FAMILIES["chatml"]
    says = (
        "{{ '<|im_start|>system\n' + ('/think' if enable_thinking is not defined or enable_thinking else '/no_think') + '<|im_end|>\n' }}"
    )
    made = Family(says + family.template, *(getattr(family, field) for field in ("special", "bos", "eos", "lead", "end", "ends")))
    for thinking, word in ((True, "/think"), (False, "/no_think")):
        encoder = Encoder(made.tokenizer, max_length=1000, supervise="answers", thinking=thinking)
        sequence = encoded(encoder, THOUGHTFUL)
        assert made.tokenizer.decode(sequence.ids).startswith(f"<|im_start|>system\n{word}<|im_end|>")
        assert encoder.prompt(THOUGHTFUL[:1]) == sequence.ids[: sequence.answer_start]
