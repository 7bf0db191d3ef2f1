"""A question and its answer, which may be SQL; a context column, where there is one, comes before the question.

{"question": "How many?", "answer": "Three."}
{"schema": "CREATE TABLE t (a TEXT);", "question": "How many?", "query": "SELECT COUNT(*) FROM t;"}
{"context": "...", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [3]}}      # as in SQuAD: the first answer
{"story": "...", "questions": ["Who?", "When?"], "answers": {"input_text": ["Ada", "Now"]}}    # as in CoQA: a conversation
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from finetune.data.formats.beside import NOTHING, Beside
from finetune.data.formats.cells import Message, as_answer, as_text, find_column, is_empty, is_missing, optional_text, several
from finetune.data.formats.turns import user
from finetune.data.json_values import parsed
from finetune.data.rows import NotWanted

QUESTIONS = ("question", "query", "problem", "q", "sql_prompt", "questions", "context")  # of a context alone, it is what is answered
SQL = ("sql", "query", "sql_query", "sql query")  # answers, if they are queries
SCHEMAS = ("schema", "sql_context", "create_table", "ddl", "table_schema", "db_schema", "database_schema")  # of what is queried
IS_SQL = re.compile(r"\s*(?:select|with|insert|update|delete|create|alter|drop)\s", re.IGNORECASE)
CHOICES = ("options", "choices")
BEST = ("correct_answer", "correct answer", "best_answer")  # beside wrong ones


class QuestionAnswer:
    name = "question_answer"
    title = "question and answer"
    summary = "question, answer, and context if there is one (SQuAD)"
    order = 50

    def __init__(self, question: str, answer: str, context: str | None, beside: Beside = NOTHING) -> None:
        self.question, self.answer, self.context, self.beside = question, answer, context, beside
        self.columns = beside.around(context, question, answer)

    @classmethod
    def matches(cls, columns: Sequence[str], sample: Sequence[dict[str, Any]]) -> QuestionAnswer | None:
        query = next((name for name in columns if name.strip().lower() in SQL and _is_sql(name, sample)), None)
        question = find_column([name for name in columns if name != query], *QUESTIONS) or find_column(columns, *QUESTIONS)
        answer = find_column(columns, "answer", "answers", "response", "solution", "completion", "output", "a", *BEST, "reply")
        worked = find_column(columns, "solution")
        if worked is not None and answer is not None and _is_longer(worked, answer, sample):
            answer = worked  # and not the number at its end
        answer = answer or query
        if question is None or answer in (None, question):  # "Create a poem about ..." begins like SQL
            return None
        beside = [name for name in columns if name != question]
        context = find_column(beside, "context", "passage", "story", *(SCHEMAS if _is_sql(answer, sample) else ()))
        several = find_column(columns, "contexts", "passages", "retrieved_contexts")
        if context is None and several is not None and all(map(_are_texts, (row.get(several) for row in sample))):
            context = several
        found = cls(question, answer, context, Beside.find(columns, sample, [question, answer, context], reasoning=True))
        alone = find_column([question], "context") is None or not any(_has_words(name, sample) for name in {*columns} - {*found.columns})
        return found if alone else None  # the question may be in a column of another name

    def to_messages(self, row: dict[str, Any]) -> list[Message]:
        given = optional_text(row, self.context) if (passages := _passages(row.get(self.context or ""))) is None else passages
        if pairs := self._pairs(row):
            messages = [turn for asked, answer in pairs for turn in (user(asked), self.beside.answer(row, answer))]
            return self.beside.before(row, [user("\n\n".join([*given, pairs[0][0]])), *messages[1:]])
        question = as_text(row.get(self.question), self.question)
        asked = "\n\n".join([*given, question])
        answer = as_answer(_first(row.get(self.answer), self.answer), self.answer)
        return self.beside.before(row, [user(asked), self.beside.answer(row, answer)])

    def _pairs(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        """Several questions with an answer to each; none where there is one question, or there are choices (RACE)."""
        if find_column([*row], *CHOICES) is not None:
            return []
        questions, answers = parsed(row.get(self.question)), parsed(row.get(self.answer))
        asked, answered = several(questions), several(answers.get("input_text") if isinstance(answers, dict) else answers)
        return list(zip(asked, answered, strict=True)) if len(asked) == len(answered) and all(map(str.strip, answered)) else []

    def tools(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        return self.beside.tools_of(row)

    def left_out(self, row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """The answers after the first."""
        if self._pairs(row):
            return
        answer = _with_places(row.get(self.answer))
        answers = answer.get("text") if isinstance(answer, dict) else answer
        if isinstance(answers, list):
            yield f"{self.answer} after the first", [other for other in answers[1:] if other != answers[0]]


def _has_words(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    return any(isinstance(value := row.get(column), str) and len(value.split()) > 1 for row in sample)


def _is_sql(column: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether each row that has something in a column has a query there."""
    there = [row[column] for row in sample if not is_empty(row.get(column))]
    return bool(there) and all(isinstance(value, str) and IS_SQL.match(value) for value in there)


def _is_longer(worked: str, answer: str, sample: Sequence[dict[str, Any]]) -> bool:
    """Whether each row has something in the first of two columns, and more than in the second one over all rows."""
    there = all(not is_empty(row.get(worked)) for row in sample)
    return there and sum(len(str(row[worked])) - len(str(row.get(answer))) for row in sample) >= 0


def _are_texts(cell: Any) -> bool:
    return is_missing(cell) or isinstance(cell, str) or (isinstance(cell, list) and all(isinstance(text, str) for text in cell))


def _passages(cell: Any) -> list[str] | None:
    """Titles with their sentences, {"title": [...], "sentences": [[...], ...]} or [[title, [...]], ...] as in HotpotQA, as texts."""
    cell = parsed(cell)
    if isinstance(cell, dict) and cell.keys() == {"title", "sentences"} and all(isinstance(part, list) for part in cell.values()):
        cell = list(zip(cell["title"], cell["sentences"], strict=False))
    if not isinstance(cell, list) or not cell or not all(isinstance(each, list | tuple) and len(each) == 2 for each in cell):
        return None
    if not all(isinstance(title, str) and isinstance(sentences, list) and _are_texts(sentences) for title, sentences in cell):
        return None
    return [f"{title}\n{' '.join(map(str.strip, sentences))}" for title, sentences in cell]


def _first(answer: Any, column: str) -> Any:
    """One answer out of a list of equally good ones."""
    answer = _with_places(answer)
    if isinstance(answer, dict) and "text" in answer:
        answer = answer["text"]
    if isinstance(answer, list):
        if not answer:  # as a third of SQuAD 2.0
            raise NotWanted(f"the question has no answer in column {column}, and the model does not learn to say so")
        return answer[0]
    return answer


def _with_places(answer: Any) -> Any:
    """SQuAD's object of answers and their places, also where a table has it as text; any other text is the answer itself."""
    inside = parsed(answer)
    return inside if isinstance(inside, dict) and {"text", "answer_start"} <= set(inside) else answer
