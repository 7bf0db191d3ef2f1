"""Which columns mean what, and what a record becomes."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune import registry
from finetune.data.formats import detect, prompts_alone
from finetune.data.rows import RowProblem
from finetune.errors import UnknownFormat
from finetune.recipe import ColumnsSpec


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


# Those that other programs' documentation describes are in shapes.py.
KNOWN: dict[str, tuple[str, dict[str, Any], list[dict[str, str]]]] = {
    "the only column": ("text", {"tweet": "a"}, [{"role": "text", "content": "a"}]),
    "prompt and response": ("prompt_completion", {"id": 1, "prompt": "a", "response": "b"}, [user("a"), assistant("b")]),
    "document and summary": ("prompt_completion", {"document": "a", "summary": "b"}, [user("a"), assistant("b")]),
    "article and abstract": ("prompt_completion", {"article": "a", "abstract": "b"}, [user("a"), assistant("b")]),
    "what people said in texts, and a summary": (
        "prompt_completion",
        {"dialogue": ["#1#: a", "#2#: b", "#1#: c"], "summary": "d"},
        [user("#1#: a\n#2#: b\n#1#: c"), assistant("d")],
    ),
    "what people said in turns, and a summary": (
        "prompt_completion",
        {"dialogue": [{"speaker": "Tom", "text": "a"}, {"speaker": "Ann", "text": "b"}], "summary": "c"},
        [user("Tom: a\nAnn: b"), assistant("c")],
    ),
    "what a model said, and a title": ("messages", {"dialogue": [user("a"), assistant("b")], "summary": "c"}, [user("a"), assistant("b")]),
    "facts to put into words": ("prompt_completion", {"input": ["a | b", "c | d"], "target": "e"}, [user("a | b\nc | d"), assistant("e")]),
    "turns in texts before an answer": (
        "prompt_completion",
        {"messages": ["a", "b", "c"], "response": "d"},
        [user("a"), assistant("b"), user("c"), assistant("d")],
    ),
    "input and output": ("prompt_completion", {"input": "a", "output": "b"}, [user("a"), assistant("b")]),
    "Alpaca with a null input": ("instruction", {"instruction": "a", "input": None, "output": "c"}, [user("a"), assistant("c")]),
    "two answers of Stack Exchange": ("preference", {"question": "a", "response_j": "b", "response_k": "c"}, [user("a"), assistant("b")]),
    "preference between answers to a chat": (
        "preference",
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
        [user("a"), assistant("b")],
    ),
    "preference between conversations in text": (
        "preference",
        {"chosen": "\n\nHuman: a\n\nb\n\nAssistant: c\n\nHuman: d\n\nAssistant: e", "rejected": "f"},
        [user("a\n\nb"), assistant("c"), user("d"), assistant("e")],
    ),
    "an object to extract": (
        "prompt_completion",
        {"prompt": "a", "completion": {"b": [1.5, None], "weight": 2, "from": "ä"}},
        [user("a"), assistant('{"b": [1.5, null], "weight": 2, "from": "ä"}')],
    ),
    "objects to extract": (
        "prompt_completion",
        {"input": {"a": 1}, "output": [{"name": "b", "role": "user"}, {"name": "c", "role": "chief"}]},
        [user('{"a": 1}'), assistant('[{"name": "b", "role": "user"}, {"name": "c", "role": "chief"}]')],
    ),
    "one field to extract from a text in an object": (
        "prompt_completion",
        {"input": {"text": "a"}, "output": {"city": "b"}},
        [user("a"), assistant('{"city": "b"}')],
    ),
    "nothing to extract": ("instruction", {"instruction": "a", "input": {}, "output": {}}, [user("a\n\n{}"), assistant("{}")]),
    "one message to learn": ("prompt_completion", {"prompt": "a", "completion": assistant("b")}, [user("a"), assistant("b")]),
    "text to SQL": (
        "question_answer",
        {"question": "a", "schema": "CREATE TABLE b (c TEXT)", "query": "SELECT c FROM b", "db_id": "b"},
        [user("CREATE TABLE b (c TEXT)\n\na"), assistant("SELECT c FROM b")],
    ),
    "text to SQL with names of their own": (
        "question_answer",
        {"sql_prompt": "a", "sql_context": "CREATE TABLE b (c TEXT)", "sql": " select c from b", "sql_explanation": "d"},
        [user("CREATE TABLE b (c TEXT)\n\na"), assistant(" select c from b")],
    ),
    "a query that begins as SQL does": ("question_answer", {"query": "Create a", "response": "b"}, [user("Create a"), assistant("b")]),
    "a conversation and its last answer": (
        "prompt_completion",
        {"messages": [user("a"), assistant("b"), user("c")], "response": "d"},
        [user("a"), assistant("b"), user("c"), assistant("d")],
    ),
    "what a tool said, and the answer": (
        "prompt_completion",
        {"messages": [user("a"), {"role": "tool", "content": "b"}], "completion": "c"},
        [user("a"), {"role": "tool", "content": "b"}, assistant("c")],
    ),
    "a conversation beside its own last answer": (
        "messages",
        {"messages": [user("a"), assistant("b")], "answer": "b"},
        [user("a"), assistant("b")],
    ),
    "a schema that is none of a database": (
        "question_answer",
        {"schema": "v2", "question": "a", "answer": "b"},
        [user("a"), assistant("b")],
    ),
    "a question and the query that found it": ("question_answer", {"query": "a", "answer": "b"}, [user("a"), assistant("b")]),
    "questions and answers": ("question_answer", {"Questions": "a", "Answers": "b"}, [user("a"), assistant("b")]),
    "what somebody said and the response": ("question_answer", {"Context": "a", "Response": "b"}, [user("a"), assistant("b")]),
    "an answer that no one judged in Prodigy": (
        "question_answer",
        {"question": "a", "answer": "b", "_task_hash": 7},
        [user("a"), assistant("b")],
    ),
    "a task and its code": ("prompt_completion", {"prompt": "a", "code": "b", "test_list": ["c"]}, [user("a"), assistant("b")]),
    "capital names": ("question_answer", {"Question": "a", "ANSWER": "b"}, [user("a"), assistant("b")]),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_known_columns_become_turns(kind: str) -> None:
    name, row, messages = KNOWN[kind]
    found = detect(list(row), [row], None, "a.jsonl")
    assert found.name == name
    assert found.to_messages(row) == messages
    assert set(found.columns) <= set(row)


LABELLED: dict[str, tuple[dict[str, list[Any]], list[dict[str, str]]]] = {
    "a word": ({"text": ["a", "b"], "label": ["x", "y"]}, [user("a"), assistant("x")]),
    "a word beside more": ({"id": [1, 2], "Review": ["a", "b"], "Sentiment": ["x y", "z"]}, [user("a"), assistant("x y")]),
    "a category and nothing else": ({"body": ["a", "b"], "category": ["x", "y"]}, [user("a"), assistant("x")]),
    "a category among more, as of articles": (
        {"title": ["t", "u"], "body": ["a", "b"], "category": ["x", "y"]},
        [{"role": "text", "content": "a"}],
    ),
    "a number and its name": ({"text": ["a", "b"], "label": [0, 1], "label_text": ["x", "y"]}, [user("a"), assistant("x")]),
    "a number and its name elsewhere": ({"text": ["a", "b"], "label": [0, 1], "sentiment": ["x", "y"]}, [user("a"), assistant("x")]),
    "a number": ({"text": ["a", "b"], "label": [0, 1]}, [{"role": "text", "content": "a"}]),
    "sentences": (
        {"text": ["a", "b"], "label": ["one of a few words", "it has more than five words here"]},
        [{"role": "text", "content": "a"}],
    ),
}


@pytest.mark.parametrize("kind", LABELLED)
def test_a_label_in_words_that_rows_share_is_learned_from_its_text(kind: str) -> None:
    columns, turns = LABELLED[kind]
    rows = [{name: values[number % 2] for name, values in columns.items()} for number in range(8)]
    found = detect(list(columns), rows, None, "a.jsonl")
    assert found.to_messages(rows[0]) == turns
    assert "dataset.columns." in getattr(found, "note", ""), "what else may be meant"
    alone = [{name: f"{values[0]} {number}" for name, values in columns.items()} for number in range(8)]
    assert detect(list(columns), alone, None, "a.jsonl").name == "text", "no two rows have the same label"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no answer": ({"question": "a", "answer": None}, "column answer is missing"),
    "an answer that is not there": ({"question": "a"}, "column answer is missing"),
    "NaN, as pandas writes nothing": ({"question": "a", "answer": float("nan")}, "column answer is missing"),
    "a blank answer": ({"question": "a", "answer": " \n"}, "column answer is empty"),
    "no question": ({"question": None, "answer": "b"}, "column question is missing"),
    "bytes": ({"question": "a", "answer": b"b"}, "column answer has bytes, not text"),
    "a list of no answers": ({"question": "a", "answer": []}, "the question has no answer in column answer, "),
    "tool calls": ({"messages": [user("a"), {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "a tool call without a name"),
    "a critic's message": ({"messages": [user("a"), {"role": "critic", "content": "b"}, assistant("c")]}, "a message of 'critic'"),
    "a number in a list of parts": ({"messages": [{"role": "user", "content": [1]}, assistant("c")]}, "neither text nor an object"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, assistant("c")]}, "images, audio or video"),
    "no answer in a chat": ({"messages": [user("a")]}, "no assistant message"),
    "an empty chat": ({"messages": []}, "no list of messages"),
    "a message without a role": ({"messages": [{"content": "a"}, assistant("b")]}, "a message without a role"),
    "messages that are text": ({"messages": [user("a"), "b"]}, "not an object"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_record_that_cannot_be_used_says_why(kind: str) -> None:
    row, reason = REFUSED[kind]
    name = "messages" if "messages" in row else "question_answer"
    columns = ("messages",) if name == "messages" else ("question", "answer", None)
    with pytest.raises(RowProblem, match=reason):
        registry.load("formats", name)(*columns).to_messages(row)


def test_names_that_say_what_columns_are_decide_which_are_proposed() -> None:
    row = {"concepts": ["dog", "run"], "target": "The dog runs."}
    with pytest.raises(UnknownFormat) as unknown:
        detect(list(row), [row], None, "a.jsonl")
    assert "--set dataset.columns.prompt=concepts --set dataset.columns.completion=target" in str(unknown.value.hint)
    row = {"question": "is it so", "passage": "it is so", "label": 1}
    with pytest.raises(UnknownFormat) as unknown:
        detect(list(row), [row], None, "a.jsonl")
    assert "--set dataset.columns.prompt=question --set dataset.columns.completion=label" in str(unknown.value.hint), "not a part of it"


@pytest.mark.parametrize(
    ("names", "format"),
    [
        (["回答", "分類", "質問"], "question_answer"),
        (["Antwort", "Frage"], "question_answer"),
        (["respuesta", "Pregunta "], "question_answer"),
        (["Réponse", "Question"], "question_answer"),
        (["trả lời", unicodedata.normalize("NFD", "Câu hỏi")], "question_answer"),
        (["الجواب", "السؤال"], "question_answer"),
        (["उत्तर", "प्रश्न"], "question_answer"),
        (["输出", "输入", "指令"], "instruction"),
        (["正解", "質問"], "question_answer"),
    ],
)
def test_questions_and_answers_are_known_in_other_languages_wherever_they_stand(names: list[str], format: str) -> None:
    row = dict.fromkeys(names, "in between") | {names[0]: "a", names[-1]: "q"}
    found = detect(names, [row], None, "rows.csv")
    assert found.name == format
    asked, answered = found.to_messages(row)
    assert asked["content"].startswith("q")
    assert answered["content"] == "a"


def test_what_belongs_to_a_question_is_known_in_other_languages() -> None:
    row = {"问题": "首都？", "选项A": "上海", "选项B": "北京", "答案": "B"}
    found = detect(list(row), [row, row], None, "rows.csv")
    assert [turn["content"] for turn in found.to_messages(row)] == ["首都？\n\nA. 上海\nB. 北京", "B. 北京"]
    row = {"Frage": "Hauptstadt?", "Antwort A": "Oslo", "Antwort B": "Bonn", "Antwort C": "Rom", "Richtige Antwort": "Antwort B"}
    found = detect(list(row), [row, row], None, "rows.csv")
    assert [turn["content"] for turn in found.to_messages(row)] == ["Hauptstadt?\n\nA. Oslo\nB. Bonn\nC. Rom", "B. Bonn"]
    for answer in ({"Antwort": "In Oslo."}, {"chosen": "In Oslo.", "rejected": "In Rom."}):
        row = {"Kontext": "Es regnet in Oslo.", "Frage": "Wo?", **answer}
        found = detect(list(row), [row, row], None, "rows.csv")
        assert [turn["content"] for turn in found.to_messages(row)] == ["Es regnet in Oslo.\n\nWo?", "In Oslo."]
    row = {"输入": "首都？", "上下文": "中国", "输出": "北京"}
    found = detect(list(row), [row, row], None, "rows.csv")
    assert [turn["content"] for turn in found.to_messages(row)] == ["首都？\n\n中国", "北京"]


@pytest.mark.parametrize("asked", [("query", "response"), ("problem", "solution"), ("prompt", "completion")])
def test_a_translation_beside_prompt_and_answer_in_english_is_not_learned(asked: tuple[str, str]) -> None:
    row = {"soru": "Nerede?", "cevap": "Oslo'da.", asked[0]: "Where?", asked[1]: "In Oslo."}
    found = detect(list(row), [row, row], None, "rows.csv")
    assert found.columns == asked


@pytest.mark.parametrize("asked", ["galdera", "user", "input"])
def test_a_context_is_not_taken_for_the_question_where_another_column_may_have_it(asked: str) -> None:
    row = {"context": "It rains in Oslo.", asked: "Where does it rain?", "answers": {"text": ["Oslo"], "answer_start": [12]}}
    with pytest.raises(UnknownFormat, match=asked):
        detect(list(row), [row], None, "a.jsonl")


@pytest.mark.parametrize("row", [{"a": "x", "b": "y"}, {"id": 7}, {"label": "1"}, {"premise": "x", "hypothesis": "y", "label": 1}])
def test_unknown_columns_are_named_with_the_setting_that_helps(row: dict[str, Any]) -> None:
    with pytest.raises(UnknownFormat, match=", ".join(row)) as unknown:
        detect(list(row), [row], None, "a.jsonl")
    assert f"--set dataset.columns.prompt={next(iter(row))}" in str(unknown.value.hint)


def test_columns_that_are_known_are_not_taken_for_an_export() -> None:
    row = {"custom_id": "1", "prompt": "q", "response": "a", "type": "x", "payload": {}, "timestamp": "2026"}
    assert detect(list(row), [row], None, "a").to_messages(row) == [user("q"), assistant("a")]


@pytest.mark.parametrize("text", ["None", "NA", "null", "NaN", "", "0", "false"])
def test_words_that_look_like_nothing_are_text(text: str) -> None:
    row = {"question": text, "answer": text or "x"}
    assert detect(list(row), [row], None, "a").to_messages(row)[0] == user(text)


CELLS = st.none() | st.text() | st.integers() | st.lists(st.text(), max_size=2)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=CELLS, answered=CELLS)
def test_a_record_becomes_its_own_text_or_is_refused(asked: Any, answered: Any) -> None:
    found = registry.load("formats", "question_answer")("question", "answer", None)
    answer = (answered or [None])[0] if isinstance(answered, list) else answered
    asked_text = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked
    usable = asked is not None and not isinstance(asked_text, list) and answer is not None and str(answer).strip() != ""
    row = {"question": asked, "answer": answered}
    if isinstance(asked, list) and isinstance(answered, list) and len(asked) == len(answered) == 2 and all(map(str.strip, answered)):
        assert found.to_messages(row) == [turn for n in range(2) for turn in (user(asked[n]), assistant(answered[n]))]
    elif usable:
        assert found.to_messages(row) == [user(str(asked_text)), assistant(str(answer))]
    else:
        with pytest.raises(RowProblem, match="column"):
            found.to_messages(row)


def test_of_a_preference_it_is_said_what_is_learned() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert "the chosen answer of each pair (column chosen) is used" in detect(list(row), [row], None, "a").note


@pytest.mark.parametrize("chosen", ["no speakers", "", None, [{"role": "user", "content": "a"}]])
def test_a_preference_without_an_answer_is_refused(chosen: Any) -> None:
    with pytest.raises(RowProblem, match="column chosen"):
        registry.load("formats", "preference")(None, "chosen").to_messages({"chosen": chosen})


def test_chosen_columns_need_no_known_names() -> None:
    row = {"frage": "a", "antwort": "b"}
    found = detect(list(row), [row], ColumnsSpec(prompt="frage", completion="antwort"), "a.jsonl")
    assert found.to_messages(row) == [user("a"), assistant("b")]
    assert detect(list(row), [row], ColumnsSpec(text="antwort"), "a").to_messages(row) == [{"role": "text", "content": "b"}]


def test_a_mark_behind_the_answer_does_not_make_choices_unclear() -> None:
    row = {"question": "Which?", "options": ["red", "green", "blue"], "answer": "Blue, since it is the sky.", "label": 1}
    assert detect(list(row), [row], None, "a").to_messages(row) == [user("Which?"), assistant("Blue, since it is the sky.")]
    row = {"question": "Which?", "options": ["red", "green", "blue"], "label": 1, "target": "blue"}
    assert detect(list(row), [row], None, "a").to_messages(row)[1] == assistant("C. blue"), "another column says it"


def test_an_answer_that_names_an_empty_choice_is_none_of_them() -> None:
    row = {"question": "Which?", "A": "red", "B": "blue", "C": "", "answer": "C"}
    found = detect(list(row), [row | {"answer": "B"}], None, "a.csv")
    assert found.to_messages(row | {"answer": "B"})[1]["content"] == "B. blue"
    with pytest.raises(RowProblem, match="column answer has 'C', which is none of the choices"):
        found.to_messages(row)


def test_a_question_without_its_choices_is_no_whole_prompt() -> None:
    rows = [{"question": "Which is blue?", "choices": ["the sky", "grass"]}]
    assert prompts_alone(["question", "choices"], rows) is None
    assert prompts_alone(["question", "id"], rows) == "question"
