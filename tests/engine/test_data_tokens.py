"""Text to tokens and labels: nothing lost, loss on the answers and their ends only, prompts as the model is later given them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from bytes_tokenizer import CHATML, INST, TEMPLATES, THINKING, UNSTABLE, byte_level, sentence_piece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.formats.cells import Message
from finetune.data.rows import RowProblem
from finetune.data.tokens.encoder import Encoder, Sequence
from finetune.data.tokens.labels import NO_LOSS
from finetune.data.tokens.render import ChatTemplate

QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ANSWER = TEXT.filter(lambda text: text.strip())


def turns(*texts: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant")
    chat: list[Message] = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *chat] if system is not None else chat


def document(text: str) -> list[Message]:
    return [{"role": "text", "content": text}]


def encode(
    tokenizer: Any, messages: list[Message], *, max_length: int = 10_000, supervise: Literal["answers", "all"] = "answers"
) -> list[Sequence]:
    encoder = Encoder(tokenizer, max_length=max_length, supervise=supervise)
    ((_, result),) = encoder.encode([[{"messages": messages}]])
    if isinstance(result, RowProblem):
        raise result
    return result


def learned(tokenizer: Any, sequence: Sequence) -> str:
    return str(tokenizer.decode([label for label in sequence.labels if label != NO_LOSS]))


def whole(tokenizer: Any, sequence: Sequence) -> str:
    return str(tokenizer.decode(sequence.ids))


def test_the_answer_and_the_token_that_ends_it_are_learned_and_nothing_else() -> None:
    tokenizer = byte_level(CHATML)
    (sequence,) = encode(tokenizer, turns("What is it?", "42 of course", system="Be brief."))
    assert learned(tokenizer, sequence) == "42 of course<|im_end|>"
    assert all(label in (NO_LOSS, token) for token, label in zip(sequence.ids, sequence.labels, strict=True))
    assert whole(tokenizer, sequence) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n42 of course<|im_end|>"
    )


def test_every_answer_of_a_conversation_is_learned() -> None:
    tokenizer = byte_level(CHATML)
    (sequence,) = encode(tokenizer, turns("a", "first", "b", "second"))
    assert learned(tokenizer, sequence) == "first<|im_end|>second<|im_end|>"
    assert tokenizer.decode(sequence.ids[sequence.answer_start :]) == "second<|im_end|>"


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_what_comes_before_the_answer_is_what_the_model_is_later_prompted_with(name: str, make: Any) -> None:
    if (make, name) == (sentence_piece, "unstable"):
        pytest.skip("a prompt that ends in a space is one token longer alone than before its answer")
    tokenizer = make(TEMPLATES[name])
    chat = turns("Hello there", "the answer")
    asked = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False, enable_thinking=False)
    if name == "unstable":
        asked = asked.replace("1 turns", "2 turns")
    (sequence,) = encode(tokenizer, chat)
    assert sequence.ids[: sequence.answer_start] == tokenizer(asked, add_special_tokens=False)["input_ids"]
    end = "</s>" if name in ("inst", "endless") else "<|im_end|>"
    answer = tokenizer.decode(sequence.ids[sequence.answer_start :])
    assert answer.strip().removesuffix(end).strip() == "the answer"
    assert learned(tokenizer, sequence) == answer


def test_without_a_template_the_answer_follows_a_line_end_and_is_closed_by_the_end_token() -> None:
    tokenizer = byte_level()
    (sequence,) = encode(tokenizer, turns("What?", "That."))
    assert whole(tokenizer, sequence) == "What?\nThat.</s>"
    assert learned(tokenizer, sequence) == "That.</s>"


@pytest.mark.parametrize("template", [None, TEMPLATES["trimmed"]])
def test_there_is_one_beginning_token(template: str | None) -> None:
    tokenizer = byte_level(template, bos=True)
    (sequence,) = encode(tokenizer, turns("What?", "That."))
    assert sequence.ids.count(tokenizer.bos_token_id) == 1
    assert sequence.ids[0] == tokenizer.bos_token_id


def test_a_tokenizer_without_an_end_token_still_works() -> None:
    tokenizer = byte_level(eos=False)
    assert learned(tokenizer, encode(tokenizer, turns("What?", "That."))[0]) == "That."


def test_an_end_token_that_is_also_the_padding_keeps_its_label() -> None:
    tokenizer = byte_level()
    tokenizer.pad_token = tokenizer.eos_token
    assert encode(tokenizer, turns("What?", "That."))[0].labels[-1] == tokenizer.eos_token_id


def test_a_system_turn_goes_into_the_question_where_the_template_knows_none() -> None:
    tokenizer = byte_level(INST)
    (sequence,) = encode(tokenizer, turns("What?", "That.", system="Be brief."))
    assert whole(tokenizer, sequence) == "<s>[INST] Be brief.\n\nWhat? [/INST] That.</s>"


def test_what_the_template_refuses_is_a_reason_not_a_crash() -> None:
    with pytest.raises(RowProblem, match="refused by the model's chat template: only user and assistant"):
        encode(byte_level(INST), [{"role": "system", "content": "c"}, {"role": "assistant", "content": "d"}])


def test_a_system_turn_in_the_middle_is_joined_to_the_question_where_the_template_knows_none() -> None:
    tokenizer = byte_level(INST)
    (sequence,) = encode(tokenizer, [*turns("a", "b"), {"role": "system", "content": "c"}, *turns("d", "e")])
    assert whole(tokenizer, sequence) == "<s>[INST] a [/INST] b</s>[INST] c\n\nd [/INST] e</s>"
    assert learned(tokenizer, sequence) == " b</s> e</s>"


def test_an_answer_that_the_template_hides_is_a_reason_too() -> None:
    tokenizer = byte_level("{% for turn in messages if turn.role == 'user' %}{{ turn.content }}{% endfor %}")
    with pytest.raises(RowProblem, match="drops or rewrites the answer"):
        encode(tokenizer, turns("a", "b"))


def test_an_answer_is_learned_as_the_template_writes_it() -> None:
    tokenizer = byte_level(THINKING)
    (sequence,) = encode(tokenizer, turns("a", "<think>because</think>b", "c", "b a c"))
    assert learned(tokenizer, sequence) == "b<|im_end|>b a c<|im_end|>"


def test_all_tokens_but_the_first_are_learned_when_distilling() -> None:
    tokenizer = byte_level(CHATML)
    (sequence,) = encode(tokenizer, turns("What?", "That."), supervise="all")
    assert sequence.labels == [NO_LOSS, *sequence.ids[1:]]


def test_a_long_prompt_loses_its_beginning_and_keeps_the_answer() -> None:
    tokenizer = byte_level(TEMPLATES["trimmed"], bos=True)
    (sequence,) = encode(tokenizer, turns("word " * 100 + "last words", "That."), max_length=40)
    assert len(sequence.ids) == 40
    assert (sequence.prompt_cut, sequence.answer_cut) == (True, False)
    assert learned(tokenizer, sequence) == "That.<|im_end|>"
    assert "last words<|im_end|>" in whole(tokenizer, sequence)
    assert sequence.ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(sequence.ids[sequence.answer_start :]) == "That.<|im_end|>"


def test_an_answer_that_is_cut_off_is_not_learned_as_finished() -> None:
    tokenizer = byte_level(CHATML)
    (sequence,) = encode(tokenizer, turns("What?", "so " * 100), max_length=60)
    assert len(sequence.ids) == 60
    assert (sequence.prompt_cut, sequence.answer_cut) == (False, True)
    assert "<|im_end|>" not in learned(tokenizer, sequence)
    assert "What?" in whole(tokenizer, sequence), "the question stays whole"


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
@pytest.mark.parametrize("max_length", [8, 50, 10_000])
def test_a_long_text_is_cut_into_blocks_that_hold_all_of_it(make: Any, max_length: int) -> None:
    tokenizer = make()
    text = "the question is the answer " * 30
    blocks = encode(tokenizer, document(text), max_length=max_length)
    ids = [token for block in blocks for token in block.ids]
    assert ids[-1] == tokenizer.eos_token_id
    assert ids[:-1] == tokenizer(text)["input_ids"]
    assert max(len(block.ids) for block in blocks) <= max_length
    assert max(len(block.ids) for block in blocks) - min(len(block.ids) for block in blocks) <= 1
    assert all(block.labels == [NO_LOSS, *block.ids[1:]] for block in blocks)


@QUIET
@given(question=TEXT, answer=ANSWER)
def test_every_character_is_in_the_tokens(question: str, answer: str) -> None:
    tokenizer = byte_level(CHATML)
    (sequence,) = encode(tokenizer, turns(question, answer))
    expected = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    assert whole(tokenizer, sequence) == expected
    assert learned(tokenizer, sequence) == f"{answer}<|im_end|>"


@QUIET
@given(question=TEXT, answer=ANSWER)
def test_every_character_is_in_the_tokens_of_a_model_without_template(question: str, answer: str) -> None:
    tokenizer = byte_level()
    assert whole(tokenizer, encode(tokenizer, turns(question, answer))[0]) == f"{question}\n{answer}</s>"
    assert "".join(whole(tokenizer, block) for block in encode(tokenizer, document(answer), max_length=10_000)) == f"{answer}</s>"


@QUIET
@given(texts=st.lists(ANSWER | st.sampled_from(["<think>a</think>b", " x \n", "<|im_end|>", "</s>y"]), min_size=2, max_size=6))
@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_stand_where_the_shape_of_such_rows_has_them(name: str, texts: list[str]) -> None:
    fast, slow = (ChatTemplate(byte_level(TEMPLATES[name])) for _ in range(2))
    slow._known_places = lambda turns, row: None  # type: ignore[method-assign]
    for row in [turns(*texts), turns(*reversed(texts)), turns("seen before", "yes"), turns(*texts, system="Be brief.")]:
        if row[-1]["role"] != "assistant":
            row.pop()
        assert rendered(fast, row) == rendered(slow, row)


def rendered(template: ChatTemplate, messages: list[Message]) -> Any:
    try:
        return template.rendered(messages)
    except RowProblem as problem:
        return str(problem)


def test_a_template_that_looks_into_the_text_in_an_unforeseen_way_is_noticed() -> None:
    shouting = CHATML.replace(
        "turn.content +", "(turn.content | upper if turn.role == 'user' and turn.content | length > 20 else turn.content) +"
    )
    fast = ChatTemplate(byte_level(shouting))
    assert "short" in fast.pieces(turns("short", "a"))[0].text
    assert "SOMETHING LONG" in fast.pieces(turns("something long enough", "a"))[0].text
    assert "SOMETHING LONG" in fast.pieces(turns("something long enough", "a"))[0].text


def test_thoughts_are_not_asked_of_hybrid_models() -> None:
    tokenizer = byte_level(THINKING)
    (sequence,) = encode(tokenizer, turns("What?", "That."))
    assert learned(tokenizer, sequence) == "That.<|im_end|>"


def test_an_unstable_template_is_searched_for_the_answer() -> None:
    tokenizer = byte_level(UNSTABLE)
    assert learned(tokenizer, encode(tokenizer, turns("a", "first", "b", "second"))[0]) == "first<|im_end|>second<|im_end|>"


def test_settings_that_an_earlier_call_left_in_the_tokenizer_cut_nothing() -> None:
    tokenizer = byte_level(CHATML)
    tokenizer("a long text " * 20, truncation=True, max_length=5, padding="max_length")
    assert learned(tokenizer, encode(tokenizer, turns("What? " * 20, "That. " * 20))[0]) == "That. " * 20 + "<|im_end|>"
