"""The loss of a language-model head without the logits of the batch: a chunk of tokens at a time, gradients computed by hand.

    loss_sum = chunked_loss(hidden, head_of(model), CrossEntropy(labels))       # hidden [n, d]: the supervised positions only
    (loss_sum / n).backward()

One matrix product makes the logits of a chunk; a *rule* (cross-entropy, distillation) overwrites them with the gradient of the loss; two
more products turn that into the gradients of the hidden states and, if the head trains, of its weight. All this happens in the forward
pass; the backward pass only multiplies by the incoming gradient. The extra memory is that of a chunk and a few blocks, whatever the batch,
the length or the vocabulary: `CHUNK_BYTES` on a CPU, and on a GPU, whose products need more rows to be quick, a share of what is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from finetune.hardware.matmul import linear, uses_onednn
from finetune.training.head import Head
from finetune.training.loss.kernel import Targets, fuses, softmax_loss_
from finetune.training.loss.workspace import CHUNK_BYTES, Workspace

BLOCK_BYTES = 2 * 2**20  # the passes over the logits walk in blocks of this size, which stay in a CPU's cache
PRODUCT_BYTES = 8 * 2**20
LOGIT_BYTES = 24 * 2**20  # of a product that cannot write into a buffer; below 32 MiB the C library reuses the same memory

mm: Any = torch.mm  # Any, because the type stubs do not know `out_dtype`
addmm: Any = torch.addmm


class Rule:
    """Turns logits into the gradient of a loss; `labels` [n] are token ids."""

    temperature = 1.0
    gain: float | Tensor = 1.0  # or one of each token [n]: the gradient is this times what is written, a factor on small tensors only
    bytes_per_row = 0  # of its own chunk buffers, for the budget
    cuts: Sequence[int] = ()  # numbers of tokens at which a new chunk begins
    beside: Tensor | None = None  # a part of the loss that does not go through the logits, with a gradient of its own
    fuses = False  # whether `fused` can take the place of a call

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.sums: dict[str, Tensor] = {}  # parts of the loss worth showing, summed so far

    def load(self, rows: slice, workspace: Workspace) -> None:
        """Prepare for the tokens `rows`; called once per chunk."""

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        """Overwrite logits / temperature [k, vocabulary] of the tokens `rows` with dL/d(logits / temperature) / gain; return sum L."""
        raise NotImplementedError

    def fused(self, logits: Tensor, rows: slice, workspace: Workspace, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The same for a whole chunk by one kernel: the gradient in `dtype`, for which the logits' memory may be used, and the sum."""
        raise NotImplementedError

    def correct(self, grad_hidden: Tensor, rows: slice, factor: float) -> None:
        """Add the part of the gradient [k, d] that does not go through the logits; hidden states were multiplied by `factor`."""

    def add(self, name: str, value: Tensor) -> None:
        """Count something in among the `sums`."""
        self.sums[name] = self.sums.get(name, 0) + value


