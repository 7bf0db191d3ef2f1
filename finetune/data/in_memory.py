"""Rows that are in memory already: texts, records, chats, columns by name, a Dataset of datasets or PyTorch, a pandas table.

    records(["Once ...", "Then ..."])                 # [{"text": "Once ..."}, {"text": "Then ..."}]
    saved([{"prompt": "2 + 2", "completion": "4"}], cache)      # a .jsonl file with them, which a recipe can name
    tokens([{"prompt": "2 + 2", "completion": "4"}], tokenizer) # [{"input_ids": [...], "labels": [...], "answer_start": 5}]

A recipe names files, so that it can be repeated; rows without one get a file in the cache, named after their content.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from finetune.data import tokenized
from finetune.data.class_labels import names_of, with_names
from finetune.data.files import looks_local
from finetune.data.formats.cells import is_blank_row
from finetune.data.ignored_text import IgnoredText, left_out_sentences
from finetune.data.reading import columns_of, open_source
from finetune.data.row_reader import RowReader
from finetune.data.rows import NotWanted, Row, RowProblem, no_rows
from finetune.data.thinking import asks_to_think
from finetune.data.tokens.encoder import Encoder
from finetune.errors import DatasetError, EmptyDataset, UnknownFormat
from finetune.events import Recorder
from finetune.formatting import counted
from finetune.recipe import DatasetSpec
from finetune.runtime import RuntimeOptions
from finetune.system.storage import digest, unwritable_cache, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOTHING = ("NAType", "NaTType")  # an empty cell of pandas
NAME, BEGINS = "the dataset", "The dataset"  # within a sentence, and at its beginning
ROW = "A row is a text, a record such as {'prompt': '2 + 2', 'completion': '4'}, or a list of chat messages."
RENAME = f"Rename the columns. {ROW}"


def is_rows(given: Any) -> bool:
    """Whether this is data rather than the name of some; a list of names of files is none."""
    if given is None or isinstance(given, str | bytes | os.PathLike | Mapping):
        return False
    if isinstance(given, list | tuple) and given and all(isinstance(name, str | os.PathLike) for name in given):
        return not all(looks_local(str(name)) for name in given)
    return isinstance(given, Iterable) or _is_numbered(given)


def _is_numbered(given: Any) -> bool:
    """Whether these are rows by number, as those of torch.utils.data.Dataset; its end is known by its length alone."""
    return not isinstance(given, Iterable) and hasattr(given, "__getitem__") and hasattr(given, "__len__")


def records(given: Any) -> list[dict[str, Any]]:
    """One record a row; raises DatasetError for what is no row, or has no rows."""
    if isinstance(given, Mapping) and any(hasattr(part, "column_names") for part in given.values()):
        if len(given) > 1:
            several = f"The dataset has several splits: {', '.join(map(str, given))}."
            raise DatasetError(several, hint="Give one of them, such as rows['train'].")
        (given,) = given.values()  # what load_dataset makes of a file
    names = _class_names(given)
    if in_rows := getattr(given, "to_dicts", None) or getattr(given, "to_pylist", None):  # a table of polars, of pyarrow
        given = in_rows()
    elif hasattr(given, "to_dict") and hasattr(given, "columns"):  # of pandas
        index = [name for name in getattr(getattr(given, "index", None), "names", ()) if name is not None]
        given = (given.reset_index() if index and not {*index} & {*given.columns} else given).to_dict("records")
    elif isinstance(given, Mapping):
        given = _rows_of_columns(given)
    elif _is_numbered(given):
        given = map(given.__getitem__, range(len(given)))
    found = [with_names(_record(row, number), names) for number, row in enumerate(given, start=1)]
    if not found:
        raise EmptyDataset("The data contains no rows.", hint=ROW)
    return found


def _class_names(given: Any) -> dict[str, list[str]]:
    """Those of a Dataset of datasets."""
    features = getattr(given, "features", None)
    if not isinstance(features, Mapping):
        return {}
    return names_of({name: feature.names for name, feature in features.items() if type(feature).__name__ == "ClassLabel"}, features)


def rows_of_file(name: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a file, a folder or a dataset of the Hub; raises the DatasetError that states what is wrong."""
    origin = open_source(DatasetSpec(source=os.fspath(name), samples=None), RuntimeOptions(), Recorder())
    found = list(origin.records())
    kept = [record.values for record in found if isinstance(record, Row)]
    if len(kept) < len(found):
        first = next(record for record in found if not isinstance(record, Row))
        raise DatasetError(f"{first.file} line {first.line}: {first.reason}.", hint="Correct the row, or remove it.")
    return kept


