"""Files in a .zip: exports as they are downloaded, which of several files is read, and what is said of the rest."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from read_files import learned, read

from finetune.data import archives
from finetune.data.archives import members
from finetune.data.arrow_records import restored
from finetune.data.files import DataFile, find_files
from finetune.errors import BadRow, DatasetNotFound
from finetune.wizard.step2_dataset import _files_here

ROWS = [("Where is order 1?", "At the door."), ("And order 2?", "In the shed."), ("Order 3?", "Lost.")]
TABLE = "question,answer\n" + "".join(f"{question},{answer}\n" for question, answer in ROWS)


def packed(path: Path, **files: Any) -> Path:
    """x__json=[1] is a file x.json with that list, and a__x__csv="q" a file a/x.csv with that text."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            *folders, stem, ending = name.split("__")
            archive.writestr("/".join([*folders, f"{stem}.{ending}"]), content if isinstance(content, str) else json.dumps(content))
    return path


def chatgpt(question: str, answer: str) -> dict[str, Any]:
    def node(role: str, text: str, parent: str | None, child: str | None) -> dict[str, Any]:
        said = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}, "recipient": "all"}
        return {"message": said, "parent": parent, "children": [child] if child else []}

    return {"title": "A chat", "mapping": {"a": node("user", question, None, "b"), "b": node("assistant", answer, "a", None)}}


def claude(question: str, answer: str) -> dict[str, Any]:
    said = [("human", question), ("assistant", answer)]
    turns = [{"sender": who, "text": text, "content": [{"type": "text", "text": text}]} for who, text in said]
    return {"uuid": "1", "name": "A chat", "chat_messages": turns}


def deepseek(question: str, answer: str, *more: str) -> dict[str, Any]:
    def node(parent: str | None, child: str | None, *fragments: tuple[str, str]) -> dict[str, Any]:
        said = {"files": [], "model": "chat", "fragments": [{"type": kind, "content": text} for kind, text in fragments]}
        return {"message": said if fragments else None, "parent": parent, "children": [child] if child else []}

    answered = [*((kind, "...") for kind in more), ("RESPONSE", answer)]
    return {
        "title": "A chat",
        "mapping": {"root": node(None, "1"), "1": node("root", "2", ("REQUEST", question)), "2": node("1", None, *answered)},
    }


EXPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "ChatGPT": (
        {
            "chat__html": "<html></html>",
            "conversations__json": [chatgpt(*row) for row in ROWS],
            "file-1__png": "",
            "message_feedback__json": [{"id": "1", "rating": "thumbs_up"}],
            "user__json": {"id": "user-1", "email": "ann@example.com"},
            "user_settings__json": {},
        },
        "message_feedback.json, user.json, user_settings.json, chat.html and 1 more",
    ),
    "ChatGPT in parts": (
        {
            "conversations-000__json": [chatgpt(*row) for row in ROWS[:2]],
            "conversations-001__json": [chatgpt(*ROWS[2])],
            "user__json": {"id": "user-1"},
        },
        "user.json",
    ),
    "DeepSeek": ({"conversations__json": [deepseek(*row) for row in ROWS], "user__json": {"user_id": "1"}}, "user.json"),
    "Claude": (
        {
            "conversations__json": [claude(*row) for row in ROWS],
            "memories__json": [{"conversations_memory": "He is a baker."}],
            "projects__1__json": {"name": "Bread", "docs": []},
            "users__json": [{"uuid": "1", "full_name": "Ann"}],
        },
        "memories.json, projects/1.json, users.json",
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_of_the_export_of_a_chat_the_conversations_are_read_packed_or_not(tmp_path: Path, name: str) -> None:
    files, left = EXPORTS[name]
    export = packed(tmp_path / "export.zip", **files)
    found = read(export)
    assert learned(found) == ROWS
    assert (found.facts.read, found.facts.skipped) == (len(ROWS), 0)
    assert f"Not read in export.zip: {left}." in found.facts.notes
    with zipfile.ZipFile(export) as archive:
        archive.extractall(tmp_path / "export")
    assert learned(read(tmp_path / "export")) == ROWS


def test_of_deepseek_what_was_thought_is_learned_and_what_rests_on_a_search_is_not(tmp_path: Path) -> None:
    talks = [deepseek(*ROWS[0], "THINK"), deepseek(*ROWS[1], "THINK", "SEARCH")]
    found = read(packed(tmp_path / "export.zip", conversations__json=talks, user__json={}))
    (row,) = [restored(row)["messages"] for row in found.dataset]
    assert row[1] == {"role": "assistant", "content": ROWS[0][1], "reasoning_content": "..."}
    assert any(note.startswith("1 row is left out: the answers rest on tools") for note in found.facts.notes)


def test_conversations_beside_other_rows_are_not_taken_for_an_export(tmp_path: Path) -> None:
    rows = [{"question": question, "answer": answer} for question, answer in ROWS]
    assert len(read(packed(tmp_path / "a.zip", conversations__json=rows, more__json=rows))) == 2 * len(ROWS)


def test_a_name_that_leads_out_of_the_archive_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with zipfile.ZipFile(tmp_path / "here" / "a.zip", "w") as archive:
        archive.writestr("../../out.csv", TABLE)
        archive.writestr(".hidden.csv", TABLE)
    assert learned(read(tmp_path / "here" / "a.zip")) == ROWS
    assert not list(tmp_path.glob("*.csv"))


def test_files_of_an_archive_can_be_chosen_and_the_hint_chooses_those_with_rows(tmp_path: Path) -> None:
    shop = packed(tmp_path / "shop.zip", faq__csv=TABLE, products__csv="sku,price\n1,2\n")
    with pytest.raises(BadRow, match="1 of 4 rows cannot be used") as refused:
        read(shop)
    assert refused.value.hint == "No row of shop.zip/products.csv can be used. Read only the others: --set dataset.data_files=faq.csv"
    assert learned(read(shop, data_files="faq.csv")) == ROWS
    with pytest.raises(DatasetNotFound, match=r"No file in .*shop\.zip is called fag\.csv\.") as refused_name:
        read(shop, data_files="fag.csv")
    assert refused_name.value.hint == "Did you mean faq.csv?"


def test_an_archive_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=r"^a\.zip contains no data files, only photo\.png, text\.pdf\.") as refused:
        read(packed(tmp_path / "a.zip", photo__png="", text__pdf=""))
    assert "pdftotext" in str(refused.value.hint)
    locked = packed(tmp_path / "locked.zip", faq__csv=TABLE)
    content = bytearray(locked.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(content)
    with pytest.raises(BadRow, match=r"^locked\.zip is protected by a password\."):
        read(locked)


def tarred(path: Path, *files: tuple[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
        link = tarfile.TarInfo("link.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def test_an_archive_that_cannot_be_opened_is_not_called_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*about: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(archives, "_directory", refuse)
    (tmp_path / "a.tar").write_bytes(b"x")
    with pytest.raises(BadRow, match=r"a\.tar cannot be read: Permission denied\."):
        members(tmp_path / "a.tar")


def test_files_of_a_tar_are_read_in_its_order_and_its_links_are_not(tmp_path: Path) -> None:
    path = tarred(tmp_path / "rows.tar.gz", ("./b/train.csv", TABLE), ("./a/train.csv", TABLE.replace("order", "parcel")), ("._a.csv", "x"))
    assert members(path) == ["b/train.csv", "a/train.csv"]
    assert learned(read(path)) == [*ROWS, *((question.replace("order", "parcel"), answer) for question, answer in ROWS)]
    assert learned(read(path, data_files="a/train.csv"))[1] == ("And parcel 2?", "In the shed.")


def test_a_tar_in_a_folder_is_read_where_it_is_named(tmp_path: Path) -> None:
    tarred(tmp_path / "rows.tar.gz", ("rows.csv", TABLE))
    with pytest.raises(DatasetNotFound, match=r"only rows\.tar\.gz"):
        find_files(str(tmp_path), None, "train")
    assert learned(read(tmp_path, data_files="rows.tar.gz")) == ROWS
    (tmp_path / "rows.csv").write_text(TABLE)
    files, notes = find_files(str(tmp_path), None, "train")
    assert [file.name for file in files] == ["rows.csv"]
    assert notes == [f"Not read in {tmp_path.name}: rows.tar.gz."]


def test_a_tar_that_is_cut_or_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tarred(tmp_path / "rows.tar.gz", ("rows.csv", TABLE))
    (tmp_path / "cut.tar.gz").write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadRow, match=r"cut\.tar\.gz is not a complete \.tar file"):
        members(tmp_path / "cut.tar.gz")
    bomb = tmp_path / "bomb.tar.gz"
    info = tarfile.TarInfo("rows.csv")
    info.size = 200_000_000
    bomb.write_bytes(gzip.compress(info.tobuf() + bytes(1024)))
    with pytest.raises(BadRow, match=r"bomb\.tar\.gz unpacks to more than 200 MB") as refused:
        members(bomb)
    assert refused.value.hint == "Unpack it, and give the folder."
    monkeypatch.setattr(archives, "FILES", 1)
    with pytest.raises(BadRow, match=r"rows\.tar\.gz has more than 1 files"):
        members(path)


def test_the_list_of_an_archive_is_read_once_however_many_files_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[Path] = []
    opens = zipfile.ZipFile.__init__
    many = packed(tmp_path / "many.zip", **{f"page{number}__txt": f"Page {number}." for number in range(20)})
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda self, path: (times.append(path), opens(self, path))[1])
    assert len(read(many)) == 20
    assert times == [many]


def test_a_member_without_a_name_is_hidden(tmp_path: Path) -> None:
    with zipfile.ZipFile(packed(tmp_path / "a.zip", faq__csv=TABLE), "a") as archive:
        archive.writestr(".", "no data")
    assert members(tmp_path / "a.zip") == ["faq.csv"]


def test_files_are_not_compared_with_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = packed(tmp_path / "many.zip", **{f"page{number}__txt": f"Page {number}." for number in range(200)})
    compared: list[DataFile] = []
    monkeypatch.setattr(DataFile, "__eq__", lambda self, other: (compared.append(self), self.member == other.member)[1])
    files, _ = find_files(str(many), None, "train")
    assert len(files) == 200
    assert len(compared) < 200 * 20, "and with all others it would be 40,000 times"


def test_the_wizard_offers_archives_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packed(Path("archive.zip"), faq__csv=TABLE)
    packed(Path("export.zip"), **EXPORTS["Claude"][0])
    packed(Path("photos.zip"), one__png="")
    packed(Path("book.zip"), one__txt="A text.")
    Path("broken.zip").write_bytes(b"PK")
    assert _files_here() == ["archive.zip", "export.zip"]