class ChunkLogits:
    """The logits of one model, divided by the temperature: one matrix product per chunk, read in full precision block by block."""

    def __init__(self, name: str, hidden: Tensor, head: Head, temperature: float) -> None:
        self.name = name
        self.hidden = hidden
        self.dtype = product_dtype(head.weight)
        self.weight = head.weight.detach()
        self.frozen = not head.weight.requires_grad
        self.precise = precision(self.dtype)
        self.wide = self.dtype == self.precise or wide_products(hidden.device.type, self.dtype)
        # A scale on the small hidden states costs nothing; on the logits it would cost a pass.
        self.cap = None if head.softcap is None else head.softcap / temperature
        self.factor = head.scale / (temperature if head.softcap is None else head.softcap)
        self.bias = None if head.bias is None else head.bias.detach().to(self.precise) * self.factor
        self.scaled: Tensor = hidden[:0]
        self.chunk: Tensor = hidden[:0]

    @property
    def bytes_per_row(self) -> int:
        return self.weight.shape[0] * (self.precise if self.wide else self.dtype).itemsize

    def load(self, rows: slice, workspace: Workspace) -> None:
        if self.weight.dtype != self.dtype:
            self.weight = workspace.narrow(f"{self.name} weight", self.weight, self.dtype, frozen=self.frozen)
        self.scaled = (self.hidden[rows].to(self.precise) * self.factor).to(self.dtype)
        dtype = self.precise if self.wide else self.dtype
        self.chunk = workspace.take(self.name, (len(self.scaled), len(self.weight)), self.scaled, dtype)
        if uses_onednn(self.scaled, self.weight):
            for part in chunks(len(self.scaled), self.bytes_per_row, LOGIT_BYTES):
                self.chunk[part] = linear(self.scaled[part], self.weight)
            return
        more = {"out_dtype": dtype} if dtype != self.dtype else {}
        mm(self.scaled, self.weight.t(), out=self.chunk, **more)

    def block(self, rows: slice, workspace: Workspace) -> Tensor:
        """Logits [k, vocabulary] of the chunk's tokens `rows` in full precision; may be overwritten."""
        block = self.chunk[rows]
        if not self.wide:
            block = workspace.take(f"{self.name} block", block.shape, block, self.precise).copy_(block)
        if self.bias is not None:
            block.add_(self.bias)
        if self.cap is not None:
            block.tanh_().mul_(self.cap)
        return block


