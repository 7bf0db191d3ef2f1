"""What a source of rows is. `dataset` reads what is there; another one may have to make its rows first.

context.source.missing(context)          # whether rows must be made before there are data
context.source.data(context)             # PreparedData
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.data.prepare import PreparedData
    from finetune.run_context import RunContext
    from finetune.run_folder import RunFolder


@dataclass(frozen=True)
class Making:
    """What making the rows will cost: how many `by` whom, how long it takes; of a server the `tokens` asked for, and its `budget`."""

    rows: int
    by: str
    seconds: float
    tokens: int | None = None
    budget: int | None = None


class Source:
    """Rows that are there already. `data` is for all sources; one that makes its rows overrides the other methods too."""

    def check(self, context: RunContext) -> None:
        """Raises the error for what cannot work, as far as it can be found before any work."""

    def missing(self, context: RunContext) -> bool:
        """Whether rows must be made first."""
        return False

    def cost(self, context: RunContext) -> Making | None:
        """What making the missing rows will cost; None where none are missing."""
        return None

    def expected(self, context: RunContext) -> PreparedData:
        """Stand-ins for rows that are missing, for the plan: as many, and about as long."""
        return self.data(context)

    def make(self, context: RunContext, folder: RunFolder, load: Callable[[], Any]) -> None:
        """Make the missing rows; `load` loads the teacher. What is made is kept whenever this ends."""

    def keep(self, context: RunContext, folder: RunFolder) -> None:
        """Write rows that exist nowhere else into the run's folder."""

    def data(self, context: RunContext) -> PreparedData:
        raise NotImplementedError
