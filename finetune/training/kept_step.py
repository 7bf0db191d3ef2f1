"""Which step's weights a training keeps, chosen by held-out loss, and that choice in words; no torch.

in_words({"step": 40, "of": 57, "loss": 1.83, "last_step": 57, "last_loss": 1.91, ...})
# "step 40 of 57, held-out loss 1.83; the last step had 1.91"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from finetune.formatting import counted

FEWEST_ROWS = 8  # to measure a loss on; fewer are noise
FEWEST = 2  # measurements that are worth a choice
USUALLY = 10  # measurements in a training


def measured_every(asked: int | str, steps: int) -> int:
    """Steps between two measurements in a training of so many."""
    return max(1, -(-steps // USUALLY)) if isinstance(asked, str) else asked


def measurements(asked: int | str, steps: int) -> int:
    """How often the held-out loss is measured in a training of so many steps: also after the last one."""
    return -(-steps // measured_every(asked, steps))


@dataclass(frozen=True)
class Chosen:
    """The weights that a training of `of` steps keeps are those of `step`, whose held-out loss is `loss` (None: not measured there).

    `best_step` had the lowest, `last_step` was measured last; `stopped_after` so many measurements without a lower one it was stopped.
    """

    step: int
    of: int
    loss: float | None
    best_step: int
    best_loss: float
    last_step: int
    last_loss: float
    rows: int
    stopped_after: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def in_words(chosen: Mapping[str, Any] | None) -> str:
    """The choice in half a sentence; empty where there was none."""
    if not chosen:
        return ""
    seen = [value for name in ("loss", "best_loss", "last_loss") if (value := chosen[name]) is not None]
    digits = 2 if len({f"{value:.2f}" for value in seen}) == len(set(seen)) else 4
    loss = "" if chosen["loss"] is None else f", held-out loss {chosen['loss']:.{digits}f}"
    said = f"step {chosen['step']} of {chosen['of']}{loss}"
    if chosen["last_step"] != chosen["step"] and chosen["step"] == chosen["best_step"]:
        last = "the last step" if chosen["last_step"] >= chosen["of"] or chosen["stopped_after"] else f"step {chosen['last_step']}"
        said += f"; {last} had {chosen['last_loss']:.{digits}f}"
    elif chosen["step"] != chosen["best_step"]:
        said += f"; the lowest was {chosen['best_loss']:.{digits}f} at step {chosen['best_step']}"
    elif len(seen):
        said += ", the lowest"
    if chosen["stopped_after"]:
        after = chosen["stopped_after"]
        said += f"; stopped early, {counted(after, 'measurement')} after the lowest"
    return said
