"""A server on this machine that grades texts as vLLM does (`prompt_logprobs`), with the log-probabilities that a small model really has.

with GradingServer(model_folder) as server:
    server.graded       # the token rows that it was asked for
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from completions_server import CompletionsServer
from transformers import AutoModelForCausalLM, AutoTokenizer


class GradingServer(CompletionsServer):
    """Tells at most `most` tokens, or with None refuses; `raw`: logits, as it should not. `tokenizer` is its model's unless given."""

    def __init__(self, folder: Path, *, most: int | None = 20, tokenizer: Any = None, raw: bool = False, key: str | None = None) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder)
        self.most, self.raw = most, raw
        super().__init__(key=key)

    @property
    def graded(self) -> list[tuple[int, ...]]:
        """In the order of asking, without those of the check before a run."""
        rows = [tuple(asked["prompt"]) for asked in self.asked if isinstance(asked.get("prompt"), list)]
        checks = [place for place, asked in enumerate(self.asked) if isinstance(asked.get("prompt"), str)]
        return rows[2 * len(checks) :] if len(checks) <= 1 else [row for row in rows if row not in rows[:2]]

    def answer(self, given: dict[str, Any]) -> dict[str, Any]:
        if "prompt" not in given:
            return super().answer(given)
        top = given["prompt_logprobs"]
        if self.most is None:
            return {"status": 422, "detail": "Unexpected fields in the request: {'prompt_logprobs'}"}
        if top > self.most:
            return {
                "status": 400,
                "error": {"message": f"Requested prompt logprobs of {top}, which is greater than max allowed: {self.most}"},
            }
        ids = self.tokenizer(given["prompt"])["input_ids"] if isinstance(given["prompt"], str) else given["prompt"]
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, :-1]
        told = [
            None,
            *(self._place(row if self.raw else row.log_softmax(-1), token, top) for row, token in zip(logits, ids[1:], strict=True)),
        ]
        return {"choices": [{"index": 0, "text": "a", "prompt_logprobs": told}], "usage": {"total_tokens": len(ids) + 1}}

    def _place(self, values: torch.Tensor, there: int, top: int) -> dict[str, Any]:
        named = dict.fromkeys([there, *values.topk(top).indices.tolist()])  # the token that is there comes first, as vLLM has it
        return {str(token): {"logprob": float(values[token]), "decoded_token": self.tokenizer.decode([token])} for token in named}
