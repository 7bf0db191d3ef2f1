"""The quickest kernels that this machine has for the layers of a model.

use_fast_kernels(model)         # products on a CPU, norms on a GPU
"""

from __future__ import annotations

from torch import nn

from finetune.hardware.matmul import use_fast_linear
from finetune.hardware.norms import use_fused_norms


def use_fast_kernels(model: nn.Module) -> None:
    """Have the layers of a model compute by them; a layer that has its own way keeps it. Again does nothing more."""
    use_fast_linear(model)
    use_fused_norms(model)
