"""How the bytes of a text file become characters: UTF-8 where they are valid, a byte order mark, else the most likely legacy code page.

detect(file)  ->  "utf-8-sig"
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import TextIO

from finetune.data.endings import READABLE
from finetune.data.files import DataFile
from finetune.errors import BadRow, UnknownFormat
from finetune.foreign import UNPACKED
from finetune.letters import shortened

MARKS = [(codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")]
MARKS += [(codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")]
SAMPLE = 1 << 16
UNREADABLE = "finetune.unreadable"  # the handler of decoding errors: half a surrogate pair marks the place, and its row is then skipped
BROKEN = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of a byte that is no UTF-8
WINDOWS = "cp1252"  # of western Europe, where nothing speaks for another
FEW_LETTERS = 10
FEWEST_WORDS, FEWEST_LETTERS = 2, 3  # that cp1252 would read otherwise
WORD = re.compile(r"[^\W\d_]{2,}")
OTHER = re.compile("[\u0370-\u1dff]+")  # letters of Greek, Cyrillic, Hebrew, Arabic, Thai
MIXED = re.compile("[A-Za-z][\u0370-\u1dff]+|[\u0370-\u1dff]+[A-Za-z]")  # with ours in one word: the guess is wrong
BEYOND_ASCII = re.compile(r"[^\s,;|\"]{0,30}[^\s\x00-\x7f][^\s,;|\"]{0,30}")  # any number would take hours on one long word
# Signs that nobody writes between two letters; dashes, quotes and apostrophes people do.
SIGN_INSIDE = re.compile("[^\\W\\d_][‚„ƒ†‡ˆ‰‹›˜™•¡-©¬®-±²³´¶¸¹¼½¾¿×÷\ufffd]+[^\\W\\d_]")
FEWEST_BROKEN = 3
OLDER = ("cp437", "cp850", "cp852", "cp866", "mac_roman", "mac_latin2", "mac_cyrillic")
ZEROS = 100  # of so many bytes one is zero, at least, in UTF-16
CONTROLS = 0.1  # share of the bytes in text, at most
STRANGE = ("Cc", "Cn", "Co", "Cs")  # categories: control characters, and codes that are no character
OLD_JAPANESE = (b"\x1b$B", b"\x1b$@")  # how mails and old programs of Japan switch to their letters (JIS)
ANY_BEYOND = re.compile(r"[^\x00-\x7f]")
SHOWN_WORDS, LONGEST_WORD, LOOKED_AT = 3, 20, 20  # words, characters, blocks with such letters
BINARY_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF", b"PK\x03\x04", b"\x1f\x8b", b"\x7fELF", b"SQLite", b"GGUF", b"PAR1")


def lines_of(text: TextIO, file: DataFile) -> Iterator[str]:
    """The lines of a file, with their ends; raises BadRow for one that is longer than any and than the file itself."""
    longest = file.longest_record
    while line := text.readline(longest + 1):
        if len(line) > longest:
            raise too_long(file)
        yield line


def whole_of(text: TextIO, file: DataFile) -> str:
    """All of a file at once; raises BadRow if it was packed and is too large for that."""
    most = max(UNPACKED, file.path.stat().st_size)
    content = text.read(most + 1)
    if len(content) > most:
        raise too_long(file)
    return content


def too_long(file: DataFile) -> BadRow:
    return BadRow(f"{file.name} has a record of more than {file.longest_record:,} characters.", hint="Cut it, or unpack the file yourself.")


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error(UNREADABLE, _mark)


def detect(file: DataFile, told: str | None = None) -> str:
    """A Python codec name: `told` if a person named it; raises UnknownFormat for a binary file."""
    if told is not None:
        for _ in file.blocks():
            pass  # a file that cannot be read to its end is refused here
        return told
    blocks = file.blocks()
    start = next(blocks, b"")
    for mark, name in MARKS:
        if start.startswith(mark):
            return name
    sample = start[:SAMPLE]
    wide = _wide_without_mark(sample)
    if wide is not None:
        return wide
    if sample.startswith(tuple(BINARY_STARTS)) or _control_share(sample) > CONTROLS:
        raise UnknownFormat(f"{file.name} is a binary file, not text.", hint=READABLE)
    return _narrow(start, blocks)


def words_beyond_ascii(file: DataFile, encoding: str) -> list[str]:
    """The first words with other letters than English has, by which a person can judge an encoding."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    found: dict[str, None] = {}
    looked = 0
    for block in file.blocks():
        text = decoder.decode(block)
        if first := ANY_BEYOND.search(text):
            looked += 1
            near = text[max(0, first.start() - LONGEST_WORD) : first.start() + SAMPLE]
            words = (word.strip(".?!:()") for word in BEYOND_ASCII.findall(near))
            found |= dict.fromkeys(islice(words, SHOWN_WORDS))
        if len(found) >= SHOWN_WORDS or looked == LOOKED_AT:
            break
    return [shortened(word, LONGEST_WORD) for word in islice(found, SHOWN_WORDS)]


