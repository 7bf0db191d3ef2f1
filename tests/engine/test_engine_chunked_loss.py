"""The chunked loss against textbook formulas with full logits, in float64 and through autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.training.head import Head
from finetune.training.loss.chunked import CrossEntropy, chunked_loss, chunks
from finetune.training.loss.workspace import Workspace

ROWS, WIDTH, VOCABULARY = 23, 16, 101
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "soft cap": {"softcap": 2.5},
    "everything": {"bias": True, "scale": 1.7, "softcap": 4.0},
}


def made(kind: str, dtype: torch.dtype, *, seed: int = 0, width: int = WIDTH, vocabulary: int = VOCABULARY) -> tuple[Tensor, Head]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    settings = dict(HEADS[kind])
    bias = random(vocabulary) if settings.pop("bias", False) else None
    return random(ROWS, width), Head(random(vocabulary, width), bias, **settings)


def textbook_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        logits = logits + head.bias.double()
    logits = logits * head.scale
    return logits if head.softcap is None else torch.tanh(logits / head.softcap) * head.softcap


def gradients(loss: Tensor, hidden: Tensor, head: Head) -> list[Tensor]:
    wanted = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    return [gradient.double() for gradient in torch.autograd.grad(loss, wanted)]


LABELS = torch.randint(0, VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("rows_per_chunk", [1, 7, 100])
def test_cross_entropy_is_the_textbook_one(kind: str, rows_per_chunk: int) -> None:
    hidden, head = made(kind, torch.float64)
    row = VOCABULARY * 8
    ours = chunked_loss(hidden, head, CrossEntropy(LABELS), chunk_bytes=row * rows_per_chunk, block_bytes=row * 3)
    theirs = F.cross_entropy(textbook_logits(hidden, head), LABELS, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, reference in zip(gradients(ours * 0.3, hidden, head), gradients(theirs * 0.3, hidden, head), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)])
@pytest.mark.parametrize("rows_per_chunk", [2, 100])
def test_every_precision_stays_within_its_rounding(dtype: torch.dtype, tolerance: float, rows_per_chunk: int) -> None:
    hidden, head = made("bias", dtype)
    ours = chunked_loss(hidden, head, CrossEntropy(LABELS), chunk_bytes=VOCABULARY * 4 * rows_per_chunk)
    theirs = F.cross_entropy(textbook_logits(hidden, head), LABELS, reduction="sum")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=0)
    for mine, reference in zip(gradients(ours, hidden, head), gradients(theirs, hidden, head), strict=True):
        assert (mine - reference).abs().max() <= tolerance * reference.abs().max()


def test_autocast_decides_the_products_and_gradients_keep_their_own_dtype() -> None:
    hidden, head = made("plain", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_loss(hidden.bfloat16(), head, CrossEntropy(LABELS))
    plain = chunked_loss(hidden, head, CrossEntropy(LABELS))
    assert loss != plain
    torch.testing.assert_close(loss, plain, rtol=0.02, atol=0)
    grad_hidden, grad_weight = torch.autograd.grad(loss, (hidden, head.weight))
    assert grad_hidden.dtype == grad_weight.dtype == torch.float32


@pytest.mark.parametrize("frozen", [True, False])
def test_under_autocast_a_changed_weight_is_never_an_old_one(frozen: bool) -> None:
    hidden, head = made("plain", torch.float32)
    workspace = Workspace()
    weight = head.weight.detach().requires_grad_(not frozen)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return chunked_loss(hidden, Head(weight), CrossEntropy(LABELS), workspace=workspace)

    first, again = loss(), loss()
    with torch.no_grad():
        weight.mul_(-1)
    changed = loss()
    assert first == again
    torch.testing.assert_close(
        changed.double(), F.cross_entropy(textbook_logits(hidden, Head(weight)), LABELS, reduction="sum"), rtol=0.02, atol=0
    )


def test_extreme_logits_stay_finite() -> None:
    hidden, head = made("plain", torch.float32)
    loss = chunked_loss(hidden * 1e4, head, CrossEntropy(LABELS))
    theirs = F.cross_entropy(textbook_logits(hidden * 1e4, head), LABELS, reduction="sum")
    torch.testing.assert_close(loss.double(), theirs, rtol=1e-5, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients(loss, hidden, head))


def test_a_frozen_head_gets_no_gradient_and_the_states_the_same_one() -> None:
    hidden, head = made("bias", torch.float64)
    (free,) = torch.autograd.grad(chunked_loss(hidden, head, CrossEntropy(LABELS)), hidden)
    frozen = head.detach()
    (held,) = torch.autograd.grad(chunked_loss(hidden, frozen, CrossEntropy(LABELS)), hidden)
    torch.testing.assert_close(held, free)
    assert not frozen.trains


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, head = made("soft cap", torch.float64)
    with_gradients = chunked_loss(hidden, head, CrossEntropy(LABELS))
    with torch.no_grad():
        torch.testing.assert_close(chunked_loss(hidden, head, CrossEntropy(LABELS)), with_gradients)


def test_a_second_backward_is_refused_rather_than_wrong() -> None:
    hidden, head = made("plain", torch.float64)
    loss = chunked_loss(hidden, head, CrossEntropy(LABELS))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_no_rows_cost_nothing() -> None:
    hidden, head = made("plain", torch.float32)
    loss = chunked_loss(hidden[:0], head, CrossEntropy(LABELS[:0]))
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize("rows", [1, 10, 999])
def test_chunks_cover_all_rows_within_the_budget(rows: int) -> None:
    parts = chunks(rows, 10, 95)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert max(part.stop - part.start for part in parts) <= 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_do_not_grow_with_rows(dtype: torch.dtype) -> None:
    sizes = []
    for rows in (200, 2000):
        workspace = Workspace()
        head = Head(torch.randn(5000, 8, dtype=dtype, requires_grad=True))
        labels = torch.randint(0, 5000, (rows,))
        chunked_loss(
            torch.randn(rows, 8, dtype=dtype), head, CrossEntropy(labels), workspace=workspace, chunk_bytes=2**20, block_bytes=2**17
        )
        sizes.append(sum(buffer.nbytes for buffer in workspace._buffers.values()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    assert sizes[1] <= 2**20 + 2**18
