"""Align two tokenizers: where in a row both have read the same bytes, so that their next tokens can be compared.

    alignment = Alignment(student_tokenizer, teacher_tokenizer)
    row = alignment.row(student_ids)
    row.ids, row.places         # what the teacher reads; for each student token the teacher's position there, or -1
    alignment.target            # [teacher's vocabulary]: the student's token that begins the teacher's, or -1

Special tokens of the same name are each other's, and so are the two ends of text. The teacher reads one that it does not have as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby, islice
from typing import Any

import numpy as np

from finetune.data.formats.tokenized import answer_of
from finetune.data.prepare import tokenizer_fingerprint
from finetune.data.tokens.labels import NO_LOSS, labels_of
from finetune.data.tokens.tokenise import lead_ids
from finetune.distillation.across_tokenizers.byte_strings import ByteStrings, byte_strings
from finetune.distillation.vocabulary import difference
from finetune.errors import VocabularyMismatch
from finetune.formatting import percent
from finetune.system.storage import digest

NOWHERE = -1
LEAST = 0.5
MEASURED = 200  # rows whose share is said before a run: enough for a percent or two


@dataclass(frozen=True)
class AlignedRow:
    """`ids` for the teacher; `places[i]` is its position that predicts what follows the student's token i, or -1.

    `boundaries` are the pairs of positions, the student's first, at which both have read the same bytes: none of either twice.
    """

    ids: list[int]
    places: list[int]
    boundaries: list[tuple[int, int]]


@dataclass(frozen=True)
class Share:
    """How many supervised tokens of some rows align, and the longest row in the teacher's tokens."""

    aligned: int
    tokens: int
    rows: int
    longest: int

    @property
    def value(self) -> float:
        return self.aligned / max(1, self.tokens)

    def __str__(self) -> str:
        counted = f"{self.aligned:,} of {self.tokens:,} in {self.rows:,} rows"
        return f"{percent(self.value)} of the supervised tokens align with the teacher's tokens ({counted})"

    def check(self) -> None:
        """Raises VocabularyMismatch if the teacher could say something about too few tokens."""
        if self.value < LEAST:
            raise VocabularyMismatch(
                f"Only {self}.",
                hint="Choose a teacher or a student whose tokenizer cuts this text into more similar pieces, "
                "or make the student from the teacher.",
            )


