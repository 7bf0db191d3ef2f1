"""The load-balancing loss of mixture-of-experts models, over real tokens only: padding must not train the router.

Switched on, as in transformers, by `output_router_logits` in the model's config.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from finetune.training.head import causal_lm


def balances(model: nn.Module) -> bool:
    """Whether this model is trained with a load-balancing loss."""
    inner = causal_lm(model)
    return bool(getattr(inner.config, "output_router_logits", False)) and hasattr(
        sys.modules[type(inner).__module__], "load_balancing_loss_func"
    )


def balancing_loss(model: nn.Module, router_logits: Any, mask: Tensor) -> Tensor:
    """The model's own load-balancing loss times its coefficient, over the tokens where `mask` [batch, length] is 1."""
    inner = causal_lm(model)
    loss_of = sys.modules[type(inner).__module__].load_balancing_loss_func
    loss: Tensor = loss_of(router_logits, inner.num_experts, inner.num_experts_per_tok, mask)
    return float(inner.router_aux_loss_coef) * loss.to(mask.device)