def saved(given: Any, cache: Path) -> str:
    """The path of a .jsonl file with these rows; the same rows give the same path."""
    lines = "".join(json.dumps(record, ensure_ascii=False, default=_plain) + "\n" for record in records(given))
    path = cache / "given" / digest([lines]) / "rows.jsonl"
    if not path.is_file():
        try:
            write_whole(path, lines.encode("utf-8", "surrogatepass"), shared=True)
        except OSError as error:
            raise unwritable_cache(path.parent, error) from None
    return str(path)


def tokens(
    given: Any, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 512, supervise: Literal["answers", "all"] = "answers"
) -> list[dict[str, Any]]:
    """Token ids, labels and `answer_start` of every row that its data want learned, as a recipe would prepare them.

    What a data report would say about the rows is a warning. Raises DatasetError for the first row that cannot be used.
    """
    rows = [Row(row, NAME, number) for number, row in enumerate(records(given), start=1)]
    try:
        reader = RowReader(columns_of(rows), [row.values for row in rows], None, NAME, chats=False)
    except UnknownFormat as error:
        raise UnknownFormat(error.message.replace(NAME, BEGINS, 1), hint=RENAME) from None  # there is no recipe that could name the columns
    left, not_wanted = IgnoredText(reader.format, reader.columns, reader.all_columns), Counter[str]()
    read: list[dict[str, Any]] = []
    blank = 0
    for row in rows:
        if is_blank_row(row.values):
            blank += 1
            continue
        try:
            record = reader.record(row.values)
        except NotWanted as reason:
            not_wanted[str(reason)] += 1
        except RowProblem as problem:
            raise _unusable(row.line, problem) from None
        else:
            left.look(row.values, record["messages"])
            read.append({**record, "file": 0, "line": row.line})
    if not read:
        refused = no_rows(BEGINS, [], not_wanted, reader.columns if blank else ())
        raise EmptyDataset(refused.message, hint=RENAME if blank else refused.hint)
    encoder = Encoder(tokenizer, max_length=max_length, supervise=supervise, thinking=asks_to_think(tokenizer, read))
    encode = tokenized.encode if reader.format.name == tokenized.FORMAT else Encoder.encode
    prepared, cut = [], 0
    for found, sequences in encode(encoder, [read]):
        if isinstance(sequences, RowProblem):
            raise _unusable(found["line"], sequences)
        asks = found["messages"][0]["role"] != "text"
        cut += any(sequence.prompt_cut or sequence.answer_cut for sequence in sequences)
        prepared += [
            {"input_ids": sequence.ids, "labels": sequence.labels, "answer_start": sequence.answer_start if asks else 0}
            for sequence in sequences
            if sequence.supervised
        ]
    said = [*reader.notes(), *left_out_sentences(not_wanted), *left.sentences(), *encoder.noticed.sentences([NAME])]
    for number, what in ((blank, "blank"), (cut, f"cut to {max_length:,} tokens")):
        said += [f"{counted(number, 'row', 'are')} {what}."] if number else []
    for sentence in said:
        warnings.warn(sentence, stacklevel=2)
    return prepared


def _unusable(number: int, problem: RowProblem) -> DatasetError:
    return DatasetError(f"Row {number} cannot be used: {problem}.", hint=ROW)


def _rows_of_columns(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{"prompt": [...], "completion": [...]} row by row."""
    lists = {str(name): list(values) for name, values in columns.items() if isinstance(values, Iterable) and not isinstance(values, str)}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(lists) < len(columns) or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {lengths.get(str(name), 1)}" for name in columns)
        raise DatasetError(f"The columns are not equally long: {told}.", hint=ROW)
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _record(row: Any, number: int) -> dict[str, Any]:
    if isinstance(row, str):
        return {"text": row}
    if isinstance(row, Mapping):
        return {str(name): None if type(value).__name__ in NOTHING else value for name, value in row.items()}
    if isinstance(row, list | tuple) and row:
        if all(isinstance(turn, Mapping) for turn in row):
            return {"messages": [dict(turn) for turn in row]}
        if len(row) == 2 and all(isinstance(part, str) for part in row):
            return {"prompt": row[0], "completion": row[1]}
    raise DatasetError(f"Row {number} is of type {type(row).__name__}, which is not a row.", hint=ROW)


def _plain(value: Any) -> Any:
    """What JSON lacks: numbers and arrays of numpy as lists, dates and paths as text; raises DatasetError for pictures and bytes."""
    if hasattr(value, "tolist") or hasattr(value, "isoformat"):
        return value.tolist() if hasattr(value, "tolist") else value.isoformat()
    if isinstance(value, Number | os.PathLike | UUID | timedelta):
        return str(value)
    raise DatasetError(f"A row has a value of type {type(value).__name__}, which is not text.", hint="Leave it out, or turn it into text.")
