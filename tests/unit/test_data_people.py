"""Files as people have them, written as the programs that export them write them: what is found, and what is said about the rest."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from read_files import learned, read, workbook

from finetune.data.formats import detect
from finetune.errors import BadRow, UnknownFormat
from finetune.events import Recorder
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.system.shell import quoted

ROWS = [("Where is order 1?", "At the door; ring, twice."), ("And order 2?", "In the shed."), ("Order 3?", "Lost, sorry.")]


# Tables with a title above them, and workbooks with other sheets.


def test_a_title_above_the_names_of_a_workbooks_columns_is_not_read_and_said(tmp_path: Path) -> None:
    sheet = [(None, "FAQ 2024"), (None, "Last change: May"), (), (None, "Question", "Answer"), *((None, *row) for row in ROWS)]
    rows = read(workbook(tmp_path / "faq.xlsx", **{"FAQ": sheet}))
    assert learned(rows) == ROWS
    assert rows.facts.notes[0] == "faq.xlsx: `FAQ 2024` and 1 more above the names of the columns is not read."
    assert rows.dataset[0]["line"] == 5


@pytest.mark.parametrize(
    "above", [f"{above};Question;Answer;Category\r\n" for above in (";FAQ 2024;;\r\n", "FAQ 2024\r\n\r\n", "sep=;\r\n")]
)
def test_a_title_above_the_names_of_a_tables_columns_is_not_read_and_said(tmp_path: Path, above: str) -> None:
    path = tmp_path / "faq.csv"
    path.write_text(above + "".join(f';{question};"{answer}";x\r\n' for question, answer in ROWS))
    rows = read(path)
    assert learned(rows) == ROWS
    assert ("faq.csv: `FAQ 2024` above the names of the columns is not read." in rows.facts.notes) == ("FAQ" in above)
    assert rows.dataset[0]["line"] == above.count("\n") + 1


@pytest.mark.parametrize(
    ("content", "first"),
    [
        ("Spruch\n" + "Good, as nice\n" * 5, "Spruch"),  # whose rows are broken, and not its names
        ("question;answer\n" + "a, b;c\n" * 4 + "d;e;f\n" * 2, "question"),
        (",text\n" + "".join(f"{number},Hello\n" for number in range(5)), "column 1"),  # as pandas writes it
        ("text\nHello, you\nBye, you\nWell, you\n", "text"),
    ],
)
def test_a_first_line_with_names_is_no_title(tmp_path: Path, content: str, first: str) -> None:
    from finetune.data.reading import open_source

    (tmp_path / "rows.csv").write_text(content)
    origin = open_source(DatasetSpec(source=str(tmp_path / "rows.csv")), RuntimeOptions(), Recorder())
    records = list(origin.records())
    names = [next(iter(record.values)) for record in records if hasattr(record, "values")]
    assert set(names) <= {first}
    assert len(records) == content.count("\n") - 1
    assert origin.notes == []


@pytest.mark.parametrize("cover", [[("Our shop",), ("Maintained by Anna",)], [("Version", "1.2"), ("Owner", "Anna")]])
def test_the_sheet_with_rows_is_read_wherever_it_is(tmp_path: Path, cover: list[tuple[Any, ...]]) -> None:
    path = workbook(tmp_path / "faq.xlsx", ("Lists",), Cover=cover, Lists=[("x", "y"), (1, 2)], Data=[("Question", "Answer"), *ROWS])
    rows = read(path)
    assert learned(rows) == ROWS
    assert rows.facts.notes == ["faq.xlsx: the sheet Data is read, and not Cover."]


@pytest.mark.parametrize(
    ("sheets", "first"),
    [
        ({"Texts": [("text",), ("A text.",)], "More": [("question", "answer"), *ROWS]}, ("A text.",)),  # both are known
        ({"Texts": [("Satz",), *[(answer,) for _, answer in ROWS]], "Sums": [("Name", "Number")]}, (ROWS[0][1],)),
    ],
)
def test_a_sheet_with_one_column_of_text_has_rows_too(tmp_path: Path, sheets: dict[str, list[tuple[Any, ...]]], first: tuple[str]) -> None:
    assert learned(read(workbook(tmp_path / "texts.xlsx", **sheets)))[0] == first


def test_of_sheets_with_unknown_columns_the_largest_is_meant(tmp_path: Path) -> None:
    sheets = {"About": [("Version", "1.2"), ("Owner", "Anna")], "FAQ": [("Galdera", "Erantzuna"), *ROWS]}
    with pytest.raises(UnknownFormat, match="Galdera, Erantzuna"):
        read(workbook(tmp_path / "faq.xlsx", **sheets))


def test_a_named_column_chooses_its_sheet(tmp_path: Path) -> None:
    sheets = {"English": [("question", "answer"), ("q", "a")], "Deutsch": [("Frage", "Antwort"), *ROWS]}
    rows = read(workbook(tmp_path / "faq.xlsx", **sheets), columns={"prompt": "Frage", "completion": "Antwort"})
    assert learned(rows) == ROWS


# Text that is something else.


@pytest.mark.parametrize(
    "line",
    ["[12/03/2024, 09:15:02] {}: {}", "12.03.24, 09:15 - {}: {}", "3/12/24, 9:15\u202fAM - {}: {}", "\u200e[2024-03-12, 09:15:02] {}: {}"],
)
def test_of_a_chat_it_is_said_that_times_and_names_are_learned(tmp_path: Path, line: str) -> None:
    said = "".join(f"{line.format('Ann', question)}\n{line.format('Ben', answer)}\nand more\n" for question, answer in ROWS)
    (tmp_path / "_chat.txt").write_text(said, encoding="utf-8")
    rows = read(tmp_path / "_chat.txt")
    assert "".join(text for (text,) in learned(rows)).count("Ben: ") == len(ROWS)
    assert rows.facts.notes[0].startswith("_chat.txt looks like a chat, and is learned as it is, with the times and names.")


@pytest.mark.parametrize(
    "text", ["Ann: Hello.\nBen: Hi.\n" * 3, "On 12/03/2024, 09:15 it rained.\n" * 4, "[1/2/24, 10:00] Ann: Hi.\n\nA text.\n\n" * 2]
)
def test_running_text_is_no_chat(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path / "a.txt").facts.notes == []


@pytest.mark.parametrize("name", ["deck.txt", "deck.csv"])
def test_notes_of_anki_need_names_for_their_columns(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("#separator:tab\n#html:true\n" + "".join(f"{question}\t{answer}\n" for question, answer in ROWS))
    with pytest.raises(UnknownFormat, match="has notes of Anki, whose columns have no names") as refused:
        read(tmp_path / name)
    assert "one line of names" in str(refused.value.hint)
    assert ("text_as" in str(refused.value.hint)) == name.endswith(".txt")


FRONT = "---\ntags: [a, b]\naliases:\n  - c\n\ncreated: 2024-01-01\n---\n"


def test_front_matter_is_not_learned_and_its_title_stays_with_its_text(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for number in range(2):
        (tmp_path / "notes" / f"{number}.md").write_text(f"{FRONT}# Note {number}\n\nIts text.\n\n## More\n\nAnd more.\n")
    rows = read(tmp_path / "notes")
    assert [text for (text,) in learned(rows)][:2] == ["# Note 0\n\nIts text.", "## More\n\nAnd more."]
    assert [row["line"] for row in rows.dataset][:2] == [8, 12]
    assert rows.facts.notes == [
        "The front matter of Markdown files (between two lines of ---) is not learned. To learn it too: --set dataset.text_as=document"
    ]
    assert learned(read(tmp_path / "notes", text_as="document"))[0][0].startswith(FRONT)


@pytest.mark.parametrize(
    "text",
    ["---\n\nA text.\n\n---\n\nAnother.\n", "---\nOne said: so be it.\nAnd so it was.\n---\n\nAnother.\n", "---\nkey: no end\n\nMore.\n"],
)
def test_lines_that_separate_are_no_front_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.md").write_text(text)
    rows = read(tmp_path / "a.md")
    assert "".join(text for (text,) in learned(rows)).replace("\n", "") == text.replace("\n", "")
    assert rows.facts.notes == []


# Columns that nobody knows.


@pytest.mark.parametrize(
    ("names", "row", "likely"),
    [
        (("Timestamp", "Email", "What is your question?", "How do we answer?"), ("2024/03/02 9:15:02 AM MEZ", "a@b.c", *ROWS[0]), (2, 3)),
        (("Ticket ID", "Status", "Anliegen", "Lösung"), ("7", "closed", *ROWS[0]), (2, 3)),
        (("编号", "情况", "办法"), ("17", "订单在哪里？", "在门口。"), (1, 2)),
        (("a", "b"), ("1", "2"), (0, 1)),
        (("Subject", "Reply", "Description"), ("An order", "At the door, behind the house.", "Where is order 1? I wait."), (2, 1)),
    ],
)
def test_a_hint_names_columns_with_sentences(tmp_path: Path, names: tuple[str, ...], row: tuple[str, ...], likely: tuple[int, int]) -> None:
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, row, row])
    with pytest.raises(UnknownFormat) as refused:
        read(tmp_path / "rows.csv")
    prompt, completion = (quoted(f"dataset.columns.{role}={names[at]}") for role, at in zip(("prompt", "completion"), likely, strict=True))
    assert f"--set {prompt} --set {completion}" in str(refused.value.hint)


def test_a_table_that_begins_with_a_row_is_told_from_one_with_names(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("The cat sleeps.\tDie Katze schläft.\nThe dog barks.\tDer Hund bellt.\n", encoding="utf-8")
    with pytest.raises(UnknownFormat) as refused:
        read(tmp_path / "rows.tsv")
    assert str(refused.value.hint).startswith("Its first line may be a row: put a line with column names above it. Name them: ")


def test_conversations_of_customers_and_agents_are_learned_and_those_of_others_are_named(tmp_path: Path) -> None:
    said = [{"author": "customer", "body": "Where is order 1?"}, {"author": "agent", "body": "At the door."}]
    row = {"ticket": 1, "messages": said}
    assert detect(list(row), [row], None, "a.jsonl").to_messages(row) == [
        {"role": "user", "content": "Where is order 1?"},
        {"role": "assistant", "content": "At the door."},
    ]
    others = {"ticket": 1, "comments": [{"author": name, "body": "Hi"} for name in ("Ann", "Bob")]}
    with pytest.raises(UnknownFormat, match="has conversations in the column comments, whose turns are not recognised") as refused:
        detect(list(others), [others], None, "a.jsonl")
    assert str(refused.value.hint).startswith("Put the turns of each conversation into one row")


def test_a_table_without_names_is_told_by_a_cell_that_is_in_other_rows_too(tmp_path: Path) -> None:
    (tmp_path / "sms.tsv").write_text("ham\tSee you there\nspam\tYou have won\nham\tOk, later\n")
    with pytest.raises(UnknownFormat) as refused:
        read(tmp_path / "sms.tsv")
    hint = "Its first line may be a row, since 'ham' is in others too: put a line with column names above it."
    assert str(refused.value.hint).startswith(hint)


@pytest.mark.parametrize(
    ("names", "prompt", "completion"),
    [
        (("text", "label"), "text", "label"),
        (("text", "id", "answer"), "text", "answer"),
        (("id", "question", "text"), "question", "text"),
        (("Review", "Sentiment"), "Review", "Sentiment"),
        (("task_id", "text", "code"), "text", "code"),
    ],
)
def test_of_a_text_beside_a_label_or_a_question_it_is_said_how_to_learn_one_from_the_other(
    tmp_path: Path, names: tuple[str, ...], prompt: str, completion: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",".join(names) + "\n" + "".join(f"{','.join(f'{name} {number}' for name in names)}\n" for number in range(3)))
    rows = read(path)
    assert rows.facts.format == "text"
    assert rows.facts.notes[0].endswith(
        f"To learn `{completion}` from `{prompt}`: --set dataset.columns.prompt={prompt} --set dataset.columns.completion={completion}"
    )
    assert read(path, columns={"text": rows.facts.columns[0]}).facts.notes[0].startswith("Column"), "who says so knows"


def message(who: str, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "user": who, "text": text, "ts": "1700000000.1", **more}


def test_messages_of_a_chat_that_are_rows_of_their_own_are_told(tmp_path: Path) -> None:
    said = [message(who, text) for row in ROWS for who, text in zip(("U1", "U2"), row, strict=True)] * 2
    (tmp_path / "2024-01-01.json").write_text(json.dumps(said))
    assert read(tmp_path / "2024-01-01.json").facts.notes[0].startswith("Each row is learned by itself: who says it (`user`)")
    (tmp_path / "tweets.json").write_text(json.dumps([message(f"U{number}", f"Text {number}.") for number in range(12)]))
    assert not read(tmp_path / "tweets.json").facts.notes[0].startswith("Each row")


@pytest.mark.parametrize(
    ("turn", "said"),
    [({"author": {"id": "1", "name": "ann"}}, "of 'ann'"), ({"sender_name": "Ann"}, "of 'Ann'"), ({"id": 1}, "without a role")],
)
def test_a_chat_of_people_asks_who_is_who(tmp_path: Path, turn: dict[str, Any], said: str) -> None:
    (tmp_path / "chat.json").write_text(json.dumps([{"name": "A chat", "messages": [{**turn, "content": "Hi"}] * 3}]))
    with pytest.raises(BadRow, match=f"a message {said}; known are system, user, assistant and tool") as refused:
        read(tmp_path / "chat.json")
    assert refused.value.hint == "Give every message a role: assistant for answers to learn, user for the rest."


def test_files_without_rows_beside_the_data_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps([{"question": question, "answer": answer} for question, answer in ROWS]))
    (folder / "users.json").write_text(json.dumps([{"id": 1, "name": "Ann"}]))
    with pytest.raises(BadRow, match=r"1 of 4 rows cannot be used \(users\.json line 1") as refused:
        read(folder)
    assert str(refused.value.hint).startswith("No row of users.json can be used. Name only the files or the folder with rows")


def test_a_table_among_notes_that_cannot_be_read_names_the_notes(tmp_path: Path) -> None:
    (tmp_path / "notion").mkdir()
    (tmp_path / "notion" / "tasks.csv").write_text("Name,Status\nBread,Done\nMilk,Open\n")
    (tmp_path / "notion" / "Page.md").write_text("# A page\n\nIts text.\n" * 5)
    with pytest.raises(UnknownFormat, match="has the columns Name, Status") as refused:
        read(tmp_path / "notion")
    said = quoted("dataset.data_files=*.ENDING")
    assert str(refused.value.hint).endswith(f"Not read in notion: Page.md. To read them: --set {said}")
    assert read(tmp_path / "notion", data_files="*.md").facts.format == "text"
