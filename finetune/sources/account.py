"""What a server is asked for, and how many tokens that has taken of a budget.

account = Account(server, budget=200_000)
account.check(longest=4_000)                                   # raises BudgetUsedUp if a batch could take more than is left
account.completions(chats, most=256, seed="42 0 answers")
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.errors import RecipeError, TrainingError

if TYPE_CHECKING:
    from finetune.sources.server import Completion, Grades, Messages, Server


class BudgetUsedUp(TrainingError):
    """Another batch could take more tokens than `teacher.budget_tokens` allows."""


class Account:
    """Of `budget` tokens at most, prompts included, as the server counts them; None is no limit."""

    def __init__(self, server: Server, budget: int | None) -> None:
        self.server, self.budget, self.used = server, budget, 0

    def check(self, longest: int) -> None:
        """Before a batch that may take so many tokens: raises BudgetUsedUp, or RecipeError if the budget never suffices."""
        if self.budget is None or self.used + longest <= self.budget:
            return
        if not self.used:
            raise RecipeError(
                f"A budget of {self.budget:,} tokens is too small: one batch of requests may take {longest:,}.",
                hint=f"Allow more: --set teacher.budget_tokens={2 * longest}",
            )
        raise BudgetUsedUp(f"The budget of {self.budget:,} tokens is used up: {self.used:,} were used, and a batch may take {longest:,}.")

    def completions(self, chats: Sequence[Messages], *, most: int, seed: str) -> list[Completion]:
        """An answer of at most `most` tokens to each chat; the same seed gives the same again, as far as the server can."""
        first = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=3).digest(), "big")
        found = self.server.completions(chats, most=most, seeds=[first + number for number in range(len(chats))])
        self.used += sum(each.tokens for each in found)
        return found

    def grades(self, rows: Sequence[Sequence[int]], likeliest: int) -> list[Grades]:
        """What the model on the server finds likeliest at each place of each row."""
        found = self.server.grades(rows, likeliest)
        self.used += sum(each.tokens for each in found)
        return found
