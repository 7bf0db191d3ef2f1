"""The engine of one process: it trains where the run is."""

from __future__ import annotations

from finetune.run.train_model import Asked, Order
from finetune.training.loop import Outcome


class Here:
    def train(self, order: Order) -> Outcome:
        """Train `order.model` in place. Raises what the training loop does."""
        return order.train()

    def ask(self, asked: Asked) -> None:
        """Nothing: there are no other processes."""
