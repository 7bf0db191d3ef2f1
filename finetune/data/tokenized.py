"""From records to sequences, also of rows that are tokens already: those are checked against the vocabulary and cut to `max_length`.

encoded(encoder, rows, chosen)  ->  ({"messages": [...], "input_ids": [5, 9, 2], "labels": [-100, 9, 2]}, [Sequence(...)]), ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

from finetune.data.formats.tokenized import Tokenized, answer_of
from finetune.data.reading import Rows
from finetune.data.rows import RowProblem
from finetune.data.split import chosen_records
from finetune.data.tokens.encoder import Encoder, Sequence
from finetune.data.tokens.labels import NO_LOSS
from finetune.data.tokens.pieces import Piece
from finetune.errors import BadRow

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

FORMAT = Tokenized.name
AGAIN = "Tokenise the rows with the tokenizer of this model, or give them as text."


class ForeignToken(RowProblem):
    """A token that the model does not have: the rows were made with another tokenizer, so that none of them can be trusted."""


def encoded(encoder: Encoder, rows: Rows, chosen: np.ndarray) -> Iterator[tuple[dict[str, Any], list[Sequence] | RowProblem]]:
    """Each chosen record with its sequences, in order, or why it has none; raises BadRow for a token that the model does not have."""
    if rows.facts.format != FORMAT:
        yield from encoder.encode(chosen_records(rows, chosen))
        return
    for record, result in encode(encoder, chosen_records(rows, chosen)):
        if isinstance(result, ForeignToken):
            raise BadRow(f"{rows.facts.files[record['file']]} line {record['line']}: {result}.", hint=AGAIN)
        yield record, result


def encode(encoder: Encoder, batches: Iterable[list[dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], list[Sequence] | RowProblem]]:
    """Each record that is tokens already with its sequence, in order."""
    vocabulary = len(encoder.tokenizer)
    for record in chain.from_iterable(batches):
        foreign = next((token for token in record["input_ids"] if not 0 <= token < vocabulary), None)
        if foreign is not None:
            yield record, ForeignToken(f"token {foreign} is not in the model's vocabulary of {vocabulary:,} tokens")
        else:
            yield record, [_sequence(encoder, record)]


def _sequence(encoder: Encoder, record: dict[str, Any]) -> Sequence:
    ids, labels = record["input_ids"], record["labels"]
    is_text = record["messages"][0]["role"] == "text"
    sequence = encoder.fitted(Sequence(ids, labels, 0 if is_text else answer_of(labels)))
    if is_text:
        sequence.answer_start = (len(sequence.ids) + 1) // 2  # measured on its second half, as text is
    if encoder.supervise == "all":
        sequence.labels = list(sequence.ids)
    labels = [NO_LOSS, *sequence.labels[1:]]  # nothing comes before the first token to predict it from
    return replace(sequence, labels=labels)


def pieces(record: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """What such a row says, cut where it begins and ends to be learned; nothing for a row that is text."""
    if "input_ids" not in record:
        return []
    stretches = groupby(zip(record["input_ids"], record["labels"], strict=True), key=lambda each: each[1] != NO_LOSS)
    return [Piece(str(tokenizer.decode([token for token, _ in stretch])), learned) for learned, stretch in stretches]
