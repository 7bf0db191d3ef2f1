"""Half forward and half reverse KL (Jeffreys 1946): neither what the teacher finds likely is left out, nor what it finds unlikely kept.

With r = log p - log q:  D = (KL(q || p) + KL(p || q)) / 2 = 1/2 sum (p - q) r,  dD/dz = (p - q + p (r - KL(p || q))) / 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class ForwardReverseKL:
    title = "Forward and reverse KL"
    summary = "half of each: covers what the teacher finds likely and leaves out what it does not"

    def __call__(self, p: Tensor, q: Tensor, ratio: Tensor, shift: Tensor, *, each: bool = False) -> Tensor:
        import torch

        ratio = ratio.add_(shift)
        reverse = torch.linalg.vecdot(p, ratio)
        value: Tensor = (reverse - torch.linalg.vecdot(q, ratio)) / 2
        p.mul_(ratio.sub_(reverse[:, None]).add_(1)).sub_(q).div_(2)
        return value if each else value.sum()