class CrossEntropy(Rule):
    """-log softmax(logits)[label], the loss of ordinary fine-tuning."""

    fuses = True

    def __call__(self, logits: Tensor, rows: slice, workspace: Workspace) -> Tensor:
        label = self.labels[rows, None]
        loss = -logits.gather(1, label).sum()
        loss += softmax_(logits).sum()
        logits.scatter_add_(1, label, logits.new_full((1, 1), -1.0).expand_as(label))
        return loss

    def fused(self, logits: Tensor, rows: slice, workspace: Workspace, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        found = softmax_loss_(logits, Targets(self.labels[rows], None, 1.0), teacher=None, temperature=1.0, dtype=dtype)
        return found.gradient, found.cross_entropy.sum()


def softmax_(logits: Tensor) -> Tensor:
    """Overwrite logits [k, vocabulary] with their softmax; returns logsumexp [k, 1]."""
    # The most likely entry's probability is at least 1 / vocabulary, so its logarithm is safe, and no second exponential is needed.
    top = logits.amax(-1, keepdim=True)
    torch.softmax(logits, -1, out=logits)
    return top - logits.amax(-1, keepdim=True).log()


def chunked_loss(
    hidden: Tensor,
    head: Head,
    rule: Rule,
    *,
    workspace: Workspace | None = None,
    chunk_bytes: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """Sum of `rule`'s loss over the rows of `hidden` [n, d]: a scalar that can be differentiated once.

    Products run in the head's dtype (under autocast: in autocast's), softmax and sums in float32, or float64 for float64 weights.
    A head whose weight does not train costs no gradient.
    """
    workspace = workspace or Workspace()
    budget = workspace.chunk_bytes(hidden.device) if chunk_bytes is None else chunk_bytes
    inputs = (hidden, head.weight, head.bias, head, rule, workspace, budget, block_bytes)
    return cast(Tensor, _ChunkedLoss.apply(*inputs))  # type: ignore[no-untyped-call]


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        rule: Rule,
        workspace: Workspace,
        chunk_bytes: int,
        block_bytes: int,
    ) -> Tensor:
        student = ChunkLogits("student", hidden, head, rule.temperature)
        with torch.autocast(hidden.device.type, enabled=False):
            walk = _Walk(student, rule, workspace, needs=ctx.needs_input_grad[:3])
            bytes_per_row = student.bytes_per_row + walk.gradient_bytes + rule.bytes_per_row
            parts = [rows for run in runs(hidden.shape[0], rule.cuts) for rows in chunks(len(run), bytes_per_row, chunk_bytes, run.start)]
            for rows in parts:
                walk.chunk(rows, block_bytes, only=len(parts) == 1)
            if hidden.device.type != "cpu":
                student.chunk = hidden[:0]
                workspace.let_go()
        of_head = (None if gradient is None else gradient.to(weight.dtype) for gradient in (walk.grad_weight, walk.grad_bias))
        ctx.gradients = (walk.grad_hidden, *of_head)
        ctx.hidden_dtype = hidden.dtype
        return walk.loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("chunked_loss can be differentiated once; call it again for a second backward.")
        gradients, ctx.gradients = ctx.gradients, None
        # In place: a second copy of the head's gradient could be the largest tensor of the run.
        hidden, weight, bias = (None if gradient is None else gradient.mul_(grad_loss) for gradient in gradients)
        return None if hidden is None else hidden.to(ctx.hidden_dtype), weight, bias, None, None, None, None, None


class _Walk:
    """Accumulates loss and gradients chunk by chunk."""

    def __init__(self, student: ChunkLogits, rule: Rule, workspace: Workspace, needs: tuple[bool, ...]) -> None:
        self.student, self.rule, self.workspace = student, rule, workspace
        self.hidden_needs, self.weight_needs, self.bias_needs = needs
        self.loss = torch.zeros((), dtype=student.precise, device=student.hidden.device)
        self.grad_hidden = torch.empty_like(student.hidden, dtype=student.precise) if self.hidden_needs else None
        self.grad_weight: Tensor | None = None
        self.grad_bias: Tensor | None = None
        plain = student.wide and student.precise == torch.float32 and student.cap is None and not self.bias_needs
        self.fuses = rule.fuses and plain and fuses(student.hidden.device)
        # Products of the gradient run in the weight's dtype; only wide 16-bit logits need a second buffer for it.
        self.narrows = student.wide and student.dtype != student.precise and any(needs) and not self.fuses
        self.gradient_bytes = student.weight.shape[0] * student.dtype.itemsize if self.narrows else 0

    def chunk(self, rows: slice, block_bytes: int, *, only: bool) -> None:
        student, workspace = self.student, self.workspace
        student.load(rows, workspace)
        self.rule.load(rows, workspace)
        gain = of_rows(self.rule.gain, rows, self.loss)
        factor = student.factor * gain
        if self.fuses:
            gradient, loss = self.rule.fused(student.block(slice(0, len(student.chunk)), workspace), rows, workspace, student.dtype)
            self.loss += loss
        else:
            gradient = self._block_by_block(rows, block_bytes, factor)
        if self.grad_hidden is not None:
            grad_hidden = product(gradient, student.weight, student.precise).mul_(factor)
            self.rule.correct(grad_hidden, rows, student.factor)
            self.grad_hidden[rows] = grad_hidden
        if self.weight_needs:
            plain = not isinstance(gain, Tensor) and gain == 1
            scaled = student.scaled if plain else (student.scaled.to(student.precise) * gain).to(student.dtype)
            self._add_to_weight(gradient.t(), scaled, only)

    def _block_by_block(self, rows: slice, block_bytes: int, factor: float | Tensor) -> Tensor:
        """The gradient of a chunk by operations of torch, which walk in blocks that stay in a CPU's cache."""
        student, workspace = self.student, self.workspace
        size, vocabulary = student.chunk.shape
        gradient = workspace.take("gradient", (size, vocabulary), student.chunk, student.dtype) if self.narrows else student.chunk
        for part in chunks(size, vocabulary * student.precise.itemsize, block_budget(gradient.device, block_bytes)):
            block = student.block(part, workspace)
            slope = None
            if student.cap is not None:  # d cap * tanh(x) / dx = cap * (1 - tanh(x)^2)
                slope = workspace.take("slope", block.shape, block, student.precise).copy_(block)
                slope.square_().mul_(-1 / student.cap).add_(student.cap)
            self.loss += self.rule(block, slice(rows.start + part.start, rows.start + part.stop), workspace)
            if slope is not None:
                block.mul_(slope)
            if self.bias_needs:
                column_sums = factor[part, 0] @ block if isinstance(factor, Tensor) else block.sum(0).mul_(factor)
                self.grad_bias = column_sums if self.grad_bias is None else self.grad_bias.add_(column_sums)
            if block.data_ptr() != gradient[part].data_ptr():
                gradient[part].copy_(block)
        return gradient

    def _add_to_weight(self, gradient: Tensor, scaled: Tensor, only: bool) -> None:
        total, student = self.grad_weight, self.student
        if uses_onednn(gradient, scaled) or not (student.wide or only):
            # A whole product beside the total would be a second large tensor; sums in 16 bits would lose the small chunks.
            if total is None:
                total = self.grad_weight = torch.zeros(len(gradient), scaled.shape[1], dtype=student.precise, device=scaled.device)
            for part in chunks(len(gradient), scaled.shape[1] * scaled.itemsize, PRODUCT_BYTES):
                total[part].add_(linear(gradient[part], scaled.t()))
        elif total is None:
            self.grad_weight = product(gradient, scaled, student.precise if student.wide else scaled.dtype)
        elif scaled.dtype == student.precise:
            total.addmm_(gradient, scaled)
        else:
            addmm(total, gradient, scaled, out_dtype=student.precise, out=total)


def blocks_of(logits: ChunkLogits, workspace: Workspace) -> Iterator[tuple[slice, Tensor]]:
    """All logits in full precision, block by block: the numbers of the tokens, and [k, vocabulary], which may be overwritten."""
    for rows in chunks(len(logits.hidden), logits.bytes_per_row, workspace.chunk_bytes(logits.hidden.device)):
        logits.load(rows, workspace)
        for part in chunks(rows.stop - rows.start, logits.weight.shape[0] * logits.precise.itemsize, block_budget(logits.hidden.device)):
            yield slice(rows.start + part.start, rows.start + part.stop), logits.block(part, workspace)


def block_budget(device: torch.device, on_cpu: int = BLOCK_BYTES) -> int:
    """Bytes of a block in passes over logits: on a CPU what stays in its cache, elsewhere few blocks, each of which is launched."""
    return on_cpu if device.type == "cpu" else CHUNK_BYTES


def of_rows(weight: float | Tensor, rows: slice, like: Tensor) -> float | Tensor:
    """A weight of all tokens as it is, one of each token [n] as the column [k, 1] of the tokens `rows`."""
    return weight[rows, None].to(like) if isinstance(weight, Tensor) else weight


def runs(rows: int, cuts: Sequence[int]) -> list[range]:
    """The rows between two cuts."""
    return [range(start, stop) for start, stop in pairwise([0, *cuts, rows])]


def chunks(rows: int, bytes_per_row: int, budget: int, first: int = 0) -> list[slice]:
    """Slices of nearly equal size that cover `rows` rows from `first` on, each within `budget` bytes (at least one row)."""
    most = max(1, budget // bytes_per_row)
    count = -(-rows // most)
    edges = [first + rows * i // count for i in range(count + 1)] if count else []
    return [slice(start, stop) for start, stop in pairwise(edges)]


def precision(dtype: torch.dtype) -> torch.dtype:
    """What sums over numbers of this dtype are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def product_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of products with `weight`: autocast's where it is on, otherwise the weight's own."""
    device = weight.device.type
    if weight.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def product(one: Tensor, other: Tensor, precise: torch.dtype) -> Tensor:
    """one @ other in full precision; 16-bit factors keep their float32 sums where the device can hand them over."""
    if one.dtype != precise and wide_products(one.device.type, one.dtype):
        return cast(Tensor, mm(one, other, out_dtype=precise))
    return linear(one, other.t()).to(precise)


@cache
def wide_products(device: str, dtype: torch.dtype) -> bool:
    """Whether a 16-bit product can hand over its float32 sums unrounded (`out_dtype`: CUDA, torch 2.8 or newer)."""
    if device != "cuda":
        return False
    one = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        mm(one, one, out_dtype=torch.float32, out=torch.empty(16, 16, device=device))
        total = torch.ones(16, 16, device=device)
        addmm(total, one, one, out_dtype=torch.float32, out=total)
        return bool((total == 17).all())
    except (TypeError, RuntimeError, NotImplementedError):
        return False
