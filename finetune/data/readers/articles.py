"""Questions about paragraphs, as SQuAD's own files have them: one row for each question, with its paragraph.

list(rows_in({"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": [{"text": "a", "answer_start": 0}]}]}]}))
    ->  [{"context": "c", "question": "q", "answers": ["a"]}]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def rows_in(record: Any) -> Iterator[Any]:
    """The questions of an article; a record that is none as it is."""
    paragraphs = record.get("paragraphs") if isinstance(record, dict) else None
    if not isinstance(paragraphs, list) or not paragraphs or not all(map(_has_questions, paragraphs)):
        yield record
        return
    about = {name: value for name, value in record.items() if name != "paragraphs"}
    for paragraph in paragraphs:
        for asked in paragraph["qas"]:
            yield {**about, "context": paragraph["context"], **asked, "answers": list(map(_text, asked["answers"]))}


def _has_questions(paragraph: Any) -> bool:
    if not isinstance(paragraph, dict) or "context" not in paragraph or not isinstance(paragraph.get("qas"), list):
        return False
    return all(isinstance(asked, dict) and isinstance(asked.get("answers"), list) for asked in paragraph["qas"])


def _text(answer: Any) -> Any:
    return answer["text"] if isinstance(answer, dict) and "text" in answer else answer
