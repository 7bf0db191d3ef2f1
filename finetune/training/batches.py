"""What of a batch has a loss; lengths, counts and row numbers, kept in main memory by the collator: reading them from a GPU would block.

    batch = WithLengths(Collator(0))(rows)
    Supervised.of(batch["labels"], batch.get(KNOWN))                        # positions and labels
    supervised_counts(batch), lengths_of(batch, 0), row_numbers(batch)      # lists of numbers
    in_main_memory(batch)["input_ids"]

A batch that was cut or changed has no KNOWN any more, and all this is then read from its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from finetune.data.tokens.collator import Collator
from finetune.data.tokens.labels import NO_LOSS, unpadded
from finetune.errors import DatasetError
from finetune.training.sub_batches import tensors_of

KNOWN = "known"  # of a batch: numbers that are on no device
NUMBERS = ("row", "teacher_number")  # of each row: which one it is, and whose
TOKENS = ("input_ids", "labels")


@dataclass(frozen=True)
class Supervised:
    """The supervised positions of a batch: `index` [n] into [batch * length] states, and the `labels` [n] they predict."""

    index: Tensor
    labels: Tensor

    @classmethod
    def of(cls, labels: Tensor, known: Mapping[str, Any] | None = None) -> Supervised:
        """Logits at position i predict token i + 1, so a label at i supervises the state at i - 1.

        With what the collator has `known` of these labels, a GPU is not waited for.
        """
        wanted = nn.functional.pad(labels[:, 1:] != NO_LOSS, (0, 1)).flatten()
        if known is not None and labels.device.type not in ("cpu", "mps"):
            index = torch.nonzero_static(wanted, size=sum(known["supervised"])).squeeze(1)
        else:
            index = wanted.nonzero().squeeze(1)
        return cls(index, labels.flatten()[index + 1])


class WithLengths:
    """A collator that also gives the true `length` of each row, so that a padding id inside a row is never taken for padding.

    Where it makes no labels, every token of the rows is one. What is KNOWN of the rows need not be read from a GPU. Raises DatasetError
    for rows that are no tokens, unless a collator of another kind can read them, and for tokens beyond the `vocabulary` or more than are
    the `longest`: a GPU would not survive them.
    """

    vocabulary: int | None = None  # of the model, once there is one
    longest: int | None = None
    reader = "the model"  # who reads no longer rows

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]]) -> None:
        self.collator = collator

    def end_at(self, longest: int | None, reader: str) -> None:
        """Refuse rows of more tokens than those, where somebody before can read more."""
        if longest is not None and longest < (self.longest or longest + 1):
            self.longest, self.reader = longest, reader

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        if not rows:  # of a process without a share of the step
            return {name: torch.zeros((0, 1), dtype=torch.long) for name in ("input_ids", "labels")}
        ours = isinstance(self.collator, Collator)
        of_tokens = all(isinstance(row, Mapping) and "input_ids" in row for row in rows)
        if ours and not of_tokens:
            what = "has no input_ids" if isinstance(rows[0], Mapping) else f"is of type {type(rows[0]).__name__}"
            raise DatasetError(f"A row {what}.", hint="Pass rows of input_ids and labels, or a data_collator that makes them.")
        if ours:
            rows = [unpadded(row) for row in rows]
        lengths = [len(row["input_ids"]) for row in rows] if of_tokens else []
        batch = self.collator(rows)
        for name in TOKENS if self.vocabulary else ():
            highest = -1 if (tokens := batch.get(name)) is None or not tokens.numel() else int(tokens.max())
            if highest >= cast(int, self.vocabulary):
                raise DatasetError(
                    f"Token {highest} of the {name} is not in the model's vocabulary of {self.vocabulary:,} tokens.",
                    hint="If tokens were added to the tokenizer: model.resize_token_embeddings(len(tokenizer)).",
                )
        if self.longest is not None and batch.get("position_ids") is None and (tokens := batch["input_ids"].shape[1]) > self.longest:
            raise DatasetError(
                f"A row has {tokens:,} tokens, and {self.reader} reads at most {self.longest:,}.",
                hint=f"Cut rows where they are tokenised: truncation=True, max_length={self.longest}.",
            )
        if len(batch["input_ids"]) == len(lengths):
            batch["length"] = torch.tensor(lengths)
        if batch.get("labels") is None:
            real = right_padding_mask({**batch, "labels": torch.full_like(batch["input_ids"], NO_LOSS)}, -1)
            batch["labels"] = batch["input_ids"].masked_fill(real == 0, NO_LOSS)
        if "length" in batch and (batch.get("attention_mask") is None or type(self.collator) is Collator):
            batch[KNOWN] = {"lengths": lengths, "supervised": supervised_counts(batch)}
            batch[KNOWN] |= {name: batch[name].tolist() for name in NUMBERS if name in batch}
            batch[KNOWN] |= {name: batch[name].numpy() for name in TOKENS}  # no copy, and no tensor, which would be sent to a device
        return batch


def lengths_of(batch: Mapping[str, Any], pad_id: int) -> list[int]:
    """How many tokens of each row are no padding."""
    return list(batch[KNOWN]["lengths"] if KNOWN in batch else right_padding_mask(batch, pad_id).sum(1).tolist())


def supervised_counts(batch: Mapping[str, Any]) -> list[int]:
    """How many tokens of each row have a loss."""
    if KNOWN in batch:
        return list(batch[KNOWN]["supervised"])
    return list((batch["labels"][:, 1:] != NO_LOSS).sum(1).tolist())


def row_numbers(batch: Mapping[str, Any], name: str = "row") -> list[int]:
    """One of the NUMBERS of each row of a batch: by default which row of the training set it is."""
    known = batch.get(KNOWN, {})
    return list(known[name] if name in known else batch[name].tolist())


def some_rows(batch: dict[str, Any], rows: slice) -> dict[str, Any]:
    """Some of the rows of a batch that lie together, with what is known of them."""
    known = {KNOWN: {name: numbers[rows] for name, numbers in batch[KNOWN].items()}} if KNOWN in batch else {}
    return {name: tensor[rows] for name, tensor in tensors_of(batch).items()} | known


def in_main_memory(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tokens of a batch and their labels where Python can look at them."""
    known = batch.get(KNOWN)
    return {name: batch[name].cpu() if known is None else torch.from_numpy(known[name]) for name in TOKENS}


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor from main memory on a device, copied without blocking where that is possible."""
    return tensor.to(device, non_blocking=device.type != "mps")


def right_padding_mask(inputs: Mapping[str, Any], pad_id: int) -> Tensor:
    """1 at the real tokens [batch, length]: from `attention_mask`, `length`, or from the place of the last token that is not padding."""
    if inputs.get("attention_mask") is not None:
        return cast(Tensor, inputs["attention_mask"])
    ids, labels = inputs["input_ids"], inputs["labels"]
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    ends: Tensor | None = inputs.get("length")
    if ends is None:
        ends = ((ids != pad_id) | (labels != NO_LOSS)).long().mul(places).amax(1)
    return (places <= ends[:, None]).long()


def ends_in_padding(mask: Tensor) -> bool:
    """Whether a mask [batch, length] hides nothing but the ends of rows."""
    return bool((mask[:, 1:] <= mask[:, :-1]).all())
