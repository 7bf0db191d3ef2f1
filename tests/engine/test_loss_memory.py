"""What the loss takes of a GPU's memory, counted on the meta device: as many MiB as the allocator of an H200 counted (docs/numbers.md)."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finetune.training.head import Head
from finetune.training.loss import chunked as module
from finetune.training.loss.chunked import CrossEntropy, chunked_loss
from finetune.training.loss.kernel import Found, Targets
from finetune.training.loss.workspace import Workspace

TOKENS, WIDTH, VOCABULARY = 8192, 2048, 128_256
MIB = 2**20


class Counted(TorchDispatchMode):
    """`peak` bytes of what is made inside, beside the tensors that were there before."""

    def __init__(self, *before: Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and (storage := each.untyped_storage())._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return made

    def _gone(self, place: int, size: int) -> None:
        self.seen.discard(place)
        self.now -= size


def kernel(logits: Tensor, targets: Targets, *, teacher: Tensor | None, temperature: float, dtype: torch.dtype) -> Found:
    """What it takes, and nothing that it computes."""
    return Found(logits.view(dtype)[:, : logits.shape[1]], *torch.empty(2, len(logits), device=logits.device))


@pytest.mark.parametrize(
    ("chunk", "trains", "expected"),
    [(512, False, 586), (512, True, 1587), (128, False, 194), (64, False, 129)],
    ids=["as measured", "as measured, head trains", "counted", "counted, smaller"],
)
def test_the_loss_takes_a_chunk_and_its_gradients(chunk: int, trains: bool, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which the meta device has not
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(module, "fuses", lambda device: True)
    monkeypatch.setattr(module, "wide_products", lambda device, dtype: True)
    monkeypatch.setattr(module, "softmax_loss_", kernel)
    monkeypatch.setattr(module, "addmm", lambda total, *_, out, **__: out)  # the meta device has no sums of another dtype
    hidden = torch.empty(TOKENS, WIDTH, dtype=torch.bfloat16, device="meta", requires_grad=True)
    weight = torch.empty(VOCABULARY, WIDTH, dtype=torch.bfloat16, device="meta", requires_grad=trains)
    labels = torch.empty(TOKENS, dtype=torch.long, device="meta")
    with Counted(hidden, weight, labels) as counted:
        chunked_loss(hidden, Head(weight), CrossEntropy(labels), workspace=Workspace(chunk * MIB))
    assert round(counted.peak / MIB) == pytest.approx(expected, abs=1)