def _narrow(start: bytes, rest: Iterator[bytes]) -> str:
    """UTF-8 unless most of what is not ASCII is invalid in it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    good = bad = 0
    doubtful = b""
    block: bytes | None = start
    while block is not None:
        following = next(rest, None)
        text = decoder.decode(block, final=following is None)
        if not text.isascii():
            broken = _broken_bytes(text)
            bad += broken
            good += len(text) - len(text.encode("ascii", "ignore")) - broken
            doubtful = doubtful or (block if broken else b"")
        block = following
    if good == bad == 0 and any(switch in start for switch in OLD_JAPANESE):
        return "iso2022_jp_ext"
    if bad == 0 or good > bad:
        return "utf-8"
    # Lines in plain ASCII say nothing, and rows are often English around a few words of another language.
    lines = b"".join(line for line in doubtful.splitlines(keepends=True) if not line.isascii())
    return _old_page(lines if sum(byte > 0x7F for byte in lines[:SAMPLE]) >= FEW_LETTERS else doubtful)


def _old_page(text: bytes) -> str:
    """The code page that makes words of a language: Windows' and what the web has; those of DOS and the Mac where these make none."""
    import chardet

    first = next(index for index, byte in enumerate(text) if byte > 0x7F)
    sample = text[max(0, first - SAMPLE // 2) : first + SAMPLE]
    guess = chardet.detect(sample, encoding_era=chardet.EncodingEra.MODERN_WEB, prefer_superset=True, compat_names=False)["encoding"]
    if guess is None or guess.startswith(("ascii", "utf")):
        return _older(sample, WINDOWS)
    letters = sample.decode(guess, "ignore")
    unlikely = 2 * len(MIXED.findall(letters)) > len(OTHER.findall(letters))
    return _older(sample, WINDOWS if unlikely or not _is_a_language(letters, guess) else guess)


def _older(sample: bytes, page: str) -> str:
    """A page of DOS or the Mac, where it makes letters of what are signs within words in the page that was guessed; else that page."""
    import chardet

    broken, words = _broken_words(sample, page)
    if broken < FEWEST_BROKEN or 3 * broken < words:
        return page
    guess = chardet.detect(sample, encoding_era=chardet.EncodingEra.ALL, prefer_superset=True, compat_names=False)["encoding"]
    name = (guess or "").lower().replace("-", "_")
    return name if name in OLDER and 3 * _broken_words(sample, name)[0] < broken else page


def _broken_words(sample: bytes, page: str) -> tuple[int, int]:
    """How many different words have a sign inside, and how many have any letter beyond ASCII."""
    words = set(BEYOND_ASCII.findall(sample.decode(page, "replace")))
    return sum(map(has_sign_inside, words)), len(words)


def has_sign_inside(word: str) -> bool:
    """Whether a sign is where a letter must be, as in Gr”áe, or one that its encoding does not have."""
    return SIGN_INSIDE.search(word) is not None


def _is_a_language(text: str, page: str) -> bool:
    """Whether words make a page likely: a few words, or many letters. Prices in £ and a naïve word among English ones do not."""
    words = {word.lower() for word in WORD.findall(text) if not word.isascii()}
    letters = {letter for word in words for letter in word if not letter.isascii()}
    others = {letter for letter in letters if letter.encode(page, "ignore").decode(WINDOWS, "ignore") != letter}
    return sum(not others.isdisjoint(word) for word in words) >= FEWEST_WORDS or len(others) >= FEWEST_LETTERS


def _broken_bytes(text: str) -> int:
    try:
        text.encode("utf-8")  # much faster than a search, and most text has none
    except UnicodeEncodeError:
        return len(BROKEN.findall(text))
    return 0


def _wide_without_mark(sample: bytes) -> str | None:
    """UTF-16 without a byte order mark: half of a line end, a space or a digit is zero, and all else are letters of some script."""
    if sample.count(0) * ZEROS < len(sample) or (_control_share(sample) <= CONTROLS and _is_utf8(sample)):
        return None
    for name in ("utf-16-le", "utf-16-be"):
        text = codecs.getincrementaldecoder(name)(errors="replace").decode(sample)
        strange = sum(kind in STRANGE for kind in map(unicodedata.category, text)) - sum(map(text.count, "\t\n\f\r\x1b"))
        if strange * ZEROS < len(text) and any(sign in text for sign in '\n "'):
            return name
    return None


def _is_utf8(sample: bytes) -> bool:
    """Whether the beginning of a file is UTF-8; its last letter may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _control_share(sample: bytes) -> float:
    odd = sum(sample.count(byte) for byte in range(32) if byte not in (9, 10, 12, 13, 27))
    return odd / max(1, len(sample))
