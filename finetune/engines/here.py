"""The engine of one process: it trains where the run is."""

from __future__ import annotations

from finetune.run.train_model import Order
from finetune.training.loop import Outcome


class Here:
    title = "this process"
    summary = "one device, in the process of the run"

    def train(self, order: Order) -> Outcome:
        """Train `order.model` in place. Raises what `train` does."""
        return order.train()
