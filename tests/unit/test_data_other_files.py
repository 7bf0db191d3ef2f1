"""Files that are no data, or of another kind or encoding than they seem: what is read of them, and how the rest can be."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from read_files import learned, read

from finetune.data.split import divide
from finetune.errors import BadRow, DatasetError, EmptyDataset, UnknownFormat
from finetune.recipe import DatasetSpec

ROWS = [("Where is order 1?", "At the door; ring, twice."), ("And order 2?", "In the shed."), ("Order 3?", "Lost, sorry.")]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("film.srt", "without the times"),
        ("work.ipynb", "nbconvert"),
        ("shop.sqlite3", "Export its table as CSV."),
        ("mails.mbox", "rows of a CSV or .jsonl file"),
        ("page.html", "plain text (.txt)"),
        ("data.tar.gz", "Unpack it"),
        ("lib.py", "If it is text, copy it to a file that ends in .txt."),
    ],
)
def test_what_cannot_be_read_says_how_it_can(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(b"something")
    for source in (tmp_path / "folder" / name, tmp_path / "folder"):
        with pytest.raises(DatasetError, match=name.replace(".", r"\.")) as refused:
            read(source)
        assert way in str(refused.value.hint)
        assert ".jsonl" in str(refused.value.hint)


def test_files_of_other_splits_that_are_called_alike_are_told_by_their_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "saved" / split).mkdir(parents=True)
        (tmp_path / "saved" / split / "data.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 2)
    told = read(tmp_path / "saved").facts.notes
    assert told == ["Not read, because the split is train: test/data.jsonl. To measure on test: --set dataset.eval_split=test"]


def test_one_paragraph_is_too_few_rows_and_what_else_lies_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "README.md").write_text("One long paragraph. " * 40)
    (tmp_path / "repo" / "lib.py").write_text("x = 1\n")
    rows = read(tmp_path / "repo")
    with pytest.raises(EmptyDataset, match=r"README\.md has only one usable row") as refused:
        divide(rows, None, DatasetSpec(source="repo"), seed=1)
    assert str(refused.value.hint).endswith("put blank lines between them. Not read in repo: lib.py.")
    spec = DatasetSpec(source="repo", text_as="document")
    with pytest.raises(EmptyDataset, match="only one usable row") as refused:
        divide(read(tmp_path / "repo", text_as="document"), None, spec, seed=1)
    assert "Each file of text is a row" in str(refused.value.hint)


def test_pairs_of_sentences_with_tabs_between_them_are_a_table(tmp_path: Path) -> None:
    lines = [f"Go {number}.\tGeh {number}.\tCC-BY {number}\n" for number in range(12)]
    (tmp_path / "deu.txt").write_text("".join(lines))
    with pytest.raises(UnknownFormat, match=r"deu\.txt has a table, whose columns have no names") as refused:
        read(tmp_path / "deu.txt")
    assert "rename it to end in .tsv" in str(refused.value.hint)
    assert str(refused.value.hint).endswith("To learn each line as it is: --set dataset.text_as=line")
    assert len(divide(read(tmp_path / "deu.txt", text_as="line"), None, DatasetSpec(source="deu.txt"), seed=1).train) == 11
    (tmp_path / "deu.tsv").write_text("prompt\tcompletion\tsource\n" + "".join(lines))
    assert learned(read(tmp_path / "deu.tsv"))[0] == ("Go 0.", "Geh 0.")
    (tmp_path / "text.txt").write_text("".join(lines[:11]) + "No tab.\n")
    assert read(tmp_path / "text.txt").facts.format == "text"


def test_lists_of_rows_under_headings_are_rows(tmp_path: Path) -> None:
    rows = [{"question": question, "answer": answer} for question, answer in ROWS]
    (tmp_path / "faq.json").write_text(json.dumps({"orders": rows[:1], "returns": rows[1:]}))
    found = read(tmp_path / "faq.json")
    assert learned(found) == ROWS
    assert found.facts.notes == ["Rows under all headings of faq.json are read, and the headings are not learned: orders (1), returns (2)."]
    said = {"question": [{"text": "Where?"}] * 2, "answer": [{"text": "Here."}] * 2}  # which are columns
    (tmp_path / "columns.json").write_text(json.dumps(said))
    with pytest.raises(BadRow, match="column question has an object"):
        read(tmp_path / "columns.json")


def test_an_archive_in_an_archive_and_a_part_without_rows_say_to_unpack(tmp_path: Path) -> None:
    users = [{"id": 1, "name": "Ann"}]
    rows = [{"question": question, "answer": answer} for question, answer in ROWS]
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("users.json", json.dumps(users))
        archive.writestr("rows.json", json.dumps(rows))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "export.zip", "part.zip")
    for name, hint in (
        ("outer", "Unpack it, and give the folder."),
        ("export", "No row of export.zip/users.json can be used. Unpack it,"),
    ):
        with pytest.raises(DatasetError) as refused:
            read(tmp_path / f"{name}.zip")
        assert str(refused.value.hint).startswith(hint)


@pytest.mark.parametrize(
    ("encoding", "question"),
    [
        ("cp1256", "أين الطلب رقم {}؟"),
        ("cp1256", "أين مفتاحي؟ إنه على الطاولة بجانب الكتاب. شكرا جزيلا على مساعدتكم، إلى اللقاء غدا. {}"),  # could be Cyrillic
        ("cp1252", "Où est la clé n° {} ? À côté"),
        ("cp1251", "Где заказ {}?"),
    ],
)
def test_arabic_of_windows_is_read_and_french_stays_french(tmp_path: Path, encoding: str, question: str) -> None:
    rows = [(question.format(number), question.format("x")) for number in range(5)]
    (tmp_path / "rows.csv").write_bytes(("question;answer\n" + "".join(f"{asked};{said}\n" for asked, said in rows)).encode(encoding))
    found = read(tmp_path / "rows.csv")
    assert learned(found) == rows
    assert found.facts.notes == [f"rows.csv is read as {encoding}. To correct wrong letters: --set dataset.encoding=NAME"]


WORDS = "Wo ist die Größe? Übergröße liegt für Sie bereit, schöne Grüße."


def test_letters_that_no_encoding_has_lead_to_the_encoding(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(("question;answer\n" + f"{WORDS};{WORDS}\n" * 5).encode("cp850"))
    with pytest.raises(BadRow, match="not valid Unicode") as refused:
        read(tmp_path / "rows.csv")
    assert "--set dataset.encoding=NAME, such as mac_roman or cp850" in str(refused.value.hint)
    assert learned(read(tmp_path / "rows.csv", encoding="cp850")) == [(WORDS, WORDS)] * 5
