"""Full training: every weight of the model moves, or every weight but the embeddings and the head."""

from __future__ import annotations

from typing import Literal

from finetune.recipe import Spec


class Full:
    """Trains the model's own weights."""

    title = "Full"
    summary = "every weight trains: most memory, a whole new model on disk"

    class Spec(Spec):
        kind: Literal["full"] = "full"
        freeze: Literal["auto", "none", "head"] = "auto"
