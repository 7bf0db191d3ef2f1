"""Pieces of text to token ids and labels that fit `max_length`.

encoder = Encoder(tokenizer, max_length=512, supervise="answers")
encoder.encode([[{"messages": ...}, ...], ...])  ->  (record, [Sequence(ids=[1, 5, 9, 2], labels=[-100, -100, 9, 2], answer_start=2)]), ...
encoder.prompt([{"role": "user", "content": "Hi"}])  ->  [1, 5]: what the model is given to answer, in training and ever after

Pieces are tokenised apart and joined, so that an answer follows exactly those tokens that the model is later prompted with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as ListLike
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from finetune.data.formats.cells import Message
from finetune.data.row_notices import RowNotices
from finetune.data.rows import RowProblem
from finetune.data.tokens.labels import NO_LOSS
from finetune.data.tokens.pieces import Piece, Rendered, Template
from finetune.data.tokens.plain_template import PlainTemplate
from finetune.data.tokens.render import ChatTemplate
from finetune.data.tokens.tokenise import Tokeniser, lead_ids
from finetune.errors import ModelError
from finetune.models.templates.chat_template import added_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Parts: TypeAlias = "list[list[int]]"  # the tokens of each piece

AHEAD = 2
PROMPT_SHARE = 2  # up to half of max_length, the prompt stays whole and a long answer is cut instead


@dataclass
class Sequence:
    """One row of training: `labels[i]` is `ids[i]` or -100; the last answer begins at `answer_start`.

    `uncut` is how many tokens it had, if it was cut. `reference` is that answer as it was written, "" where it is more than text.
    `teacher_ids` are the tokens that a teacher with a system prompt sees instead.
    """

    ids: list[int]
    labels: list[int]
    answer_start: int
    prompt_cut: bool = False
    answer_cut: bool = False
    uncut: int = 0
    reference: str = ""
    teacher_ids: list[int] | None = None

    @property
    def supervised(self) -> int:
        """Tokens with a label."""
        return len(self.labels) - self.labels.count(NO_LOSS)


class Encoder:
    """Messages to sequences; a RowProblem stands in for a row that cannot be encoded.

    `thinking` says whether the model is asked to think before it answers. `noticed` counts what was done to rows.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        supervise: Literal["answers", "all"],
        thinking: bool = False,
    ) -> None:
        self.tokenizer, self.max_length, self.supervise = tokenizer, max_length, supervise
        self.tokeniser = Tokeniser(tokenizer)
        self.lead = lead_ids(tokenizer)
        self.template: Template = ChatTemplate(tokenizer, thinking=thinking) if tokenizer.chat_template else PlainTemplate.of(tokenizer)
        self.noticed = RowNotices(set(added_tokens(tokenizer)), composes=_composes(tokenizer))

    def encode(self, batches: Iterable[list[dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], list[Sequence] | RowProblem]]:
        """Each record with its sequences, in order; one batch is tokenised while the next is rendered and the last assembled."""
        with ThreadPoolExecutor(1) as worker:
            ahead: deque[tuple[list[dict[str, Any]], list[Rendered | RowProblem], Future[list[Parts]]]] = deque()
            for records in batches:
                rendered = [self._rendered(record) for record in records]
                usable = [row.pieces for row in rendered if not isinstance(row, RowProblem)]
                ahead.append((records, rendered, worker.submit(self.tokeniser.rows, usable)))
                if len(ahead) == AHEAD:
                    yield from self._assembled(*ahead.popleft())
            while ahead:
                yield from self._assembled(*ahead.popleft())

    def pieces(self, record: Mapping[str, Any]) -> list[Piece]:
        """The text of a row, each piece supervised or not as its tokens are; raises RowProblem."""
        pieces = self.template.rendered(record["messages"], record.get("tools")).pieces
        return [piece._replace(supervised=self._learned(piece)) for piece in pieces]

    def prompt(self, messages: ListLike[Message], tools: ListLike[dict[str, Any]] | None = None) -> list[int]:
        """The tokens before the answer to these turns, as training has them before an answer; raises ModelError."""
        try:
            sequence = self.whole([*messages, {"role": "assistant", "content": "answer"}], tools)
        except RowProblem as problem:
            raise ModelError(f"The model cannot be given this message: {problem}.", hint="Say it in another way.") from None
        return sequence.ids[: sequence.answer_start]

    def whole(self, messages: ListLike[Message], tools: ListLike[dict[str, Any]] | None = None) -> Sequence:
        """All tokens of one row, however long; raises RowProblem."""
        rendered = self.template.rendered(messages, tools)
        (parts,) = self.tokeniser.rows([rendered.pieces])
        return self._whole(rendered.pieces, parts)

    def _rendered(self, record: Mapping[str, Any]) -> Rendered | RowProblem:
        try:
            return self.template.rendered(record["messages"], record.get("tools"))
        except RowProblem as problem:
            return problem

    def _assembled(
        self, records: list[dict[str, Any]], rendered: list[Rendered | RowProblem], tokens: Future[list[Parts]]
    ) -> Iterator[tuple[dict[str, Any], list[Sequence] | RowProblem]]:
        parts = iter(tokens.result())
        for record, row in zip(records, rendered, strict=True):
            if isinstance(row, RowProblem):
                yield record, row
                continue
            self.noticed.row(row, record)
            if record["messages"][0]["role"] == "text":
                yield record, self._blocks(next(parts))
            else:
                yield record, [self._sequence(row, next(parts))]

    def _sequence(self, row: Rendered, parts: Parts) -> Sequence:
        whole = self._whole(row.pieces, parts)
        whole.reference = row.answer
        sequence = self.fitted(whole)
        sequence.labels[:1] = [NO_LOSS]  # nothing comes before the first token to predict it from
        return sequence

    def _whole(self, pieces: list[Piece], parts: Parts) -> Sequence:
        """All tokens of a row, with a loss on what is supervised, or on everything but what must not be learned."""
        ids = list(self.lead) if self.template.name == "plain" else []  # a chat template writes its own
        labels = list(ids) if self.supervise == "all" else [NO_LOSS] * len(ids)
        answer_start = len(ids)
        for piece, tokens in zip(pieces, parts, strict=True):
            if piece.supervised:
                answer_start = len(ids)
            ids += tokens
            labels += tokens if self._learned(piece) else [NO_LOSS] * len(tokens)
        return Sequence(ids, labels, answer_start)

    def _learned(self, piece: Piece) -> bool:
        return piece.supervised or (self.supervise == "all" and not piece.muted)

    def fitted(self, whole: Sequence) -> Sequence:
        """Cuts a prompt that takes more than half of the room on its left, then the answer, and with its end the end-of-answer label."""
        over = len(whole.ids) - self.max_length
        if over <= 0:
            return whole
        kept = min(whole.answer_start, self.max_length // PROMPT_SHARE)
        left = min(over, whole.answer_start - kept)
        begin = beginning(whole.ids, self.tokenizer) if left else 0
        ids = (whole.ids[:begin] + whole.ids[begin + left :])[: self.max_length]
        labels = (whole.labels[:begin] + whole.labels[begin + left :])[: self.max_length]
        start, reference = whole.answer_start - left, whole.reference
        return Sequence(ids, labels, start, prompt_cut=left > 0, answer_cut=over > left, uncut=len(whole.ids), reference=reference)

    def _blocks(self, parts: Parts) -> list[Sequence]:
        """A text in as few blocks as possible, of nearly equal length: the model would learn little from a short last block."""
        ids = self.lead + [token for tokens in parts for token in tokens]
        count = -(-len(ids) // self.max_length)
        edges = [len(ids) * number // count for number in range(count + 1)] if count else []
        blocks = [ids[start:end] for start, end in pairwise(edges)]
        return [Sequence(block, [NO_LOSS, *block[1:]], answer_start=(len(block) + 1) // 2) for block in blocks]


def _composes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a letter and its mark are read as the one character that both make."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer is not None and normalizer.normalize_str("e\u0301") == normalizer.normalize_str("\u00e9")


def beginning(ids: ListLike[int], tokenizer: PreTrainedTokenizerBase | None) -> int:
    """How many tokens at the start stay when a prompt is cut on its left: models rely on their first token (attention sink)."""
    return 1 if ids and ids[0] == getattr(tokenizer, "bos_token_id", None) else 0


def cut_prompt(ids: ListLike[int], room: int, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """The end of a prompt that is longer than `room`, after its beginning token."""
    over = len(ids) - room
    if over <= 0:
        return list(ids)
    begin = beginning(ids, tokenizer) if room > 1 else 0
    return [*ids[:begin], *ids[begin + over :]]
