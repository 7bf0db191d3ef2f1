"""JSON as people keep it: one object per line, or one document. The first character and the name of a file decide.

{"question": "2 + 2?", "answer": "4"}
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from finetune.data.encoding import UNREADABLE
from finetune.data.files import DataFile
from finetune.data.readers.json_document import Window, read_document, read_list
from finetune.data.readers.json_lines import parse_lines
from finetune.data.readers.other_kind import check_kind
from finetune.data.rows import Row, SkippedRow
from finetune.recipe import DatasetSpec


def read(file: DataFile, spec: DatasetSpec, encoding: str | None) -> Iterator[Row | SkippedRow]:
    with file.open() as raw:
        # newline="\n": other line ends are legal inside JSON text written by careless tools
        window = Window(io.TextIOWrapper(raw, encoding=encoding, errors=UNREADABLE, newline="\n"), file)
        sign = window.next_sign()
        if sign == "<":
            check_kind(window.text, file)
        if sign == "[":
            yield from read_list(window)
        elif file.suffix == ".json":
            yield from read_document(window, spec)
        else:
            yield from parse_lines(file.name, window.lines(), first=window.line)
