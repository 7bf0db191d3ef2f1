"""Word documents: which of their words are read, in which order, and what is said of the rest."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from read_files import learned, read

from finetune.data.readers.word import SMALL, WORDS
from finetune.errors import BadRow

BODY = """<?xml version="1.0" encoding="UTF-8"?>
<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"
 xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"><w:body>{}</w:body></w:document>"""


def document(*paragraphs: str) -> bytes:
    """A .docx of these paragraphs, each as the XML inside it, or a whole table."""
    inside = "".join(each if each.startswith("<w:tbl>") else f"<w:p>{each}</w:p>" for each in paragraphs)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as parts:
        parts.writestr("word/document.xml", BODY.format(inside))
        parts.writestr("word/media/image1.png", b"\x89PNG")
    return sink.getvalue()


def run(inside: str) -> str:
    return f"<w:r>{inside}</w:r>"


def text(words: str) -> str:
    return run(f'<w:t xml:space="preserve">{words}</w:t>')


CELL = "<w:tc><w:p>{}</w:p></w:tc>"


def test_the_words_of_paragraphs_and_tables_are_read_once_and_in_order(tmp_path: Path) -> None:
    box = "<mc:AlternateContent><mc:Choice><w:p>{0}</w:p></mc:Choice><mc:Fallback><w:p>{0}</w:p></mc:Fallback></mc:AlternateContent>"
    (tmp_path / "a.docx").write_bytes(
        document(
            '<w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr>' + text("Re") + text("turns &amp; more"),
            text("A") + run("<w:tab/><w:t>B</w:t><w:br/><w:t>C</w:t>"),
            "<w:del>" + run("<w:delText>gone</w:delText>") + "</w:del><w:moveFrom>" + text("moved") + "</w:moveFrom>" + text("kept"),
            f"<w:tbl><w:tr>{CELL.format(text('one'))}{CELL.format(text('two'))}</w:tr></w:tbl>",
            run(box.format(text("in a box"))) + text("around it"),
            run(f"<w:ruby><w:rt>{text('とうきょう')}</w:rt><w:rubyBase>{text('東京')}</w:rubyBase></w:ruby>") + text("は"),
            "",
        )
    )
    found = read(tmp_path / "a.docx", text_as="line")
    assert [said for (said,) in learned(found)] == ["Returns & more", "A\tB\nC", "kept", "one\ttwo", "in a box", "around it", "東京は"]
    assert found.facts.notes == [WORDS]
    assert learned(read(tmp_path / "a.docx", text_as="document"))[0][0].startswith("Returns & more\n\nA\tB")


def test_a_folder_of_documents_is_read_without_the_files_by_which_word_locks_them(tmp_path: Path) -> None:
    (tmp_path / "manuals").mkdir()
    for name in ("a.docx", "b.docx"):
        (tmp_path / "manuals" / name).write_bytes(document(*(text(f"Paragraph {number} of {name}.") for number in range(30))))
    (tmp_path / "manuals" / "~$a.docx").write_bytes(b"\x05Ann")
    found = read(tmp_path / "manuals")
    assert found.facts.files == ["a.docx", "b.docx"]
    assert "\n\n".join(said for (said,) in learned(found)).count("Paragraph") == 60


def test_a_document_that_unpacks_to_much_more_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("word/document.xml", BODY.format(" " * SMALL))
    with pytest.raises(BadRow, match=r"^a\.docx unpacks to more than 5 MB\."):
        read(tmp_path / "a.docx")


@pytest.mark.parametrize("content", [b"PK\x03\x04", document(text("x"))[:-30], document("<w:r>")])
def test_a_damaged_document_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.docx").write_bytes(content)
    with pytest.raises(BadRow, match=r"^a\.docx is not a complete \.docx file\."):
        read(tmp_path / "a.docx")
