"""Files that other programs export, of which rows have to be made first: what they have, and how rows come out of them.

what_it_is(["custom_id", "response", "error"])  ->  ("the answers of a batch, without what was asked", "Take ...")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Export(NamedTuple):
    """What files with these columns have, as the end of a sentence, and what a person can do."""

    columns: set[str]
    has: str
    instead: str


OF_A_BATCH = "the answers of a batch, without what was asked"
BY_ID = "Take the messages from the file of requests, by custom_id, put the answer behind them, and write rows of messages."
IN_ONE_ROW = 'Put the turns of each conversation into one row: {"messages": [{"role": "user", "content": ...}, ...]}'
EXPORTS = (
    Export(
        {"title", "safeHtmlItem"},  # MyActivity.json, which Google's Takeout writes
        "what somebody asked Gemini (column title), and its answers as web pages (column safeHtmlItem)",
        "Write rows of prompt and completion: the title without its first word, and the words of the page.",
    ),
    Export({"custom_id", "response"}, OF_A_BATCH, BY_ID),
    Export({"custom_id", "result"}, OF_A_BATCH, BY_ID),
    Export(
        {"custom_id", "body"},
        "the requests of a batch (column body), without answers",
        "To learn what a teacher answers: --set dataset.columns.messages=body.messages --set dataset.answers=teacher",
    ),
    Export({"sessionId", "uuid", "message"}, "one turn of a session with an agent in each row", IN_ONE_ROW),
    Export({"type", "payload", "timestamp"}, "one event of a session with an agent in each row", IN_ONE_ROW),
    Export({"conversation", "responses"}, "conversations of Grok, whose turns are objects of their own (column responses)", IN_ONE_ROW),
    Export({"is_user", "mes"}, "one turn of a conversation in each row (columns name and mes)", IN_ONE_ROW),
    Export(
        {"annotations", "predictions", "data"},
        "tasks and annotations of Label Studio",
        "Export it again as JSON-MIN or CSV, in which each has a column with its name.",
    ),
    Export(
        {"message_tree_id", "prompt"},
        "trees of messages, with several answers to each",
        'Write each branch that is to be learned as a row: {"messages": [{"role": "user", "content": ...}, ...]}',
    ),
)


def what_it_is(columns: Sequence[str]) -> Export | None:
    """The export that has all of these columns; None for any other file."""
    return next((export for export in EXPORTS if export.columns <= set(columns)), None)
