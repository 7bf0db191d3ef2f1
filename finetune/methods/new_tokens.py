"""New tokens beside an adapter: only their rows of the embeddings and of the head learn, and the adapter's file holds them.

    settings = token_settings(model, [49152])         # {"trainable_token_indices": {"model.embed_tokens": [49152]}} for peft

An adapter is loaded onto its base as that is, so the rows have to be there: many models have more rows than tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL = "Train every weight: --set method.kind=full"


def token_settings(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, Any]:
    """What a peft config says of new tokens; empty without any. Raises ModelError where their rows could not be trained or loaded."""
    from torch import nn

    if not tokens:
        return {}
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    rows, kind = embeddings.weight.shape[0], type(model).__name__
    if max(tokens) >= rows:
        raise ModelError(
            f"An adapter cannot add tokens to {kind}: its embeddings have {rows:,} rows, {max(tokens) + 1:,} are needed, and an adapter is "
            "loaded onto a base that has no more.",
            hint=FULL,
        )
    if not isinstance(embeddings, nn.Embedding) or not isinstance(head, nn.Linear) or head.bias is not None:
        raise ModelError(f"peft cannot train single rows of the embeddings and the head of {kind}.", hint=FULL)
    tied = head.weight is embeddings.weight
    if tied != bool(getattr(model.config, "tie_word_embeddings", False)):
        raise ModelError(
            f"{kind} does not say correctly whether embeddings and head are the same weights (tie_word_embeddings), so new tokens beside "
            "an adapter would be loaded wrongly.",
            hint=FULL,
        )
    names = {id(module): name for name, module in model.named_modules()}
    ends = (embeddings,) if tied else (embeddings, head)  # peft itself ties what is tied
    return {"trainable_token_indices": {names[id(end)]: sorted(tokens) for end in ends}}


def in_32_bits(adapted: Any) -> None:
    """Keep the rows that learn in 32 bits, as the rest of an adapter: small updates are lost in fewer."""
    for name, parameter in adapted.named_parameters():
        if "trainable_tokens_delta" in name:
            parameter.data = parameter.data.float()
