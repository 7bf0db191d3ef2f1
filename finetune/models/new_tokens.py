"""Tokens that a recipe adds to a vocabulary: an id each, and a row of the embeddings that begins as the mean of its pieces.

    add_tokens(tokenizer, ["<sql>", "kubectl"])       # tokenizer.new_tokens == {49152: [44, 3876, 46], ...}
    give_rows(model, tokenizer.new_tokens)

They are part of a text, not special: answers show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import ModelError


def add_tokens(tokenizer: Any, texts: Sequence[str]) -> None:
    """Add those that are no tokens yet; the tokenizer then has `new_tokens`, the ids and what each text was cut into before.

    What is there already is said in its notes. Raises ModelError for a text that it does not read as one token afterwards.
    """
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    there = [text for text in texts if text in vocabulary]
    pieces = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts if text not in vocabulary}
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in pieces])
    ids = {text: int(tokenizer.convert_tokens_to_ids(text)) for text in pieces}
    for text, number in ids.items():
        read = tokenizer(text, add_special_tokens=False)["input_ids"]
        if read != [number] or not pieces[text]:
            raise ModelError(
                f"{text!r} cannot be a token of {tokenizer.name_or_path}: its tokenizer reads it as {len(read)} tokens even then.",
                hint="Leave it out of dataset.add_tokens, or write it without spaces at its ends.",
            )
    tokenizer.new_tokens = {ids[text]: list(parts) for text, parts in pieces.items()}
    notes = [f"{text!r} is a token of the model already (number {vocabulary[text]}); nothing is added for it." for text in there]
    if pieces:
        several = f"tokens {', '.join(map(repr, pieces))} are" if len(pieces) > 1 else f"token {next(iter(pieces))!r} is"
        notes.append(f"The {several} added; each begins as the mean of what it was cut into before.")
    tokenizer.notes = [*getattr(tokenizer, "notes", []), *notes]


def new_tokens_of(tokenizer: Any) -> dict[int, list[int]]:
    """The ids that were added to it, with the pieces of each."""
    found: dict[int, list[int]] = getattr(tokenizer, "new_tokens", {})
    return found


def rows_needed(tokens: Mapping[int, Sequence[int]]) -> int:
    """Rows that embeddings with all of these tokens have at least."""
    return max(tokens, default=-1) + 1


def add_rows(model: Any, tokens: Mapping[int, Sequence[int]]) -> None:
    """Make the embeddings and the head as large as the tokens need; what the new rows hold is left open."""
    if rows_needed(tokens) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows_needed(tokens), mean_resizing=False)


def give_rows(model: Any, tokens: Mapping[int, Sequence[int]]) -> None:
    """Give each token its row in the embeddings and in the head: the mean of its pieces' rows; no other row changes."""
    import torch

    if not tokens:
        return
    add_rows(model, tokens)
    head = model.get_output_embeddings()
    ends = [model.get_input_embeddings().weight, *([head.weight, getattr(head, "bias", None)] if head is not None else [])]
    with torch.no_grad():
        for weight in {id(end): end for end in ends if end is not None}.values():  # tied ones once
            for number, pieces in tokens.items():
                weight[number] = weight[list(pieces)].float().mean(0).to(weight.dtype)