class Alignment:
    """From a student's tokens to a teacher's; raises VocabularyMismatch if the tokens of one are not byte strings."""

    def __init__(self, student: Any, teacher: Any) -> None:
        self.student, self.teacher = student, teacher
        self.ours, self.theirs = byte_strings(student, "student"), byte_strings(teacher)
        self.counterpart = _counterparts(student, teacher, self.ours, self.theirs)
        self.begin, self.lead = lead_ids(student), lead_ids(teacher)
        self.spelling = {string[0]: token for string, token in self.theirs.by_bytes().items() if len(string) == 1}
        self.content = {number: content.encode() for content, number in self.ours.special.items()}
        self._our_backend, self._backend = _backend(student), _backend(teacher)

    @cached_property
    def target(self) -> np.ndarray:
        """For each teacher token the one that the student's tokenizer writes first for its bytes; -1 for those without bytes.

        Where it writes other bytes (a space before every text) or the bytes are no text: the student's longest token that they begin with.
        """
        known = self.ours.by_bytes()
        found = np.full(len(self.theirs.strings), NOWHERE, dtype=np.int64)
        longer: dict[int, bytes] = {}
        for token, string in enumerate(self.theirs.strings):
            if string:
                begun = next((known[string[:end]] for end in range(len(string), 0, -1) if string[:end] in known), NOWHERE)
                found[token] = begun
                if string not in known:
                    longer[token] = string
        texts = [string.decode(errors="ignore") for string in longer.values()]
        written = self._our_backend.encode_batch_fast(texts, add_special_tokens=False)
        for (token, string), text, encoding in zip(longer.items(), texts, written, strict=True):
            first = self.ours.strings[encoding.ids[0]] if encoding.ids else None
            if first and text.encode() == string and string.startswith(first):
                found[token] = encoding.ids[0]
        for ours, theirs in self.counterpart.items():
            found[theirs] = ours
        return found

    @cached_property
    def _reachable(self) -> set[int]:
        return set(self.target.tolist()) - {NOWHERE}

    def row(self, ids: Sequence[int]) -> AlignedRow:
        """What the teacher reads for a row, and where it has read the same; a place counts only where it can say the next token."""
        read, ends, edges = self._read(ids)
        last = {end: place for place, end in enumerate(ends) if end is not None}  # of several at one place, the last has read all
        places = [NOWHERE if edge is None else last.get(edge, NOWHERE) for edge in edges]
        boundaries: list[tuple[int, int]] = []
        for pair in enumerate(places):
            if pair[1] > (boundaries[-1][1] if boundaries else NOWHERE):
                boundaries.append(pair)
        for place, following in enumerate(ids[1:]):
            if following not in self._reachable:
                places[place] = NOWHERE
        return AlignedRow(read, places, boundaries)

    @property
    def fingerprint(self) -> str:
        """The same for the same two tokenizers."""
        return digest([tokenizer_fingerprint(self.student), tokenizer_fingerprint(self.teacher)])

    def measure(self, rows: Sequence[Any]) -> Share:
        """How much of the first MEASURED rows (input_ids, labels) aligns."""
        aligned = tokens = longest = 0
        looked_at = list(islice(iter(rows), MEASURED))
        for row in looked_at:
            read = self.row(list(row["input_ids"]))
            supervised = [place for place, label in zip(read.places, list(labels_of(row))[1:], strict=False) if label != NO_LOSS]
            aligned, tokens = aligned + sum(place != NOWHERE for place in supervised), tokens + len(supervised)
            longest = max(longest, len(read.ids))
        return Share(aligned, tokens, len(looked_at), longest)

    def held_out(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A held-out row in the teacher's tokens: what it is asked, and what it has to predict."""
        ids, prompt = self.row(list(row["input_ids"])).ids, self.row(list(row["prompt_ids"])).ids
        start = 1 if row["labels"][1] != NO_LOSS else len(self.row(list(row["input_ids"])[: answer_of(row["labels"])]).ids)
        return {**row, "input_ids": ids, "labels": [NO_LOSS] * start + ids[start:], "length": len(ids), "prompt_ids": prompt}

    def _read(self, ids: Sequence[int]) -> tuple[list[int], list[int | None], list[int | None]]:
        """The teacher's ids; how many bytes have been read after each of them and after each of the student's, None where they differ."""
        read = list(self.lead)
        ends: list[int | None] = [0 for _ in self.lead]
        edges: list[int | None] = []
        for special, group in groupby(enumerate(ids), key=lambda numbered: numbered[0] if numbered[1] in self.content else None):
            tokens = [token for _, token in group]
            start = edges[-1] if edges else 0
            text = self.content[tokens[0]] if special is not None else self.ours.joined(tokens)
            if start is None or text is None:
                edges += [None] * len(tokens)
                continue
            lengths = [len(text)] if special is not None else [len(self.ours.strings[token] or b"") for token in tokens]
            edges += (start + length for length in accumulate(lengths))
            theirs = None if special is None else self.counterpart.get(tokens[0])
            if theirs is not None and special == 0 and read == [theirs]:  # the teacher's tokenizer has written the beginning itself
                ends[0] = start + len(text)
            elif theirs is not None:
                read.append(theirs)
                ends.append(start + len(text))
            elif special == 0 and tokens == self.begin:  # the teacher has another beginning, or none
                edges[0] = 0
            elif not self._append(text, start, read, ends):
                edges[-1] = None
        return read, ends, edges

    def _append(self, text: bytes, start: int, read: list[int], ends: list[int | None]) -> bool:
        """Append the teacher's reading of bytes that begin at `start`; False if it reads other bytes."""
        for piece, broken in _pieces(text):
            if broken:
                tokens = [self.spelling.get(byte, NOWHERE) for byte in piece]
            else:
                tokens = self._backend.encode(piece.decode(), add_special_tokens=False).ids
            if NOWHERE in tokens:
                return False
            strings = [self.theirs.strings[token] or b"" for token in tokens]
            joined = b"".join(strings)
            ahead = 1 if joined == b" " + piece else 0  # SentencePiece writes a space before a text
            if ahead and len(strings[0]) > 1:  # where this text begins, the next token has a space that the text does not have
                ends[:] = [None if end == start else end for end in ends]
            same = _same(joined[ahead:], piece)
            read += tokens
            ends += (start + end - ahead if end - ahead <= same else None for end in accumulate(map(len, strings)))
            if joined[ahead:] != piece:
                return False
            start += len(piece)
        return True


def shorter(limit: int) -> str:
    """What to do about a row that is too long for a teacher: rows are cut in the student's tokens."""
    return f"Cut the rows: --set dataset.max_length={limit // 2}, or choose a teacher with a longer context."


@lru_cache(maxsize=8)
def alignment_of(student: Any, teacher: Any) -> Alignment | None:
    """The alignment that two tokenizers need, made once; None where they are the same."""
    return Alignment(student, teacher) if difference(student, teacher) else None


def _same(one: bytes, other: bytes) -> int:
    """How many first bytes are equal."""
    if one == other:
        return len(one)
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other)))


def _backend(tokenizer: Any) -> Any:
    """A copy of the fast tokenizer that reads the name of a special token as text, as rows have it."""
    copy = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def _pieces(text: bytes) -> Iterator[tuple[bytes, bool]]:
    """Bytes in pieces that are UTF-8 and, marked, pieces that are not: rows are cut between tokens, not between characters."""
    while text:
        try:
            text.decode()
        except UnicodeDecodeError as error:
            if error.start:
                yield text[: error.start], False
            yield text[error.start : error.end], True
            text = text[error.end :]
        else:
            yield text, False
            return


def _counterparts(student: Any, teacher: Any, ours: ByteStrings, theirs: ByteStrings) -> dict[int, int]:
    """The teacher's special token for each of the student's: of the same name, or both the end of text."""
    found = {number: theirs.special[content] for content, number in ours.special.items() if content in theirs.special}
    ends = student.eos_token_id, teacher.eos_token_id
    if None not in ends and ends[0] in ours.special.values() and ends[0] not in found and ends[1] not in found.values():
        found[ends[0]] = ends[1]
    return found
