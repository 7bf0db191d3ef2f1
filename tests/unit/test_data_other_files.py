"""Files that are no data, or of another kind or encoding than they seem: what is read of them, and how the rest can be."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from read_files import learned, read

from finetune.data.encoding import detect
from finetune.data.files import DataFile
from finetune.data.split import divide
from finetune.errors import BadRow, DatasetError, EmptyDataset, UnknownFormat
from finetune.recipe import DatasetSpec

ROWS = [("Where is order 1?", "At the door; ring, twice."), ("And order 2?", "In the shed."), ("Order 3?", "Lost, sorry.")]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("film.srt", "without the times"),
        ("rows.jsonlines", "Rename it to end in .jsonl."),
        ("sheet.xlsm", "save it as .xlsx or CSV"),
        ("book.epub", "Calibre"),
        ("library.bib", "export as CSV"),
        ("work.ipynb", "nbconvert"),
        ("shop.sqlite3", "Export its table as CSV."),
        ("mails.mbox", "rows of a CSV or .jsonl file"),
        ("page.html", "plain text (.txt)"),
        ("data.tar.zst", "Unpack it with `tar -xf FILE`"),
        ("data.jsonl.xz", "Unpack it with `xz -dk FILE`"),
        ("lib.py", "If it is text, copy it to a file that ends in .txt."),
        ("page.jpg", "Only text can be learned: of a scanned page, give what a program for OCR reads in it."),
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


def test_settings_are_no_rows_and_what_else_lies_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "config.json").write_text("{}")
    (tmp_path / "repo" / "lib.py").write_text("x = 1\n")
    with pytest.raises(BadRow, match=r"config\.json: no row can be used") as refused:
        read(tmp_path / "repo")
    assert "Not read in repo: lib.py. To read them: --set " in str(refused.value.hint)


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
    for name, text in {
        "a line without one": "".join(lines) * 4 + "No tab.\n",
        "a conversation": "".join(f"{'Ann' if number % 2 else 'Ben'}:\tHello {number}.\n" for number in range(12)),
        "for the looks": "".join(f"Chapter {number}\t\t\t{number * 3}\n" for number in range(12)),
    }.items():
        (tmp_path / "text.txt").write_text(text)
        assert read(tmp_path / "text.txt").facts.format == "text", name


SUBTITLE = "{0}\n00:00:0{0},000 --> 00:00:0{0},900\nHello number {0}.\n\n"
TITLED = "Book {0} (Author)\n- Your Highlight on page {0} | Added on Monday\n\nA sentence, number {0}.\n==========\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[01/0{0}/2024 10:00 AM] ann\nhello {0}\n\n", "a chat, and is learned as it is, with the times and names"),
        (
            "{0}\n00:00:0{0},000 --> 00:00:0{0},900\nHello number {0}.\n\n",
            "subtitles, and is learned as it is, with the numbers and times",
        ),
        (TITLED, "highlights from a Kindle, and is learned as it is, with titles, places and dates"),
        ("From: Ann\nTo: Ben\nSubject: Order {0}\n\nWhere is it?\n\n", "mails, and is learned as it is, with their headers"),
        ("<?xml version='1.0'?>\n<a>Text {0}</a>\n", "a web page or XML, and is learned as it is, with its tags"),
        (
            "**Q{0}:** How tall is it?\nA: It is {0} metres tall.\n\n",
            "questions and answers, and is learned as it is, with the questions too",
        ),
        ("質問：高さは{0}ですか\n回答：{0}メートルです。\n\n", "questions and answers"),
        ("Frage {0}: Wie hoch?\nAntwort {0}: {0},5 Meter.\n\n", "questions and answers"),
        ("[٢٨\u200f/١١\u200f/٢٠٢٤، ٤:٣{0}:١٠ م] أحمد: مرحبا\n", "a chat"),
        ("[2024/11/28 下午4:3{0}:10] 张三: 你好\n", "a chat"),
        ("2024년 11월 28일 오후 4:3{0}, 홍길동 : 안녕하세요\n", "a chat"),
        ("10:3{0}\t太郎\tこんにちは\n", "a chat"),
        ("A sentence, number {0}.\n\n", ""),
        ("{0}. 28/11/24 16:32 we met, and Ann said: hello.\n", ""),
    ],
)
def test_text_with_more_than_words_is_learned_with_a_word_about_it(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "a.txt").write_text("".join(text.format(number) for number in range(1, 9)), encoding="utf-8")
    notes = read(tmp_path / "a.txt").facts.notes
    assert notes == [] if not what else len(notes) == 1 and notes[0].startswith(f"a.txt looks like {what}")


def test_a_web_page_in_place_of_data_and_rtf_in_place_of_text_are_told(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.jsonl", "rows.json"):
        (tmp_path / name).write_text("\n<!DOCTYPE html>\n<html><body>\nSorry, sign in first.\n</body></html>\n")
        with pytest.raises(UnknownFormat, match=rf"{name} is a web page or XML, not data\."):
            read(tmp_path / name)
    (tmp_path / "a.txt").write_text("{\\rtf1\\ansi\\deff0\n" + "\\pard Hello \\b you\\b0\\par\n" * 9)
    with pytest.raises(UnknownFormat, match=r"a\.txt is a word-processor document"):
        read(tmp_path / "a.txt")


def test_lists_of_rows_under_headings_are_rows(tmp_path: Path) -> None:
    rows = [{"question": question, "answer": answer} for question, answer in ROWS]
    (tmp_path / "faq.json").write_text(json.dumps({"orders": rows[:1], "returns": rows[1:]}))
    found = read(tmp_path / "faq.json")
    assert learned(found) == ROWS
    assert found.facts.notes == ["Rows under all headings of faq.json are read, and the headings are not learned: orders (1), returns (2)."]
    said = {"question": [{"text": "Where?", "id": 1}] * 2, "answer": [{"text": "Here.", "id": 1}] * 2}  # which are columns
    (tmp_path / "columns.json").write_text(json.dumps(said))
    with pytest.raises(BadRow, match=r"column question has an object \(text, id\), not text") as refused:
        read(tmp_path / "columns.json")
    assert str(refused.value.hint).startswith("Name the columns, and of this one the part you mean, such as question.text: --set ")


@pytest.mark.parametrize("wrapped", [True, False])
def test_questions_about_paragraphs_are_rows_with_their_paragraph(tmp_path: Path, wrapped: bool) -> None:
    asked = [{"id": "1", "question": q, "answers": [{"text": a, "answer_start": 0}, {"text": "x", "answer_start": 2}]} for q, a in ROWS]
    paragraphs = [{"context": "Orders.", "qas": asked[:1]}, {"context": "More.", "qas": [*asked[1:], {"question": "?", "answers": []}]}]
    articles = [{"title": "Shop", "paragraphs": paragraphs}] * 2
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": articles} if wrapped else articles))
    found = read(tmp_path / "squad.json")
    assert learned(found) == [(f"{'More.' if n else 'Orders.'}\n\n{q}", a) for n, (q, a) in enumerate(ROWS)] * 2
    assert (found.facts.read, found.facts.skipped) == (8, 0)
    said = "2 rows are left out: the question has no answer in column answers, and the model does not learn to say so."
    assert said in found.facts.notes
    assert {"title", "id", "answers after the first"} <= set(found.facts.ignored_text)


def test_an_archive_in_an_archive_and_a_part_without_rows_say_what_to_do(tmp_path: Path) -> None:
    users = [{"id": 1, "name": "Ann"}]
    rows = [{"question": question, "answer": answer} for question, answer in ROWS]
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("users.json", json.dumps(users))
        archive.writestr("rows.json", json.dumps(rows))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "export.zip", "part.zip")
    for name, hint in (
        ("outer", "Unpack it, and give the folder."),
        ("export", "No row of export.zip/users.json can be used. Read only the others: --set dataset.data_files=rows.json"),
    ):
        with pytest.raises(DatasetError) as refused:
            read(tmp_path / f"{name}.zip")
        assert str(refused.value.hint).startswith(hint)


@pytest.mark.parametrize(
    ("encoding", "question"),
    [
        ("utf-16-le", "注文番号{}の商品はいつ届きますか？"),
        ("utf-16-be", "أين الطلب رقم {}؟"),
        ("iso2022_jp_ext", "注文番号{}の商品はいつ届きますか？"),  # as mails have it
        ("cp1256", "أين الطلب رقم {}؟"),
        ("cp1256", "أين مفتاحي؟ إنه على الطاولة بجانب الكتاب. شكرا جزيلا على مساعدتكم، إلى اللقاء غدا. {}"),  # could be Cyrillic
        ("cp1252", "Où est la clé n° {} ? À côté"),
        ("cp1251", "Где заказ {}?"),
        ("cp1250", "Kde je moje objednávka číslo {}? Přišla už včera odpoledne?"),
        ("cp1250", "Hol van a {}. rendelésem? Kérem, küldjék el még ma, előre is köszönöm a segítőkész választ."),
        ("cp1253", "Η παραγγελία {} δεν έχει έρθει ακόμη. Πότε θα έρθει, παρακαλώ?"),
        ("cp1254", "{} numaralı siparişim nerede? Lütfen bugün gönderin, teşekkür ederim."),
        ("cp1255", "איפה ההזמנה שלי מספר {}? תודה רבה."),
        ("cp1257", "Kur yra mano užsakymas {}? Prašau atsiųsti jį šiandien, ačiū už pagalbą."),
        ("cp932", "注文{}番はどこですか。今日送ってください。"),
        ("gb18030", "我的订单{}在哪里？请今天发货，谢谢。"),
        ("cp949", "제 주문 {}번은 어디에 있습니까? 오늘 보내 주세요."),
        ("cp1252", "Where is order {}? It’s “late” – and costs £5."),
        ("cp1252", "The price of {} is £20, or 25 €."),
        ("cp1252", "A naïve view of an area of {} m²"),
        ("cp1252", "¥{} for a bag of jalapeños"),
        ("cp1252", "It was {} °C outside."),
    ],
)
def test_letters_of_old_encodings_are_told_by_the_language_they_make(tmp_path: Path, encoding: str, question: str) -> None:
    rows = [(question.format(number), question.format("x")) for number in range(5)]
    (tmp_path / "rows.csv").write_bytes(("question;answer\n" + "".join(f"{asked};{said}\n" for asked, said in rows)).encode(encoding))
    found = read(tmp_path / "rows.csv")
    assert learned(found) == rows
    (note,) = found.facts.notes
    assert note.startswith(f"rows.csv is read as {encoding}, with words such as ")
    assert note.endswith(". To correct wrong letters: --set dataset.encoding=NAME")


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("utf-8", "Où est-il,\0 et\n"),
        ("utf-8", "12,34,567\0\n"),
        ("utf-16-le", '[{"text":"One,two."}]'),
        ("utf-16-be", "\x1b[1mOne\x1b[0m two\n"),
    ],
)
def test_control_characters_do_not_hide_an_encoding(tmp_path: Path, encoding: str, line: str) -> None:
    (tmp_path / "rows.txt").write_bytes((line * 40).encode(encoding))
    assert detect(DataFile(tmp_path / "rows.txt")) == encoding


def test_a_few_words_of_another_language_tell_its_encoding_among_english_rows(tmp_path: Path) -> None:
    said = ["Siparişim ne zaman gelecek, öğrenebilir miyim?", "Lütfen bana ulaşın, çünkü ürün kırık çıktı.", "Teşekkürler, iyi günler."]
    rows = [(f"How do I say that in Turkish, number {number}?", f"Say: {said[number % 3]}") for number in range(30)]
    plain = "".join(json.dumps({"question": f"How many are {n} and 1?", "answer": str(n + 1)}) + "\n" for n in range(5000))
    told = "".join(json.dumps({"question": asked, "answer": answer}, ensure_ascii=False) + "\n" for asked, answer in rows)
    (tmp_path / "rows.jsonl").write_bytes((plain + told).encode("cp1254"))
    found = read(tmp_path / "rows.jsonl")
    assert learned(found)[-30:] == rows
    assert found.facts.notes[0].startswith("rows.jsonl is read as cp1254, with words such as Siparişim, öğrenebilir, Lütfen. To correct ")


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("cp437", "Wir prüfen die Größe natürlich für Sie. Schöne Grüße, auch von den süßen Bären."),
        ("mac_roman", "Où est la clé ? Le père, la mère et le frère l'ont cherchée après la fête."),
        ("cp852", "Gdzie jest moje zamówienie? Zostało wysłane, proszę czekać, dziękuję."),
    ],
)
def test_letters_that_would_be_signs_inside_words_are_of_dos_or_the_mac(tmp_path: Path, encoding: str, words: str) -> None:
    (tmp_path / "rows.csv").write_bytes(("question;answer\n" + f"{words};{words}\n" * 5).encode(encoding))
    found = read(tmp_path / "rows.csv")
    assert learned(found) == [(words, words)] * 5
    assert found.facts.notes[0].startswith(f"rows.csv is read as {encoding}, with words such as ")


@pytest.mark.parametrize("text", ["the old house—near the river", "he said“so”and went", "a·b•c it’s café", "10°C/day £5€6 km²"])
def test_signs_that_people_write_between_letters_are_no_reason_to_doubt(tmp_path: Path, text: str) -> None:
    rows = [(f"{text} {word}", text) for word in ("ann—ben", "ben–cat", "cat…dan", "dan®")]
    (tmp_path / "rows.csv").write_bytes(("question;answer\n" + "".join(f"{asked};{said}\n" for asked, said in rows)).encode("cp1252"))
    assert learned(read(tmp_path / "rows.csv")) == rows


WORDS = "Le père"  # too few to tell


def test_letters_that_no_encoding_has_lead_to_the_encoding(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(("question;answer\n" + f"{WORDS};{WORDS}\n" * 5).encode("mac_roman"))
    (tmp_path / "some.csv").write_bytes(("question;answer\nHello?;Hi.\n" + f"{WORDS};{WORDS}\n" * 5).encode("mac_roman"))
    for name in ("rows.csv", "some.csv"):
        with pytest.raises(BadRow, match="not valid Unicode") as refused:
            read(tmp_path / name)
        assert refused.value.hint == (
            "Its text encoding may be another one: --set dataset.encoding=NAME, such as cp850 or cp866 (DOS) or mac_roman (older Macs)."
        )
    assert learned(read(tmp_path / "rows.csv", encoding="mac_roman")) == [(WORDS, WORDS)] * 5
