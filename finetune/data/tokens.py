"""Pieces of text to token ids and labels that fit `max_length`.

encoder = Encoder(tokenizer, max_length=512, supervise="answers")
encoder.encode([[{"messages": ...}, ...], ...])  ->  (record, [Sequence(ids=[1, 5, 9, 2], labels=[-100, -100, 9, 2], answer_start=2)]), ...

Pieces are tokenised apart and joined, so that an answer follows exactly those tokens that the model is later prompted with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as ListLike
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from finetune.data.cached_template import CachedChatTemplate
from finetune.data.formats.cells import Message, last_answer
from finetune.data.render import ChatTemplate, Piece, PlainTemplate, Template, end_token
from finetune.data.rows import RowProblem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Parts: TypeAlias = "list[tuple[list[int], bool]]"  # the tokens of each piece, supervised or not
Rendered: TypeAlias = "list[Piece] | RowProblem"

NO_LOSS = -100
AHEAD = 2
PROMPT_SHARE = 2  # up to half of max_length, the prompt stays whole and a long answer is cut instead


@dataclass
class Sequence:
    """One row of training: `labels[i]` is `ids[i]` or -100; the last answer begins at `answer_start`."""

    ids: list[int]
    labels: list[int]
    answer_start: int
    prompt_cut: bool = False
    answer_cut: bool = False

    @property
    def supervised(self) -> int:
        """Tokens with a label."""
        return len(self.labels) - self.labels.count(NO_LOSS)


class Encoder:
    """Messages to sequences; a RowProblem stands in for a row that cannot be encoded."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, supervise: Literal["answers", "all"]) -> None:
        self.tokenizer, self.max_length, self.supervise = tokenizer, max_length, supervise
        self.template: Template = (
            CachedChatTemplate(ChatTemplate(tokenizer)) if tokenizer.chat_template else PlainTemplate(end_token(tokenizer))
        )
        self.lead = _lead_ids(tokenizer)
        self.tokenise = _tokeniser(tokenizer)
        self.separable = self._is_separable()
        self.rewritten = 0  # rows of which the chat template left something out

    def encode(self, batches: Iterable[list[dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], list[Sequence] | RowProblem]]:
        """Each record with its sequences, in order; one batch is tokenised while the next is rendered and the last assembled."""
        with ThreadPoolExecutor(1) as worker:
            ahead: deque[tuple[list[dict[str, Any]], list[Rendered], Future[list[Parts]]]] = deque()
            for records in batches:
                rendered = [self._pieces(record["messages"]) for record in records]
                ahead.append((records, rendered, worker.submit(self._tokens, rendered)))
                if len(ahead) == AHEAD:
                    yield from self._assembled(*ahead.popleft())
            while ahead:
                yield from self._assembled(*ahead.popleft())

    def _assembled(
        self, records: list[dict[str, Any]], rendered: list[Rendered], tokens: Future[list[Parts]]
    ) -> Iterator[tuple[dict[str, Any], list[Sequence] | RowProblem]]:
        parts = iter(tokens.result())
        for record, pieces in zip(records, rendered, strict=True):
            if isinstance(pieces, RowProblem):
                yield record, pieces
            elif record["messages"][0]["role"] == "text":
                yield record, self._blocks(next(parts))
            else:
                yield record, [self._sequence(next(parts))]

    def _tokens(self, rendered: list[Rendered]) -> list[Parts]:
        usable = [pieces for pieces in rendered if not isinstance(pieces, RowProblem)]
        return self._tokens_apart(usable) if self.separable else self._tokens_together(usable)

    def _pieces(self, messages: ListLike[Message]) -> Rendered:
        try:
            pieces = self.template.pieces(messages)
        except RowProblem as problem:
            return problem
        self.rewritten += self.template.name != "plain" and _leaves_out(messages, pieces)
        return pieces

    def _tokens_apart(self, rows: list[list[Piece]]) -> list[Parts]:
        texts = list(dict.fromkeys(piece.text for row in rows for piece in row))  # prompts often repeat
        known = dict(zip(texts, self.tokenise(texts), strict=True))
        return [[(known[piece.text], piece.supervised) for piece in row] for row in rows]

    def _tokens_together(self, rows: list[list[Piece]]) -> list[Parts]:
        """For tokenizers that mark the start of every text (SentencePiece): the whole text at once, cut by character offsets."""
        whole = self.tokenizer(
            ["".join(piece.text for piece in row) for row in rows], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [_cut(ids, offsets, row) for ids, offsets, row in zip(whole["input_ids"], whole["offset_mapping"], rows, strict=True)]

    def _sequence(self, parts: Parts) -> Sequence:
        lead = self.lead if self.template.name == "plain" else []  # a chat template writes its own
        ids, labels = list(lead), [NO_LOSS] * len(lead)
        answer_start = len(ids)
        for tokens, supervised in parts:
            if supervised:
                answer_start = len(ids)
            ids += tokens
            labels += tokens if supervised else [NO_LOSS] * len(tokens)
        sequence = self.fitted(Sequence(ids, labels, answer_start))
        if self.supervise == "all":
            sequence.labels = list(sequence.ids)
        sequence.labels[:1] = [NO_LOSS]  # nothing comes before the first token to predict it from
        return sequence

    def fitted(self, whole: Sequence) -> Sequence:
        """Cuts a prompt that takes more than half of the room on its left, then the answer, and with its end the end-of-answer label."""
        over = len(whole.ids) - self.max_length
        if over <= 0:
            return whole
        kept = min(whole.answer_start, self.max_length // PROMPT_SHARE)
        left = min(over, whole.answer_start - kept)
        begin = 1 if left and whole.ids[0] == self.tokenizer.bos_token_id else 0  # models rely on their first token (attention sink)
        ids = (whole.ids[:begin] + whole.ids[begin + left :])[: self.max_length]
        labels = (whole.labels[:begin] + whole.labels[begin + left :])[: self.max_length]
        return Sequence(ids, labels, whole.answer_start - left, prompt_cut=left > 0, answer_cut=over > left)

    def _blocks(self, parts: Parts) -> list[Sequence]:
        """A text in as few blocks as possible, of nearly equal length: the model would learn little from a short last block."""
        ids = self.lead + [token for tokens, _ in parts for token in tokens]
        count = -(-len(ids) // self.max_length)
        edges = [len(ids) * number // count for number in range(count + 1)] if count else []
        blocks = [ids[start:end] for start, end in pairwise(edges)]
        return [Sequence(block, [NO_LOSS, *block[1:]], answer_start=(len(block) + 1) // 2) for block in blocks]

    def _is_separable(self) -> bool:
        apart = self.tokenise(["Question:\n", "Answer", "Question:\nAnswer"])
        return apart[0] + apart[1] == apart[2] or not self.tokenizer.is_fast


def _leaves_out(messages: ListLike[Message], pieces: list[Piece]) -> bool:
    """Whether a turn up to the last answer is not in the rendered text as it was written, but for blanks at its ends."""
    rendered = "".join(piece.text for piece in pieces)
    return any(turn["content"].strip() not in rendered for turn in messages[: last_answer(messages) + 1])


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

    # An earlier call may have left its settings behind. Undone here, once: a change while another thread reads the tokenizer is an error.
    backend.no_truncation()
    backend.no_padding()

    def tokenise(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return tokenise


def _cut(ids: list[int], offsets: list[tuple[int, int]], pieces: list[Piece]) -> Parts:
    """Tokens to pieces by where they start; a token across a border counts to the piece before it."""
    parts: Parts = []
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
