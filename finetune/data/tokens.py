"""Pieces of text to token ids and labels that fit `max_length`.

encoder = Encoder(tokenizer, max_length=512, supervise="answers")
encoder.encode([messages, ...])  ->  [[Sequence(ids=[1, 5, 9, 2], labels=[-100, -100, 9, 2], answer_start=2, ...)], ...]

Pieces are tokenised apart and joined, so that an answer follows exactly those tokens that the model is later prompted with.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, cast

from finetune.data.formats.cells import Message
from finetune.data.render import Piece, template_of
from finetune.data.rows import RowProblem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100
LEAST_PROMPT = 4  # at least a quarter of max_length stays for the prompt when a long answer is cut


@dataclass
class Sequence:
    """One row of training: `labels[i]` is `ids[i]` or -100; the last answer begins at `answer_start`."""

    ids: list[int]
    labels: list[int]
    answer_start: int
    prompt_cut: bool = False
    answer_cut: bool = False


class Encoder:
    """Messages to sequences; a RowProblem stands in for a row that cannot be encoded."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, supervise: Literal["answers", "all"]) -> None:
        self.tokenizer, self.max_length, self.supervise = tokenizer, max_length, supervise
        self.template = template_of(tokenizer)
        self.lead = _lead_ids(tokenizer)
        self.tokenise = _tokeniser(tokenizer)
        self.separable = self._is_separable()

    def encode(self, rows: ListLike[ListLike[Message]]) -> list[list[Sequence] | RowProblem]:
        rendered: list[list[Piece] | RowProblem] = [self._pieces(row) for row in rows]
        usable = [pieces for pieces in rendered if not isinstance(pieces, RowProblem)]
        tokens = iter(self._tokens_apart(usable) if self.separable else self._tokens_together(usable))
        encoded: list[list[Sequence] | RowProblem] = []
        for row, pieces in zip(rows, rendered, strict=True):
            if isinstance(pieces, RowProblem):
                encoded.append(pieces)
                continue
            parts = next(tokens)
            if row[0]["role"] == "text":
                encoded.append(self._blocks(parts))
            else:
                encoded.append([self._sequence(parts, lead=self.lead if self.template.name == "plain" else [])])
        return encoded

    def _pieces(self, messages: ListLike[Message]) -> list[Piece] | RowProblem:
        try:
            return self.template.pieces(messages)
        except RowProblem as problem:
            return problem

    def _tokens_apart(self, rows: list[list[Piece]]) -> list[list[tuple[list[int], bool]]]:
        texts = list(dict.fromkeys(piece.text for row in rows for piece in row))  # prompts often repeat
        known = dict(zip(texts, self.tokenise(texts), strict=True))
        return [[(known[piece.text], piece.supervised) for piece in row] for row in rows]

    def _tokens_together(self, rows: list[list[Piece]]) -> list[list[tuple[list[int], bool]]]:
        """For tokenizers that mark the start of every text (SentencePiece): the whole text at once, cut by character offsets."""
        whole = self.tokenizer(
            ["".join(piece.text for piece in row) for row in rows], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [_cut(ids, offsets, row) for ids, offsets, row in zip(whole["input_ids"], whole["offset_mapping"], rows, strict=True)]

    def _sequence(self, parts: list[tuple[list[int], bool]], lead: list[int]) -> Sequence:
        ids, labels = list(lead), [NO_LOSS] * len(lead)
        answer_start = len(ids)
        for tokens, supervised in parts:
            if supervised:
                answer_start = len(ids)
            ids += tokens
            labels += tokens if supervised else [NO_LOSS] * len(tokens)
        sequence = self._fitted(Sequence(ids, labels, answer_start))
        if self.supervise == "all":
            sequence.labels = list(sequence.ids)
        sequence.labels[:1] = [NO_LOSS]  # nothing comes before the first token to predict it from
        return sequence

    def _fitted(self, whole: Sequence) -> Sequence:
        """Cuts the prompt on its left first; what is still too long loses the end of its answer, and with it the end-of-answer label."""
        over = len(whole.ids) - self.max_length
        if over <= 0:
            return whole
        kept = min(whole.answer_start, max(1, self.max_length // LEAST_PROMPT))
        left = min(over, whole.answer_start - kept)
        begin = 1 if left and whole.ids[0] == self.tokenizer.bos_token_id else 0  # models lean on their first token
        ids = (whole.ids[:begin] + whole.ids[begin + left :])[: self.max_length]
        labels = (whole.labels[:begin] + whole.labels[begin + left :])[: self.max_length]
        return Sequence(ids, labels, whole.answer_start - left, prompt_cut=left > 0, answer_cut=over > left)

    def _blocks(self, parts: list[tuple[list[int], bool]]) -> list[Sequence]:
        """A text in as few blocks as possible, of nearly equal length: a short last block would teach little."""
        ids = self.lead + [token for tokens, _ in parts for token in tokens]
        count = -(-len(ids) // self.max_length)
        edges = [len(ids) * number // count for number in range(count + 1)] if count else []
        blocks = [ids[start:end] for start, end in pairwise(edges)]
        return [Sequence(block, [NO_LOSS, *block[1:]], answer_start=(len(block) + 1) // 2) for block in blocks]

    def _is_separable(self) -> bool:
        apart = self.tokenise(["Question:\n", "Answer", "Question:\nAnswer"])
        return apart[0] + apart[1] == apart[2] or not self.tokenizer.is_fast


def _lead_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens this tokenizer puts before every text, such as a beginning-of-text token."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    return next((full[:start] for start in range(len(full)) if full[start : start + len(bare)] == bare), [])


def _tokeniser(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[list[int]]]:
    backend = getattr(tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
    if backend is None:
        return lambda texts: (
            cast("list[list[int]]", tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]) if texts else []
        )

    def tokenise(texts: list[str]) -> list[list[int]]:
        backend.no_truncation()  # an earlier call of the tokenizer may have left its own settings behind
        backend.no_padding()
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return tokenise


def _cut(ids: list[int], offsets: list[tuple[int, int]], pieces: list[Piece]) -> list[tuple[list[int], bool]]:
    """Tokens to pieces by where they start; a token across a border counts to the piece before it."""
    parts: list[tuple[list[int], bool]] = []
    position = end = 0
    for piece in pieces:
        end += len(piece.text)
        first = position
        while position < len(ids) and offsets[position][0] < end:
            position += 1
        parts.append((ids[first:position], piece.supervised))
    if position < len(ids):  # zero-width tokens at the end
        parts[-1] = (parts[-1][0] + ids[position:], parts[-1][1])
    return parts
